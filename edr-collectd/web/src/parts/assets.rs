//! Files for the pages, compiled in. Their addresses contain a hash of the content, so that a browser can cache the
//! files forever and still gets a new version at once.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

/// A compiled-in file.
pub(crate) struct Asset {
    name: &'static str,
    pub(crate) content_type: &'static str,
    pub(crate) content: &'static str,
}

const CSS: Asset =
    Asset { name: "app.css", content_type: "text/css; charset=utf-8", content: include_str!("../../assets/app.css") };
const JS: Asset = Asset {
    name: "app.js",
    content_type: "text/javascript; charset=utf-8",
    content: include_str!("../../assets/app.js"),
};
const ICON: Asset =
    Asset { name: "favicon.svg", content_type: "image/svg+xml", content: include_str!("../../assets/favicon.svg") };

impl Asset {
    /// Returns the file with this name.
    pub(crate) fn find(name: &str) -> Option<Self> {
        [CSS, JS, ICON].into_iter().find(|asset| asset.name == name)
    }

    fn address(&self) -> String {
        let mut hasher = DefaultHasher::new();
        self.content.hash(&mut hasher);
        format!("/assets/{}?{:016x}", self.name, hasher.finish())
    }
}

/// The addresses of the files, for templates.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Assets;

impl Assets {
    pub(crate) fn css(self) -> String {
        CSS.address()
    }

    pub(crate) fn js(self) -> String {
        JS.address()
    }

    pub(crate) fn icon(self) -> String {
        ICON.address()
    }

    pub(crate) fn version(self) -> &'static str {
        env!("CARGO_PKG_VERSION")
    }
}
