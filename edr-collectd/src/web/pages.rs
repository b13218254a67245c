//! The pages of a host: addresses and titles.

use crate::query::table::View;

/// A page of a host.
#[derive(Debug)]
pub(super) struct Page {
    /// Last segment of the address.
    pub(super) slug: &'static str,
    /// Slug of the tab above the page.
    pub(super) tab: &'static str,
    /// Title in the navigation.
    pub(super) tab_title: &'static str,
    /// The rows; `None` for psad's page, which has several tables.
    pub(super) view: Option<View>,
    /// Title for users.
    pub(super) title: &'static str,
    /// Title and number of rows of a page that shows only the top rows.
    pub(super) top: Option<(&'static str, usize)>,
    /// Noun for the rows.
    pub(super) noun: &'static str,
}

const fn tab(slug: &'static str, title: &'static str, view: Option<View>, noun: &'static str) -> Page {
    Page { slug, tab: slug, tab_title: title, view, title, top: None, noun }
}

const fn psad(slug: &'static str, title: &'static str, view: View, noun: &'static str) -> Page {
    Page { slug, tab: "psad", tab_title: title, view: Some(view), title, top: None, noun }
}

const fn top(
    slug: &'static str,
    titles: (&'static str, &'static str),
    rows: usize,
    view: View,
    noun: &'static str,
) -> Page {
    Page { top: Some((titles.0, rows)), tab_title: titles.0, ..psad(slug, titles.1, view, noun) }
}

/// All pages, in the order of the navigation.
pub(super) const PAGES: [Page; 15] = [
    tab("processes", "Process data", Some(View::Processes), "processes"),
    tab("files", "lsof data", Some(View::Files), "open files"),
    tab("sockets", "Sockets", Some(View::Sockets), "sockets"),
    tab("psad", "psad data", None, ""),
    psad("exposed", "Scanned and open", View::Exposed, "listening sockets"),
    psad("contacts", "Sockets to attackers", View::Contacts, "sockets"),
    top("signatures", ("Top 50 signature matches", "Signature matches"), 50, View::TopSignatures, "signatures"),
    top("attackers", ("Top 25 attackers", "Attackers"), 25, View::TopAttackers, "attackers"),
    top("ports", ("Top 20 scanned ports", "Scanned ports"), 20, View::TopPorts, "ports"),
    psad("prefixes", "iptables log prefix counters", View::PrefixCounters, "prefixes"),
    psad("protocols", "Total protocol packet counters", View::ProtocolCounters, "protocols"),
    psad("sources", "IP status detail", View::Sources, "rows"),
    psad("blocked", "Blocked addresses", View::Blocked, "addresses"),
    tab("packets", "Packets", Some(View::Packets), "packets"),
    tab("gaps", "Gaps", Some(View::Gaps), "gaps"),
];

/// Returns the page with this slug.
pub(super) fn page(slug: &str) -> Option<&'static Page> {
    PAGES.iter().find(|page| page.slug == slug)
}
