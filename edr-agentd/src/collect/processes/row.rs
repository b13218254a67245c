//! Reading one process: one pass over its folder, everything relative to it.
//!
//! The folder is opened once. An open `/proc/PID` belongs to that very process: when it ends and its pid is given
//! away, everything below fails with `ESRCH`, so a row never mixes two processes. What can still happen is that the
//! *same* process executes another program in the middle; `stat` is read again at the end, and a row whose start time,
//! stack or name moved is read anew.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use edr_wire::Bytes;
use edr_wire::limits::ARGV_BYTES_MAX;
use edr_wire::snapshot::{Exe, Fd, GapReason, Namespaces, Process};
use rustix::io::{Errno, read, retry_on_intr};

use super::cgroup::parse_cgroup;
use super::cmdline::split_cmdline;
use super::file::{Inode, PseudoDevices, each_number, inode, open_file, open_folder, open_place, read_file, read_link};
use super::files::{FileReader, Held, is_memfd};
use super::io::{parse_io, parse_loginuid};
use super::link::{memfd_name, namespace_inode, path_of};
use super::number::Name;
use super::stat::{Stat, parse_stat};
use super::status::{Status, parse_status};
use super::step::{Progress, Step};
use super::users::Names;
use super::{Malformed, ProcessSettings};
use crate::errno::reason;

/// How often a process that executes another program while it is read is read anew.
const ATTEMPTS: usize = 3;
/// Bytes after which the length of a command line is no longer counted: the kernel allows 6 MiB (execve(2)).
const CMDLINE_COUNT_MAX: u64 = 16 << 20;

/// What could not be read of one process.
#[derive(Debug, Default)]
pub(super) struct Missed(Vec<Miss>);

/// One thing that could not be read.
#[derive(Debug)]
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

/// What a look at a process came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// [`RowReader::row`] holds its row.
    Row,
    /// It went away before anything of it was known.
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
}

/// Reads processes one after the other, always into the same memory.
#[derive(Debug)]
pub(super) struct RowReader {
    pub(super) row: Process,
    pub(super) missed: Missed,
    proc: Arc<OwnedFd>,
    devices: PseudoDevices,
    files: FileReader,
    files_max: usize,
    progress: Arc<Progress>,
    stat: Vec<u8>,
    buf: Vec<u8>,
    links: [Vec<u8>; 3],
    folder: Vec<MaybeUninit<u8>>,
    status: Status,
}

impl RowReader {
    pub(super) fn new(
        proc: Arc<OwnedFd>,
        devices: PseudoDevices,
        settings: &ProcessSettings,
        progress: Arc<Progress>,
    ) -> Self {
        Self {
            row: Process::default(),
            missed: Missed::default(),
            proc,
            devices,
            files: FileReader::new(devices, settings.files_per_process_max),
            files_max: settings.files_per_process_max,
            progress,
            stat: vec![0; 4 << 10],
            buf: vec![0; ARGV_BYTES_MAX + 1],
            links: [vec![0; 4 << 10], vec![0; 4 << 10], vec![0; 4 << 10]],
            folder: vec![MaybeUninit::uninit(); 4 << 10],
            status: Status::default(),
        }
    }

    /// Reads the process `pid`. `careful` leaves out what may hang ([`Step::may_hang`]).
    pub(super) fn read(&mut self, pid: u32, context: &Context, careful: bool) -> Outcome {
        self.progress.at(Step::Stat);
        let opened = open_place(self.proc.as_fd(), Name::of(pid).as_c_str());
        let dir = match opened {
            Ok(dir) => dir,
            Err(errno) => return self.unreadable("stat", errno),
        };
        let mut stat = std::mem::take(&mut self.stat);
        let outcome = self.read_at(pid, dir.as_fd(), &mut stat, context, careful);
        self.stat = stat;
        outcome
    }

    fn read_at(&mut self, pid: u32, dir: BorrowedFd<'_>, stat: &mut [u8], context: &Context, careful: bool) -> Outcome {
        let mut length = match read_file(dir, c"stat", stat) {
            Ok(text) => text.len(),
            Err(errno) => return self.unreadable("stat", errno),
        };
        for attempt in 1..=ATTEMPTS {
            let before = match parse_stat(&stat[..length]) {
                Ok(before) => before,
                Err(malformed) => {
                    self.missed.malformed("stat", malformed);
                    return Outcome::Unreadable;
                }
            };
            let identity = before.starttime;
            let program = (before.startstack, before.is_dead(), before.comm.to_vec());
            self.fill(pid, &before, dir, context, careful);

            self.progress.at(Step::Stat);
            length = match read_file(dir, c"stat", stat) {
                Ok(text) => text.len(),
                Err(errno) => {
                    // What was read until it ended is true, and more than nothing.
                    self.missed.add("stat", errno);
                    break;
                }
            };
            match parse_stat(&stat[..length]) {
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
        let gone = self.missed.0.iter().any(|miss| (miss.field, miss.reason) == ("stat", GapReason::Gone));
        for miss in &self.missed.0 {
            // A field that is not there belongs to a process or a kernel that has none, unless the process ended.
            if (gone || miss.reason != GapReason::Gone) && !self.row.incomplete.iter().any(|known| known == miss.field)
            {
                self.row.incomplete.push(miss.field.to_owned());
            }
        }
        self.missed.0.retain(|miss| miss.reason != GapReason::Gone || miss.field == "stat");
        self.row.incomplete.sort_unstable();
        Outcome::Row
    }

    fn unreadable(&mut self, field: &'static str, errno: Errno) -> Outcome {
        self.missed.add(field, errno);
        if reason(&errno.into()) == GapReason::Gone { Outcome::Gone } else { Outcome::Unreadable }
    }

    /// Fills the row with everything there is.
    fn fill(&mut self, pid: u32, stat: &Stat<'_>, dir: BorrowedFd<'_>, context: &Context, careful: bool) {
        self.missed.0.clear();
        self.start_row(pid, stat, context.boot_time_ns);
        self.read_status(dir, context);
        self.read_cgroup(dir);
        self.read_io(dir);

        // A thread group goes on after its first thread ended; that thread then shows as a zombie without files.
        let living = if stat.is_dead() && stat.num_threads > 1 { self.living_thread(pid, dir) } else { None };
        let place = living.as_ref().map_or(dir, AsFd::as_fd);
        let has_files = living.is_some() || !stat.is_dead();
        if !has_files {
            return;
        }
        if !stat.is_kernel_thread() {
            if careful {
                self.missed.because("argv", GapReason::Stuck, "not read: reads of it, or too many others, hang");
            } else {
                self.read_cmdline(place);
            }
        }
        self.read_namespaces(place);
        self.read_held(place, stat.is_kernel_thread());
        let total = self.files.read(place, &mut self.row.files, &mut self.missed, &self.progress);
        self.row.files_total = total;
        self.row.truncated = total.is_some_and(|total| total > self.files_max as u64);
    }

    fn start_row(&mut self, pid: u32, stat: &Stat<'_>, boot_time_ns: i64) {
        let old = std::mem::take(&mut self.row);
        let mut files = old.files;
        self.files.recycle(&mut files);
        let mut comm = old.comm;
        comm.0.clear();
        comm.0.extend_from_slice(stat.comm);
        let mut argv = old.argv;
        argv.clear();
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
        self.row.user = context.users.get(status.uids[1]).map(str::to_owned);
        self.row.group = context.groups.get(status.gids[1]).map(str::to_owned);
        if status.groups_cut {
            self.missed.because("groups", GapReason::TooLong, "more supplementary groups than are listed");
        }
    }

    fn read_cgroup(&mut self, dir: BorrowedFd<'_>) {
        self.progress.at(Step::Other);
        match read_file(dir, c"cgroup", &mut self.buf) {
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
            }
            Err(errno) => self.missed.add("argv", errno),
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
    fn read_held(&mut self, place: BorrowedFd<'_>, is_kernel_thread: bool) {
        let [cwd, root, exe] = &mut self.links;
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
                        not_hashed: Some("off".to_owned()),
                    });
                }
            }
            self.files.push_held(&Held { fd, link: text, inode: found }, &mut self.row.files);
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
