//! Tests of a page whose connections are full: whoever sends a whole request is answered. All time limits are an hour,
//! so that no connection ends by a time limit.

use std::sync::Arc;
use std::time::Duration;

use edr_web::Options;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{LIMIT, Site, until};
use crate::fleet::{Fleet, Gate};
use crate::now_ns;
use crate::sample::Sample;

const CONNECTIONS: usize = 8;

/// Opens the page of a fleet with few connections.
async fn small(fleet: &Arc<Fleet>) -> Arc<Site> {
    let hour = Duration::from_secs(3_600);
    let options = Options {
        connections_max: CONNECTIONS,
        streams_max: 4,
        head_timeout: hour,
        stall_timeout: hour,
        shutdown_timeout: Duration::from_millis(10),
        ..Options::default()
    };
    Arc::new(Site::open_with(fleet, options).await)
}

/// Opens more connections than there are places, each with these bytes, and reads nothing.
async fn hold(site: &Site, bytes: &[u8]) -> Vec<TcpStream> {
    let mut held = Vec::new();
    for _ in 0..3 * CONNECTIONS {
        let mut stream = TcpStream::connect(site.address).await.unwrap();
        // The server may close the connection before all bytes are sent.
        let _ = tokio::time::timeout(Duration::from_millis(200), stream.write_all(bytes)).await;
        held.push(stream);
    }
    held
}

async fn close(site: Arc<Site>) {
    Arc::into_inner(site).unwrap().close().await;
}

#[tokio::test]
async fn connections_that_ask_nothing_keep_nobody_out() {
    let site = small(&Fleet::new(&[Sample::server("web-01", now_ns())])).await;
    let many = "GET /assets/app.js HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(500);
    let cases: [(&str, &[u8]); 6] = [
        ("nothing", b""),
        ("half a head", b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: "),
        ("idle after a request", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        ("a body that never comes", b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nhalf"),
        (
            "a chunk that never ends",
            b"GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\nhalf",
        ),
        ("answers that nobody reads", many.as_bytes()),
    ];
    for (name, bytes) in cases {
        let held = hold(&site, bytes).await;
        for target in ["/healthz", "/", "/hosts/web-01"] {
            assert_eq!(site.get(target).await.status, 200, "{name}");
        }
        drop(held);
    }
    close(site).await;
}

#[tokio::test]
async fn heads_that_are_renewed_all_the_time_keep_nobody_out() {
    let site = small(&Fleet::new(&[Sample::server("web-01", now_ns())])).await;
    let address = site.address;
    let renewing = tokio::spawn(async move {
        let mut held = std::collections::VecDeque::new();
        loop {
            if let Ok(mut stream) = TcpStream::connect(address).await {
                let _ = stream.write_all(b"G").await;
                held.push_back(stream);
            }
            if held.len() > 4 * CONNECTIONS {
                held.pop_front();
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    let mut answered = 0;
    for _ in 0..50 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        let read = tokio::time::timeout(LIMIT, stream.read_to_string(&mut answer)).await.expect("an answer or an end");
        answered += usize::from(read.is_ok() && answer.contains(" 200 "));
    }
    assert!(answered >= 45, "{answered} of 50");
    renewing.abort();
    let _ = renewing.await;
    close(site).await;
}

#[tokio::test]
async fn requests_and_streams_stay_while_heads_are_closed() {
    let fleet = Fleet::new(&[Sample::server("web-01", now_ns())]);
    let site = small(&fleet).await;
    let mut events = site.events("/events").await;
    assert!(until(&mut events, "event: alive").await);
    let gate = Arc::new(Gate::default());
    *fleet.gate.lock().unwrap() = Some(Arc::clone(&gate));
    let asked = tokio::spawn({
        let site = Arc::clone(&site);
        async move { site.get("/hosts/web-01").await.status }
    });
    tokio::time::timeout(LIMIT, gate.entered.notified()).await.expect("the question comes");
    let mut held = hold(&site, b"GET / HT").await;
    // The oldest of the others are closed, the newest wait.
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(LIMIT, held[0].read_to_end(&mut rest)).await.expect("the oldest head is closed");
    *fleet.gate.lock().unwrap() = None;
    gate.open.notify_one();
    assert_eq!(asked.await.unwrap(), 200);
    fleet.put(&Sample::server("web-01", now_ns()));
    assert!(until(&mut events, "event: snapshot").await);
    drop(held);
    close(site).await;
}

#[tokio::test]
async fn many_requests_at_once_on_one_connection_are_worked_on_one_after_the_other() {
    let fleet = Fleet::new(&[Sample::server("web-01", now_ns())]);
    let options = Options { work_max: 2, ..Options::default() };
    let site = Site::open_with(&fleet, options).await;
    let mut greedy = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(site.address).await.unwrap();
        let many = format!("GET /hosts/web-01/files HTTP/1.1\r\nHost: {}\r\n\r\n", site.address).repeat(200);
        stream.write_all(many.as_bytes()).await.unwrap();
        let (mut reading, writing) = stream.into_split();
        greedy
            .push((writing, tokio::spawn(async move { tokio::io::copy(&mut reading, &mut tokio::io::sink()).await })));
    }
    for _ in 0..5 {
        assert_eq!(site.get("/hosts/web-01").await.status, 200);
    }
    greedy.iter().for_each(|(_, reading)| reading.abort());
    drop(greedy);
    site.close().await;
}
