//! Tests of valid and invalid requests: headers, names, limits, events.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use edr_web::Options;
use edr_wire::HostId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{LIMIT, Site, until};
use crate::fleet::{Fleet, Gate};
use crate::now_ns;
use crate::sample::Sample;

#[tokio::test]
async fn every_answer_carries_the_headers_that_lock_the_page() {
    let fleet = Fleet::new(&[Sample::server("web-01", now_ns())]);
    let site = Site::open(&fleet).await;
    for target in ["/", "/hosts/web-01", "/hosts/nobody", "/assets/app.css", "/healthz", "/?page=x", "/nothing/here"] {
        let answer = site.get(target).await;
        assert_eq!(
            answer.header("content-security-policy"),
            Some(
                "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; \
                 form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
            ),
            "{target}"
        );
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("x-frame-options", "DENY"),
            ("cross-origin-resource-policy", "same-origin"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{target}");
        }
        assert!(answer.header("cache-control").is_some(), "{target}");
    }
    // The policy would block inline styles and handlers; the pages have none.
    for target in ["/", "/hosts/web-01", "/hosts/web-01/files", "/hosts/web-01/psad"] {
        let page = site.get(target).await.body;
        assert!(!page.contains(" style=") && !page.contains("<style") && !page.contains(" onclick="), "{target}");
        assert_eq!(page.matches("<script").count(), 1, "{target}");
    }
    assert_eq!(site.get("/healthz").await.body, "ok\n");
    site.close().await;
}

#[tokio::test]
async fn assets_have_their_types_and_the_pages_name_them() {
    let site = Site::open(&Fleet::new(&[])).await;
    let page = site.get("/").await.body;
    for (name, kind) in [
        ("app.css", "text/css; charset=utf-8"),
        ("app.js", "text/javascript; charset=utf-8"),
        ("favicon.svg", "image/svg+xml"),
    ] {
        let address = page.split('"').find(|text| text.contains(name)).unwrap();
        let asset = site.get(address).await;
        assert_eq!((asset.status, asset.header("content-type")), (200, Some(kind)));
        assert!(asset.header("cache-control").is_some_and(|value| value.contains("immutable")));
    }
    assert!(page.contains("No host has reported yet"));
    site.close().await;
}

#[tokio::test]
async fn a_foreign_name_gets_nothing() {
    let options = Options { names: vec!["edr.example.org".to_owned()], ..Options::default() };
    let site = Site::open_with(&Fleet::new(&[Sample::server("web-01", now_ns())]), options).await;
    for ours in ["localhost", "localhost:8480", "127.0.0.1", "[::1]:9", "edr.example.org"] {
        assert_eq!(site.ask("GET", "/", &format!("Host: {ours}\r\n")).await.status, 200, "{ours}");
    }
    for headers in [
        "Host: rebind.evil.example\r\n",
        "Host: rebind.evil.example:8480\r\n",
        "Host: localhost.evil.example\r\n",
        "Host: 127.0.0.1.nip.example\r\n",
        "Host: \r\n",
        "",
        "Host: localhost\r\nHost: evil.example\r\n",
    ] {
        let answer = site.ask("GET", "/hosts/web-01", headers).await;
        assert_eq!(answer.status, 421, "{headers:?}");
        assert!(!answer.body.contains("web-01"), "{headers:?}");
    }
    let absolute = site.ask("GET", "http://evil.example/", "Host: localhost\r\n").await;
    assert_eq!(absolute.status, 421);
    site.close().await;
}

#[tokio::test]
async fn a_page_of_another_site_gets_nothing_and_a_link_on_it_leads_here() {
    let site = Site::open(&Fleet::new(&[Sample::server("web-01", now_ns())])).await;
    let ask = async |target: &str, headers: &str| {
        site.ask("GET", target, &format!("Host: localhost\r\n{headers}")).await.status
    };
    let targets = ["/", "/hosts/web-01", "/hosts/web-01/files", "/events", "/assets/app.css", "/healthz"];
    for headers in [
        // Headers of a browser for an image, a script, a frame, fetch() and EventSource of another site.
        "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\nSec-Fetch-Dest: image\r\n",
        "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\nSec-Fetch-Dest: script\r\n",
        "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: iframe\r\n",
        "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: cors\r\nSec-Fetch-Dest: empty\r\n",
        "Sec-Fetch-Site: cross-site\r\n",
        // Another port of localhost is the same site, but another origin.
        "Sec-Fetch-Site: same-site\r\nSec-Fetch-Mode: no-cors\r\nSec-Fetch-Dest: image\r\n",
        "Sec-Fetch-Site: none\r\nSec-Fetch-Site: cross-site\r\n",
    ] {
        for target in targets {
            assert_eq!(ask(target, headers).await, 403, "{target} {headers:?}");
        }
    }
    for headers in [
        "",
        "Sec-Fetch-Site: none\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n",
        "Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: cors\r\nSec-Fetch-Dest: empty\r\n",
        "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n",
    ] {
        assert_eq!(ask("/hosts/web-01", headers).await, 200, "{headers:?}");
    }
    let own = "Host: localhost\r\nSec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: cors\r\nSec-Fetch-Dest: empty\r\n";
    let mut events = TcpStream::connect(site.address).await.unwrap();
    events.write_all(format!("GET /events HTTP/1.1\r\n{own}\r\n").as_bytes()).await.unwrap();
    assert!(until(&mut events, "event: alive").await);
    site.close().await;
}

#[tokio::test]
async fn requests_beyond_the_limit_are_told_to_retry() {
    let fleet = Fleet::new(&[Sample::server("web-01", now_ns())]);
    let gate = Arc::new(Gate::default());
    *fleet.gate.lock().unwrap() = Some(Arc::clone(&gate));
    let options = Options { work_max: 1, work_wait: Duration::from_millis(50), ..Options::default() };
    let site = Arc::new(Site::open_with(&fleet, options).await);
    let first = tokio::spawn({
        let site = Arc::clone(&site);
        async move { site.get("/hosts/web-01/processes?at=2100-01-01T00:00:00Z").await.status }
    });
    tokio::time::timeout(LIMIT, gate.entered.notified()).await.expect("the first question comes");
    for target in ["/hosts/web-01", "/hosts/web-01/files", "/events?host=web-01", "/"] {
        let refused = site.get(target).await;
        assert_eq!((refused.status, refused.header("retry-after")), (503, Some("10")), "{target}");
    }
    assert_eq!(site.get("/healthz").await.status, 200);
    *fleet.gate.lock().unwrap() = None;
    gate.open.notify_one();
    assert_eq!(first.await.unwrap(), 200);
    assert_eq!(site.get("/hosts/web-01").await.status, 200);
    Arc::into_inner(site).unwrap().close().await;
}

#[tokio::test]
async fn slow_requests_about_one_host_or_the_past_take_no_place_from_other_hosts() {
    let fleet = Fleet::new(&[Sample::server("slow", now_ns()), Sample::server("web-01", now_ns())]);
    let gate = Arc::new(Gate::default());
    *fleet.gate.lock().unwrap() = Some(Arc::clone(&gate));
    *fleet.gated_host.lock().unwrap() = Some("slow");
    let options = Options { work_max: 4, work_wait: Duration::from_secs(5), ..Options::default() };
    let site = Arc::new(Site::open_with(&fleet, options).await);
    let ask = |target: &'static str| {
        let site = Arc::clone(&site);
        tokio::spawn(async move { site.get(target).await })
    };
    let slow: Vec<_> = ["", "/processes", "/files", "/psad", "/sockets", "/gaps"]
        .into_iter()
        .map(|view| ask(Box::leak(format!("/hosts/slow{view}").into_boxed_str())))
        .collect();
    tokio::time::timeout(LIMIT, gate.entered.notified()).await.expect("the first question comes");
    let begin = std::time::Instant::now();
    for target in ["/hosts/web-01", "/hosts/web-01/files", "/", "/hosts/web-01?at=2100-01-01T00:00:00Z"] {
        assert_eq!(site.get(target).await.status, 200, "{target}");
    }
    assert!(begin.elapsed() < Duration::from_secs(5), "no request waited for a place");
    let refused = ask("/hosts/slow/packets").await.unwrap();
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("10")));
    assert!(refused.body.contains("busy with this host"), "{}", refused.body);
    *fleet.gate.lock().unwrap() = None;
    gate.open.notify_one();
    let mut statuses = Vec::new();
    for request in slow {
        statuses.push(request.await.unwrap().status);
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 503, 503, 503, 503, 503]);
    Arc::into_inner(site).unwrap().close().await;
}

#[tokio::test]
async fn a_page_of_one_host_does_not_list_all_hosts() {
    let now = now_ns();
    let mut web = Sample::server("web-01", now);
    web.bye = true;
    let fleet = Fleet::new(&[web, Sample::server("other", now)]);
    let site = Site::open(&fleet).await;
    for target in ["/hosts/web-01", "/hosts/web-01/files", "/hosts/web-01/psad"] {
        let page = site.get(target).await;
        assert_eq!(page.status, 200);
        assert!(page.body.contains("the agent was stopped cleanly"), "what only the list knows is there");
    }
    assert_eq!(fleet.lists.load(Ordering::Relaxed), 0);
    site.close().await;
}

#[tokio::test]
async fn only_reading_without_a_body_is_allowed() {
    let site = Site::open(&Fleet::new(&[])).await;
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "XYZ"] {
        assert_eq!(site.ask(method, "/", "Host: localhost\r\n").await.status, 405, "{method}");
    }
    let head = site.ask("HEAD", "/", "Host: localhost\r\n").await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    let body = site.send(b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello").await;
    assert_eq!(body.status, 413);
    let chunked = site.send(b"GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n").await;
    assert!(chunked.status == 413 || chunked.status == 400, "{}", chunked.head);
    site.close().await;
}

#[tokio::test]
async fn a_missing_thing_is_a_page_with_an_explanation() {
    let site = Site::open(&Fleet::new(&[Sample::server("web-01", now_ns())])).await;
    for target in [
        "/hosts/../../etc/passwd",
        "/hosts/..%2f..%2fetc%2fpasswd",
        "/hosts/%2e%2e/%2e%2e",
        "/hosts/%2Fetc%2Fpasswd/processes",
        "/hosts/web-01%00/processes",
        "/hosts/%ff%fe/processes",
        "/hosts/nobody",
        "/hosts/web-01/nothing",
        "/hosts/web-01/processes/more",
        "/hosts/",
        "/assets/..%2Fapp.css",
        "/assets/%2e%2e%2f%2e%2e%2fCargo.toml",
        "/nothing",
    ] {
        let answer = site.get(target).await;
        assert_eq!(answer.status, 404, "{target}");
        assert_eq!(answer.header("content-type"), Some("text/html; charset=utf-8"), "{target}");
        assert!(answer.body.contains("<h1>") && answer.body.contains("All hosts"), "{target}");
        assert!(!answer.body.contains("root:"), "{target}");
    }
    site.close().await;
}

#[tokio::test]
async fn bad_parameters_are_named_with_the_remedy() {
    let fleet = Fleet::new(&[Sample::server("web-01", now_ns())]);
    let site = Site::open(&fleet).await;
    for (target, text) in [
        ("/hosts/web-01/processes?sort=nope", "pid, parent, user"),
        ("/hosts/web-01/processes?page=0", "whole number from 1"),
        ("/hosts/web-01/processes?page=-1&rows=1000000", "20, 50, 100, 200, 500"),
        ("/hosts/web-01/processes?filer=x", "filter, sort, desc, page, rows, columns, at"),
        ("/?sort=nope", "host, state, seen"),
        ("/?at=2026-11-24", "open the host first"),
        ("/events?hots=x", "host, version"),
    ] {
        let answer = site.get(target).await;
        assert_eq!(answer.status, 400, "{target}");
        assert!(answer.body.contains(text), "{target}: {}", answer.body);
    }
    assert_eq!(site.get(&format!("/hosts/web-01/files?filter={}", "x".repeat(3_000))).await.status, 414);
    site.close().await;
}

#[tokio::test]
async fn an_unavailable_archive_is_named_and_a_name_has_a_mark_where_it_is_not_the_first() {
    let now = now_ns();
    let mut twin = Sample::server("other", now);
    twin.host.hostname = "web-01".to_owned();
    twin.name_of = Some(HostId([0x11; 16]));
    let fleet = Fleet::new(&[Sample::server("web-01", now), twin]);
    let site = Site::open(&fleet).await;
    let hosts = site.get("/").await.body;
    assert_eq!(hosts.matches("name taken").count(), 1, "{hosts}");
    let mark = format!("the name was the name of host {} before", HostId([0x11; 16]));
    assert!(hosts.contains(&mark), "{hosts}");
    *fleet.archive_away.lock().unwrap() = true;
    let away = site.get("/hosts/web-01").await;
    assert_eq!((away.status, away.header("retry-after")), (503, Some("10")));
    assert!(away.body.contains("input/output error"));
    site.close().await;
}

#[tokio::test]
async fn a_new_snapshot_is_an_event_of_its_host_only() {
    let now = now_ns();
    let (mut web, other) = (Sample::server("web-01", now), Sample::server("other", now));
    let fleet = Fleet::new(&[web.clone(), other.clone()]);
    let site = Site::open(&fleet).await;
    assert_eq!(site.get("/events?host=nobody").await.status, 404);
    let id = web.host_id();
    let mut events = site.events(&format!("/events?host={id}")).await;
    assert!(until(&mut events, "event: alive").await, "the stream is open");
    let mut all = site.events("/events").await;
    assert!(until(&mut all, "event: alive").await);
    fleet.put(&other);
    assert!(until(&mut all, "event: snapshot").await);
    web.agent.seq += 1;
    fleet.put(&web);
    // The host's own stream begins with an event of this host; the earlier event of the other host is not part of it.
    assert!(until(&mut events, &format!("event: snapshot\ndata: {id}")).await);
    // A page with an older version gets an event at once.
    let mut late = site.events(&format!("/events?host={id}&version=0-1")).await;
    assert!(until(&mut late, "event: snapshot").await);
    let stopping = tokio::spawn(site.close());
    assert!(!until(&mut events, "never").await, "the stream ends with the server");
    stopping.await.unwrap();
}

#[tokio::test]
async fn the_page_names_its_version() {
    let web = Sample::server("web-01", now_ns());
    let (id, epoch, seq) = (web.host_id(), web.agent.epoch, web.agent.seq);
    let site = Site::open(&Fleet::new(&[web])).await;
    let page = site.get("/hosts/web-01/files").await;
    assert!(page.body.contains(&format!("data-events=\"/events?host={id}&#38;version={epoch}-{seq}\"")));
    site.close().await;
}

#[tokio::test]
async fn streams_beyond_the_limit_are_refused_and_pages_still_come() {
    let fleet = Fleet::new(&[Sample::server("web-01", now_ns())]);
    let site = Site::open_with(&fleet, Options { streams_max: 2, ..Options::default() }).await;
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut events = site.events("/events").await;
        assert!(until(&mut events, "event: alive").await);
        open.push(events);
    }
    assert_eq!(site.get("/events").await.status, 503);
    assert_eq!(site.get("/").await.status, 200);
    drop(open);
    // A place becomes free only when the server notices the end of a stream, at its next write.
    site.close().await;
}

#[tokio::test]
async fn who_sends_a_head_slowly_is_let_go_and_others_are_served() {
    let options = Options { head_timeout: Duration::from_millis(300), connections_max: 4, ..Options::default() };
    let site = Site::open_with(&Fleet::new(&[]), options).await;
    let mut slow = Vec::new();
    for _ in 0..8 {
        let mut stream = TcpStream::connect(site.address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ").await.unwrap();
        slow.push(stream);
    }
    assert_eq!(site.get("/healthz").await.status, 200, "after the slow ones were let go");
    for stream in &mut slow {
        let mut rest = Vec::new();
        let _ = tokio::time::timeout(LIMIT, stream.read_to_end(&mut rest)).await.expect("the server lets it go");
    }
    site.close().await;
}

#[tokio::test]
async fn a_head_beyond_the_limit_is_refused() {
    let site = Site::open(&Fleet::new(&[])).await;
    let many: String = (0..100).map(|n| format!("X-{n}: y\r\n")).collect();
    assert_eq!(site.ask("GET", "/", &format!("Host: localhost\r\n{many}")).await.status, 431);
    let large = format!("Host: localhost\r\nX-Large: {}\r\n", "y".repeat(40_000));
    assert_eq!(site.ask("GET", "/", &large).await.status, 431);
    site.close().await;
}
