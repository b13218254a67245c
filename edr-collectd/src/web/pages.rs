//! The pages of a host: addresses and titles, from the catalogue.

use edr_model::SnapshotTable;
use edr_model::catalogue::{Group, find};

/// Last segment of the address of psad's page.
pub(super) const PSAD: &str = "psad";

/// A page of a host.
#[derive(Debug, Clone, Copy)]
pub(super) enum Page {
    /// A page with one table.
    Table(&'static SnapshotTable),
    /// psad's page, with several tables.
    Psad,
}

impl Page {
    /// Returns the last segment of the address.
    pub(super) fn slug(self) -> &'static str {
        match self {
            Self::Table(table) => table.about.slug,
            Self::Psad => PSAD,
        }
    }

    /// Returns the slug of the tab above the page.
    pub(super) fn tab(self) -> &'static str {
        match self {
            Self::Table(table) if table.about.group == Group::Own => table.about.slug,
            Self::Table(_) | Self::Psad => PSAD,
        }
    }

    /// Returns the title in the navigation.
    pub(super) fn tab_title(self) -> &'static str {
        match self {
            Self::Table(table) => table.about.top.map_or(table.about.title, |top| top.title),
            Self::Psad => "psad data",
        }
    }
}

/// The pages of a host, made of these tables.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pages(pub(super) &'static [SnapshotTable]);

impl Pages {
    /// Returns the page with this slug.
    pub(super) fn find(self, slug: &str) -> Option<Page> {
        if slug == PSAD { Some(Page::Psad) } else { find(self.0, slug).map(Page::Table) }
    }

    /// Returns the pages with a tab of their own, in the order of the navigation. psad's page stands in the place of
    /// the first table of psad.
    pub(super) fn tabs(self) -> impl Iterator<Item = Page> {
        let first_of_psad = self.0.iter().position(|table| table.about.group == Group::Psad);
        self.0.iter().enumerate().filter_map(move |(at, table)| match table.about.group {
            Group::Own => Some(Page::Table(table)),
            Group::Psad => (Some(at) == first_of_psad).then_some(Page::Psad),
        })
    }

    /// Returns the tables of psad.
    pub(super) fn psad(self) -> impl Iterator<Item = &'static SnapshotTable> {
        self.0.iter().filter(|table| table.about.group == Group::Psad)
    }
}
