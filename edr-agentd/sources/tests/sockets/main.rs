//! Compares the agent's sockets with the output of ss(8), in both directions, for real sockets of every family: in the
//! agent's own network namespace (netlink) and in a second namespace (`/proc/PID/net`).
//!
//! Allowed differences between the two tools:
//! - ss 6.1 lists neither UDP-Lite nor ping sockets, nor TCP sockets that are only bound; separate tests check these.
//! - ss prints no inode for netlink sockets, and none for raw sockets on a kernel without `raw_diag`. A netlink socket
//!   with groups is printed twice, as dumped by the kernel; the agent lists the socket once.
//! - Each tool lists the netlink socket of its own query.
//! - `/proc/PID/net` contains less than netlink: see [`View::Files`]. Only `/proc/PID/net` lists unix connections
//!   before accept(2), which have no inode.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "tests")]

mod flood;
mod ss;
mod zoo;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use edr_sources::process::{ProcessReader, ProcessSettings};
use edr_sources::socket::SocketReader;
use edr_sources::{Source as _, Tick};
use edr_wire::snapshot::{Agent, Family, Gap, GapReason, SnapshotView, Socket, encode_row};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind};

use ss::{View, compare, compare_owners};
use zoo::{OTHER_USER, Zoo, inode, kernel_has, socket};

/// Set for the tests that run inside a namespace; without the variable these tests do nothing.
const INSIDE: &str = "EDR_TEST_INSIDE_NAMESPACE";

#[test]
fn agrees_with_ss_in_its_own_namespace() {
    let Some(child) = in_new_namespace("inside_reads_its_own_namespace") else { return };
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
fn agrees_with_ss_about_another_namespace() {
    let Some(child) = in_new_namespace("inside_holds_sockets") else { return };
    let child = until_ready(child);
    let pid = child.id();
    let netns = netns_of(&pid.to_string());
    let mut reader = SocketReader::open(Path::new("/proc")).unwrap();
    let (rows, gaps) = read(&mut reader);
    let rows: Vec<Socket> = rows.into_iter().filter(|row| row.netns == netns).collect();
    let net = format!("--net=/proc/{pid}/ns/net");
    compare(&rows, &run("nsenter", &[&net, "ss", "-HanpeO"]), View::Files);
    assert!(gaps.iter().all(|gap| !gap.field.to_string().contains(&netns.to_string())), "{gaps:?}");
    assert!(
        gaps.iter().any(|gap| gap.field.as_ref() == b"netns/mptcp"),
        "what the files do not list is said: {gaps:?}"
    );
    // The listening socket and the waiting connection; `/proc` writes each NUL of an abstract name as `@`.
    assert_eq!(rows.iter().filter(|row| row.path.as_ref() == b"\0edr.a@b").count(), 2);
    assert!(
        rows.iter().any(|row| row.protocol == "udplite") == kernel_has("UDP-Lite")
            && rows.iter().any(|row| row.protocol == "icmp")
    );
    assert!(rows.iter().any(|row| row.uid == Some(OTHER_USER)));
    assert!(rows.iter().any(|row| row.family == Family::Netlink && row.groups == [1, 7]));

    finish(child);
    let (rows, _) = read(&mut reader);
    assert!(rows.iter().all(|row| row.netns != netns), "rows of a namespace that is gone");
}

#[test]
fn a_unix_name_that_pretends_to_be_rows_is_a_gap() {
    let Some(child) = in_new_namespace("inside_forges_rows") else { return };
    let child = until_ready(child);
    let netns = netns_of(&child.id().to_string());
    let (rows, gaps) = read(&mut SocketReader::open(Path::new("/proc")).unwrap());
    let forged = rows.iter().filter(|row| row.netns == netns && row.path.as_ref() == b"/run/docker.sock");
    let gap = gaps.iter().find(|gap| gap.field.as_ref() == b"netns/unix").unwrap();
    // The true holder of the name is unknown, but the forgery is reported.
    assert_eq!((forged.count(), gap.reason), (1, GapReason::Malformed));
    assert_eq!(gap.detail, format!("netns {netns}: 2 rows for 1 sockets: some name pretends to be rows"));
    finish(child);
}

#[test]
fn inside_forges_rows() {
    if std::env::var_os(INSIDE).is_none() {
        return;
    }
    let name = b"a\n0000000014cbf45e: 00000003 00000000 00010000 0001 01  1605 /run/docker.sock";
    let socket = socket(AddressFamily::UNIX, SocketType::STREAM, None);
    bind(&socket, &SocketAddrUnix::new_abstract_name(name).unwrap()).unwrap();
    // The agent's own namespace is read by netlink, where names are delimited.
    let (rows, gaps) = read(&mut SocketReader::open(Path::new("/proc")).unwrap());
    let own = rows.iter().filter(|row| row.inode == inode(&socket)).map(|row| row.path.as_ref()).collect::<Vec<_>>();
    assert_eq!(own, [[b"\0", name.as_slice()].concat().as_slice()]);
    assert!(rows.iter().all(|row| row.path.as_ref() != b"/run/docker.sock" || row.netns != netns_of("self")));
    assert!(gaps.iter().all(|gap| gap.field.as_ref() != b"unix"));
    println!("\nready");
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

#[test]
fn a_named_namespace_without_a_process_is_a_gap() {
    let Some(child) = in_new_namespace("inside_names_a_namespace") else { return };
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
fn inside_names_a_namespace() {
    if std::env::var_os(INSIDE).is_none() {
        return;
    }
    // A new `/run`, so that the machine's folder stays unchanged.
    run("mount", &["-t", "tmpfs", "none", "/run"]);
    run("ip", &["netns", "add", "kept"]);
    let netns = inode(std::fs::File::open("/run/netns/kept").unwrap());
    let mut reader = SocketReader::open(Path::new("/proc")).unwrap();
    let field = format!("netns {netns}");
    let reason =
        |gaps: Vec<Gap>| gaps.into_iter().find(|gap| gap.field.as_ref() == field.as_bytes()).map(|gap| gap.reason);
    assert_eq!(reason(read(&mut reader).1), Some(GapReason::Unsupported));
    let mut inhabitant =
        Command::new("ip").args(["netns", "exec", "kept", "cat"]).stdin(Stdio::piped()).spawn().unwrap();
    while netns_of(&inhabitant.id().to_string()) != netns {
        std::thread::yield_now();
    }
    assert_eq!(reason(read(&mut reader).1), None, "now there is a process to read it through");
    drop(inhabitant.stdin.take());
    assert!(inhabitant.wait().unwrap().success());
}

#[test]
fn inside_reads_its_own_namespace() {
    if std::env::var_os(INSIDE).is_none() {
        return;
    }
    let zoo = Zoo::new();
    let netns = netns_of("self");
    let mut reader = SocketReader::open(Path::new("/proc")).unwrap();
    let own = |(rows, _): (Vec<Socket>, _)| rows.into_iter().filter(|row| row.netns == netns).collect::<Vec<_>>();
    let (rows, gaps) = read(&mut reader);
    let rows = own((rows, ()));
    compare(&rows, &run("ss", &["-HanpeO"]), View::Netlink);
    zoo.check(&rows);
    compare_owners(netns);
    // Families without `vsock_diag` in the kernel, and families without any listing: the latter have names in capitals.
    // Tables of other namespaces are named after the namespace.
    for gap in gaps.iter().filter(|gap| gap.field.as_ref() != b"ns/net" && !gap.field.as_ref().starts_with(b"netns")) {
        let field = gap.field.to_string();
        assert!(field == "vsock" || field == field.to_uppercase(), "{gap:?}");
    }

    let asking = rows.iter().filter(|row| row.family == Family::Netlink && row.protocol == "sock_diag");
    assert_eq!(asking.clone().count(), 2, "the agent's question and the kernel's end of it");
    assert!(asking.clone().all(|row| row.receive_queue == 0), "no queue that the question itself fills: {asking:?}");

    let (again, _) = read(&mut reader);
    let again = own((again, ()));
    let bytes = |rows: &[Socket]| rows.iter().flat_map(encode_row).collect::<Vec<u8>>();
    assert!(bytes(&rows) == bytes(&again), "the same facts have the same bytes");
}

#[test]
fn inside_holds_sockets() {
    if std::env::var_os(INSIDE).is_none() {
        return;
    }
    let zoo = Zoo::new();
    println!("\nready");
    std::io::stdin().read_line(&mut String::new()).unwrap();
    drop(zoo);
}

/// Starts a test of this file in a new network namespace; `None`, with a printed reason, where impossible.
fn in_new_namespace(test: &str) -> Option<Child> {
    for needed in [&["ss", "-V"][..], &["unshare", "--net", "--mount", "ip", "link", "set", "lo", "up"]] {
        let problem = match Command::new(needed[0]).args(&needed[1..]).output() {
            Ok(output) if output.status.success() => continue,
            Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
            Err(error) => error.to_string(),
        };
        println!("skipped: {needed:?}: {problem}");
        return None;
    }
    let child = Command::new("unshare")
        .args(["--net", "--mount"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    Some(child.unwrap())
}

/// Waits for a child's report that its sockets exist.
fn until_ready(mut child: Child) -> Child {
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while line != "ready\n" {
        line.clear();
        assert_ne!(output.read_line(&mut line).unwrap(), 0, "the holder of the sockets ended");
    }
    child.stdout = Some(output.into_inner());
    child
}

fn finish(mut child: Child) {
    child.stdin.take().unwrap().write_all(b"end\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn netns_of(pid: &str) -> u64 {
    let link = std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    link.to_str().unwrap().trim_start_matches("net:[").trim_end_matches(']').parse().unwrap()
}

fn read(reader: &mut SocketReader) -> (Vec<Socket>, Vec<Gap>) {
    let settings = ProcessSettings { mapped: false, hash: None, ..ProcessSettings::default() };
    let mut tick = Tick::default();
    ProcessReader::open(Path::new("/proc"), settings).unwrap().read(&mut tick);
    tick.gaps.clear();
    reader.read(&mut tick);
    let view = SnapshotView::parse(tick.encode(&Agent::default())).unwrap();
    (view.sockets().collect::<Result<_, _>>().unwrap(), tick.gaps.take())
}
