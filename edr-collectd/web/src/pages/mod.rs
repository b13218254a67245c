//! The pages: each finds the data of a request and fills a template.

pub(crate) mod host;
pub(crate) mod hosts;
pub(crate) mod overview;
mod psad;
pub(crate) mod turn;
pub(crate) mod view;
