//! Accepts connections, decides who is answered, and limits the cost of requests.

pub(crate) mod accept;
mod activity;
pub(crate) mod events;
pub(crate) mod files;
pub(crate) mod guard;
pub(crate) mod work;

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use tokio::sync::{Semaphore, watch};

use self::work::{Place, Work};
use crate::Answers;
use crate::pages::turn::Turns;
use crate::parts::HTML;
use crate::parts::problem::Problem;
use crate::parts::tabs::Pages;

/// The state of all request handlers.
pub(crate) struct Web {
    pub(crate) answers: Arc<dyn Answers>,
    pub(crate) pages: Pages,
    pub(crate) work: Work,
    pub(crate) turns: Turns,
    pub(crate) streams: Arc<Semaphore>,
    pub(crate) closing: watch::Receiver<bool>,
}

/// Handles `/healthz`: `ok`, and a line for each number of frames that the list of hosts leaves out.
pub(crate) async fn healthz(State(web): State<Arc<Web>>) -> String {
    let mut text = String::from("ok\n");
    for sentence in web.answers.omitted().sentences() {
        text.push_str(&sentence);
        text.push('\n');
    }
    text
}

/// Makes a page on a blocking thread: decoding a large snapshot takes longer than a task may hold a thread. The place
/// is held until the work is done, even after the client has disconnected.
pub(crate) async fn render<T, F>(place: Place, page: F) -> Result<Response, Problem>
where
    T: Template,
    F: FnOnce() -> Result<T, Problem> + Send + 'static,
{
    let rendered = tokio::task::spawn_blocking(move || {
        let html = page()?.render().map_err(Problem::internal);
        drop(place);
        html
    });
    let html = rendered.await.map_err(Problem::internal)??;
    Ok(([(header::CONTENT_TYPE, HTML)], html).into_response())
}
