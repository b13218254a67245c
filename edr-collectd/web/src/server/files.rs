//! Handles `/assets/{name}`: the compiled-in files.

use axum::extract::Path;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use crate::parts::assets::Asset;
use crate::parts::problem::Problem;

pub(crate) async fn asset(Path(name): Path<String>) -> Result<Response, Problem> {
    let asset = Asset::find(&name).ok_or_else(Problem::no_such_page)?;
    let headers =
        [(header::CONTENT_TYPE, asset.content_type), (header::CACHE_CONTROL, "public, max-age=31536000, immutable")];
    Ok((headers, asset.content).into_response())
}
