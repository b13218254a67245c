//! Errors as pages: the problem, and advice for the reader.

use std::fmt;

use askama::Template;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use edr_model::{QueryError, SelectError};

use crate::parts::assets::Assets;
use crate::parts::shown::Shown;

/// Title and advice for a question beyond a limit.
const LARGE: &str = "The query exceeds its budget";
const ASK_FOR_LESS: &str = "Use a narrower filter, fewer rows, or a single host.";

/// An answer in place of the requested page.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    pub(crate) title: &'static str,
    pub(crate) details: Vec<Shown>,
    pub(crate) advice: &'static str,
}

#[derive(Template)]
#[template(path = "problem.html")]
struct ProblemPage<'a> {
    assets: Assets,
    status: u16,
    problem: &'a Problem,
}

impl Problem {
    fn new(status: StatusCode, title: &'static str, detail: &str, advice: &'static str) -> Self {
        let details = if detail.is_empty() { Vec::new() } else { vec![Shown::of(detail)] };
        Self { status, title, details, advice }
    }

    /// 400: all problems of the parameters.
    pub(crate) fn bad_parameters(wrong: &[String]) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            title: "This address has invalid parameters",
            details: wrong.iter().map(Shown::of).collect(),
            advice: "Correct the parameters named above in the address, or go back and use the form.",
        }
    }

    /// 404.
    pub(crate) fn no_such_page() -> Self {
        Self::new(StatusCode::NOT_FOUND, "There is no such page", "", "Start again from the list of hosts.")
    }

    /// 405.
    pub(crate) fn read_only() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "This site is read-only",
            "only GET and HEAD are answered",
            "Open the page with GET.",
        )
    }

    /// 413.
    pub(crate) fn body() -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "Requests must not have a body", "", "Put the query into the address.")
    }

    /// 414.
    pub(crate) fn long_address(max: usize) -> Self {
        Self::new(
            StatusCode::URI_TOO_LONG,
            "This address is too long",
            &format!("an address may have {max} bytes"),
            "Shorten the filter.",
        )
    }

    /// 421: the name in the address is not a name of this server, as in a DNS rebinding attack.
    pub(crate) fn foreign_name(name: &str) -> Self {
        Self::new(
            StatusCode::MISDIRECTED_REQUEST,
            "This collector has a different name",
            name,
            "Use the configured address, or localhost.",
        )
    }

    /// 503: the time limit of a request was reached.
    pub(crate) fn slow() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "The request took too long",
            "the time limit of one request was reached",
            "Try again; request fewer rows, or a later moment.",
        )
    }

    /// 503: the limit of requests worked on at the same time was reached.
    pub(crate) fn at_work() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "The collector is busy",
            "the limit of concurrent requests is reached",
            "Try again in a moment; request fewer rows, or later moments.",
        )
    }

    /// 503: the limit of requests about one host worked on at the same time was reached.
    pub(crate) fn host_at_work() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "The collector is busy with this host",
            "another request about this host, or for an earlier moment, is still worked on",
            "Try again in a moment. Pages of other hosts are not affected.",
        )
    }

    /// 403: a page of another site made the request, not the reader.
    pub(crate) fn foreign_page() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "The request came from a page of another site",
            "",
            "Open the address directly, or follow a link.",
        )
    }

    /// 503: the limit of streams was reached.
    pub(crate) fn busy() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "Too many pages are open",
            "no further live update can be served",
            "Close some pages, or reload by hand.",
        )
    }

    /// 500: a fault of the collector.
    pub(crate) fn internal(error: impl fmt::Display) -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "The page cannot be built",
            &error.to_string(),
            "This is a fault of the collector; please report the fault.",
        )
    }

    /// 500: the rows of a snapshot have a shape that this version does not know.
    pub(crate) fn undecodable(error: impl fmt::Display) -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "This snapshot cannot be read",
            &error.to_string(),
            "The agent may be newer than this collector, or hostile. The record is archived unchanged.",
        )
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.title)?;
        for (i, detail) in self.details.iter().enumerate() {
            write!(f, "{}{detail}", if i == 0 { ": " } else { "; " })?;
        }
        Ok(())
    }
}

impl From<QueryError> for Problem {
    fn from(error: QueryError) -> Self {
        let (status, title, advice) = match error {
            QueryError::UnknownHost(_) => {
                (StatusCode::NOT_FOUND, "There is no such host", "The list of hosts shows every host with snapshots.")
            }
            QueryError::NothingThen { .. } => (
                StatusCode::NOT_FOUND,
                "No snapshot of this host at that moment",
                "Choose a later moment, or omit “at” for the newest state.",
            ),
            QueryError::Archive(_) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "The archive cannot be read now",
                "The newest state of each host is still available; older moments need the archive. Try again later.",
            ),
            QueryError::Unreadable(_) => (
                StatusCode::NOT_FOUND,
                "No readable snapshot of this host",
                "The records are archived unchanged. Choose an earlier moment; the list of hosts has the reason.",
            ),
            QueryError::Budget(_) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "Unreadable frames used up the time of this request",
                "Choose the moment named above, or try again: known unreadable frames are skipped at once.",
            ),
        };
        Self::new(status, title, &error.to_string(), advice)
    }
}

impl From<SelectError> for Problem {
    fn from(error: SelectError) -> Self {
        let (status, title, advice) = match error {
            SelectError::UnknownColumn { .. } => {
                (StatusCode::BAD_REQUEST, "Unknown column", "Click on a column's heading to sort.")
            }
            SelectError::TooMany(_) => (StatusCode::SERVICE_UNAVAILABLE, LARGE, ASK_FOR_LESS),
        };
        Self::new(status, title, &error.to_string(), advice)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let page = ProblemPage { assets: Assets, status: self.status.as_u16(), problem: &self };
        let mut response = match page.render() {
            Ok(html) => (self.status, [(header::CONTENT_TYPE, crate::parts::HTML)], html).into_response(),
            Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "the page cannot be built").into_response(),
        };
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("10"));
        }
        response
    }
}
