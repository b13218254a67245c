//! Checks every request before a page is made, and adds headers to every answer.
//!
//! `tower-http` has layers for headers, a time limit and the size of a body. The layers answer a refused request
//! without a page, and need one layer for each of the seven headers: more code than here, and more to compile.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::HttpBody as _;
use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::parts::problem::Problem;

/// Longest path and query, in bytes.
pub(crate) const ADDRESS_BYTES_MAX: usize = 2_048;

/// Only scripts, styles, images and connections of this server; no frame around the page; no form to another server.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; \
    img-src 'self' data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

const HEADERS: [(HeaderName, &str); 7] = [
    (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("permissions-policy"), "camera=(), geolocation=(), microphone=()"),
];

/// The names under which this server answers. A page of another site can point its name at this address (DNS rebinding)
/// and would then read everything; such a name is not in this list.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    names: Vec<String>,
    any_address: bool,
}

impl Names {
    /// Makes the list: `localhost` and the loopback addresses, the address listened on, and `names` of the
    /// configuration. A server that listens on all addresses accepts every address: only a name can be rebound.
    pub(crate) fn new(listen: SocketAddr, names: &[String]) -> Self {
        let mut all = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "[::1]".to_owned()];
        all.push(match listen.ip() {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        });
        all.extend(names.iter().map(|name| name.to_ascii_lowercase()));
        Self { names: all, any_address: listen.ip().is_unspecified() }
    }

    /// Returns true when `authority` (`host` or `host:port`) is in the list. The port is ignored, since a forwarded
    /// port differs.
    fn hold(&self, authority: &str) -> bool {
        let host = match authority.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) && !host.is_empty() => host,
            _ => authority,
        };
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(&host);
        self.names.contains(&host) || (self.any_address && address.parse::<IpAddr>().is_ok())
    }
}

/// The configuration of [`guard`].
#[derive(Debug)]
pub(crate) struct Guard {
    pub(crate) names: Names,
    pub(crate) request_timeout: Duration,
}

impl Guard {
    fn check(&self, request: &Request) -> Result<(), Problem> {
        // A request line with an absolute address has a host as well, which takes precedence over the header (RFC
        // 9112): both must be in the list.
        let mut hosts = request.headers().get_all(header::HOST).iter();
        let host = match (hosts.next(), hosts.next()) {
            (Some(host), None) => host.to_str().unwrap_or_default(),
            _ => "",
        };
        let in_line = request.uri().authority().map(Authority::as_str);
        for name in in_line.into_iter().chain([host]) {
            if !self.names.hold(name) {
                return Err(Problem::foreign_name(name));
            }
        }
        if is_of_another_page(request.headers()) {
            return Err(Problem::foreign_page());
        }
        if request.uri().path_and_query().is_some_and(|path| path.as_str().len() > ADDRESS_BYTES_MAX) {
            return Err(Problem::long_address(ADDRESS_BYTES_MAX));
        }
        if *request.method() != Method::GET && *request.method() != Method::HEAD {
            return Err(Problem::read_only());
        }
        if !request.body().is_end_stream() {
            return Err(Problem::body());
        }
        Ok(())
    }
}

/// Returns true when a page of another site, or of another port of this host, made the request (Fetch Metadata), and
/// not the reader by a link or the address. Such a page cannot read the answer, but can measure its time and make the
/// collector work. A request without these headers comes from an old browser or no browser.
fn is_of_another_page(headers: &HeaderMap) -> bool {
    let is = |name: &str, value: &str| headers.get_all(name).iter().all(|sent| sent == value);
    let is_navigation = headers.contains_key("sec-fetch-mode")
        && is("sec-fetch-mode", "navigate")
        && headers.contains_key("sec-fetch-dest")
        && is("sec-fetch-dest", "document");
    !is("sec-fetch-site", "same-origin") && !is("sec-fetch-site", "none") && !is_navigation
}

/// Checks name, origin, method, address and body; limits the time until the answer begins; adds the headers.
pub(crate) async fn guard(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    let mut response = match guard.check(&request) {
        Ok(()) => match tokio::time::timeout(guard.request_timeout, next.run(request)).await {
            Ok(response) => response,
            Err(_) => Problem::slow().into_response(),
        },
        Err(problem) => {
            let mut response = problem.into_response();
            // The rest of the request was not read.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            response
        }
    };
    add_headers(response.headers_mut());
    response
}

fn add_headers(headers: &mut HeaderMap) {
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // Host data must not be cached.
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_names_are_ours() {
        let names = Names::new("127.0.0.1:8480".parse().unwrap(), &["edr.example.org".to_owned()]);
        for ours in [
            "localhost",
            "localhost:8480",
            "LOCALHOST:1",
            "127.0.0.1:9",
            "[::1]:8480",
            "edr.example.org",
            "EDR.example.org.:80",
        ] {
            assert!(names.hold(ours), "{ours}");
        }
        for foreign in [
            "",
            ":",
            ":80",
            "evil.example",
            "localhost.evil.example:8480",
            "evil.example:localhost",
            "192.0.2.1",
            "[::2]",
            "127.0.0.1@evil",
        ] {
            assert!(!names.hold(foreign), "{foreign}");
        }
    }

    #[test]
    fn on_every_address_every_address_is_ours_and_still_no_name() {
        let names = Names::new("[::]:8480".parse().unwrap(), &[]);
        assert!(names.hold("192.0.2.1:8480") && names.hold("[2001:db8::1]:8480"));
        assert!(!names.hold("evil.example"));
    }
}
