//! Errors as pages: the problem, and advice for the reader.

use std::fmt;

use askama::Template;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::assets::Assets;
use super::shown::Shown;
use crate::query::QueryError;

/// An answer in place of the requested page.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    pub(super) title: &'static str,
    pub(super) details: Vec<Shown>,
    pub(super) advice: &'static str,
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
    pub(super) fn bad_parameters(wrong: &[String]) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            title: "This address asks for something that cannot be",
            details: wrong.iter().map(Shown::of).collect(),
            advice: "Correct what is named above in the address, or go back and use the form.",
        }
    }

    /// 404.
    pub(super) fn no_such_page() -> Self {
        Self::new(StatusCode::NOT_FOUND, "There is no such page", "", "Start again from the list of hosts.")
    }

    /// 405.
    pub(super) fn read_only() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "Everything here is read-only",
            "only GET and HEAD are answered",
            "Open the page with GET.",
        )
    }

    /// 413.
    pub(super) fn body() -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "A request here has no body",
            "",
            "Put what you ask for into the address.",
        )
    }

    /// 414.
    pub(super) fn long_address(max: usize) -> Self {
        Self::new(
            StatusCode::URI_TOO_LONG,
            "This address is too long",
            &format!("an address may have {max} bytes"),
            "Shorten the filter.",
        )
    }

    /// 421: the name in the address is not a name of this server, as in a DNS rebinding attack.
    pub(super) fn foreign_name(name: &str) -> Self {
        Self::new(
            StatusCode::MISDIRECTED_REQUEST,
            "This collector does not answer under that name",
            name,
            "Use the address it listens on, or localhost.",
        )
    }

    /// 503: the time limit of a request was reached.
    pub(super) fn slow() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "That took too long",
            "the time limit of one request was reached",
            "Try again; ask for fewer rows, or for a moment nearer to now.",
        )
    }

    /// 503: the limit of requests worked on at the same time was reached.
    pub(super) fn at_work() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "The collector is busy",
            "it works on as many questions as it may at a time, and none of them was done in time",
            "Try again in a moment; ask for fewer rows, or for moments nearer to now.",
        )
    }

    /// 403: a page of another site made the request, not the reader.
    pub(super) fn foreign_page() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "A page of another site asked for this",
            "",
            "Open the address itself, or follow a link to it.",
        )
    }

    /// 503: the limit of streams was reached.
    pub(super) fn busy() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "Too many pages are open",
            "no further live update can be served",
            "Close some pages, or reload by hand.",
        )
    }

    /// 500: a fault of the collector.
    pub(super) fn internal(error: impl fmt::Display) -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "This page could not be made",
            &error.to_string(),
            "Please report it: this is a fault of the collector.",
        )
    }

    /// 500: the rows of a snapshot have a shape that this version does not know.
    pub(super) fn undecodable(error: impl fmt::Display) -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "This snapshot cannot be read",
            &error.to_string(),
            "Its agent may be newer than this collector, or hostile. The record itself is kept as it came.",
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
            QueryError::UnknownHost(_) => (
                StatusCode::NOT_FOUND,
                "There is no such host",
                "The list of hosts shows every host that ever reported here.",
            ),
            QueryError::AmbiguousHost { .. } => (
                StatusCode::BAD_REQUEST,
                "Several hosts have this name",
                "Choose one in the list of hosts: its address holds the host id, which only one host has.",
            ),
            QueryError::NothingThen { .. } => (
                StatusCode::NOT_FOUND,
                "Nothing is known of this host at that moment",
                "Ask for a later moment, or for the newest state by leaving out “at”.",
            ),
            QueryError::UnknownColumn(..) => (
                StatusCode::BAD_REQUEST,
                "There is no such column to sort by",
                "Sort by a click on a column's heading.",
            ),
            QueryError::Archive(_) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "The archive cannot be read now",
                "The newest state of each host is still shown; older moments come back with the archive. Try again.",
            ),
            QueryError::Budget(_) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "This question is larger than its budget",
                "Ask for less: a narrower filter, fewer rows, one host.",
            ),
        };
        Self::new(status, title, &error.to_string(), advice)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let page = ProblemPage { assets: Assets, status: self.status.as_u16(), problem: &self };
        let mut response = match page.render() {
            Ok(html) => (self.status, [(header::CONTENT_TYPE, super::HTML)], html).into_response(),
            Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "this page could not be made").into_response(),
        };
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("10"));
        }
        response
    }
}
