//! Tests of the page over real connections.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "tests")]

mod client;
mod connections;
mod filters;
mod fleet;
mod pages;
mod requests;
mod sample;

use std::time::{SystemTime, UNIX_EPOCH};

use client::Site;
use fleet::Fleet;
use sample::{SECOND_NS, Sample};

fn now_ns() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as i64
}

/// Serves a sample fleet for looking at the page, with a new snapshot every 5 s, until killed:
/// `cargo test -p edr-web --test page look -- --ignored --nocapture`
#[tokio::test]
#[ignore = "for the eye: serves until it is killed"]
async fn look() {
    let now = now_ns();
    let web = Sample::server("web-01", now);
    let mut silent = Sample::server("db-primary-01", now);
    silent.time.wall_ns -= 47 * 60 * SECOND_NS;
    silent.received_ns -= 47 * 60 * SECOND_NS;
    let mut stopped = Sample::server("build-07", now);
    stopped.bye = true;
    stopped.time.wall_ns -= 3 * 86_400 * SECOND_NS;
    stopped.received_ns -= 3 * 86_400 * SECOND_NS;
    let mut degraded = Sample::server("edge-fra-02", now);
    degraded.agent.degraded = vec![
        "files of other users cannot be read: run as root, or with CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH".to_owned(),
    ];
    degraded.psad = Default::default();
    let mut ahead = Sample::server("<b>evil\u{202e}gpj.host", now);
    ahead.time.wall_ns += 600 * SECOND_NS;
    ahead.processes[3].comm = b"<b>)\n\xff".as_slice().into();
    ahead.processes[3].argv = vec![b"<script>alert(1)</script>\x1b[2J".as_slice().into(), "--".into()];
    let mut small = Sample::server("mail-01", now);
    for attacker in &mut small.psad.top_attackers {
        attacker.danger_level = attacker.danger_level.min(2);
    }
    ahead.alarms = vec!["frame 48211 arrived with two contents".to_owned()];
    let fleet = Fleet::new(&[web.clone(), silent, stopped, degraded.clone(), ahead.clone(), small.clone()]);
    let site = Site::open(&fleet).await;
    println!("http://{}/  host {}", site.address, web.host_id());
    let mut living = [web, degraded, ahead, small];
    loop {
        tokio::time::sleep(std::time::Duration::from_secs(5)).await;
        for sample in &mut living {
            let now = now_ns();
            sample.agent.seq += 1;
            sample.time.wall_ns += now - SECOND_NS / 2 - sample.received_ns;
            sample.received_ns = now - SECOND_NS / 2;
            sample.processes[7].utime_ticks += 41;
            fleet.put(sample);
        }
    }
}
