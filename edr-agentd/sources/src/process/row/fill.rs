//! Facts from the kernel's own memory: identity, rights, folders, descriptors.

use std::ffi::CStr;
use std::hash::BuildHasher as _;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use edr_wire::Bytes;
use edr_wire::snapshot::{Exe, Fd, GapReason, Namespaces, Process};
use rustix::io::Errno;

use super::super::cgroup::parse_cgroup;
use super::super::file::{
    Inode, each_number, inode, open_file, open_folder, open_place, read_file, read_link, read_more,
};
use super::super::files::{ListLimits, ListedFiles, ProcessLink, is_memfd};
use super::super::hash::{ContentKey, HashAbsence, Lookup, hash};
use super::super::io::{parse_io, parse_loginuid};
use super::super::link::{memfd_name, namespace_inode, path_of};
use super::super::number::Name;
use super::super::room::RowGrant;
use super::super::stat::{Stat, parse_stat};
use super::super::status::{parse_status, shorten_lines};
use super::super::step::Step;
use super::fit::{TextHistory, fit, texts};
use super::{PassContext, ReadTask, RowReader};

/// Maximum number of threads searched for a living thread, in a process with a dead first thread (some 10 ms).
const THREADS_LOOKED_AT_MAX: usize = 2_048;

impl RowReader {
    /// Fills the row with everything there is, within the room of its owner. False where there is no room for a row.
    pub(super) fn fill(
        &mut self,
        task: &ReadTask,
        stat: &Stat<'_>,
        cgroup: Result<&[u8], Errno>,
        dir: BorrowedFd<'_>,
        context: &PassContext,
    ) -> bool {
        self.missed.0.clear();
        self.start_row(task.pid, stat, context.boot_time_ns);
        self.put_cgroup(cgroup);
        self.read_status(dir, context);
        let grant = self.grant(task);
        if !grant.is_listed {
            // The sockets of the namespace are listed all the same.
            self.progress.at(Step::Links);
            let link = read_link(dir, c"ns/net", &mut self.buf);
            self.row.namespaces.net = link.ok().and_then(namespace_inode).unwrap_or(0);
            return false;
        }
        self.read_io(dir);

        // A thread group continues after the end of its first thread; the first thread then appears as a zombie without
        // files.
        let has_others = stat.is_dead() && stat.num_threads > 1;
        let living = if has_others { self.living_thread(task.pid, dir) } else { None };
        let place = living.as_ref().map_or(dir, AsFd::as_fd);
        if living.is_none() && stat.is_dead() {
            if has_others {
                // The process's threads have some namespace all the same.
                self.missed.because("namespaces", GapReason::Budget, "no living thread of the process was found");
            }
            self.fit(task, ListedFiles::default(), grant);
            return true;
        }
        if !stat.is_kernel_thread() {
            self.read_memory(task, place);
        }
        self.read_namespaces(place);
        self.read_held(task, place, stat.is_kernel_thread());
        let room = usize::try_from(grant.lists).unwrap_or(usize::MAX);
        let limits = ListLimits { bytes: context.limits.bytes.min(room), ..context.limits };
        let listed = self.files.read(place, limits, &mut self.row.files, &mut self.missed, &self.progress);
        let mut listed = listed.inspect(|listed| self.row.files_total = Some(listed.total)).unwrap_or_default();
        self.row.truncated = listed.is_limited || listed.unread > 0;
        if limits.bytes == context.limits.bytes {
            // The limit of any row, not the share of the owner, left files out.
            listed.unread = 0;
        }
        self.fit(task, listed, grant);
        true
    }

    /// Shortens the lists to the room of the owner.
    fn fit(&mut self, task: &ReadTask, listed: ListedFiles, grant: RowGrant) {
        let hash = self.hasher.hash_one(texts(&self.row));
        let before = task.known.filter(|(start_ticks, _)| *start_ticks == self.row.start_ticks);
        self.texts = TextHistory::after(before.map(|(_, texts)| texts), hash);
        fit(&mut self.row, listed, grant, self.texts.is_rewritten(), &mut self.size, &mut self.missed);
        if self.row.argv_hash.is_some() {
            self.row.argv_bytes = Some(self.argv_total);
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

    pub(super) fn read_status(&mut self, dir: BorrowedFd<'_>, context: &PassContext) {
        self.progress.at(Step::Status);
        // Values that are no ids: a row without its status must not look like root's.
        (self.row.uids, self.row.gids) = ([u32::MAX; 4], [u32::MAX; 4]);
        match read_status_file(dir, &mut self.buf) {
            Err(errno) => return self.missed.add("status", errno),
            Ok(len) => {
                if let Err(malformed) = parse_status(&self.buf[..len], &mut self.status) {
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
        // `stat` gives an estimate that may be off by some pages for each processor; `status` is exact since Linux
        // 6.17.
        if let Some(kib) = status.rss_kib {
            self.row.rss_pages = kib.saturating_mul(1024) / procfs::page_size().max(1);
        }
        self.row.user = context.users.get(status.uids[1]).map(str::to_owned);
        self.row.group = context.groups.get(status.gids[1]).map(str::to_owned);
        if status.groups_cut {
            self.missed.because("groups", GapReason::TooLong, "more supplementary groups than are listed");
        }
    }

    pub(super) fn put_cgroup(&mut self, cgroup: Result<&[u8], Errno>) {
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
        self.progress.at(Step::Io);
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
    fn read_held(&mut self, task: &ReadTask, place: BorrowedFd<'_>, is_kernel_thread: bool) {
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
            self.files.push_held(&ProcessLink { fd, link: text, inode: found }, &mut self.row.files);
        }
        self.links = links;
    }

    fn hash_exe(&mut self, task: &ReadTask, place: BorrowedFd<'_>, found: &Inode) {
        let known = self.hashes().look_up(self.size.owner, found);
        let result = match known {
            Lookup::Known(sha256) => Ok(sha256),
            Lookup::Not(reason) => Err(reason),
            Lookup::Read if task.left_out.has(Step::Hash) => Err(HashAbsence::Stuck),
            Lookup::Read => hash(place, found, &mut self.buf, &self.progress),
        };
        if known == Lookup::Read
            && let Ok(sha256) = result
        {
            self.hashes().put(self.size.owner, found, sha256);
        }
        if result == Err(HashAbsence::Budget) {
            self.memory.waits_for = Some((self.size.owner, ContentKey::from(found)));
        }
        if let Some(exe) = &mut self.row.exe {
            exe.sha256 = result.ok().map(|sha256| Bytes::from(&sha256));
            exe.not_hashed = result.err().map(|reason| reason.name().to_owned());
        }
    }

    /// The folder of a living thread. A traced thread stays in the list after its end, dead, so all threads are
    /// checked.
    fn living_thread(&mut self, pid: u32, dir: BorrowedFd<'_>) -> Option<OwnedFd> {
        self.progress.at(Step::Stat);
        let (mut living, mut looked_at) = (None, 0);
        let (progress, buf, folder) = (&self.progress, &mut self.buf, &mut self.folder);
        let listed = open_folder(dir, c"task").and_then(|tasks| {
            each_number(&tasks, folder, |tid| {
                if tid == pid || living.is_some() || looked_at == THREADS_LOOKED_AT_MAX {
                    return;
                }
                looked_at += 1;
                progress.beat();
                let thread = open_place(tasks.as_fd(), Name::of(tid).as_c_str());
                living = thread.ok().filter(|thread| {
                    let text = read_file(thread.as_fd(), c"stat", buf);
                    text.is_ok_and(|text| parse_stat(text).is_ok_and(|stat| !stat.is_dead()))
                });
            })
        });
        if let Err(errno) = listed {
            self.missed.add("files", errno);
        } else if living.is_none() {
            let detail = format!("the first thread is dead, and so are the {looked_at} other threads checked");
            self.missed.because("files", GapReason::Budget, &detail);
        }
        living
    }
}

/// Reads `status` to its end, with any number of groups. The kernel gives the pieces of one moment.
fn read_status_file(dir: BorrowedFd<'_>, buf: &mut [u8]) -> Result<usize, Errno> {
    let file = open_file(dir, c"status")?;
    let mut len = read_more(&file, buf)?;
    while len == buf.len() {
        len = shorten_lines(buf);
        match read_more(&file, &mut buf[len..])? {
            0 => break,
            more => len += more,
        }
    }
    Ok(len)
}

fn read_held<'b>(place: BorrowedFd<'_>, name: &CStr, link: &'b mut [u8]) -> Result<(&'b [u8], Inode), Errno> {
    let text = read_link(place, name, link)?;
    Ok((text, inode(place, name)?))
}

/// Ticks since boot as wall-clock time.
fn start_time_ns(boot_time_ns: i64, start_ticks: u64) -> i64 {
    let ns = u128::from(start_ticks) * 1_000_000_000 / u128::from(procfs::ticks_per_second().max(1));
    boot_time_ns.saturating_add(i64::try_from(ns).unwrap_or(i64::MAX))
}
