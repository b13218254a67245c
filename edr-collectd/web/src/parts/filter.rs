//! The filter of a page: the parsed filter, or the error to show above the unfiltered table.

use edr_model::{Column, Filter, FilterError};

use crate::parts::params::Params;
use crate::parts::shown::Shown;

/// The filter of a page.
#[derive(Debug, Default)]
pub(crate) struct PageFilter {
    /// The filter; without effect when the text is wrong.
    pub(crate) filter: Filter,
    /// The text in the form.
    pub(crate) text: Shown,
    /// The filter in words, when there is a right one.
    pub(crate) words: Option<Shown>,
    pub(crate) problem: Option<FilterProblem>,
    /// Names and headings of the columns.
    pub(crate) columns: Vec<(&'static str, &'static str)>,
}

/// Why a filter was refused.
#[derive(Debug)]
pub(crate) struct FilterProblem {
    pub(crate) message: Shown,
    /// The filter, and a mark under the fault.
    pub(crate) lines: [String; 2],
    /// What is possible instead.
    pub(crate) possible: Vec<Shown>,
}

impl PageFilter {
    /// Parses the filter of the parameters for a table with these columns.
    pub(crate) fn new(params: &Params, columns: &[Column]) -> Self {
        let text = params.filter.as_deref().unwrap_or_default();
        let (filter, problem) = match Filter::parse(text, columns, params.shown_ns()) {
            Ok(filter) => (filter, None),
            Err(error) => (Filter::default(), Some(FilterProblem::new(&error))),
        };
        Self {
            words: (!filter.is_empty()).then(|| Shown::of(filter.to_string())),
            filter,
            text: Shown::of(text),
            problem,
            columns: columns.iter().map(|column| (column.name, column.title)).collect(),
        }
    }
}

impl FilterProblem {
    fn new(error: &FilterError) -> Self {
        Self {
            message: Shown::of(&error.message),
            lines: error.lines(),
            possible: error.possible.lines().map(Shown::of).collect(),
        }
    }
}
