//! Files for the pages, compiled in. Their addresses contain a hash of the content, so that a browser can cache the
//! files forever and still gets a new version at once.

use axum::http::header;
use axum::response::{IntoResponse, Response};

const CSS: &str = include_str!("../../assets/app.css");
const JS: &str = include_str!("../../assets/app.js");
const ICON: &str = include_str!("../../assets/favicon.svg");

/// The addresses of the files, for templates.
#[derive(Debug, Clone, Copy)]
pub(super) struct Assets;

impl Assets {
    pub(super) fn css(self) -> String {
        address("app.css", CSS)
    }

    pub(super) fn js(self) -> String {
        address("app.js", JS)
    }

    pub(super) fn icon(self) -> String {
        address("favicon.svg", ICON)
    }

    pub(super) fn version(self) -> &'static str {
        env!("CARGO_PKG_VERSION")
    }
}

fn address(name: &str, content: &str) -> String {
    format!("/assets/{name}?{:016x}", fnv1a(content.as_bytes()))
}

/// FNV-1a, 64 bits: distinguishes versions, but protects nothing.
const fn fnv1a(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325;
    let mut i = 0;
    while i < bytes.len() {
        hash = (hash ^ bytes[i] as u64).wrapping_mul(0x0100_0000_01b3);
        i += 1;
    }
    hash
}

/// Returns the file with this name.
pub(super) fn asset(name: &str) -> Option<Response> {
    let (content_type, content) = match name {
        "app.css" => ("text/css; charset=utf-8", CSS),
        "app.js" => ("text/javascript; charset=utf-8", JS),
        "favicon.svg" => ("image/svg+xml", ICON),
        _ => return None,
    };
    let headers =
        [(header::CONTENT_TYPE, content_type), (header::CACHE_CONTROL, "public, max-age=31536000, immutable")];
    Some((headers, content).into_response())
}
