//! Reading one process: one pass over its folder, everything relative to it.
//!
//! The folder is opened once. An open `/proc/PID` belongs to that very process: when it ends and its pid is given
//! away, everything below fails with `ESRCH`, so a row never mixes two processes. What can still happen is that the
//! *same* process executes another program in the middle; `stat` is read again at the end, and a row whose start time,
//! stack or name moved is read anew.

use std::ffi::CStr;
use std::hash::{BuildHasher, RandomState};
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use edr_wire::Bytes;
use edr_wire::limits::ARGV_BYTES_MAX;
use edr_wire::snapshot::{Exe, Fd, GapReason, Namespaces, Process, encode_row_into};
use rustix::io::{Errno, read, retry_on_intr};

use super::cgroup::parse_cgroup;
use super::cmdline::split_cmdline;
use super::file::{Inode, PseudoDevices, each_number, inode, open_file, open_folder, open_place, read_file, read_link};
use super::files::{FileReader, Held, Limits, is_memfd};
use super::hash::{ContentKey, Hashes, Lookup, NotHashed, hash};
use super::io::{parse_io, parse_loginuid};
use super::link::{memfd_name, namespace_inode, path_of};
use super::maps::Mapped;
use super::number::Name;
use super::schedstat::{Ran, parse_schedstat};
use super::stat::{Stat, parse_stat};
use super::status::{Status, parse_status};
use super::step::{Progress, Step};
use super::users::Names;
use super::{Malformed, ProcessSettings};
use crate::errno::reason;
use crate::redact::Redactor;

/// How often a process that executes another program while it is read is read anew.
const ATTEMPTS: usize = 3;
/// Threads of which `schedstat` is always read. Of a process with more, it is when they cost no more than its descriptors.
const THREADS_ALWAYS: u64 = 64;
/// Bytes after which the length of a command line is no longer counted: the kernel allows 6 MiB (execve(2)).
const CMDLINE_COUNT_MAX: u64 = 16 << 20;

/// What could not be read of one process.
#[derive(Debug, Default)]
pub(super) struct Missed(Vec<Miss>);

/// One thing that could not be read.
#[derive(Debug, Clone)]
pub(super) struct Miss {
    pub(super) field: &'static str,
    pub(super) reason: GapReason,
    pub(super) detail: String,
}

impl Missed {
    pub(super) fn add(&mut self, field: &'static str, errno: Errno) {
        let error = errno.into();
        // One of a kind is enough: a process may have 100,000 descriptors that are refused.
        let reason = reason(&error);
        if !self.0.iter().any(|miss| miss.field == field && miss.reason == reason) {
            self.0.push(Miss { field, reason, detail: error.to_string() });
        }
    }

    pub(super) fn malformed(&mut self, field: &'static str, malformed: Malformed) {
        self.0.push(Miss { field, reason: GapReason::Malformed, detail: malformed.to_string() });
    }

    pub(super) fn because(&mut self, field: &'static str, reason: GapReason, detail: &str) {
        self.0.push(Miss { field, reason, detail: detail.to_owned() });
    }

    pub(super) fn drain(&mut self) -> std::vec::Drain<'_, Miss> {
        self.0.drain(..)
    }
}

/// What all reading threads share.
#[derive(Debug, Clone)]
pub(super) struct Tools {
    pub(super) proc: Arc<OwnedFd>,
    pub(super) devices: PseudoDevices,
    pub(super) hashes: Arc<Mutex<Hashes>>,
    pub(super) redactor: Option<Arc<Redactor>>,
    pub(super) hasher: RandomState,
}

/// What a look at a process came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// [`RowReader::row`] holds its row, [`RowReader::encoded`] its bytes.
    Row,
    /// Nothing of it changed: the row before still says it all.
    Unchanged,
    /// It went away before anything of it was known, or between two reads another one took its place.
    Gone,
    /// It is there and cannot be read.
    Unreadable,
}

/// What stays the same during one tick.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) users: Names,
    pub(super) groups: Names,
    pub(super) boot_time_ns: i64,
    pub(super) limits: Limits,
    pub(super) schedstat: Counting,
}

/// Whether the kernel counts how much threads run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Counting {
    /// It says nothing or `0 0 0`.
    No,
    /// It says something, and it is still to be seen to move.
    Unproven,
    /// The agent saw its own numbers move since the last tick: what stood still did not run.
    Yes,
}

/// What is to be done about one process.
#[derive(Debug, Clone, Copy)]
pub(super) struct Task {
    pub(super) pid: u32,
    /// What is remembered of the process that had this pid in the tick before, if its row may be taken over.
    pub(super) before: Option<Memory>,
    /// Leave out what may hang ([`Step::may_hang`]).
    pub(super) careful: bool,
    /// There is room for the facts but no more for the lists.
    pub(super) short: bool,
}

/// What is remembered of a process from one tick to the next: as long as all of it stays the same, so does its row,
/// but for what others may do to its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Memory {
    pub(super) start_ticks: u64,
    /// Hash of `stat` and `cgroup`.
    facts: u64,
    /// `None`: not known, so it may have run.
    ran: Option<Ran>,
    /// `st_size` of `/proc/PID/fd`: how many descriptors are open (Linux 6.2; 0 before).
    descriptors: u64,
    /// Its executable waits for its hash.
    waits_for: Option<ContentKey>,
    /// The row is not what it could be (something was in the way), so the next tick reads again.
    unfinished: bool,
}

impl Memory {
    fn is_same(&self, now: &Self) -> bool {
        let same = Self { waits_for: None, ..*self } == Self { waits_for: None, ..*now };
        same && self.ran.is_some() && !self.unfinished
    }
}

/// Reads processes one after the other, always into the same memory.
#[derive(Debug)]
pub(super) struct RowReader {
    pub(super) row: Process,
    pub(super) encoded: Vec<u8>,
    pub(super) missed: Missed,
    pub(super) memory: Memory,
    proc: Arc<OwnedFd>,
    devices: PseudoDevices,
    hashes: Arc<Mutex<Hashes>>,
    redactor: Option<Arc<Redactor>>,
    hasher: RandomState,
    reads_maps: bool,
    files: FileReader,
    mapped: Mapped,
    progress: Arc<Progress>,
    stat: Vec<u8>,
    cgroup: Vec<u8>,
    buf: Vec<u8>,
    links: [Vec<u8>; 3],
    folder: Vec<MaybeUninit<u8>>,
    status: Status,
}

impl RowReader {
    pub(super) fn new(shared: &Tools, settings: &ProcessSettings, progress: Arc<Progress>) -> Self {
        Self {
            row: Process::default(),
            encoded: Vec::new(),
            missed: Missed::default(),
            memory: Memory { start_ticks: 0, facts: 0, ran: None, descriptors: 0, waits_for: None, unfinished: true },
            proc: Arc::clone(&shared.proc),
            devices: shared.devices,
            hashes: Arc::clone(&shared.hashes),
            redactor: shared.redactor.clone(),
            hasher: shared.hasher.clone(),
            reads_maps: settings.mapped,
            files: FileReader::new(shared.devices),
            mapped: Mapped::default(),
            progress,
            stat: vec![0; 4 << 10],
            cgroup: vec![0; 16 << 10],
            buf: vec![0; ARGV_BYTES_MAX + 1],
            links: [vec![0; 4 << 10], vec![0; 4 << 10], vec![0; 4 << 10]],
            folder: vec![MaybeUninit::uninit(); 32 << 10],
            status: Status::default(),
        }
    }

    /// Looks at a process, and reads it unless nothing of it changed.
    pub(super) fn read(&mut self, task: &Task, context: &Context) -> Outcome {
        self.progress.at(Step::Stat);
        self.missed.0.clear();
        let dir = match open_place(self.proc.as_fd(), Name::of(task.pid).as_c_str()) {
            Ok(dir) => dir,
            Err(errno) => return self.unreadable("stat", errno),
        };
        let (mut stat, mut cgroup) = (mem::take(&mut self.stat), mem::take(&mut self.cgroup));
        let outcome = self.read_at(task, dir.as_fd(), &mut stat, &mut cgroup, context);
        (self.stat, self.cgroup) = (stat, cgroup);
        if outcome == Outcome::Row {
            encode_row_into(&self.row, &mut self.encoded);
        }
        outcome
    }

    fn read_at(
        &mut self,
        task: &Task,
        dir: BorrowedFd<'_>,
        stat_buf: &mut [u8],
        cgroup_buf: &mut [u8],
        context: &Context,
    ) -> Outcome {
        let mut length = match read_file(dir, c"stat", stat_buf) {
            Ok(text) => text.len(),
            Err(errno) => return self.unreadable("stat", errno),
        };
        for attempt in 1..=ATTEMPTS {
            let stat = match parse_stat(&stat_buf[..length]) {
                Ok(stat) => stat,
                Err(malformed) => {
                    self.missed.malformed("stat", malformed);
                    return Outcome::Unreadable;
                }
            };
            // First whether it runs, then what it has: what happens after this look shows at the next one.
            let asks = context.schedstat != Counting::No && stat.state != b'R';
            let ran = if asks { self.ran(task, &stat, dir) } else { None };
            let descriptors = if stat.is_kernel_thread() { 0 } else { inode(dir, c"fd").map_or(0, |fd| fd.size) };
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
                && !before.waits_for.is_some_and(|key| self.hashes().would_answer(&key))
            {
                self.memory.waits_for = before.waits_for;
                return Outcome::Unchanged;
            }
            self.fill(task, &stat, cgroup, dir, context);

            let identity = stat.starttime;
            let program = (stat.startstack, stat.is_dead(), stat.comm.to_vec());
            self.progress.at(Step::Stat);
            length = match read_file(dir, c"stat", stat_buf) {
                Ok(text) => text.len(),
                Err(errno) => {
                    // What was read until it ended is true, and more than nothing.
                    self.missed.add("stat", errno);
                    break;
                }
            };
            match parse_stat(&stat_buf[..length]) {
                Ok(after) if after.starttime != identity => return Outcome::Gone,
                Ok(after) if (after.startstack, after.is_dead(), after.comm) == (program.0, program.1, &program.2) => {
                    break;
                }
                Ok(_) if attempt == ATTEMPTS => {
                    self.missed.because("exec", GapReason::Budget, "executes other programs faster than it is read");
                }
                _ => {}
            }
        }
        self.settle_missed(task);
        Outcome::Row
    }

    /// Sorts what is missing from what is merely not there.
    fn settle_missed(&mut self, task: &Task) {
        let gone = self.missed.0.iter().any(|miss| (miss.field, miss.reason) == ("stat", GapReason::Gone));
        // A field that is not there belongs to a process or a kernel that has none, unless the process ended.
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
        let may_pass = |miss: &Miss| matches!(miss.reason, GapReason::Denied | GapReason::TooLong);
        self.memory.unfinished = task.careful || task.short || gone || !self.missed.0.iter().all(may_pass);
    }

    /// How much its threads ran, or `None` when that is not known or costs more than reading the process.
    fn ran(&mut self, task: &Task, stat: &Stat<'_>, dir: BorrowedFd<'_>) -> Option<Ran> {
        let mut ran = Ran::default();
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
        self.hashes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unreadable(&mut self, field: &'static str, errno: Errno) -> Outcome {
        self.missed.add(field, errno);
        if reason(&errno.into()) == GapReason::Gone { Outcome::Gone } else { Outcome::Unreadable }
    }

    /// Fills the row with everything there is.
    fn fill(
        &mut self,
        task: &Task,
        stat: &Stat<'_>,
        cgroup: Result<&[u8], Errno>,
        dir: BorrowedFd<'_>,
        context: &Context,
    ) {
        self.missed.0.clear();
        self.start_row(task.pid, stat, context.boot_time_ns);
        self.put_cgroup(cgroup);
        self.read_status(dir, context);
        self.read_io(dir);

        // A thread group goes on after its first thread ended; that thread then shows as a zombie without files.
        let living = if stat.is_dead() && stat.num_threads > 1 { self.living_thread(task.pid, dir) } else { None };
        let place = living.as_ref().map_or(dir, AsFd::as_fd);
        if living.is_none() && stat.is_dead() {
            return;
        }
        if !stat.is_kernel_thread() {
            self.read_memory(task, place);
        }
        self.read_namespaces(place);
        self.read_held(task, place, stat.is_kernel_thread());
        let limits = if task.short { Limits::NONE } else { context.limits };
        let listed = self.files.read(place, limits, &mut self.row.files, &mut self.missed, &self.progress);
        if let Some((total, all)) = listed {
            self.row.files_total = Some(total);
            self.row.truncated = !all;
        }
        if task.short {
            self.row.files.truncate(3);
            self.row.truncated = true;
        }
    }

    /// Command line and mapped files: what lies in the memory of the process, or asks for its map.
    fn read_memory(&mut self, task: &Task, place: BorrowedFd<'_>) {
        if task.careful {
            let detail = "not read: reads of this process, or of too many others, hang";
            self.missed.because("argv", GapReason::Stuck, detail);
            if self.reads_maps {
                self.missed.because("mapped", GapReason::Stuck, detail);
            }
            return;
        }
        self.read_cmdline(place);
        if self.reads_maps && !task.short {
            self.read_maps(place);
        }
    }

    fn start_row(&mut self, pid: u32, stat: &Stat<'_>, boot_time_ns: i64) {
        let old = mem::take(&mut self.row);
        let mut files = old.files;
        self.files.recycle(&mut files);
        let mut comm = old.comm;
        comm.0.clear();
        comm.0.extend_from_slice(stat.comm);
        let mut argv = old.argv;
        argv.clear();
        let mut mapped = old.mapped;
        self.mapped.start(&mut mapped);
        self.row = Process {
            pid,
            start_ticks: stat.starttime,
            ppid: stat.ppid,
            pgid: stat.pgrp,
            sid: stat.session,
            tty: stat.tty_nr,
            tpgid: stat.tpgid,
            comm,
            argv,
            state: char::from(stat.state),
            threads: stat.num_threads,
            nice: stat.nice,
            priority: stat.priority,
            flags: stat.flags,
            utime_ticks: stat.utime,
            stime_ticks: stat.stime,
            vsize_bytes: stat.vsize,
            rss_pages: stat.rss,
            kernel_thread: stat.is_kernel_thread(),
            start_time_ns: start_time_ns(boot_time_ns, stat.starttime),
            mapped,
            files,
            ..Process::default()
        };
    }

    fn read_status(&mut self, dir: BorrowedFd<'_>, context: &Context) {
        self.progress.at(Step::Status);
        // Numbers that are no ids: a row without its status must not look like root's.
        (self.row.uids, self.row.gids) = ([u32::MAX; 4], [u32::MAX; 4]);
        match read_file(dir, c"status", &mut self.buf) {
            Err(errno) => return self.missed.add("status", errno),
            Ok(text) => {
                if let Err(malformed) = parse_status(text, &mut self.status) {
                    return self.missed.malformed("status", malformed);
                }
            }
        }
        let status = &self.status;
        self.row.uids = status.uids;
        self.row.gids = status.gids;
        self.row.groups.clone_from(&status.groups);
        self.row.capabilities = status.capabilities;
        self.row.seccomp = status.seccomp;
        self.row.no_new_privs = status.no_new_privs;
        self.row.locked = status.locked;
        // `stat` gives an estimate that may be off by some pages for each processor; `status` is exact since Linux 6.17.
        if let Some(kib) = status.rss_kib {
            self.row.rss_pages = kib.saturating_mul(1024) / procfs::page_size().max(1);
        }
        self.row.user = context.users.get(status.uids[1]).map(str::to_owned);
        self.row.group = context.groups.get(status.gids[1]).map(str::to_owned);
        if status.groups_cut {
            self.missed.because("groups", GapReason::TooLong, "more supplementary groups than are listed");
        }
    }

    fn put_cgroup(&mut self, cgroup: Result<&[u8], Errno>) {
        match cgroup {
            Ok(text) => {
                let cgroup = parse_cgroup(text);
                self.row.cgroup = cgroup.path;
                self.row.unit = cgroup.unit;
                self.row.user_unit = cgroup.user_unit;
                self.row.slice = cgroup.slice;
                self.row.container = cgroup.container;
            }
            Err(errno) => self.missed.add("cgroup", errno),
        }
    }

    fn read_io(&mut self, dir: BorrowedFd<'_>) {
        match read_file(dir, c"io", &mut self.buf).map(parse_io) {
            Ok(Ok(io)) => self.row.io = Some(io),
            Ok(Err(malformed)) => self.missed.malformed("io", malformed),
            Err(errno) => self.missed.add("io", errno),
        }
        match read_file(dir, c"loginuid", &mut self.buf).map(parse_loginuid) {
            Ok(Ok(loginuid)) => self.row.loginuid = loginuid,
            Ok(Err(malformed)) => self.missed.malformed("loginuid", malformed),
            Err(errno) => self.missed.add("loginuid", errno),
        }
    }

    fn read_cmdline(&mut self, place: BorrowedFd<'_>) {
        self.progress.at(Step::Cmdline);
        match read_counted(place, c"cmdline", &mut self.buf) {
            Ok((kept, total)) => {
                if !split_cmdline(&self.buf[..kept], &mut self.row.argv) || total > kept as u64 {
                    self.row.argv_bytes = Some(total);
                }
                if let Some(redactor) = &self.redactor {
                    redactor.redact(&mut self.row.argv);
                }
            }
            Err(errno) => self.missed.add("argv", errno),
        }
    }

    /// The kernel gives a page of lines at a time.
    fn read_maps(&mut self, place: BorrowedFd<'_>) {
        self.progress.at(Step::Maps);
        let mut read_all = || -> Result<(), Errno> {
            let file = open_file(place, c"maps")?;
            let mut kept = 0; // the beginning of a line whose end is still to come
            loop {
                let len = kept + retry_on_intr(|| read(&file, &mut self.buf[kept..]))?;
                self.progress.beat();
                let ended = len == kept;
                let mut line_start = 0;
                for at in kept..len {
                    if self.buf[at] == b'\n' {
                        self.mapped.add_line(&self.buf[line_start..at]);
                        line_start = at + 1;
                    }
                }
                if ended || line_start == 0 && len == self.buf.len() {
                    return Ok(());
                }
                self.buf.copy_within(line_start..len, 0);
                kept = len - line_start;
            }
        };
        if let Err(errno) = read_all() {
            self.missed.add("mapped", errno);
        }
        if self.mapped.finish(&mut self.row.mapped) {
            self.missed.because("mapped", GapReason::TooLong, "more mapped files than are listed");
        }
    }

    fn read_namespaces(&mut self, place: BorrowedFd<'_>) {
        self.progress.at(Step::Links);
        let mut read = |name: &CStr| match read_link(place, name, &mut self.buf) {
            Ok(link) => namespace_inode(link).unwrap_or(0),
            Err(errno) => {
                self.missed.add("namespaces", errno);
                0
            }
        };
        self.row.namespaces = Namespaces {
            mnt: read(c"ns/mnt"),
            pid: read(c"ns/pid"),
            net: read(c"ns/net"),
            user: read(c"ns/user"),
            uts: read(c"ns/uts"),
            ipc: read(c"ns/ipc"),
            cgroup: read(c"ns/cgroup"),
            time: read(c"ns/time"),
        };
    }

    /// `cwd`, `root` and `exe`.
    fn read_held(&mut self, task: &Task, place: BorrowedFd<'_>, is_kernel_thread: bool) {
        self.progress.at(Step::Links);
        let mut links = mem::take(&mut self.links);
        let [cwd, root, exe] = &mut links;
        let held = [
            (Fd::Cwd, c"cwd", "cwd", Some(cwd)),
            (Fd::Root, c"root", "root", Some(root)),
            (Fd::Exe, c"exe", "exe", Some(exe).filter(|_| !is_kernel_thread)),
        ];
        for (fd, name, field, link) in held {
            let Some(link) = link else { continue };
            let (text, found) = match read_held(place, name, link) {
                Ok(held) => held,
                Err(errno) => {
                    self.missed.add(field, errno);
                    continue;
                }
            };
            let path = Bytes::from(path_of(text, found.nlink));
            match fd {
                Fd::Cwd => self.row.cwd = Some(path),
                Fd::Root => self.row.root = Some(path),
                _ => {
                    self.row.exe = Some(Exe {
                        path,
                        deleted: found.nlink == 0,
                        memfd: memfd_name(text).is_some() && is_memfd(&found, self.devices),
                        dev: found.dev,
                        inode: found.inode,
                        size: found.size,
                        setid: found.mode & 0o6000 != 0,
                        sha256: None,
                        not_hashed: None,
                    });
                    self.hash_exe(task, place, &found);
                }
            }
            self.files.push_held(&Held { fd, link: text, inode: found }, &mut self.row.files);
        }
        self.links = links;
    }

    fn hash_exe(&mut self, task: &Task, place: BorrowedFd<'_>, found: &Inode) {
        let known = self.hashes().look_up(found);
        let result = match known {
            Lookup::Known(sha256) => Ok(sha256),
            Lookup::Not(reason) => Err(reason),
            Lookup::Read if task.careful => Err(NotHashed::Stuck),
            Lookup::Read => hash(place, found, &mut self.buf, &self.progress),
        };
        if known == Lookup::Read
            && let Ok(sha256) = result
        {
            self.hashes().put(found, sha256);
        }
        if result == Err(NotHashed::Budget) {
            self.memory.waits_for = Some(ContentKey::from(found));
        }
        if let Some(exe) = &mut self.row.exe {
            exe.sha256 = result.ok().map(|sha256| Bytes::from(&sha256));
            exe.not_hashed = result.err().map(|reason| reason.name().to_owned());
        }
    }

    /// The folder of a thread that still lives.
    fn living_thread(&mut self, pid: u32, dir: BorrowedFd<'_>) -> Option<OwnedFd> {
        let tasks = open_folder(dir, c"task").ok()?;
        let mut threads = Vec::new();
        each_number(&tasks, &mut self.folder, |tid| {
            if tid != pid && threads.len() < 64 {
                threads.push(tid);
            }
        })
        .ok()?;
        threads.into_iter().find_map(|tid| {
            let thread = open_place(tasks.as_fd(), Name::of(tid).as_c_str()).ok()?;
            let stat = parse_stat(read_file(thread.as_fd(), c"stat", &mut self.buf).ok()?).ok()?;
            (!stat.is_dead()).then_some(thread)
        })
    }
}

fn read_held<'b>(place: BorrowedFd<'_>, name: &CStr, link: &'b mut [u8]) -> Result<(&'b [u8], Inode), Errno> {
    let text = read_link(place, name, link)?;
    Ok((text, inode(place, name)?))
}

/// Reads `name` into `buf` and counts its bytes to the end: what is in `buf`, and how many there are.
fn read_counted(dir: BorrowedFd<'_>, name: &CStr, buf: &mut [u8]) -> Result<(usize, u64), Errno> {
    let file = open_file(dir, name)?;
    let kept = retry_on_intr(|| read(&file, &mut *buf))?;
    let mut total = kept as u64;
    if kept == buf.len() {
        let mut rest = vec![0; 64 << 10];
        while total < CMDLINE_COUNT_MAX {
            match retry_on_intr(|| read(&file, &mut *rest))? {
                0 => break,
                more => total += more as u64,
            }
        }
    }
    Ok((kept, total))
}

/// Ticks since boot as wall-clock time.
fn start_time_ns(boot_time_ns: i64, start_ticks: u64) -> i64 {
    let ns = u128::from(start_ticks) * 1_000_000_000 / u128::from(procfs::ticks_per_second().max(1));
    boot_time_ns.saturating_add(i64::try_from(ns).unwrap_or(i64::MAX))
}
