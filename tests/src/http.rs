//! The page as a client sees it.

use std::time::Duration;

use anyhow::{Context as _, Result};

/// One answer.
#[derive(Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Headers by lower-case name.
    pub headers: Vec<(String, String)>,
    /// Body as text.
    pub body: String,
}

impl Answer {
    /// The first header of that (lower-case) name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// GET, without redirects followed; any status is an answer.
///
/// # Errors
/// When nobody answers within 10 s.
pub fn get(url: &str) -> Result<Answer> {
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(Duration::from_secs(10)))
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(None)
        .build();
    let mut response = ureq::Agent::new_with_config(config).get(url).call().with_context(|| format!("GET {url}"))?;
    let headers = response
        .headers()
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect();
    let status = response.status().as_u16();
    // The largest page of a test is a list of all open files; the default limit is 10 MB.
    let body =
        response.body_mut().with_config().limit(256 << 20).read_to_vec().with_context(|| format!("read {url}"))?;
    Ok(Answer { status, headers, body: String::from_utf8_lossy(&body).into_owned() })
}
