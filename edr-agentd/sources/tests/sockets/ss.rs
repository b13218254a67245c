//! Compares the output of ss(8), line by line, with the agent's rows; and the owners found by ss with the agent's join.

use std::collections::BTreeSet;

use edr_sources::{SourceSettings, Sources, Tick};
use edr_wire::snapshot::{Agent, Family, FileKind, SnapshotView, Socket};

use crate::run;

/// Fields available by the way of reading.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum View {
    /// All fields.
    Netlink,
    /// No peer, uid and queue of unix sockets, no v6only, no size of a backlog, no MPTCP.
    Files,
}

/// Asserts that both lists, as sets of lines in a common form, are equal.
pub(crate) fn compare(rows: &[Socket], ss: &str, view: View) {
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
        // A connection before accept(2), visible only in the files.
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
            // IPv6's "any" is an asterisk unless the socket refuses IPv4.
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
                "{netid} {state} {receive_queue} {send_queue} {address}:{port} {remote}:{remote_port} ino:{inode} \
                uid:{uid} {v6only}"
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

/// Compares the owners of each socket: the join of a whole snapshot's open files and sockets by inode, against the
/// owners found by `ss -p` in a search of every process.
pub(crate) fn compare_owners(netns: u64) {
    let settings = SourceSettings { proc_root: "/proc".into(), ..SourceSettings::default() };
    let mut tick = Tick::default();
    Sources::open(settings, &[]).unwrap().read(&mut tick);
    let view = SnapshotView::parse(tick.encode(&Agent::default())).unwrap();
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
    // Without an inode in ss's line (raw, netlink) the descriptor still has to be among the agent's descriptors.
    let (named, unnamed): (BTreeSet<_>, BTreeSet<_>) = theirs.into_iter().partition(|(inode, _)| *inode != 0);
    assert!(named.is_subset(&ours), "only ss: {:?}", named.difference(&ours).collect::<Vec<_>>());
    for (_, fd) in unnamed {
        assert!(ours.iter().any(|(_, ours)| *ours == fd), "only ss: descriptor {fd}");
    }
    // ss names no owner for sockets that are missing in its list or have no inode there.
    for (inode, fd) in ours.difference(&named) {
        let row = rows.iter().find(|row| row.inode == *inode).unwrap();
        let unknown_to_ss = ["udplite", "icmp", "raw"].contains(&row.protocol.as_str()) && row.family != Family::Packet
            || row.family == Family::Netlink
            || row.protocol == "tcp" && row.state == "unconnected";
        assert!(unknown_to_ss, "only the agent: descriptor {fd}: {row:?}");
    }
}
