//! Sockets as the agent reads them against sockets as ss(8) shows them, in both directions, on real ones of every
//! family: in the agent's own network namespace (netlink) and in another one (`/proc/PID/net`).
//!
//! Differences between the two tools, which the comparison allows for:
//! - ss 6.1 lists neither UDP-Lite nor ping sockets, nor TCP sockets that are bound and nothing more; these are checked
//!   on their own.
//! - ss gives no inode for netlink sockets, and none for raw ones where the kernel has no `raw_diag`. It prints a
//!   netlink socket that listens to groups twice, as the kernel dumps it; the agent lists it once.
//! - ss shows the netlink socket of its own question, the agent that of the agent's.
//! - `/proc/PID/net` tells less than netlink: see [`View::Files`]. It does list unix connections that wait to be
//!   accepted, which have no inode and which netlink passes over.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "tests")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::{
    Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, SocketAddrV4, SocketAddrV6, TcpListener, TcpStream, UdpSocket,
};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use edr_agentd::collect::Gaps;
use edr_agentd::collect::sockets::SocketReader;
use edr_wire::snapshot::{Family, FileKind, Gap, GapReason, Rows, SnapshotParts, SnapshotView, Socket, encode_row};
use nix::libc;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, Protocol, SendFlags, SocketAddrUnix, SocketFlags, SocketType, bind, connect, eth, ipproto, listen,
};

/// Set for the tests that run inside a namespace; on their own they do nothing.
const INSIDE: &str = "EDR_TEST_INSIDE_NAMESPACE";
const OTHER_USER: u32 = 12_345;

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
    // The listening socket and the connection that waits there; `/proc` writes each NUL of an abstract name as `@`.
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
    // Nothing tells which of two rows the name holds, but that one is forged is said.
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
    // The agent's own namespace is asked by netlink, where a name is a name.
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
    // A `/run` of its own: the machine's keeps no trace.
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
    // What a kernel without `vsock_diag` cannot list, and families that nothing lists: the kernel's names of those are
    // in capitals. Tables of other namespaces are named after them.
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

/// Starts one of the tests above in a network namespace of its own; `None`, with the reason said, where that cannot be.
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

/// Waits for the line by which a child says that its sockets are there.
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
    let (mut rows, mut gaps) = (Rows::default(), Gaps::default());
    reader.read(&mut rows, &mut gaps);
    let (host, agent, time, psad) = Default::default();
    let raw = SnapshotParts {
        host: &host,
        agent: &agent,
        time: &time,
        positions: &[],
        processes: &Rows::default(),
        sockets: &rows,
        psad: &psad,
        packets: &Rows::default(),
        reread: Default::default(),
        gaps: &[],
    }
    .encode();
    (SnapshotView::parse(raw).unwrap().sockets().collect::<Result<_, _>>().unwrap(), gaps.take())
}

/// What the way of reading can know.
#[derive(Clone, Copy, PartialEq)]
enum View {
    /// Everything.
    Netlink,
    /// No peer, uid and queue of unix sockets, no v6only, no size of a backlog, no MPTCP.
    Files,
}

/// Both lists as sets of lines in one form, and both differences empty.
fn compare(rows: &[Socket], ss: &str, view: View) {
    let ours: BTreeSet<String> = rows.iter().filter_map(|row| line_of_row(row, view)).collect();
    let theirs: BTreeSet<String> = ss.lines().filter_map(|line| line_of_ss(line, view)).collect();
    let only_ours: Vec<_> = ours.difference(&theirs).collect();
    let only_theirs: Vec<_> = theirs.difference(&ours).collect();
    assert!(
        only_ours.is_empty() && only_theirs.is_empty(),
        "only the agent: {only_ours:#?}\nonly ss: {only_theirs:#?}\nss said:\n{ss}"
    );
    for family in ["tcp ", "udp ", "raw ", "nl ", "p_raw ", "p_dgr ", "u_str ", "u_dgr ", "u_seq "] {
        assert!(ours.iter().any(|line| line.starts_with(family)), "nothing of {family}to compare");
    }
}

fn line_of_row(row: &Socket, view: View) -> Option<String> {
    let Socket { state, receive_queue, inode, .. } = row;
    let send_queue = if view == View::Files && state == "listen" { 0 } else { row.send_queue };
    let v6only = if view == View::Netlink { row.v6only } else { false };
    match row.family {
        Family::Inet | Family::Inet6 if matches!(row.protocol.as_str(), "udplite" | "icmp") => None,
        Family::Inet | Family::Inet6 if row.protocol == "tcp" && state == "unconnected" => None,
        Family::Inet | Family::Inet6 => {
            let raw_without_diag = row.protocol == "raw";
            let inode = if raw_without_diag { 0 } else { *inode };
            let uid = if raw_without_diag { 0 } else { row.uid.unwrap_or(0) };
            let remote = if row.remote.is_empty() { "*" } else { &row.remote };
            Some(format!(
                "{} {state} {receive_queue} {send_queue} {}:{} {remote}:{} ino:{inode} uid:{uid} {v6only}",
                row.protocol, row.local, row.local_port, row.remote_port
            ))
        }
        Family::Netlink if row.protocol == "sock_diag" && row.local_port != 0 => None,
        Family::Netlink => Some(format!("nl {state} {} {} {:?}", row.protocol, row.local_port, row.groups)),
        Family::Packet => {
            let kind = if row.protocol == "raw" { "p_raw" } else { "p_dgr" };
            Some(format!("{kind} {state} {receive_queue} proto:{} if:{} ino:{inode}", row.local_port, row.interface))
        }
        // Waits to be accepted: only the files show it.
        Family::Unix if *inode == 0 && view == View::Files => None,
        Family::Unix => {
            let kind = match row.protocol.as_str() {
                "stream" => "u_str",
                "dgram" => "u_dgr",
                _ => "u_seq",
            };
            let path = String::from_utf8_lossy(&row.path.0).replace('\0', "@");
            Some(match view {
                View::Netlink => format!(
                    "{kind} {state} {receive_queue} {send_queue} {path} {inode} peer:{} uid:{}",
                    row.peer_inode,
                    row.uid.unwrap()
                ),
                View::Files => format!("{kind} {state} {path} {inode}"),
            })
        }
        Family::Vsock | Family::Xdp | Family::Unknown => panic!("{row:?}"),
    }
}

fn line_of_ss(line: &str, view: View) -> Option<String> {
    let mut fields = line.split_whitespace();
    let netid = fields.next()?;
    let state = match fields.next()? {
        "ESTAB" => "established".to_owned(),
        "UNCONN" => "unconnected".to_owned(),
        other => other.to_lowercase(),
    };
    let (receive_queue, send_queue) = (fields.next()?, fields.next()?);
    let local = fields.next()?;
    let fact = |name: &str| line.split_whitespace().find_map(|field| field.strip_prefix(name));
    Some(match netid {
        "tcp" | "udp" | "raw" | "mptcp" => {
            if netid == "mptcp" && view == View::Files {
                return None;
            }
            let send_queue = if view == View::Files && state == "listen" { "0" } else { send_queue };
            let v6only = view == View::Netlink && fact("v6only:") == Some("1");
            // IPv6's "any" is an asterisk unless it takes no IPv4.
            let endpoint = |text: &str| {
                let (address, port) = text.rsplit_once(':').unwrap();
                let port = if port == "*" { "0" } else { port };
                (address.trim_start_matches('[').trim_end_matches(']').to_owned(), port.to_owned())
            };
            let (address, port) = endpoint(local);
            // "127.0.0.1%lo": bound to an interface.
            let address = address.split('%').next().unwrap().replace('*', "::");
            let (remote, remote_port) = endpoint(fields.next()?);
            let nobody = remote_port == "0" && ["*", "0.0.0.0", "::"].contains(&remote.as_str());
            let remote = if nobody { "*".to_owned() } else { remote };
            let of_diag = |fact: Option<&str>| fact.filter(|_| netid != "raw").unwrap_or("0").to_owned();
            let (inode, uid) = (of_diag(fact("ino:")), of_diag(fact("uid:")));
            format!(
                "{netid} {state} {receive_queue} {send_queue} {address}:{port} {remote}:{remote_port} ino:{inode} uid:{uid} {v6only}"
            )
        }
        "nl" => {
            let (protocol, port) = local.split_once(':').unwrap();
            if protocol == "4" && port != "0" {
                return None;
            }
            // `-n` gives the numbers of linux/netlink.h.
            let name = match protocol {
                "0" => "route",
                "2" => "usersock",
                "4" => "sock_diag",
                "6" => "xfrm",
                "7" => "selinux",
                "9" => "audit",
                "10" => "fib_lookup",
                "11" => "connector",
                "12" => "netfilter",
                "15" => "kobject_uevent",
                "16" => "generic",
                other => other,
            };
            let mask = u32::from_str_radix(fact("groups=0x").unwrap(), 16).unwrap();
            let groups: Vec<u32> = (1..=32).filter(|group| mask >> (group - 1) & 1 == 1).collect();
            format!("nl {state} {name} {port} {groups:?}")
        }
        "p_raw" | "p_dgr" => {
            let (protocol, interface) = local.rsplit_once(':').unwrap();
            let protocol = match protocol.trim_start_matches('[').trim_end_matches(']') {
                "*" => 3,
                number => number.parse::<u32>().unwrap(),
            };
            let interface = if interface == "*" { 0 } else { 1 };
            format!("{netid} {state} {receive_queue} proto:{protocol} if:{interface} ino:{}", fact("ino:").unwrap())
        }
        "u_str" | "u_dgr" | "u_seq" => {
            let inode = fields.next()?;
            let peer = fields.nth(1)?;
            let path = if local == "*" { "" } else { local };
            match view {
                View::Netlink => format!(
                    "{netid} {state} {receive_queue} {send_queue} {path} {inode} peer:{peer} uid:{}",
                    fact("uid:").unwrap_or("0")
                ),
                View::Files => format!("{netid} {state} {path} {inode}"),
            }
        }
        other => panic!("ss knows {other}: {line}"),
    })
}

/// Who holds each socket by a descriptor: the join of a whole snapshot's open files and sockets by inode, against what
/// `ss -p` finds by looking through every process.
fn compare_owners(netns: u64) {
    let agent =
        Command::new(env!("CARGO_BIN_EXE_edr-agentd")).args(["snapshot", "--format", "msgpack"]).output().unwrap();
    assert!(agent.status.success(), "{}", String::from_utf8_lossy(&agent.stderr));
    let view = SnapshotView::parse(agent.stdout).unwrap();
    let own = std::process::id();
    let process = view.processes().map(Result::unwrap).find(|process| process.pid == own).unwrap();
    let held = process.files.iter().filter(|file| file.kind == FileKind::Socket);
    let rows: Vec<Socket> = view.sockets().map(Result::unwrap).filter(|row| row.netns == netns).collect();
    let ours: BTreeSet<(u64, String)> = held
        .filter(|file| rows.iter().any(|row| row.inode == file.inode))
        .map(|file| (file.inode, file.fd.to_string()))
        .collect();
    assert!(!ours.is_empty(), "sockets without their owner");

    let marker = format!("pid={own},fd=");
    let mut theirs = BTreeSet::new();
    for line in run("ss", &["-HanpeO"]).lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let inode = match fields[0] {
            "u_str" | "u_dgr" | "u_seq" => fields[5],
            _ => fields.iter().find_map(|field| field.strip_prefix("ino:")).unwrap_or("0"),
        };
        for (at, _) in line.match_indices(&marker) {
            let fd = line[at + marker.len()..].split(')').next().unwrap();
            theirs.insert((inode.parse::<u64>().unwrap(), fd.to_owned()));
        }
    }
    // Without an inode in ss's line (raw, netlink) its descriptor still has to be among ours.
    let (named, unnamed): (BTreeSet<_>, BTreeSet<_>) = theirs.into_iter().partition(|(inode, _)| *inode != 0);
    assert!(named.is_subset(&ours), "only ss: {:?}", named.difference(&ours).collect::<Vec<_>>());
    for (_, fd) in unnamed {
        assert!(ours.iter().any(|(_, ours)| *ours == fd), "only ss: descriptor {fd}");
    }
    // What ss does not list, or lists without its inode, it cannot give an owner.
    for (inode, fd) in ours.difference(&named) {
        let row = rows.iter().find(|row| row.inode == *inode).unwrap();
        let unknown_to_ss = ["udplite", "icmp", "raw"].contains(&row.protocol.as_str()) && row.family != Family::Packet
            || row.family == Family::Netlink
            || row.protocol == "tcp" && row.state == "unconnected";
        assert!(unknown_to_ss, "only the agent: descriptor {fd}: {row:?}");
    }
}

/// One socket of every kind, held open.
struct Zoo {
    held: Vec<OwnedFd>,
    promiscuous: u64,
    groups: u64,
    udplite: Option<u64>,
    ping: u64,
    bound_to_lo: u64,
    other_user: u64,
    unix_pair: (u64, u64),
    dead: SocketAddrV4,
    only_bound: u64,
}

impl Zoo {
    fn new() -> Self {
        run("ip", &["link", "set", "lo", "up"]);
        std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0").unwrap();
        let mut held: Vec<OwnedFd> = Vec::new();
        let mut hold = |socket: OwnedFd| {
            let inode = inode(&socket);
            held.push(socket);
            inode
        };
        let loopback = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);

        // TCP: listening, established with bytes waiting, time-wait; IPv6 with and without IPv4, not yet accepted.
        let listener = TcpListener::bind(loopback).unwrap();
        let address = listener.local_addr().unwrap();
        let mut client = TcpStream::connect(address).unwrap();
        let (server, _) = listener.accept().unwrap();
        client.write_all(b"fifteen bytes!!").unwrap();
        hold(client.into());
        hold(server.into());
        let dead = time_wait(&listener);
        hold(listener.into());
        let only = v6_listener(Ipv6Addr::LOCALHOST, true);
        let both = v6_listener(Ipv6Addr::UNSPECIFIED, false);
        hold(TcpStream::connect(only.local_addr().unwrap()).unwrap().into());
        hold(TcpStream::connect((Ipv4Addr::LOCALHOST, both.local_addr().unwrap().port())).unwrap().into());
        hold(only.into());
        hold(both.into());
        let to_lo = socket(AddressFamily::INET, SocketType::STREAM, None);
        nix::sys::socket::setsockopt(&to_lo, nix::sys::socket::sockopt::BindToDevice, &"lo".into()).unwrap();
        bind(&to_lo, &loopback).unwrap();
        listen(&to_lo, 1).unwrap();
        let bound_to_lo = hold(to_lo);
        let given_away = TcpListener::bind(loopback).unwrap();
        rustix::fs::fchown(&given_away, Some(rustix::fs::Uid::from_raw(OTHER_USER)), None).unwrap();
        let other_user = hold(given_away.into());
        if kernel_has("MPTCP") {
            let multipath = socket(AddressFamily::INET, SocketType::STREAM, Some(ipproto::MPTCP));
            bind(&multipath, &loopback).unwrap();
            listen(&multipath, 2).unwrap();
            hold(multipath);
        }
        let bound = socket(AddressFamily::INET, SocketType::STREAM, None);
        bind(&bound, &loopback).unwrap();
        let only_bound = hold(bound);

        // UDP: unconnected with bytes waiting, connected, IPv6; UDP-Lite.
        let udp = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let connected = UdpSocket::bind(loopback).unwrap();
        connected.connect((Ipv4Addr::LOCALHOST, udp.local_addr().unwrap().port())).unwrap();
        connected.send(&[b'x'; 100]).unwrap();
        hold(udp.into());
        hold(connected.into());
        hold(UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap().into());
        let udplite = kernel_has("UDP-Lite").then(|| {
            let lite = socket(AddressFamily::INET, SocketType::DGRAM, Some(ipproto::UDPLITE));
            bind(&lite, &loopback).unwrap();
            hold(lite)
        });

        // Raw and ping.
        hold(socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP)));
        hold(socket(AddressFamily::INET6, SocketType::RAW, Some(ipproto::ICMPV6)));
        let ping = socket(AddressFamily::INET, SocketType::DGRAM, Some(ipproto::ICMP));
        bind(&ping, &loopback).unwrap();
        let ping = hold(ping);

        // Packet and netlink.
        let sniffer = socket(AddressFamily::PACKET, SocketType::RAW, Some(eth::ALL));
        let promiscuous_on_lo: [u8; 16] = {
            let mut request = [0; 16];
            request[..4].copy_from_slice(&1_u32.to_ne_bytes());
            request[4..6].copy_from_slice(&(libc::PACKET_MR_PROMISC as u16).to_ne_bytes());
            request
        };
        nix::sys::socket::setsockopt(&sniffer, AddMembership, &promiscuous_on_lo).unwrap();
        let promiscuous = hold(sniffer);
        hold(socket(AddressFamily::PACKET, SocketType::DGRAM, Some(eth::IP)));
        let route = socket(AddressFamily::NETLINK, SocketType::RAW, None);
        bind(&route, &SocketAddrNetlink::new(0, 0x41)).unwrap();
        let groups = hold(route);

        // Unix: a pair, a path with a connected sender, an abstract name with an unaccepted connection, a new one.
        let (first, second) = UnixStream::pair().unwrap();
        let unix_pair = (hold(first.into()), hold(second.into()));
        let folder = tempfile::tempdir().unwrap();
        let path = SocketAddrUnix::new(folder.path().join("dgram")).unwrap();
        let receiver = socket(AddressFamily::UNIX, SocketType::DGRAM, None);
        bind(&receiver, &path).unwrap();
        let sender = socket(AddressFamily::UNIX, SocketType::DGRAM, None);
        connect(&sender, &path).unwrap();
        rustix::net::send(&sender, b"waiting", SendFlags::empty()).unwrap();
        hold(receiver);
        hold(sender);
        let abstract_name = SocketAddrUnix::new_abstract_name(b"edr.a\0b").unwrap();
        let listening = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None);
        bind(&listening, &abstract_name).unwrap();
        listen(&listening, 5).unwrap();
        let waiting = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None);
        connect(&waiting, &abstract_name).unwrap();
        hold(listening);
        hold(waiting);
        hold(socket(AddressFamily::UNIX, SocketType::STREAM, None));
        Self { held, promiscuous, groups, udplite, ping, bound_to_lo, other_user, unix_pair, dead, only_bound }
    }

    /// What ss does not show, and that every socket made is listed by its inode.
    fn check(&self, rows: &[Socket]) {
        let row = |inode| rows.iter().find(|row| row.inode == inode).unwrap();
        assert!(row(self.promiscuous).promiscuous);
        assert_eq!(row(self.promiscuous).local_port, 3, "ETH_P_ALL");
        assert_eq!((&*row(self.groups).groups, &*row(self.groups).protocol), ([1, 7].as_slice(), "route"));
        if let Some(udplite) = self.udplite {
            assert_eq!((&*row(udplite).protocol, &*row(udplite).local), ("udplite", "127.0.0.1"));
        }
        assert_eq!((&*row(self.ping).protocol, &*row(self.ping).local), ("icmp", "127.0.0.1"));
        assert_eq!(row(self.bound_to_lo).interface, 1, "lo is the first interface of a namespace");
        assert_eq!(row(self.other_user).uid, Some(OTHER_USER));
        assert_eq!(row(self.unix_pair.0).peer_inode, self.unix_pair.1);
        assert_eq!(row(self.unix_pair.1).peer_inode, self.unix_pair.0);
        let dead: Vec<_> = rows.iter().filter(|row| row.local_port == u32::from(self.dead.port())).collect();
        let facts: Vec<_> = dead.iter().map(|row| (&*row.state, row.inode, row.uid)).collect();
        assert_eq!(facts, [("time-wait", 0, None)]);
        assert_eq!(rows.iter().filter(|row| row.path.as_ref() == b"\0edr.a\0b").count(), 1);
        for socket in &self.held {
            let inode = inode(socket);
            let is_listed = rows.iter().any(|row| row.inode == inode);
            assert!(is_listed || inode == self.only_bound && !lists_bound_sockets(), "socket {inode} is not listed");
        }
        assert!(rows.is_sorted_by_key(|row| row.inode));
    }
}

#[derive(Clone, Copy)]
struct AddMembership;
nix::setsockopt_impl!(
    AddMembership,
    libc::SOL_PACKET,
    libc::PACKET_ADD_MEMBERSHIP,
    [u8; 16],
    nix::sys::socket::sockopt::SetStruct<[u8; 16]>
);

/// The address of a connection that is over and waits for late packets: who closes first keeps it.
fn time_wait(listener: &TcpListener) -> SocketAddrV4 {
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    let SocketAddr::V4(address) = client.local_addr().unwrap() else { panic!("IPv4 only") };
    client.shutdown(Shutdown::Both).unwrap();
    drop(client);
    drop(server);
    address
}

fn v6_listener(address: Ipv6Addr, v6only: bool) -> TcpListener {
    let socket = socket(AddressFamily::INET6, SocketType::STREAM, None);
    rustix::net::sockopt::set_ipv6_v6only(&socket, v6only).unwrap();
    bind(&socket, &SocketAddrV6::new(address, 0, 0, 0)).unwrap();
    listen(&socket, 3).unwrap();
    socket.into()
}

/// A protocol by its name in `/proc/net/protocols`.
fn kernel_has(protocol: &str) -> bool {
    let protocols = std::fs::read_to_string("/proc/net/protocols").unwrap();
    let has = protocols.lines().any(|line| line.split(' ').next() == Some(protocol));
    if !has {
        println!("skipped: a kernel without {protocol}");
    }
    has
}

/// Since Linux 6.8 `sock_diag` lists TCP sockets that are bound and nothing more.
fn lists_bound_sockets() -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(6), Some(8))
}

fn socket(family: AddressFamily, kind: SocketType, protocol: Option<Protocol>) -> OwnedFd {
    rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, protocol).unwrap()
}

fn inode(socket: impl AsFd) -> u64 {
    rustix::fs::fstat(socket).unwrap().st_ino
}
