//! Other network namespaces: read through one process each, so many a tick as the budget allows.
//!
//! Namespaces take turns when the budget is used up; one that was not read keeps its rows of the last time, and a gap
//! says so. Rows of a namespace that has no process any more go.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;

use edr_wire::snapshot::GapReason;

use rustix::io::Errno;

use super::found::Found;
use super::proc_net;
use super::tables::{File, TABLES};
use super::{Counts, FoundRows, SOURCE, gap, take_file};
use crate::collect::{Gaps, proc_files};
use crate::errno::reason;

/// Files read a tick. Each costs about a millisecond on a host with a large TCP table, since the kernel walks the
/// table of all namespaces for each of them; most namespaces need three.
const FILES_PER_TICK_MAX: usize = 120;
/// Namespaces whose rows are remembered; beyond it they are listed only when it is their turn.
const REMEMBERED_MAX: usize = 1_024;
/// Rows remembered of one namespace.
const REMEMBERED_ROWS_MAX: usize = 20_000;
/// Processes of a namespace that are remembered: the first may be gone when its files are read.
const MEMBERS_MAX: usize = 3;
/// Where namespaces are kept by name.
const NAMED_IN: [&str; 2] = ["/run/netns", "/run/docker/netns"];
/// Namespaces named one by one in gaps.
const NAMED_MAX: usize = 32;

/// What is known of other namespaces.
#[derive(Debug, Default)]
pub(super) struct Namespaces {
    known: BTreeMap<u64, Known>,
    /// The first whose turn it is.
    next: u64,
}

#[derive(Debug, Default)]
struct Known {
    rows: Vec<Found>,
    tick: u64,
}

impl Namespaces {
    /// Adds the rows of every namespace but `own`.
    pub(super) fn read(
        &mut self,
        proc_root: &OwnedFd,
        own: Option<u64>,
        tick: u64,
        text: &mut Vec<u8>,
        found: &mut FoundRows,
        gaps: &mut Gaps,
    ) {
        let members = match Members::read(proc_root) {
            Ok(members) => members,
            Err(error) => return gap(gaps, "ns/net", reason(&error), &error.to_string()),
        };
        for pid in &members.denied {
            let detail = "the process may be in a network namespace that is not listed";
            gaps.add(SOURCE, Some(*pid), b"ns/net", GapReason::Denied, detail);
        }
        let mut others = members.by_netns;
        if let Some(own) = own {
            others.remove(&own);
        } else if others.is_empty() {
            // A copied tree without processes may still have the files.
            read_one(proc_root, "net/", 0, text, found, gaps);
            return;
        }
        if own.is_some() {
            report_empty(&others, own, gaps);
        }
        self.known.retain(|netns, _| others.contains_key(netns));

        let mut turn: Vec<u64> = others.keys().copied().collect();
        let first = turn.partition_point(|netns| *netns < self.next);
        turn.rotate_left(first);
        let mut files_left = FILES_PER_TICK_MAX;
        let mut unread = turn.len();
        for (at, netns) in turn.iter().enumerate() {
            if files_left == 0 {
                self.next = *netns;
                unread = at;
                break;
            }
            let mut read = FoundRows::default();
            let files = read_any(proc_root, &others[netns], *netns, text, &mut read, gaps);
            files_left = files_left.saturating_sub(files);
            found.beyond += read.beyond;
            read.rows.iter().for_each(|row| found.push(row.clone()));
            if read.rows.len() <= REMEMBERED_ROWS_MAX
                && (self.known.len() < REMEMBERED_MAX || self.known.contains_key(netns))
            {
                self.known.insert(*netns, Known { rows: read.rows, tick });
            } else {
                self.known.remove(netns);
            }
        }
        self.carry_over(&turn[unread..], tick, found, gaps);
    }

    /// Rows of the last time, for those whose turn it was not.
    fn carry_over(&self, unread: &[u64], tick: u64, found: &mut FoundRows, gaps: &mut Gaps) {
        for (at, netns) in unread.iter().enumerate() {
            let known = self.known.get(netns);
            for row in known.map_or(&[][..], |known| &known.rows) {
                found.push(row.clone());
            }
            let field = if at < NAMED_MAX { format!("netns {netns}") } else { "netns".to_owned() };
            let detail = match known {
                Some(known) => format!("not read in this tick; rows of {} ticks ago", tick - known.tick),
                None => "not read in this tick; no rows of it yet".to_owned(),
            };
            gap(gaps, &field, GapReason::Budget, &detail);
        }
    }
}

/// Namespaces that ip-netns(8) or a container engine keeps under a name although no process is in them: they may have
/// sockets, held by descriptors of processes elsewhere, and there is no file to read them from.
fn report_empty(inhabited: &BTreeMap<u64, Vec<u32>>, own: Option<u64>, gaps: &mut Gaps) {
    let Ok(nsfs) = rustix::fs::stat("/proc/self/ns/net").map(|stat| stat.st_dev) else { return };
    for folder in NAMED_IN {
        let Ok(names) = std::fs::read_dir(folder) else { continue };
        for name in names.flatten() {
            let Ok(stat) = rustix::fs::stat(name.path()) else { continue };
            if stat.st_dev == nsfs && Some(stat.st_ino) != own && !inhabited.contains_key(&stat.st_ino) {
                let detail = format!("no process is in {:?}, so its sockets cannot be read", name.path());
                gap(gaps, &format!("netns {}", stat.st_ino), GapReason::Unsupported, &detail);
            }
        }
    }
}

/// Who lives in which network namespace.
#[derive(Debug, Default)]
struct Members {
    /// Some processes of each namespace.
    by_netns: BTreeMap<u64, Vec<u32>>,
    /// Processes whose namespace the kernel does not tell us.
    denied: Vec<u32>,
}

impl Members {
    /// Asks every process below `proc_root`.
    fn read(proc_root: &OwnedFd) -> io::Result<Self> {
        let mut members = Self::default();
        for entry in rustix::fs::Dir::read_from(proc_root)? {
            let Ok(entry) = entry else { break };
            let Some(pid) = entry.file_name().to_str().ok().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            match proc_files::namespace(proc_root, &format!("{pid}/ns/net")) {
                Ok(netns) => {
                    let pids = members.by_netns.entry(netns).or_default();
                    if pids.len() < MEMBERS_MAX {
                        pids.push(pid);
                    }
                }
                Err(Errno::ACCESS | Errno::PERM) => members.denied.push(pid),
                // Gone, or a zombie, which has none.
                Err(_) => {}
            }
        }
        Ok(members)
    }
}

/// Reads a namespace through the first of its processes that stays in it while it is read; says how many files that
/// took.
pub(super) fn read_any(
    proc_root: &OwnedFd,
    pids: &[u32],
    netns: u64,
    text: &mut Vec<u8>,
    found: &mut FoundRows,
    gaps: &mut Gaps,
) -> usize {
    let mut files = 0;
    for pid in pids {
        // The handle keeps its process: a new one with the same pid is not read through it.
        let Ok(process) = proc_files::open_dir(proc_root, pid.to_string()) else { continue };
        let mut attempt_gaps = Gaps::default();
        files += read_one(&process, "net/", netns, text, found, &mut attempt_gaps);
        // `net` is the namespace at the moment of each open, so a process that moved may have shown two.
        match proc_files::namespace(&process, "ns/net") {
            Ok(now) if now == netns => {
                gaps.append(&mut attempt_gaps);
                return files;
            }
            _ => *found = FoundRows::default(),
        }
    }
    gap(gaps, &format!("netns {netns}"), GapReason::Gone, "its processes went away while it was read");
    files
}

/// Reads the files in `dir`/`prefix`; says how many.
fn read_one(
    dir: &OwnedFd,
    prefix: &str,
    netns: u64,
    text: &mut Vec<u8>,
    found: &mut FoundRows,
    gaps: &mut Gaps,
) -> usize {
    let (mut files, mut files_missed) = (0, 0);
    let mut read = |name: &str, text: &mut Vec<u8>| -> io::Result<bool> {
        let cut = proc_files::read(dir, &format!("{prefix}{name}"), text);
        files += 1;
        files_missed += usize::from(cut.is_err());
        cut
    };
    let counts = read("protocols", text).ok().map(|_| Counts::parse(text));
    let time_wait = read("sockstat", text).ok().and_then(|_| proc_net::time_wait(text));
    for table in &TABLES {
        // The same for every namespace: alike gaps become one.
        let field = format!("netns/{}", table.name);
        if let Some(counts) = &counts {
            let counted = counts.of(table);
            // TCP has sockets beyond its count only when there are time-wait ones, or when nobody counted those. The
            // kernel's own ends of netlink, also not counted, are the same in every namespace: read in the agent's own.
            let may_have_more = table.name.starts_with("tcp") && time_wait != Some(0);
            if counted.is_none_or(|count| count == 0 && !may_have_more) {
                continue;
            }
            if table.file.is_none() {
                gap(gaps, &field, GapReason::Unsupported, "another namespace has some; /proc/PID/net lists none");
                continue;
            }
        }
        let Some(file) = table.file else { continue };
        match read(table.name, text) {
            Ok(cut) => {
                let taken = take_file(&field, file, text, cut, netns, found, gaps);
                // A unix name may hold line breaks and what looks like rows behind them; the kernel's count knows.
                let counted = counts.as_ref().and_then(|counts| counts.of(table));
                if matches!(file, File::Unix) && counted.is_some_and(|counted| taken > counted) {
                    let now = read("protocols", text).ok().and_then(|_| Counts::parse(text).of(table));
                    if let Some(now) = now.filter(|now| taken > *now) {
                        let detail =
                            format!("netns {netns}: {taken} rows for {now} sockets: some name pretends to be rows");
                        gap(gaps, &field, GapReason::Malformed, &detail);
                    }
                }
            }
            Err(error) if counts.is_none() && error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => gap(gaps, &field, reason(&error), &error.to_string()),
        }
    }
    if files == files_missed {
        gap(gaps, &format!("netns {netns}"), GapReason::Gone, "it has no files to read");
    }
    files
}
