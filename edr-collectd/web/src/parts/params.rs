//! The parameters of a page: parsed once, checked completely, and written into every link.

use edr_model::moment;

use crate::parts::problem::Problem;
use crate::parts::when;

/// Choices for the rows of a page.
pub(crate) const ROWS_CHOICES: [usize; 5] = [20, 50, 100, 200, 500];
/// Rows of a page by default.
pub(crate) const ROWS_DEFAULT: usize = 100;

const KNOWN: &str = "filter, sort, desc, page, rows, columns, at";

/// The parameters `?filter=&sort=&desc=&page=&rows=&columns=&at=`. An empty value counts as absent, so that plain forms
/// work.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Params {
    /// Condition for the rows; parsed by the view, whose columns decide.
    pub(crate) filter: Option<String>,
    /// Column to sort by; the view checks that the column exists.
    pub(crate) sort: Option<String>,
    /// True for the largest value first.
    pub(crate) descending: bool,
    /// Number of the page, from 1; 0 when absent.
    pub(crate) page: usize,
    /// Rows per page.
    pub(crate) rows: Option<usize>,
    /// True for all columns, false for the usual columns.
    pub(crate) all_columns: bool,
    /// The moment to show.
    pub(crate) at: Option<At>,
    /// A moment that could not be understood, with the reason. Links leave it out.
    pub(crate) at_refused: Option<(String, String)>,
}

/// A requested moment.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct At {
    /// ns since the epoch.
    pub(crate) ns: i64,
    /// RFC 3339 in UTC, for links.
    pub(crate) text: String,
}

impl At {
    /// Makes a moment for a link.
    pub(crate) fn new(ns: i64) -> Self {
        Self { ns, text: when::iso(ns) }
    }
}

impl Params {
    /// Parses a query string.
    ///
    /// # Errors
    /// All problems at once. A wrong filter and a wrong moment are no errors here: the view shows them with the form.
    /// An unknown parameter is an error: a mistyped `filter` would otherwise show unfiltered rows.
    pub(crate) fn parse(query: Option<&str>) -> Result<Self, Problem> {
        let mut params = Self::default();
        let mut wrong = Vec::new();
        let mut seen = Vec::new();
        for (key, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            if seen.contains(&key) {
                wrong.push(format!("{key} is given twice: give it once"));
                continue;
            }
            if let Err(why) = params.set(&key, value.trim()) {
                wrong.push(why);
            }
            seen.push(key);
        }
        if wrong.is_empty() { Ok(params) } else { Err(Problem::bad_parameters(&wrong)) }
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let value_given = Some(value).filter(|value| !value.is_empty());
        match key {
            "filter" => self.filter = value_given.map(str::to_owned),
            "sort" => self.sort = value_given.map(str::to_owned),
            "desc" => {
                self.descending = match value {
                    "" | "0" | "false" => false,
                    "1" | "true" => true,
                    _ => return Err(format!("desc is {value:?}: write 1 for largest first, or leave it out")),
                }
            }
            "page" => {
                self.page = match value_given.map(str::parse::<u32>) {
                    None => 0,
                    Some(Ok(page @ 1..)) => page as usize,
                    Some(_) => return Err(format!("page is {value:?}: write a whole number from 1")),
                }
            }
            "rows" => {
                self.rows = match value_given.map(str::parse::<usize>) {
                    None => None,
                    Some(Ok(rows)) if ROWS_CHOICES.contains(&rows) => Some(rows),
                    Some(_) => return Err(format!("rows is {value:?}: write one of 20, 50, 100, 200, 500")),
                }
            }
            "columns" => {
                self.all_columns = match value {
                    "" => false,
                    "all" => true,
                    _ => return Err(format!("columns is {value:?}: write all, or leave it out")),
                }
            }
            // An address with `now` is that of the live page.
            "at" if value.eq_ignore_ascii_case("now") => {}
            "at" => match value_given.map(|text| (text, moment::parse(text, when::now_ns()))) {
                None => {}
                Some((_, Ok(moment))) => self.at = Some(At::new(moment.from_ns)),
                Some((text, Err(reason))) => self.at_refused = Some((text.to_owned(), reason)),
            },
            _ => return Err(format!("there is no parameter {key:?}: there are {KNOWN}")),
        }
        Ok(())
    }

    /// Returns a link to `path` with these parameters after `change`.
    pub(crate) fn link(&self, path: &str, change: impl FnOnce(&mut Self)) -> String {
        let mut params = self.clone();
        change(&mut params);
        let mut query = form_urlencoded::Serializer::new(String::new());
        if let Some(filter) = &params.filter {
            query.append_pair("filter", filter);
        }
        if let Some(sort) = &params.sort {
            query.append_pair("sort", sort);
        }
        if params.descending {
            query.append_pair("desc", "1");
        }
        if params.page > 1 {
            query.append_pair("page", &params.page.to_string());
        }
        if let Some(rows) = params.rows {
            query.append_pair("rows", &rows.to_string());
        }
        if params.all_columns {
            query.append_pair("columns", "all");
        }
        if let Some(at) = &params.at {
            query.append_pair("at", &at.text);
        }
        let query = query.finish();
        if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
    }

    /// Returns a link to another page of the same host, which keeps only the moment.
    pub(crate) fn elsewhere(&self, path: &str) -> String {
        Self { at: self.at.clone(), ..Self::default() }.link(path, |_| {})
    }

    /// Returns a link to another page of the same host, with a filter.
    pub(crate) fn elsewhere_filtered(&self, path: &str, filter: String) -> String {
        Self { at: self.at.clone(), filter: Some(filter), ..Self::default() }.link(path, |_| {})
    }

    /// Returns the moment that is shown, ns since the epoch: relative times of a filter refer to the moment.
    pub(crate) fn shown_ns(&self) -> i64 {
        self.at.as_ref().map_or_else(when::now_ns, |at| at.ns)
    }

    /// Returns the number of the page, from 0.
    pub(crate) fn page_index(&self) -> usize {
        self.page.saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_parses_back_to_its_parameters() {
        let params = Params {
            filter: Some("path:/tmp/a b&c=d#\u{202e}é+%".to_owned()),
            sort: Some("rss".to_owned()),
            descending: true,
            page: 7,
            rows: Some(200),
            all_columns: true,
            at: Some(At::new(1_795_489_920_123_456_789)),
            at_refused: None,
        };
        let link = params.link("/hosts/x/files", |_| {});
        let query = link.split_once('?').map(|(_, query)| query);
        assert_eq!(Params::parse(query).unwrap(), params, "{link}");
        assert_eq!(Params::default().link("/", |_| {}), "/");
    }

    #[test]
    fn every_wrong_parameter_is_named_at_once() {
        let problem =
            Params::parse(Some("page=0&rows=7&desc=yes&columns=some&filer=x&sort=a&sort=b")).unwrap_err().to_string();
        for name in ["page", "rows", "desc", "columns", "filer", "sort"] {
            assert!(problem.contains(name), "{name}: {problem}");
        }
    }

    #[test]
    fn a_moment_is_the_one_of_the_commands_and_a_wrong_one_is_kept_for_the_form() {
        for text in ["-5m", "5m+ago", "today", "yesterday+03:12", "tuesday+03:12", "2026-11-24+03:12:00+UTC"] {
            let params = Params::parse(Some(&format!("at={text}&filter=x"))).unwrap();
            assert!(params.at.is_some() && params.at_refused.is_none(), "{text}");
            assert!(params.link("/", |_| {}).starts_with("/?filter=x&at=20"), "a link has the moment itself");
        }
        assert_eq!(Params::parse(Some("at=now")).unwrap(), Params::default());
        let wrong = Params::parse(Some("at=soon&filter=x")).unwrap();
        let (text, reason) = wrong.at_refused.clone().unwrap();
        assert!(text == "soon" && reason.contains("5m ago"), "{reason}");
        assert_eq!((wrong.at.clone(), wrong.link("/", |_| {}).as_str()), (None, "/?filter=x"));
    }

    #[test]
    fn an_empty_form_field_is_an_absent_parameter() {
        assert_eq!(Params::parse(Some("filter=&sort=&desc=&page=&rows=&columns=&at=+")).unwrap(), Params::default());
    }
}
