//! An HTTP client for the page.

use std::time::Duration;

use anyhow::{Context as _, Result};

/// A response.
#[derive(Debug)]
pub struct HttpResponse {
    /// Status code.
    pub status: u16,
    /// Headers by lower-case name.
    pub headers: Vec<(String, String)>,
    /// Body as text.
    pub body: String,
}

impl HttpResponse {
    /// The first header with this lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// Sends a GET request. Redirects are not followed; any status is a valid answer.
///
/// # Errors
/// When there is no answer within 10 s.
pub fn get(url: &str) -> Result<HttpResponse> {
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
    Ok(HttpResponse { status, headers, body: String::from_utf8_lossy(&body).into_owned() })
}

/// Returns the visible text of HTML: elements are removed, character references are replaced.
///
/// For the pages of the collector: no comments, no CDATA, and no unescaped `>` inside the value of an attribute.
pub fn text_of(html: &str) -> String {
    let mut text = String::with_capacity(html.len() / 2);
    let mut rest = html;
    while let Some((before, tag)) = rest.split_once('<') {
        text.push_str(before);
        rest = tag.split_once('>').map_or("", |(_, after)| after);
    }
    text.push_str(rest);
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some((before, reference)) = rest.split_once('&') {
        plain.push_str(before);
        let (name, after) = reference.split_once(';').unwrap_or((reference, ""));
        let number = |digits: &str, radix| u32::from_str_radix(digits, radix).ok().and_then(char::from_u32);
        plain.push(match name {
            "lt" => '<',
            "gt" => '>',
            "amp" => '&',
            "quot" => '"',
            "apos" => '\'',
            "nbsp" => ' ',
            _ => match (name.strip_prefix("#x"), name.strip_prefix('#')) {
                (Some(hex), _) => number(hex, 16),
                (None, Some(decimal)) => number(decimal, 10),
                (None, None) => None,
            }
            .unwrap_or('\u{fffd}'),
        });
        rest = after;
    }
    plain + rest
}

#[cfg(test)]
mod tests {
    use super::text_of;

    #[test]
    fn text_is_the_visible_text() {
        assert_eq!(text_of("<p class=\"a\">1 &lt; 2 &#38;&#x3c;b&gt;</p> &amp;lt;<br>x"), "1 < 2 &<b> &lt;x");
        assert_eq!(text_of("&unknown;a & b"), "\u{fffd}a \u{fffd}");
    }
}
