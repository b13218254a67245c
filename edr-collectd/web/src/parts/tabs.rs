//! The pages of a host: addresses and titles, from the catalogue.

use edr_model::SnapshotTable;
use edr_model::catalogue::{Group, find};

/// Last segment of the address of psad's page.
pub(crate) const PSAD: &str = "psad";

/// A page of a host.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Page {
    /// A page with one table.
    Table(&'static SnapshotTable),
    /// psad's page, with several tables.
    Psad,
}

impl Page {
    /// Returns the last segment of the address.
    pub(crate) fn slug(self) -> &'static str {
        match self {
            Self::Table(table) => table.about.slug,
            Self::Psad => PSAD,
        }
    }

    /// Returns the slug of the tab above the page.
    pub(crate) fn tab(self) -> &'static str {
        match self {
            Self::Table(table) if table.about.group == Group::Own => table.about.slug,
            Self::Table(_) | Self::Psad => PSAD,
        }
    }

    /// Returns the title in the navigation.
    pub(crate) fn tab_title(self) -> &'static str {
        match self {
            Self::Table(table) => table.about.top.map_or(table.about.title, |top| top.title),
            Self::Psad => "psad data",
        }
    }
}

/// The pages of a host, made of these tables.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pages(pub(crate) &'static [SnapshotTable]);

impl Pages {
    /// Returns the page with this slug.
    pub(crate) fn find(self, slug: &str) -> Option<Page> {
        if slug == PSAD { Some(Page::Psad) } else { find(self.0, slug).map(Page::Table) }
    }

    /// Returns the pages with a tab of their own, in the order of the navigation. psad's page stands in the place of
    /// the first table of psad.
    pub(crate) fn tabs(self) -> impl Iterator<Item = Page> {
        let first_of_psad = self.0.iter().position(|table| table.about.group == Group::Psad);
        self.0.iter().enumerate().filter_map(move |(at, table)| match table.about.group {
            Group::Own => Some(Page::Table(table)),
            Group::Psad => (Some(at) == first_of_psad).then_some(Page::Psad),
        })
    }

    /// Returns the tables of psad.
    pub(crate) fn psad(self) -> impl Iterator<Item = &'static SnapshotTable> {
        self.0.iter().filter(|table| table.about.group == Group::Psad)
    }
}
