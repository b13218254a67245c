use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;

use super::rows::ROWS_MAX;
use super::*;
use crate::common::hung::JobProgress;
use crate::common::owner::HomeNames;
use edr_wire::snapshot::{Agent, Gap, SnapshotView};

use crate::common::Inhabitants;

/// Reads once and returns owned rows, with the present processes.
fn read(reader: &mut SocketReader) -> (Vec<Socket>, Vec<Gap>) {
    read_through(&inhabitants(reader), reader)
}

fn read_through(inhabitants: &Inhabitants, reader: &mut SocketReader) -> (Vec<Socket>, Vec<Gap>) {
    let mut tick = Tick { inhabitants: inhabitants.clone(), ..Tick::default() };
    reader.read(&mut tick);
    (decode(&tick), tick.gaps.take())
}

/// The processes of each namespace, from the links.
fn inhabitants(reader: &SocketReader) -> Inhabitants {
    let mut pids = Vec::new();
    let root = proc_files::open_dir(&reader.proc_root, ".").unwrap();
    proc_files::each_name(&root, |name| pids.extend(name.to_str().unwrap().parse::<u32>())).unwrap();
    pids.sort_unstable();
    let mut inhabitants = Inhabitants::default();
    for pid in pids {
        if let Ok(netns) = proc_files::namespace(&root, &format!("{pid}/ns/net")) {
            inhabitants.add(netns, pid);
        }
    }
    inhabitants
}

fn inode(socket: &impl AsFd) -> u64 {
    rustix::fs::fstat(socket).unwrap().st_ino
}

#[test]
fn own_connection_is_listed_from_both_ends_with_inodes() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    let mut reader = SocketReader::open(Path::new("/proc")).unwrap();
    let (rows, _) = read(&mut reader);
    let port = u32::from(listener.local_addr().unwrap().port());
    let client_port = u32::from(client.local_addr().unwrap().port());
    let uid = Some(rustix::process::getuid().as_raw());
    let ends = |inode| {
        let row = rows.iter().find(|row| row.inode == inode).unwrap();
        assert_eq!((row.family, row.protocol.as_str(), row.uid), (Family::Inet, "tcp", uid));
        (row.state.as_str(), row.local.as_str(), row.local_port, row.remote.as_str(), row.remote_port)
    };
    assert_eq!(ends(inode(&listener)), ("listen", "127.0.0.1", port, "", 0));
    assert_eq!(ends(inode(&client)), ("established", "127.0.0.1", client_port, "127.0.0.1", port));
    assert_eq!(ends(inode(&server)), ("established", "127.0.0.1", port, "127.0.0.1", client_port));
}

/// A proc tree with this number of namespaces, each with one process and one TCP socket.
fn tree(namespaces: u32) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(root.path().join("sys/net/ipv4")).unwrap();
    // A table so large that a namespace of three files costs a twentieth of the budget.
    std::fs::write(root.path().join("sys/net/ipv4/tcp_ehash_entries"), "-375385\n").unwrap();
    for pid in 1..=namespaces {
        add_process(root.path(), pid, &tcp_row(pid));
    }
    root
}

fn add_process(root: &Path, pid: u32, tcp: &str) {
    let process = root.join(pid.to_string());
    std::fs::create_dir_all(process.join("net")).unwrap();
    std::fs::create_dir_all(process.join("ns")).unwrap();
    std::os::unix::fs::symlink(format!("net:[{}]", netns(pid)), process.join("ns/net")).unwrap();
    std::fs::write(process.join("net/protocols"), "protocol size sockets\nTCP 1 1\nUDP 1 0\n").unwrap();
    std::fs::write(process.join("net/sockstat"), "TCP: inuse 1 orphan 0 tw 0\n").unwrap();
    std::fs::write(process.join("net/tcp"), format!("heading\n{tcp}")).unwrap();
    // The kernel counts none: not to be read.
    std::fs::write(process.join("net/udp"), "heading\nnonsense\n").unwrap();
}

fn netns(pid: u32) -> u64 {
    4_000_000_000 + u64::from(pid)
}

fn tcp_row(inode: u32) -> String {
    format!("0: 0100007F:0016 00000000:0000 0A 0:0 00:0 0 1000 0 {inode} 1\n")
}

fn open(root: &tempfile::TempDir) -> SocketReader {
    SocketReader::open(root.path()).unwrap()
}

fn budget_gaps(gaps: &[Gap]) -> u64 {
    gaps.iter().filter(|gap| gap.reason == GapReason::Budget).map(|gap| gap.count).sum()
}

#[test]
fn namespaces_take_turns_and_unread_namespaces_keep_their_rows() {
    let root = tree(30);
    let mut reader = open(&root);
    // Twenty are read, then the remaining ten and ten of the first.
    let (rows, gaps) = read(&mut reader);
    assert_eq!((rows.len(), budget_gaps(&gaps)), (20, 10));
    let (rows, gaps) = read(&mut reader);
    assert_eq!((rows.len(), budget_gaps(&gaps)), (30, 10));
    let aged = gaps.iter().find(|gap| gap.field.as_ref() == b"netns 4000000011").unwrap();
    assert_eq!(aged.detail, "not read in this tick; rows of 1 ticks ago");
    assert_eq!(rows[0].netns, netns(1));
    assert_eq!((rows[0].uid, rows[0].state.as_str(), rows[0].local.as_str()), (Some(1_000), "listen", "127.0.0.1"));

    // A change is seen at the next turn of its namespace, here in the next tick.
    std::fs::write(root.path().join("15/net/tcp"), format!("heading\n{}", tcp_row(777))).unwrap();
    let (rows, _) = read(&mut reader);
    assert!(rows.iter().any(|row| row.inode == 777) && rows.len() == 30);

    // Without its last process a namespace cannot be read any more, and its old rows would be wrong.
    std::fs::remove_dir_all(root.path().join("15")).unwrap();
    let (rows, _) = read(&mut reader);
    assert!(rows.iter().all(|row| row.netns != netns(15)) && rows.len() == 29);
}

#[test]
fn few_namespaces_are_read_at_every_tick() {
    let root = tree(3);
    let mut reader = open(&root);
    for _ in 0..3 {
        let (rows, gaps) = read(&mut reader);
        assert_eq!((rows.len(), gaps), (3, vec![]));
    }
}

#[test]
fn a_second_process_replaces_an_ended_process() {
    let root = tree(1);
    let second = root.path().join("2");
    std::fs::create_dir_all(&second).unwrap();
    std::fs::rename(root.path().join("1/ns"), second.join("ns")).unwrap();
    std::fs::rename(root.path().join("1/net"), second.join("net")).unwrap();
    // The first process has its link during the listing, but not during the read.
    let (price, text, progress) = (namespaces::Price::default(), &mut Vec::new(), &JobProgress::default());
    let mut means = namespaces::Means { price, text, progress, owner: None };
    let dir = proc_files::open_dir(rustix::fs::CWD, root.path()).unwrap();
    let (mut found, mut gaps) = (SocketRows::default(), GapCollector::default());
    namespaces::read_any(&dir, &[1, 2], netns(1), &mut means, &mut found, &mut gaps);
    assert_eq!((found.rows.len(), gaps.take()), (1, vec![]));
    namespaces::read_any(&dir, &[1], netns(1), &mut means, &mut found, &mut gaps);
    assert_eq!(gaps.take()[0].reason, GapReason::Gone);
    // A process that moved to another namespace shows the sockets of the new namespace, which must not be listed.
    let mut found = SocketRows::default();
    namespaces::read_any(&dir, &[2], netns(9), &mut means, &mut found, &mut gaps);
    assert_eq!((found.rows.len(), gaps.take()[0].reason), (0, GapReason::Gone));
}

#[test]
fn a_unix_name_that_pretends_to_be_rows_is_reported() {
    let root = tree(1);
    let net = root.path().join("1/net");
    let row = "0000000014cbf45e: 00000003 00000000 00000000 0001 03  1605";
    std::fs::write(net.join("protocols"), "heading\nUNIX 1 2\n").unwrap();
    std::fs::write(net.join("unix"), format!("heading\n{row} @a\n{row}\n")).unwrap();
    let mut reader = open(&root);
    let (rows, gaps) = read(&mut reader);
    assert_eq!((rows.len(), gaps), (2, vec![]), "as many as the kernel counts");

    std::fs::write(net.join("unix"), format!("heading\n{row} @a\n{row}\n{row} /run/sshd.sock\n")).unwrap();
    let (_, gaps) = read(&mut reader);
    assert_eq!((gaps[0].field.as_ref(), gaps[0].reason), (b"netns/unix".as_slice(), GapReason::Malformed));
}

#[test]
fn an_unreadable_or_malformed_table_is_a_gap() {
    let root = tree(3);
    std::fs::write(root.path().join("1/net/tcp"), "heading\nnonsense\n").unwrap();
    std::fs::remove_file(root.path().join("2/net/tcp")).unwrap();
    std::fs::remove_dir_all(root.path().join("3/net")).unwrap();
    let (rows, mut gaps) = read(&mut open(&root));
    assert!(rows.is_empty());
    gaps.sort_by_key(|gap| gap.reason);
    let facts: Vec<_> = gaps.iter().map(|gap| (gap.field.to_string(), gap.reason)).collect();
    let want =
        [("netns 4000000003", GapReason::Gone), ("netns/tcp", GapReason::Gone), ("netns/tcp", GapReason::Malformed)];
    assert_eq!(facts.len(), want.len(), "{gaps:?}");
    for (field, reason) in want {
        assert!(facts.contains(&(field.to_owned(), reason)), "{field} {reason:?}: {gaps:?}");
    }
}

#[test]
fn a_tree_without_processes_is_read_by_its_own_files() {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(root.path().join("net")).unwrap();
    std::fs::write(root.path().join("net/tcp"), format!("heading\n{}", tcp_row(5))).unwrap();
    let (rows, gaps) = read(&mut open(&root));
    assert_eq!(rows.iter().map(|row| (row.inode, row.netns)).collect::<Vec<_>>(), [(5, 0)]);
    assert_eq!(gaps, []);
}

#[test]
fn a_table_that_changes_twice_is_a_gap() {
    let socket = |inode| SocketEntry { inode, ..SocketEntry::new(Family::Inet, SOCK_DIAG, "listen") };
    // Number of changes of the table, number of reads, and if a gap is expected.
    for (changes, reads, is_gap) in [(0, 1, false), (1, 2, false), (2, 2, true)] {
        let (mut found, mut gaps, mut asked) = (SocketRows::default(), GapCollector::default(), 0);
        ask(&TABLES[0], 9, &mut found, &mut gaps, |take| {
            asked += 1;
            take(Ok(socket(2)));
            Ok(Dump { interrupted: asked <= changes, malformed: 0 })
        })
        .unwrap();
        assert_eq!((asked, found.rows.len(), !gaps.take().is_empty()), (reads, 1, is_gap));
    }
    let (mut found, mut gaps) = (SocketRows::default(), GapCollector::default());
    let refused = ask(&TABLES[0], 9, &mut found, &mut gaps, |take| {
        take(Ok(socket(2)));
        Err(Errno::NOBUFS.into())
    });
    assert!(refused.is_err() && found.rows.is_empty(), "half a table is none");
}

#[test]
fn rows_are_sorted_unique_and_bounded_and_rows_with_owners_stay() {
    let socket =
        |inode, port| SocketEntry { inode, local_port: port, ..SocketEntry::new(Family::Inet, SOCK_DIAG, "listen") };
    let write = |sockets: Vec<SocketEntry>| {
        let (mut found, mut gaps) = (SocketRows::default(), GapCollector::default());
        sockets.into_iter().for_each(|socket| found.push(socket));
        found.finish(u64::MAX);
        found.report(&HomeNames::default(), &mut gaps);
        (found.rows.iter().map(|row| row.inode).collect::<Vec<_>>(), gaps.take())
    };
    // The same socket twice is one row; two rows without an inode may be two sockets.
    let (inodes, gaps) =
        write(vec![socket(7, 1), socket(3, 1), socket(7, 1), socket(0, 1), socket(0, 1), socket(7, 2)]);
    assert_eq!((inodes, gaps), (vec![0, 0, 3, 7, 7], vec![]));

    let many = |ownerless: u32, owned: u64| {
        let mut sockets: Vec<SocketEntry> = (0..ownerless).map(|port| socket(0, port)).collect();
        sockets.extend((1..=owned).map(|inode| socket(inode, 0)));
        sockets
    };
    let max = ROWS_MAX as u64;
    let (inodes, gaps) = write(many(30, max - 20));
    assert_eq!((inodes.len(), inodes.iter().filter(|inode| **inode == 0).count()), (ROWS_MAX, 20));
    assert_eq!(
        (gaps[0].reason, gaps[0].count, gaps[0].detail.as_str()),
        (
            GapReason::TooLong,
            10,
            "alarm: all other owners: 10 sockets are not listed, and 50000 are; 10 of all owners are not listed"
        )
    );
    let (inodes, _) = write(many(30, max + 5));
    assert_eq!((inodes.len(), inodes[0], inodes[ROWS_MAX - 1]), (ROWS_MAX, 1, max + 5));
}

#[test]
fn a_flood_of_time_wait_hides_no_socket_of_a_later_table_or_namespace() {
    let root = tree(2);
    let net = root.path().join("1/net");
    let time_wait = "0: 0100007F:0016 0100007F:9C40 06 0:0 00:0 0 0 0 0 1\n".repeat(230_000);
    std::fs::write(net.join("tcp"), format!("heading\n{time_wait}")).unwrap();
    std::fs::write(net.join("protocols"), "protocol size sockets\nTCP 1 1\nUDP 1 1\n").unwrap();
    std::fs::write(net.join("udp"), format!("heading\n{}", tcp_row(77))).unwrap();
    let (rows, gaps) = read(&mut open(&root));
    let owned: Vec<_> = rows.iter().filter(|row| row.inode > 0).map(|row| (row.inode, row.netns)).collect();
    assert_eq!((rows.len(), owned), (ROWS_MAX, vec![(2, netns(2)), (77, netns(1))]));
    let beyond = gaps.iter().find(|gap| gap.field.as_ref().starts_with(b"rows: ")).unwrap();
    assert_eq!((beyond.count, beyond.reason), (180_002, GapReason::TooLong));
}

#[test]
fn a_second_or_failed_read_of_a_table_leaves_other_tables_unchanged() {
    let socket = |inode| SocketEntry { inode, ..SocketEntry::new(Family::Inet, SOCK_DIAG, "listen") };
    let (mut found, mut table, mut gaps) = (SocketRows::default(), SocketRows::default(), GapCollector::default());
    let count = |rows: &SocketRows| rows.len() as u64 + rows.beyond.values().sum::<u64>();
    (1..=60_000).for_each(|inode| found.push(socket(inode)));
    let all = |take: &mut dyn FnMut(Result<SocketEntry, MalformedMessage>)| {
        (0..70_000).for_each(|_| take(Ok(socket(0))));
        (1..=170_000).for_each(|inode| take(Ok(socket(100_000 + inode))));
    };
    for interrupted in [false, true] {
        ask(&TABLES[0], 9, &mut table, &mut gaps, |take| {
            all(take);
            Ok(Dump { interrupted, malformed: 0 })
        })
        .unwrap();
        assert!(table.len() <= 150_000);
        found.append(&mut table);
        assert!(found.len() <= 150_000);
    }
    assert_eq!(count(&found), 60_000 + 2 * 240_000);
    assert!(
        ask(&TABLES[0], 9, &mut table, &mut gaps, |take| {
            all(take);
            Err(Errno::NOBUFS.into())
        })
        .is_err()
    );
    assert_eq!(count(&table), 0);
}

fn decode(tick: &Tick) -> Vec<Socket> {
    let view = SnapshotView::parse(tick.encode(&Agent::default())).unwrap();
    view.sockets().collect::<Result<_, _>>().unwrap()
}
