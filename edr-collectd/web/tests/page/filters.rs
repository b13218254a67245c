//! Tests of filters and moments on pages.

use edr_model::tables::{HOSTS, TABLES};

use crate::client::Site;
use crate::fleet::Fleet;
use crate::now_ns;
use crate::sample::{SECOND_NS, Sample};

/// Returns the sentence with the number of rows.
fn count(body: &str) -> &str {
    let count = body.split("<p id=\"count\">").nth(1).and_then(|text| text.split('<').next());
    count.unwrap_or_else(|| panic!("no count in {body}")).split(',').next().unwrap().trim_end()
}

const NO_EFFECT: &str = "The filter has no effect:";

#[tokio::test]
async fn a_wrong_filter_is_named_above_the_unfiltered_table_of_every_view() {
    let site = Site::open(&Fleet::new(&[Sample::server("web-01", now_ns())])).await;
    let views = TABLES.iter().map(|table| (format!("/hosts/web-01/{}", table.about.slug), table.columns()));
    for (path, columns) in views.chain([("/".to_owned(), HOSTS.columns())]) {
        let whole = site.get(&path).await.body;
        for wrong in ["foo:bar", "x+and+(", "%22x", "name=~py", ":x+%3D%3D+3"] {
            let page = site.get(&format!("{path}?filter={wrong}")).await;
            assert_eq!(page.status, 200, "{path} {wrong}");
            assert!(page.body.contains(NO_EFFECT) && page.body.contains("id=\"filter-problem\""), "{path} {wrong}");
            assert_eq!(count(&page.body), count(&whole), "{path} {wrong}");
        }
        let page = site.get(&format!("{path}?filter=foo:bar")).await.body;
        assert!(
            page.contains("value=\"foo:bar\"") && page.contains("<pre tabindex=\"0\">foo:bar\n^^^</pre>"),
            "{page}"
        );
        for column in &columns {
            assert!(page.contains(column.name), "{path}: {}", column.name);
        }
    }
    site.close().await;
}

#[tokio::test]
async fn a_filter_that_finds_nothing_says_what_was_searched() {
    let site = Site::open(&Fleet::new(&[Sample::server("web-01", now_ns())])).await;
    let page = site.get("/hosts/web-01/files?filter=deletd").await.body;
    assert!(page.contains("No open files with: any column contains “deletd”."), "{page}");
    let page = site.get("/hosts/web-01/processes?filter=pid:2+name:nothing").await.body;
    assert!(page.contains("No processes with: (pid is “2” and name contains “nothing”)."), "{page}");
    let page = site.get("/?filter=name:nothing").await.body;
    assert!(page.contains("No hosts with: hostname contains “nothing”."), "{page}");
    site.close().await;
}

#[tokio::test]
async fn a_page_explains_its_filter_and_names_its_columns() {
    let site = Site::open(&Fleet::new(&[Sample::server("web-01", now_ns())])).await;
    let page = site.get("/hosts/web-01/processes").await.body;
    assert!(page.contains("How to filter") && page.contains("<code>cmdline</code> (Command line)"), "{page}");
    assert!(!page.contains(NO_EFFECT));
    site.close().await;
}

#[tokio::test]
async fn a_wrong_moment_keeps_form_filter_and_table() {
    let site = Site::open(&Fleet::new(&[Sample::server("web-01", now_ns())])).await;
    for view in ["", "/psad", "/processes"] {
        let filter = if view == "/processes" { "&filter=pid:44" } else { "" };
        let page = site.get(&format!("/hosts/web-01{view}?at=soon{filter}")).await;
        assert_eq!(page.status, 200, "{view}");
        for text in ["is no time that can be understood", "5m ago", "Shown is the newest snapshot.", "value=\"soon\""] {
            assert!(page.body.contains(text), "{view}: no {text}");
        }
        assert!(!page.body.contains("This is the past"), "{view}");
        if view == "/processes" {
            assert!(page.body.contains("value=\"pid:44\"") && count(&page.body).starts_with("1 of 300"));
        }
    }
    site.close().await;
}

#[tokio::test]
async fn a_page_takes_the_moments_of_the_commands() {
    let now = now_ns();
    let mut before = Sample::server("web-01", now);
    before.time.wall_ns -= 3_600 * SECOND_NS;
    let fleet = Fleet::new(&[before]);
    let mut after = Sample::server("web-01", now);
    after.agent.seq += 1;
    fleet.put(&after);
    let site = Site::open(&fleet).await;
    for at in ["-30m", "30m+ago", "0.5h+ago", "now"] {
        let page = site.get(&format!("/hosts/web-01/processes?at={at}")).await.body;
        assert_eq!(page.contains("This is the past"), at != "now" && !at.starts_with("0.5"), "{at}");
        assert_eq!(page.contains("id=\"at-problem\""), at.starts_with("0.5"), "{at}");
    }
    // A relative time of a filter refers to the moment that is shown.
    let of_then = "/hosts/web-01/processes?filter=as_of%3C%3D-20m&at=-30m";
    assert!(site.get(of_then).await.body.contains("300 processes (filter matches 300)"));
    site.close().await;
}

#[tokio::test]
async fn a_link_to_a_filter_finds_its_rows() {
    let site = Site::open(&Fleet::new(&[Sample::server("web-01", now_ns())])).await;
    let kind = |href: &str| href.split("%3A").next().unwrap_or_default().to_owned();
    let mut tried = Vec::new();
    for table in &TABLES {
        let page = site.get(&format!("/hosts/web-01/{}?columns=all", table.about.slug)).await.body;
        for href in page.split("href=\"").filter_map(|text| text.split('"').next()) {
            let href = href.replace("&#38;", "&");
            // A link to the rows of another table has nothing but the filter.
            let is_filter = href.contains("?filter=") && !href.contains('&');
            if is_filter && !tried.contains(&kind(&href)) {
                assert!(!site.get(&href).await.body.contains(NO_EFFECT), "{href}");
                tried.push(kind(&href));
            }
        }
    }
    assert!(tried.len() >= 5, "{tried:?}");
    site.close().await;
}

#[tokio::test]
async fn hosts_are_filtered_by_what_the_list_shows() {
    let now = now_ns();
    let mut degraded = Sample::server("db-01", now);
    degraded.agent.degraded = vec!["files of other users cannot be read".to_owned()];
    let mut stopped = Sample::server("mail-01", now);
    stopped.bye = true;
    let site = Site::open(&Fleet::new(&[Sample::server("web-01", now), degraded, stopped])).await;
    for (filter, hosts) in [
        ("state:live", 2),
        ("state=stopped", 1),
        ("stopped", 1),
        ("not state:live", 1),
        ("host:web-01", 1),
        ("name:*-01+degraded:*", 1),
        ("name:(web-01+or+db-01)", 2),
        ("missing:*", 3),
        ("danger%3E%3D1", 3),
        ("seen%3E-1h", 3),
    ] {
        let page = site.get(&format!("/?filter={}", filter.replace(' ', "+"))).await.body;
        assert!(page.contains(&format!("of 3 hosts (filter matches {hosts})")), "{filter}: {}", count(&page));
    }
    for wrong in ["state:past", "danger:high", "hots:web", "missing:"] {
        assert!(site.get(&format!("/?filter={wrong}")).await.body.contains(NO_EFFECT), "{wrong}");
    }
    site.close().await;
}
