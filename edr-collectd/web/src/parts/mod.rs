//! What several pages need.

pub(crate) mod assets;
pub(crate) mod filter;
pub(crate) mod grid;
pub(crate) mod params;
pub(crate) mod problem;
pub(crate) mod pulse;
pub(crate) mod shown;
pub(crate) mod tabs;
pub(crate) mod when;

/// The content type of all pages.
pub(crate) const HTML: &str = "text/html; charset=utf-8";
