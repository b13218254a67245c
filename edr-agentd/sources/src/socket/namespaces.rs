//! Other network namespaces: each read through one of its processes, as many per tick as the budget allows.
//!
//! When the budget is used up, namespaces take turns by owner ([`Turns`]); an unread namespace keeps its previous rows,
//! with a gap. Rows of a namespace without a process are removed. The pass over the processes finds the processes of
//! each namespace. Each namespace is read by a thread that may be abandoned, since the files belong to a process and
//! may hang.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;
use std::time::Instant;

use edr_wire::snapshot::GapReason;

use super::counts::SocketCounts;
use super::entry::SocketEntry;
use super::tables::{NetFile, TABLES};
use super::turns::Turns;
use super::{SOURCE, SocketRows, gap, take_file};
use crate::common::errno::reason;
use crate::common::hung::policy::{
    NAMESPACE_HUNG_TICKS, NAMESPACE_THREADS_MAX, NAMESPACES_SPENT_MAX, NAMESPACES_WALL_MAX,
};
use crate::common::hung::{AbandonableThread, JobProgress, NoAnswer};
use crate::common::owner::Owner;
use crate::common::{GapCollector, Inhabitants, calls, proc_files};

/// Budget of one tick, in microseconds of CPU time as estimated by [`Price`]: 1 % of a core at one tick in 10 s. An
/// estimate instead of a clock, so that an unchanged host is read the same way in every tick.
const BUDGET_US: u64 = 100_000;
/// Cost of opening, reading and closing a small file (measured: 15 to 40).
const FILE_US: u64 = 40;
/// For `tcp` and `tcp6` the kernel walks the hash table of all namespaces, so the file of an idle container costs as
/// much as the host's own (measured: 3.4 ms for 262,144 buckets, 13 ns each).
const BUCKET_NS: u64 = 13;
/// Buckets of a host with 16 GiB, for kernels without the number (before Linux 6.1).
const BUCKETS_USUAL: u64 = 131_072;
/// The kernel's file with the number of buckets; negative in a namespace that shares the host's table.
const BUCKETS_FILE: &str = "sys/net/ipv4/tcp_ehash_entries";
/// Maximum number of namespaces with remembered rows; more are listed only in the tick of their read.
const REMEMBERED_MAX: usize = 1_024;
/// Maximum number of remembered rows of one namespace, and of all.
const REMEMBERED_ROWS_MAX: usize = 20_000;
const ALL_REMEMBERED_ROWS_MAX: usize = 50_000;
/// Where namespaces are kept by name.
const NAMED_IN: [&str; 2] = ["/run/netns", "/run/docker/netns"];
/// Maximum number of namespaces named in gaps.
const NAMED_MAX: usize = 32;

/// State of other namespaces across ticks.
#[derive(Debug)]
pub(super) struct OtherNamespaces {
    known: BTreeMap<u64, NamespaceRows>,
    tick: u64,
    turns: Turns,
    price: Price,
    thread: AbandonableThread,
    /// Hung namespaces, with the tick of the next read.
    hung: BTreeMap<u64, u64>,
}

impl Default for OtherNamespaces {
    fn default() -> Self {
        Self {
            known: BTreeMap::new(),
            tick: 0,
            turns: Turns::default(),
            price: Price::default(),
            thread: AbandonableThread::new("edr-namespaces", NAMESPACE_THREADS_MAX),
            hung: BTreeMap::new(),
        }
    }
}

/// Estimated cost of reading files.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Price {
    /// `tcp` or `tcp6`, beyond the price of any file.
    walk_us: u64,
}

impl Price {
    fn read(proc_root: &OwnedFd, text: &mut Vec<u8>) -> Self {
        let buckets = proc_files::read(proc_root, BUCKETS_FILE, text).ok().and_then(|_| {
            let number: i64 = std::str::from_utf8(text).ok()?.trim().parse().ok()?;
            Some(number.unsigned_abs())
        });
        Self { walk_us: buckets.unwrap_or(BUCKETS_USUAL).saturating_mul(BUCKET_NS) / 1_000 }
    }

    fn of(self, file: &str) -> u64 {
        if file.starts_with("tcp") { FILE_US.saturating_add(self.walk_us) } else { FILE_US }
    }
}

/// The rows of a namespace at the last read, with the tick of the read.
#[derive(Debug, Default)]
struct NamespaceRows {
    rows: Vec<SocketEntry>,
    tick: u64,
    owner: Option<Owner>,
}

impl OtherNamespaces {
    /// Adds the rows of every namespace but `own`.
    pub(super) fn read(
        &mut self,
        proc_root: &Arc<OwnedFd>,
        own: Option<u64>,
        inhabitants: &Inhabitants,
        text: &mut Vec<u8>,
        found: &mut SocketRows,
        gaps: &mut GapCollector,
    ) {
        self.tick += 1;
        if inhabitants.unknown_total > 0 {
            let detail = format!(
                "processes {:?}{} may be in an unlisted network namespace",
                inhabitants.unknown,
                if inhabitants.unknown_total > inhabitants.unknown.len() as u64 { " and others" } else { "" }
            );
            gaps.add_count(SOURCE, b"ns/net", GapReason::Unknown, &detail, inhabitants.unknown_total);
        }
        let mut others = inhabitants.by_netns.clone();
        if let Some(own) = own {
            others.remove(&own);
        } else if others.is_empty() {
            // A copied tree without processes may still have the files.
            let progress = JobProgress::default();
            let mut means = Means { price: self.price, text, progress: &progress, owner: None };
            read_one(proc_root, 0, &mut means, found, gaps);
            return;
        }
        if self.price.walk_us == 0 {
            self.price = Price::read(proc_root, text);
        }
        if own.is_some() {
            report_empty(&others, own, gaps);
        }
        self.hung.retain(|_, again| *again > self.tick);
        self.known.retain(|netns, _| others.contains_key(netns));

        let owner_of = |netns: &u64| inhabitants.owners.get(netns).copied().unwrap_or(Owner::OTHERS);
        let owners: BTreeMap<u64, Owner> = others.keys().map(|netns| (*netns, owner_of(netns))).collect();
        let turn = self.turns.order(&owners);
        let (mut budget_us, begun) = (BUDGET_US, Instant::now());
        self.thread.start_round();
        let mut unread = turn.len();
        for (at, netns) in turn.iter().enumerate() {
            let is_late = self.thread.spent() > NAMESPACES_SPENT_MAX || begun.elapsed() > NAMESPACES_WALL_MAX;
            if budget_us == 0 || is_late {
                unread = at;
                break;
            }
            if self.hung.get(netns).is_some_and(|again| *again > self.tick) {
                let why = (GapReason::Stuck, "not read: a recent read hung");
                self.carry_over_one(*netns, at, why, found, gaps);
                continue;
            }
            let owner = owner_of(netns);
            let mut read = match self.read_on_thread(proc_root, &others[netns], (*netns, owner), text, gaps) {
                Ok((read, spent_us)) => {
                    budget_us = budget_us.saturating_sub(spent_us);
                    read
                }
                Err(why) => {
                    let reason = match why {
                        NoAnswer::Abandoned(_) | NoAnswer::Full(_) => GapReason::Stuck,
                        NoAnswer::NoThread(_) => GapReason::Io,
                    };
                    if matches!(why, NoAnswer::Abandoned(_)) {
                        self.hung.insert(*netns, self.tick + NAMESPACE_HUNG_TICKS);
                    }
                    self.carry_over_one(*netns, at, (reason, &why.to_string()), found, gaps);
                    continue;
                }
            };
            let rows: Vec<SocketEntry> = read.iter().cloned().collect();
            found.append(&mut read);
            self.remember(*netns, owner, rows);
        }
        self.turns.remember(&turn, unread, &owners);
        self.carry_over(&turn[unread..], found, gaps);
    }

    /// Remembers the rows of a namespace. Beyond the limits the owner with the most remembered rows and namespaces
    /// loses one namespace after the other.
    fn remember(&mut self, netns: u64, owner: Owner, rows: Vec<SocketEntry>) {
        self.known.remove(&netns);
        if rows.len() > REMEMBERED_ROWS_MAX {
            return;
        }
        self.known.insert(netns, NamespaceRows { rows, tick: self.tick, owner: Some(owner) });
        loop {
            let mut weights: BTreeMap<Option<u64>, usize> = BTreeMap::new();
            for known in self.known.values() {
                *weights.entry(known.owner.and_then(|owner| owner.home)).or_default() += 1 + known.rows.len();
            }
            let most = weights.iter().max_by_key(|(_, weight)| **weight).map(|(home, _)| *home);
            let all: usize = weights.values().sum();
            if self.known.len() <= REMEMBERED_MAX && all <= ALL_REMEMBERED_ROWS_MAX {
                return;
            }
            let of_most = self.known.iter().filter(|(_, known)| Some(known.owner.and_then(|o| o.home)) == most);
            let Some(heaviest) = of_most.max_by_key(|(_, known)| known.rows.len()).map(|(netns, _)| *netns) else {
                return;
            };
            self.known.remove(&heaviest);
        }
    }

    /// Reads a namespace on an abandonable thread; also returns the cost in microseconds.
    fn read_on_thread(
        &mut self,
        proc_root: &Arc<OwnedFd>,
        pids: &[u32],
        (netns, owner): (u64, Owner),
        text: &mut Vec<u8>,
        gaps: &mut GapCollector,
    ) -> Result<(SocketRows, u64), NoAnswer> {
        let (proc_root, pids, price) = (Arc::clone(proc_root), pids.to_vec(), self.price);
        let mut text_there = std::mem::take(text);
        let (found, mut found_gaps, spent_us, text_back) = self.thread.run(move |progress| {
            let (mut found, mut gaps) = (SocketRows::default(), GapCollector::default());
            let mut means = Means { price, text: &mut text_there, progress, owner: Some(owner) };
            let spent_us = read_any(&proc_root, &pids, netns, &mut means, &mut found, &mut gaps);
            (found, gaps, spent_us, text_there)
        })?;
        *text = text_back;
        gaps.append(&mut found_gaps);
        Ok((found, spent_us))
    }

    /// Lists the previous rows of unread namespaces.
    fn carry_over(&self, unread: &[u64], found: &mut SocketRows, gaps: &mut GapCollector) {
        for (at, netns) in unread.iter().enumerate() {
            self.carry_over_one(*netns, at, (GapReason::Budget, "not read in this tick"), found, gaps);
        }
    }

    fn carry_over_one(
        &self,
        netns: u64,
        at: usize,
        (reason, why): (GapReason, &str),
        found: &mut SocketRows,
        gaps: &mut GapCollector,
    ) {
        let known = self.known.get(&netns);
        for row in known.map_or(&[][..], |known| &known.rows) {
            found.push(row.clone());
        }
        let field = if at < NAMED_MAX { format!("netns {netns}") } else { "netns".to_owned() };
        let detail = match known {
            Some(known) => format!("{why}; rows of {} ticks ago", self.tick - known.tick),
            None => format!("{why}; no rows of it yet"),
        };
        gap(gaps, &field, reason, &detail);
    }
}

/// Reports namespaces kept under a name by ip-netns(8) or a container engine without a process inside: sockets there
/// may be held by descriptors of processes elsewhere, and no file lists these sockets.
fn report_empty(inhabited: &BTreeMap<u64, Vec<u32>>, own: Option<u64>, gaps: &mut GapCollector) {
    let mut nsfs = None;
    for path in NAMED_IN {
        let Ok(folder) = proc_files::open_dir(rustix::fs::CWD, path) else { continue };
        // A folder that changes during the listing is listed again at the next tick.
        let _ = proc_files::each_name(&folder, |name| {
            let Ok(stat) = stat_of(&folder, name) else { return };
            let nsfs =
                *nsfs.get_or_insert_with(|| stat_of(rustix::fs::CWD, c"/proc/self/ns/net").map(|stat| stat.st_dev));
            if nsfs == Ok(stat.st_dev) && Some(stat.st_ino) != own && !inhabited.contains_key(&stat.st_ino) {
                let path = std::path::Path::new(path).join(std::ffi::OsStr::from_bytes(name.to_bytes()));
                let detail = format!("no process in {path:?}, so the sockets there cannot be read");
                gap(gaps, &format!("netns {}", stat.st_ino), GapReason::Unsupported, &detail);
            }
        });
    }
}

fn stat_of(dir: impl std::os::fd::AsFd, name: &CStr) -> rustix::io::Result<rustix::fs::Stat> {
    calls::one();
    rustix::fs::statat(dir, name, rustix::fs::AtFlags::empty())
}

/// Shared resources of a reading.
pub(super) struct Means<'a> {
    pub(super) price: Price,
    pub(super) text: &'a mut Vec<u8>,
    pub(super) progress: &'a JobProgress,
    /// The owner of the namespace.
    pub(super) owner: Option<Owner>,
}

/// Reads a namespace through the first process that stays inside during the read. Returns the cost in microseconds.
pub(super) fn read_any(
    proc_root: &OwnedFd,
    pids: &[u32],
    netns: u64,
    means: &mut Means<'_>,
    found: &mut SocketRows,
    gaps: &mut GapCollector,
) -> u64 {
    let mut spent_us = 0;
    for pid in pids {
        // The handle belongs to this process: a new process with the same pid is not read.
        let Ok(process) = proc_files::open_dir(proc_root, pid.to_string()) else { continue };
        let mut attempt_gaps = GapCollector::default();
        spent_us += read_one(&process, netns, means, found, &mut attempt_gaps);
        means.progress.beat();
        // `net` is the namespace at the moment of each open, so a process that moved may have shown two.
        match proc_files::namespace(&process, "ns/net") {
            Ok(now) if now == netns => {
                gaps.append(&mut attempt_gaps);
                return spent_us;
            }
            _ => *found = SocketRows::default(),
        }
    }
    gap(gaps, &format!("netns {netns}"), GapReason::Gone, "the processes of the namespace ended during the read");
    spent_us
}

/// Reads the files in `dir`/net. Returns the cost in microseconds.
fn read_one(dir: &OwnedFd, netns: u64, means: &mut Means<'_>, found: &mut SocketRows, gaps: &mut GapCollector) -> u64 {
    let Means { price, text, progress, owner } = means;
    let (mut spent_us, mut is_readable) = (0, false);
    let mut read = |name: &str, text: &mut Vec<u8>| -> io::Result<bool> {
        let cut = proc_files::read(dir, &format!("net/{name}"), text);
        progress.beat();
        spent_us += price.of(name);
        is_readable |= cut.is_ok();
        cut
    };
    let counts = SocketCounts::read(|name, text| read(name, text).map(|_| ()), text);
    for table in &TABLES {
        // The same field for every namespace, so that equal gaps are joined.
        let field = format!("netns/{}", table.name);
        if let Some(counts) = &counts {
            if counts.shows_empty_file(table) {
                continue;
            }
            if table.file.is_none() && counts.of(table) > Some(0) {
                gap(gaps, &field, GapReason::Unsupported, "another namespace has some; /proc/PID/net lists none");
                continue;
            }
        }
        let Some(file) = table.file else { continue };
        match read(table.name, text) {
            Ok(cut) => {
                let taken = take_file(&field, file, text, cut, (netns, *owner), found, gaps);
                // A unix name may contain line breaks and text in the form of rows; the kernel's count shows the
                // forgery.
                let counted = counts.as_ref().and_then(|counts| counts.of(table));
                if matches!(file, NetFile::Unix) && counted.is_some_and(|counted| taken > counted) {
                    let now = SocketCounts::read(|name, text| read(name, text).map(|_| ()), text)
                        .and_then(|now| now.of(table));
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
    if !is_readable {
        gap(gaps, &format!("netns {netns}"), GapReason::Gone, "it has no files to read");
    }
    spent_us
}
