//! Reads one process in a pass over its folder, with all paths relative to the folder.
//!
//! The folder is opened once. An open `/proc/PID` belongs to one process: after its end, even when the pid is reused,
//! all reads fail with `ESRCH`, so a row never mixes two processes. The *same* process may still execute another
//! program during the pass; `stat` is read again at the end, and a row with a changed start time, stack or name is read
//! anew.

mod fill;
mod fit;
mod memory;
mod outline;

use std::hash::{BuildHasher, RandomState};
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use edr_wire::limits::ARGV_BYTES_MAX;
use edr_wire::snapshot::{Fd, GapReason, Process, encode_row_into};
use parking_lot::{Mutex, MutexGuard};
use rustix::io::Errno;

pub(super) use self::fit::TextHistory;
use super::ProcessSettings;
use super::file::{PseudoDevices, each_number, inode, open_folder, open_place, read_file};
use super::files::{FileReader, ListLimits};
use super::hash::{ContentKey, Hashes};
use super::maps::MappedFiles;
use super::missed::{MissedFact, MissedFacts};
use super::number::Name;
use super::room::{Room, RowGrant, RowSize};
use super::schedstat::{RunTime, parse_schedstat};
use super::stat::{Stat, parse_stat};
use super::status::ProcessStatus;
use super::step::{Step, Steps};
use super::users::AccountNames;
use crate::common::errno::reason;
use crate::common::hung::JobProgress;
use crate::common::owner::Owner;
use crate::redact::Redactor;

/// Maximum number of readings of a process that executes other programs meanwhile.
const ATTEMPTS: usize = 3;
/// Number of threads up to which `schedstat` is always read. Above, `schedstat` is read only if the threads cost no
/// more than the descriptors.
const THREADS_ALWAYS: u64 = 64;

/// Resources shared by all reading threads.
#[derive(Debug, Clone)]
pub(super) struct Tools {
    pub(super) proc: Arc<OwnedFd>,
    pub(super) devices: PseudoDevices,
    pub(super) hashes: Arc<Mutex<Hashes>>,
    pub(super) room: Arc<Mutex<Room>>,
    pub(super) redactor: Option<Arc<Redactor>>,
    pub(super) hasher: RandomState,
}

/// Result of reading a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RowOutcome {
    /// [`RowReader::row`] holds the row, [`RowReader::encoded`] its bytes.
    Row,
    /// Nothing changed: the previous row is still valid.
    Unchanged,
    /// The owner's share has no room for the row: the process is only counted.
    Unlisted,
    /// The process ended before the first read, or another process took the pid between two reads.
    Gone,
    /// The process exists and cannot be read.
    Unreadable,
}

/// Facts and limits that stay the same during one tick.
#[derive(Debug, Default)]
pub(super) struct PassContext {
    pub(super) users: AccountNames,
    pub(super) groups: AccountNames,
    pub(super) boot_time_ns: i64,
    pub(super) limits: ListLimits,
    pub(super) schedstat: RunCounters,
}

/// State of the kernel's run-time counters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum RunCounters {
    /// No counters, or `0 0 0`.
    #[default]
    No,
    /// Counters with a value, which are not yet seen to change.
    Unproven,
    /// The agent's own counters changed since the last tick: a process with unchanged counters did not run.
    Yes,
}

/// Instructions for reading one process.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReadTask {
    pub(super) pid: u32,
    /// Memory of the process with this pid in the previous tick, if its row may be taken over.
    pub(super) before: Option<Memory>,
    /// The start and the texts of the process with this pid in the previous tick.
    pub(super) known: Option<(u64, TextHistory)>,
    /// The steps to leave out: reads that hang, or may hang.
    pub(super) left_out: Steps,
}

/// Facts kept of a process from one tick to the next. While all facts are equal, the row is unchanged, except for
/// changes by other processes to its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Memory {
    pub(super) start_ticks: u64,
    /// Hash of `stat` and `cgroup`.
    facts: u64,
    /// `None` when unknown: the process may have run.
    ran: Option<RunTime>,
    /// `st_size` of `/proc/PID/fd`: how many descriptors are open (Linux 6.2; 0 before).
    descriptors: u64,
    /// Set while the executable waits for its hash.
    waits_for: Option<(Owner, ContentKey)>,
    /// The row is incomplete for a reason that may pass, so the next tick reads the process again.
    unfinished: bool,
}

impl Memory {
    /// Memory of an unknown process.
    fn unknown() -> Self {
        Self { start_ticks: 0, facts: 0, ran: None, descriptors: 0, waits_for: None, unfinished: true }
    }

    /// True for a row without a fact that may appear at the next read.
    pub(super) fn is_whole(&self) -> bool {
        !self.unfinished
    }

    fn is_same(&self, now: &Self) -> bool {
        let same = Self { waits_for: None, ..*self } == Self { waits_for: None, ..*now };
        same && self.ran.is_some() && !self.unfinished
    }
}

/// Facts of a process for other sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ProcessFacts {
    pub(super) netns: Netns,
    /// The effective user id; `u32::MAX` when unknown.
    pub(super) uid: u32,
    /// True when descriptors were listed, false when refused; `None` without descriptors, or after another error.
    pub(super) files: Option<bool>,
}

/// The network namespace of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Netns {
    Is(u64),
    /// In a namespace that the kernel does not show.
    Unknown,
    /// Without a namespace: the process is dead.
    None,
}

/// Reads processes in turn, into the same buffers.
#[derive(Debug)]
pub(super) struct RowReader {
    pub(super) row: Process,
    pub(super) encoded: Vec<u8>,
    pub(super) missed: MissedFacts,
    pub(super) memory: Memory,
    /// Bytes of the row.
    pub(super) size: RowSize,
    pub(super) texts: TextHistory,
    /// Progress of the current job.
    pub(super) progress: Arc<JobProgress>,
    proc: Arc<OwnedFd>,
    devices: PseudoDevices,
    hashes: Arc<Mutex<Hashes>>,
    room: Arc<Mutex<Room>>,
    redactor: Option<Arc<Redactor>>,
    hasher: RandomState,
    reads_maps: bool,
    /// Bytes of the whole command line.
    argv_total: u64,
    files: FileReader,
    mapped: MappedFiles,
    stat: Vec<u8>,
    cgroup: Vec<u8>,
    buf: Vec<u8>,
    links: [Vec<u8>; 3],
    folder: Vec<MaybeUninit<u8>>,
    status: ProcessStatus,
}

impl RowReader {
    pub(super) fn new(shared: &Tools, settings: &ProcessSettings) -> Self {
        Self {
            row: Process::default(),
            encoded: Vec::new(),
            missed: MissedFacts::default(),
            memory: Memory::unknown(),
            size: RowSize::unknown(Owner::OTHERS),
            texts: TextHistory::default(),
            progress: Arc::default(),
            proc: Arc::clone(&shared.proc),
            devices: shared.devices,
            hashes: Arc::clone(&shared.hashes),
            room: Arc::clone(&shared.room),
            redactor: shared.redactor.clone(),
            hasher: shared.hasher.clone(),
            reads_maps: settings.mapped,
            argv_total: 0,
            files: FileReader::new(shared.devices),
            mapped: MappedFiles::default(),
            stat: vec![0; 4 << 10],
            cgroup: vec![0; 16 << 10],
            buf: vec![0; ARGV_BYTES_MAX + 1],
            links: [vec![0; 4 << 10], vec![0; 4 << 10], vec![0; 4 << 10]],
            folder: vec![MaybeUninit::uninit(); 32 << 10],
            status: ProcessStatus::default(),
        }
    }

    /// Checks a process, and reads the row unless nothing changed.
    pub(super) fn read(&mut self, task: &ReadTask, context: &PassContext) -> RowOutcome {
        self.missed.0.clear();
        let dir = match open_place(self.proc.as_fd(), Name::of(task.pid).as_c_str()) {
            Ok(dir) => dir,
            Err(errno) => return self.unreadable("stat", errno),
        };
        if task.left_out.has(Step::Stat) {
            let outcome = self.read_outline(task, dir.as_fd(), context);
            self.encode();
            return outcome;
        }
        let (mut stat, mut cgroup) = (mem::take(&mut self.stat), mem::take(&mut self.cgroup));
        let outcome = self.read_at(task, dir.as_fd(), &mut stat, &mut cgroup, context);
        (self.stat, self.cgroup) = (stat, cgroup);
        if outcome == RowOutcome::Row {
            self.encode();
        }
        outcome
    }

    fn encode(&mut self) {
        encode_row_into(&self.row, &mut self.encoded);
        self.size.core = (self.encoded.len() as u64).saturating_sub(self.size.lists).max(1);
    }

    /// Asks for the room of the row whose `status` and `cgroup` were read.
    fn grant(&mut self, task: &ReadTask) -> RowGrant {
        let owner = Owner::new(self.row.uids[0], &self.row.cgroup.0);
        self.size = RowSize::unknown(owner);
        let is_new = task.known.is_none_or(|(start_ticks, _)| start_ticks != self.row.start_ticks);
        let grant = self.room.lock().grant(owner, (self.row.pid, self.row.start_ticks), is_new);
        self.size.is_listed = grant.is_listed;
        grant
    }

    fn read_at(
        &mut self,
        task: &ReadTask,
        dir: BorrowedFd<'_>,
        stat_buf: &mut [u8],
        cgroup_buf: &mut [u8],
        context: &PassContext,
    ) -> RowOutcome {
        self.progress.at(Step::Stat);
        let mut length = match read_file(dir, c"stat", stat_buf) {
            Ok(text) => text.len(),
            Err(errno) => return self.unreadable("stat", errno),
        };
        for attempt in 1..=ATTEMPTS {
            let stat = match parse_stat(&stat_buf[..length]) {
                Ok(stat) => stat,
                Err(malformed) => {
                    self.missed.malformed("stat", malformed);
                    return RowOutcome::Unreadable;
                }
            };
            // The run time is read before the facts: a change after this point is noticed at the next tick.
            let asks = context.schedstat != RunCounters::No && stat.state != b'R';
            let ran = if asks { self.ran(task, &stat, dir) } else { None };
            let descriptors = if stat.is_kernel_thread() { 0 } else { inode(dir, c"fd").map_or(0, |fd| fd.size) };
            self.progress.at(Step::Cgroup);
            let cgroup = read_file(dir, c"cgroup", cgroup_buf);
            self.memory = Memory {
                start_ticks: stat.starttime,
                facts: self.hasher.hash_one((&stat, cgroup.as_deref().unwrap_or_default())),
                ran,
                descriptors,
                waits_for: None,
                unfinished: false,
            };
            if let Some(before) = &task.before
                && before.is_same(&self.memory)
                && !before.waits_for.is_some_and(|(owner, key)| self.hashes().would_answer(owner, &key))
            {
                self.memory.waits_for = before.waits_for;
                return RowOutcome::Unchanged;
            }
            if !self.fill(task, &stat, cgroup, dir, context) {
                return RowOutcome::Unlisted;
            }

            let identity = stat.starttime;
            let program = (stat.startstack, stat.is_dead(), stat.comm.to_vec());
            // execve(2) has replaced the program, but not yet the arguments.
            let is_starting = stat.env_end == 0 && self.row.argv.is_empty() && self.row.exe.is_some();
            self.progress.at(Step::Stat);
            length = match read_file(dir, c"stat", stat_buf) {
                Ok(text) => text.len(),
                Err(errno) => {
                    // The facts read until the end of the process are true, and better than no row.
                    self.missed.add("stat", errno);
                    break;
                }
            };
            match parse_stat(&stat_buf[..length]) {
                Ok(after) if after.starttime != identity => return RowOutcome::Gone,
                Ok(after)
                    if !is_starting
                        && (after.startstack, after.is_dead(), after.comm) == (program.0, program.1, &program.2) =>
                {
                    break;
                }
                Ok(_) if attempt == ATTEMPTS => {
                    self.missed.because("exec", GapReason::Budget, "executes programs faster than one reading");
                }
                _ => std::thread::yield_now(),
            }
        }
        self.settle_missed(task);
        RowOutcome::Row
    }

    /// Separates unreadable facts from facts that do not exist.
    fn settle_missed(&mut self, task: &ReadTask) {
        let gone = self.missed.0.iter().any(|miss| (miss.field, miss.reason) == ("stat", GapReason::Gone));
        // A missing file is normal for some processes and kernels, unless the process ended.
        for miss in self.missed.0.iter().filter(|miss| gone || miss.reason != GapReason::Gone) {
            let field = match miss.field {
                "path" | "fdinfo" => "files",
                field => field,
            };
            if !self.row.incomplete.iter().any(|known| known == field) {
                self.row.incomplete.push(field.to_owned());
            }
        }
        self.row.incomplete.sort_unstable();
        self.missed.0.retain(|miss| miss.reason != GapReason::Gone || miss.field == "stat");
        // A row with a shortened command line is whole again as soon as the process leaves the command line alone.
        let is_rewritten = self.size.rewritten < self.size.rewritten_wanted;
        let may_pass = |miss: &MissedFact| matches!(miss.reason, GapReason::Denied | GapReason::TooLong);
        self.memory.unfinished =
            task.left_out != Steps::NONE || gone || is_rewritten || !self.missed.0.iter().all(may_pass);
    }

    /// Facts for other sources of the process read last.
    pub(super) fn process_facts(&self) -> ProcessFacts {
        let misses = |field: &str| self.missed.0.iter().find(|miss| miss.field == field);
        let netns = match self.row.namespaces.net {
            0 if misses("namespaces").or_else(|| misses("stat")).is_some_and(|miss| miss.reason != GapReason::Gone) => {
                Netns::Unknown
            }
            0 => Netns::None,
            netns => Netns::Is(netns),
        };
        let is_refused = misses("files").is_some_and(|miss| miss.reason == GapReason::Denied);
        let lists_some = self.row.files.iter().any(|file| matches!(file.fd, Fd::Number(_)));
        ProcessFacts { netns, uid: self.row.uids[1], files: (is_refused || lists_some).then_some(!is_refused) }
    }

    /// Run time of the process's threads; `None` when unknown, or when reading the counters costs more than reading the
    /// process.
    fn ran(&mut self, task: &ReadTask, stat: &Stat<'_>, dir: BorrowedFd<'_>) -> Option<RunTime> {
        let mut ran = RunTime::default();
        if stat.num_threads == 1 {
            ran.add(task.pid, parse_schedstat(read_file(dir, c"schedstat", &mut self.buf).ok()?).ok()?);
            return Some(ran);
        }
        let descriptors = task.before.map_or(0, |before| before.descriptors);
        if u64::from(stat.num_threads) > THREADS_ALWAYS + 2 * descriptors {
            return None;
        }
        let tasks = open_folder(dir, c"task").ok()?;
        let (buf, mut all_counted) = (&mut self.buf, true);
        each_number(&tasks, &mut self.folder, |tid| {
            let name = Name::with(tid, b"/schedstat");
            match read_file(tasks.as_fd(), name.as_c_str(), buf).map(parse_schedstat) {
                Ok(Ok(thread)) => ran.add(tid, thread),
                _ => all_counted = false,
            }
        })
        .ok()?;
        all_counted.then_some(ran)
    }

    fn hashes(&self) -> MutexGuard<'_, Hashes> {
        self.hashes.lock()
    }

    fn unreadable(&mut self, field: &'static str, errno: Errno) -> RowOutcome {
        self.missed.add(field, errno);
        if reason(&errno.into()) == GapReason::Gone { RowOutcome::Gone } else { RowOutcome::Unreadable }
    }
}
