//! Tests of the content of pages.

use std::sync::Arc;
use std::time::Instant;

use edr_model::OmittedFrames;
use edr_model::accounting::{Account, Declarations};
use edr_wire::{Bytes, Epoch};

use crate::client::Site;
use crate::fleet::Fleet;
use crate::now_ns;
use crate::sample::{SECOND_NS, Sample};

const VIEWS: [&str; 16] = [
    "processes",
    "files",
    "sockets",
    "psad",
    "exposed",
    "contacts",
    "signatures",
    "attackers",
    "ports",
    "prefixes",
    "protocols",
    "sources",
    "blocked",
    "packets",
    "gaps",
    "losses",
];

#[tokio::test]
async fn every_view_shows_its_rows_under_its_name() {
    let sample = Sample::server("web-01", now_ns());
    let site = Site::open(&Fleet::new(std::slice::from_ref(&sample))).await;
    for (view, title, row) in [
        ("processes", "Process data", "/usr/sbin/psad"),
        ("files", "lsof data", "/var/log/systemd/systemd-1.log"),
        ("sockets", "Sockets", "/run/systemd/journal/stdout"),
        ("psad", "Top 25 attackers", "203.0.113.8"),
        ("exposed", "Scanned and open", "192.0.2.10"),
        ("contacts", "Sockets to attackers", "inbound"),
        ("signatures", "Top 50 signature matches", "MISC VNC communication attempt"),
        ("attackers", "Top 25 attackers", "203.0.113.8"),
        ("ports", "Top 20 scanned ports", "3389"),
        ("prefixes", "iptables log prefix counters", "Shorewall:net2fw:DROP:"),
        ("protocols", "Total protocol packet counters", "81,402"),
        ("sources", "IP status detail", "Terminal Server"),
        ("blocked", "Blocked addresses", "203.0.113.8"),
        ("packets", "Packets", "[UFW BLOCK]"),
        ("gaps", "Gaps", "EACCES"),
        ("losses", "Losses", "unexplained"),
    ] {
        let page = site.get(&format!("/hosts/web-01/{view}")).await;
        assert_eq!(page.status, 200, "{view}");
        for text in [title, row, "as of <time", " UTC</time>", " ago"] {
            assert!(page.body.contains(text), "{view} has no {text:?}");
        }
    }
    let overview = site.get("/hosts/web-01").await;
    for text in ["as of <time", "Debian GNU/Linux 12", "6.1.0-28-amd64", "c1d84b0a7e3f9926", "refused by the kernel"] {
        assert!(overview.body.contains(text), "{text}");
    }
    site.close().await;
}

/// The overview and the list of hosts name each kind of loss; only a host without a loss is complete.
#[tokio::test]
async fn losses_are_named_with_reason_and_range() {
    let mut whole = Sample::server("whole", now_ns());
    whole.host.host_id = edr_wire::HostId([7; 16]);
    let mut account = Account::default();
    account.frame(Epoch([1; 8]), 1, 0, now_ns(), &Declarations::default());
    whole.account = Arc::new(account.summary());
    let fleet = Fleet::new(&[Sample::server("web-01", now_ns()), whole]);
    *fleet.omitted.lock().unwrap() =
        OmittedFrames { unlisted_frames: 3, refused_frames: 4, ..OmittedFrames::default() };
    let site = Site::open(&fleet).await;
    let overview = site.get("/hosts/web-01").await.body;
    for text in [
        "Not complete: 2 unexplained, 2 lost, 1 incomplete, 3 ticks missed, 2 before the first.",
        "the last sequence number is 9 of epoch <code>0202020202020202</code>",
        "<td>declared lost by the host</td><td>&lt;b&gt;full",
        "<td>5 to 6</td>",
        "<td>ticks without a frame, declared by the host</td><td>stopped</td>",
        "2026-03-10 03:07:20",
        "<td>only some parts are archived</td><td></td><td>8</td>",
        "<td>unexplained, or not yet arrived</td><td></td><td>7</td>",
    ] {
        assert!(overview.contains(text), "no {text:?} in {overview}");
    }
    assert!(!overview.contains("Complete: ") && !overview.contains("<b>full"));
    let complete = site.get("/hosts/whole").await.body;
    assert!(complete.contains("Complete: 1 frame is archived") && complete.contains("declared no loss"), "{complete}");
    let hosts = site.get("/").await.body;
    for text in [
        "/losses\">10</a>",
        "title=\"complete\">complete</td>",
        "<b>1</b> with losses",
        "3 frames of hosts beyond the limit of the list; 4 frames of new hosts beyond the limit of new hosts a minute.",
    ] {
        assert!(hosts.contains(text), "no {text:?} in {hosts}");
    }
    assert_eq!(site.get("/?filter=missing!=complete").await.body.matches("<tr data-key").count(), 1);
    let health = site.get("/healthz").await.body;
    assert!(
        health.starts_with("ok\n3 frames of hosts beyond the limit of the list\n4 frames of new hosts "),
        "{health}"
    );
    let losses = site.get("/hosts/web-01/losses").await.body;
    for text in ["before_first", "incomplete", "missed", "0202020202020202"] {
        assert!(losses.contains(text), "no {text:?} in {losses}");
    }
    site.close().await;
}

#[tokio::test]
async fn scanned_ports_show_listeners_and_attackers_with_sockets() {
    let mut sample = Sample::server("web-01", now_ns());
    let site = Site::open(&Fleet::new(std::slice::from_ref(&sample))).await;
    let page = site.get("/hosts/web-01/psad").await.body;
    for text in [
        "3 scanned ports are open on this host, and 2 attackers have sockets here<",
        "Also 1 open in another network namespace of this host, 1 open on the loopback address only",
        "owner not seen",
        "open in this range: 22 sshd, 443 nginx",
        "1 socket here</a>",
    ] {
        assert!(page.contains(text), "{text}");
    }
    let ports = site.get("/hosts/web-01/ports").await.body;
    for text in ["loopback only", "other namespace", ">no<", ">yes<"] {
        assert!(ports.contains(text), "{text}");
    }
    assert!(!page.contains("Sockets are missing") && !ports.contains(">unknown<"));
    site.close().await;

    // With a gap in the tables of sockets, an unlisted socket may still exist.
    sample.gaps = vec![edr_wire::snapshot::Gap {
        source: "sockets".to_owned(),
        field: Bytes::from("tcp"),
        reason: edr_wire::snapshot::GapReason::Denied,
        count: 1,
        detail: "EACCES <b>".to_owned(),
        ..Default::default()
    }];
    sample.sockets.clear();
    let site = Site::open(&Fleet::new(std::slice::from_ref(&sample))).await;
    let page = site.get("/hosts/web-01/psad").await.body;
    for text in [
        "It is not known whether a scanned port is open on this host<",
        "Sockets are missing from this snapshot, so one that is not listed may still be there: tcp: EACCES &lt;b&gt;",
        "open ports unknown",
        "sockets unknown",
    ] {
        assert!(page.contains(text), "{text}");
    }
    let ports = site.get("/hosts/web-01/ports").await.body;
    assert!(ports.contains(">unknown<") && !ports.contains(">no<"));
    site.close().await;
}

#[tokio::test]
async fn content_from_a_host_appears_only_as_text() {
    let attack = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>{{7*7}}\u{202e}\x1b[2J";
    let mut sample = Sample::server("zoo", now_ns());
    sample.host.hostname = attack.to_owned();
    for field in [&mut sample.host.os, &mut sample.host.kernel, &mut sample.host.arch, &mut sample.host.boot_id] {
        *field = attack.to_owned();
    }
    sample.host.labels.insert(attack.to_owned(), attack.to_owned());
    sample.agent.version = attack.to_owned();
    sample.agent.config_hash = attack.to_owned();
    sample.agent.degraded = vec![attack.to_owned()];
    sample.agent.cost[0].source = attack.to_owned();
    sample.alarms = vec![attack.to_owned()];
    let bytes = Bytes::from(attack);
    for process in sample.processes.iter_mut().take(3) {
        process.comm = bytes.clone();
        process.argv = vec![bytes.clone(), Bytes::default(), bytes.clone()];
        process.user = Some(attack.to_owned());
        process.unit = Some(attack.to_owned());
        process.cwd = Some(bytes.clone());
        process.incomplete = vec![attack.to_owned()];
        if let Some(exe) = &mut process.exe {
            exe.path = bytes.clone();
        }
        for file in process.files.iter_mut() {
            file.path = bytes.clone();
            file.detail = bytes.clone();
            file.flags = vec![attack.to_owned().into()];
            file.deleted = true;
        }
    }
    for socket in &mut sample.sockets {
        socket.protocol = attack.to_owned();
        socket.state = attack.to_owned();
        socket.local = attack.to_owned();
        socket.remote = attack.to_owned();
        socket.path = bytes.clone();
    }
    let psad = &mut sample.psad;
    psad.top_attackers[0].ip = attack.to_owned();
    psad.top_signatures[0].msg = bytes.clone();
    psad.top_signatures[0].protocol = attack.to_owned();
    psad.top_ports[0].protocol = attack.to_owned();
    psad.prefix_counters[0].prefix = bytes.clone();
    psad.protocol_counters[0].protocol = attack.to_owned();
    psad.blocked[0].address = attack.to_owned();
    psad.events[0].kind = attack.to_owned();
    psad.events[0].text = bytes.clone();
    psad.status_text = Bytes::from(&format!("</pre>{attack}\n{attack}"));
    psad.unparsed = Some(edr_wire::snapshot::Unparsed { lines: 1, first: bytes.clone() });
    let source = &mut psad.sources[0];
    source.ip = attack.to_owned();
    source.os_guess = bytes.clone();
    source.p0f_guess = vec![bytes.clone()];
    let target = &mut source.targets[0];
    target.ip = attack.to_owned();
    target.packets[0].chain = attack.to_owned();
    target.packets[0].interface = bytes.clone();
    target.packets[0].protocol = attack.to_owned();
    target.signatures[0].msg = bytes.clone();
    target.signatures[0].flags = attack.to_owned();
    for packet in &mut sample.packets {
        packet.prefix = bytes.clone();
        packet.raw = bytes.clone();
        packet.src = attack.to_owned();
        packet.flags = attack.to_owned();
    }
    for gap in &mut sample.gaps {
        gap.source = attack.to_owned();
        gap.field = bytes.clone();
        gap.detail = attack.to_owned();
    }
    let id = sample.host_id();
    let site = Site::open(&Fleet::new(&[sample])).await;
    let mut targets =
        vec!["/".to_owned(), format!("/hosts/{id}"), "/hosts/%3Cscript%3Ealert(1)%3C%2Fscript%3E".to_owned()];
    for view in VIEWS {
        targets.push(format!("/hosts/{id}/{view}?columns=all"));
        targets.push(format!("/hosts/{id}/{view}?filter=%22%27%3E%3Cscript%3Ealert(1)%3C/script%3E%E2%80%AE%1B"));
    }
    for target in targets {
        let page = site.get(&target).await;
        // Quote, apostrophe and bracket of the attack, as a faulty template would leave them.
        for raw in ["<script>alert", "<img src=x", "\"'>", "\u{202e}", "\x1b", "</pre>\"", "49\u{202e}"] {
            assert!(!page.body.contains(raw), "{raw:?} in {target}");
        }
        assert!(
            page.body.contains("&lt;script&gt;alert(1)") || page.body.contains("&#60;script&#62;alert(1)"),
            "{target}"
        );
    }
    site.close().await;
}

#[tokio::test]
async fn an_attack_in_a_key_or_link_stays_in_its_attribute() {
    let mut sample = Sample::server("zoo", now_ns());
    sample.psad.top_attackers[0].ip = "\" onmouseover=\"alert(1)".to_owned();
    let site = Site::open(&Fleet::new(&[sample])).await;
    let page = site.get("/hosts/zoo/attackers").await;
    assert!(!page.body.contains("\" onmouseover"), "{}", page.body);
    assert!(!page.body.contains("filter=ip%3A%22"), "a text that is no address is no link");
    assert!(page.body.contains("&#34; onmouseover=&#34;alert(1)"), "the text is shown");
    site.close().await;
}

#[tokio::test]
async fn live_silent_and_stopped_hosts_are_distinguished() {
    let now = now_ns();
    let mut silent = Sample::server("b-silent", now);
    silent.received_ns -= 31 * SECOND_NS;
    let mut stopped = Sample::server("c-stopped", now);
    stopped.bye = true;
    stopped.received_ns -= 400 * SECOND_NS;
    let site = Site::open(&Fleet::new(&[Sample::server("a-live", now), silent, stopped])).await;
    for (state, name) in [("live", "a-live"), ("silent", "b-silent"), ("stopped", "c-stopped")] {
        let page = site.get(&format!("/?filter=state:{state}")).await;
        assert!(page.body.contains("1 of 3 hosts (filter matches 1)"), "{state}");
        assert!(page.body.contains(&format!(">{name}</a>")), "{state}");
        let host = site.get(&format!("/hosts/{name}")).await;
        assert!(host.body.contains(&format!("<span class=\"pulse\">{state}</span>")), "{state}");
    }
    site.close().await;
}

#[tokio::test]
async fn links_of_paging_and_sorting_keep_the_query() {
    let sample = Sample::server("web-01", now_ns());
    let id = sample.host_id();
    let site = Site::open(&Fleet::new(&[sample])).await;
    let page = site.get(&format!("/hosts/{id}/files?filter=path:/var&sort=size&desc=1&rows=20&page=3")).await;
    assert!(page.body.contains("20 of "), "{}", page.body);
    assert!(page.body.contains("rows 41–60"));
    for link in [
        format!("href=\"/hosts/{id}/files?filter=path%3A%2Fvar&#38;sort=size&#38;desc=1&#38;page=4&#38;rows=20\""),
        format!("href=\"/hosts/{id}/files?filter=path%3A%2Fvar&#38;sort=size&#38;desc=1&#38;page=2&#38;rows=20\""),
        // A click on the current column reverses the order, from the first page.
        format!("href=\"/hosts/{id}/files?filter=path%3A%2Fvar&#38;sort=size&#38;rows=20\""),
        format!("href=\"/hosts/{id}/files?filter=path%3A%2Fvar&#38;sort=comm&#38;rows=20\""),
    ] {
        assert!(page.body.contains(&link), "{link}");
    }
    assert!(page.body.contains("aria-sort=\"descending\""));
    site.close().await;
}

#[tokio::test]
async fn sorting_and_filtering_are_the_servers_work() {
    let site = Site::open(&Fleet::new(&[Sample::server("web-01", now_ns())])).await;
    let first_pid = |body: &str| {
        let cell = body.split("filter=pid%3A").nth(1).unwrap();
        cell.split('"').next().unwrap().parse::<u32>().unwrap()
    };
    let ascending = site.get("/hosts/web-01/processes?sort=pid").await;
    assert_eq!(first_pid(&ascending.body), 1);
    let descending = site.get("/hosts/web-01/processes?sort=pid&desc=1").await;
    assert_eq!(first_pid(&descending.body), 2 + 299 * 7);
    let one = site.get("/hosts/web-01/processes?filter=pid:44").await;
    assert!(one.body.contains("1 of 300 processes (filter matches 1)"));
    let none = site.get("/hosts/web-01/processes?filter=nothing-has-this").await;
    assert!(
        none.body.contains("0 of 300 processes (filter matches 0)")
            && none.body.contains("No processes with: any column contains “nothing-has-this”")
    );
    site.close().await;
}

#[tokio::test]
async fn a_ranking_shows_the_number_in_its_title_and_a_link_to_all() {
    let site = Site::open(&Fleet::new(&[Sample::server("web-01", now_ns())])).await;
    for (view, title, top, all) in [
        ("signatures", "Top 50 signature matches", 50, 64),
        ("attackers", "Top 25 attackers", 25, 60),
        ("ports", "Top 20 scanned ports", 20, 46),
    ] {
        let page = site.get(&format!("/hosts/web-01/{view}")).await;
        assert_eq!(page.body.matches("<tr data-key=").count(), top, "{view}");
        assert!(page.body.contains(&format!("<h2>{title}</h2>")), "{view}");
        assert!(page.body.contains(&format!("Show all {all} ")), "{view}");
        let page = site.get(&format!("/hosts/web-01/{view}?rows=500")).await;
        assert_eq!(page.body.matches("<tr data-key=").count(), all, "{view}");
        assert!(!page.body.contains(&format!("<h2>{title}</h2>")), "{view}: no longer the top");
    }
    site.close().await;
}

#[tokio::test]
async fn an_earlier_moment_is_marked_and_before_the_first_snapshot_nothing_is_shown() {
    let now = now_ns();
    let mut before = Sample::server("web-01", now);
    before.time.wall_ns = 1_795_489_914 * SECOND_NS; // 2026-11-24 03:11:54 UTC
    before.processes.truncate(12);
    before.processes[1].comm = Bytes::from("only-then");
    let fleet = Fleet::new(&[before]);
    let mut after = Sample::server("web-01", now);
    after.agent.seq += 1;
    after.time.wall_ns = 1_795_489_924 * SECOND_NS;
    fleet.put(&after);
    let site = Site::open(&fleet).await;
    let newest = site.get("/hosts/web-01/processes").await;
    assert!(!newest.body.contains("This is the past") && !newest.body.contains("only-then"));
    assert!(newest.body.contains("data-events="));
    for at in ["2026-11-24T03:12:00Z", "2026-11-24+03:12", "2026-11-24T04:12:00%2B01:00"] {
        let past = site.get(&format!("/hosts/web-01/processes?at={at}")).await;
        assert_eq!(past.status, 200, "{at}");
        for text in ["This is the past.", "You asked for 2026-11-24 03:12:00 UTC", "6 s before", "only-then", ">past<"]
        {
            assert!(past.body.contains(text), "{text} at {at}");
        }
        assert!(past.body.contains("value=\"2026-11-24T03:12:00Z\""), "the form keeps the moment");
        assert!(past.body.contains("filter=pid%3A9&#38;at=2026-11-24T03%3A12%3A00Z"), "links keep the moment");
        assert!(!past.body.contains("data-events="), "the past does not move");
    }
    let nothing = site.get("/hosts/web-01/processes?at=2020-01-01T00:00:00Z").await;
    assert_eq!(nothing.status, 404);
    assert!(nothing.body.contains("No snapshot of this host at that moment"));
    site.close().await;
}

#[tokio::test]
async fn a_degraded_host_and_an_alarm_are_marked() {
    let mut sample = Sample::server("web-01", now_ns());
    sample.agent.degraded = vec!["files of other users cannot be read".to_owned()];
    sample.alarms = vec!["frame 7 arrived with two contents".to_owned()];
    sample.snapshot_alarms = vec!["it says that it is of another host".to_owned()];
    let site = Site::open(&Fleet::new(&[sample])).await;
    for target in ["/", "/hosts/web-01", "/hosts/web-01/files"] {
        let page = site.get(target).await;
        assert!(page.body.contains("files of other users cannot be read"), "{target}");
        assert!(page.body.contains("frame 7 arrived with two contents"), "{target}");
    }
    let past = site.get("/hosts/web-01?at=2100-01-01T00:00:00Z").await;
    assert!(!past.body.contains("frame 7 arrived with two contents"), "it is of now");
    assert!(past.body.contains("is of another host"), "it is of the snapshot");
    site.close().await;
}

#[tokio::test]
async fn a_long_command_line_is_there_in_full_without_a_script() {
    let mut sample = Sample::server("web-01", now_ns());
    let long = format!("--classpath={}END", "/opt/lib/some.jar:".repeat(400));
    sample.processes[1].argv.push(Bytes::from(&long));
    let site = Site::open(&Fleet::new(&[sample])).await;
    let page = site.get("/hosts/web-01/processes?filter=pid:9").await;
    assert!(page.body.contains("<details class=\"long\"><summary>"));
    assert!(page.body.contains(&long));
    site.close().await;
}

/// Prints the cost of 200 rows among 50,000 open files; an acceptable cost depends on the machine.
#[tokio::test]
async fn a_page_of_a_large_host_is_made() {
    let mut sample = Sample::server("large", now_ns());
    sample.processes.clear();
    sample.sockets.clear();
    sample.fill_processes(1_745, now_ns());
    let site = Site::open(&Fleet::new(&[sample])).await;
    for query in ["rows=200", "rows=200&sort=size&desc=1", "rows=200&filter=segment", "rows=200&page=100"] {
        let start = Instant::now();
        let page = site.get(&format!("/hosts/large/files?{query}")).await;
        assert_eq!(page.status, 200);
        assert!(page.body.matches("<tr data-key=").count() == 200, "{query}");
        let files = page.body.split("<p id=\"count\">").nth(1).and_then(|text| text.split(',').next());
        println!("{query}: {:?}, {} KiB, {files:?}", start.elapsed(), page.body.len() >> 10);
    }
    site.close().await;
}
