//! Follows a log file by position, through rename, truncation and copying.
//!
//! A position consists of the device, the inode, the bytes read, and the hash of the file's first bytes. So a reused
//! inode and a rewritten file are recognized. The position moves only over whole lines, and a new reader continues
//! exactly there. Unreadable bytes are a gap with a range.
//!
//! - Renamed: the old file is read through the open descriptor (or found again by inode) until the old file is quiet
//!   and the new file has lines, because writers write to the old file until they reopen the log.
//! - Truncated in place, or copied and truncated: the new content is read from the start; unread bytes are searched in
//!   a copy beside the log with the same first bytes.
//! - Compressed or deleted while the agent was down: a gap.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use edr_wire::Bytes;
use edr_wire::snapshot::{GapReason, Position};

use crate::common::GapCollector;
use crate::common::files::{FileRefusal, FileStamp, open_log, stamp_of_file};
use crate::common::lines::LINE_BYTES_MAX;

/// First bytes of a file covered by the hash.
const HEAD_BYTES_MAX: usize = 256;
/// Kept bytes of a hash.
const HASH_BYTES: usize = 16;
/// Bytes read at once.
const CHUNK_BYTES: usize = 256 << 10;
/// Maximum number of unread bytes per log; older bytes are skipped, with a gap. Reading more would take minutes, and
/// newer lines matter more.
const BACKLOG_BYTES_MAX: u64 = 64 << 20;
/// Rotated files followed at once.
const OLD_FILES_MAX: usize = 4;
/// Readings without growth after which a rotated file counts as quiet.
const QUIET_READINGS: u32 = 3;
/// Number of completely read rotated files that are remembered.
const FINISHED_MAX: usize = 16;
/// Checked files in the log's folder when a rotated file is searched.
const SIBLINGS_MAX: usize = 1_024;

/// The decision of a line's consumer: to continue or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    On,
    /// The budget of this tick is used up; the line was taken.
    Enough,
}

/// A piece of a log.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Piece<'a> {
    /// A line without the line end.
    Line(&'a [u8]),
    /// The last line of a rotated file, without a line end.
    LastOfFile(&'a [u8]),
    /// First bytes of a line longer than [`LINE_BYTES_MAX`]; the rest of the line is skipped.
    TooLong(&'a [u8]),
}

/// An open log file with the read position.
#[derive(Debug)]
struct OpenLog {
    fd: OwnedFd,
    stamp: FileStamp,
    offset: u64,
    /// File size at which the last reading ended; unread bytes below this size are an incomplete line.
    seen_size: u64,
    /// Stamp of the file when its head was last compared.
    verified: Option<FileStamp>,
    head: Vec<u8>,
    /// True in the middle of an overlong line.
    passing_over: bool,
    quiet: u32,
}

/// A log, given by path.
#[derive(Debug)]
pub(crate) struct LogTail {
    path: PathBuf,
    current: Option<OpenLog>,
    old: VecDeque<OpenLog>,
    /// Device, inode and size of completely read rotated files, latest first.
    finished: VecDeque<(u64, u64, u64)>,
    /// Positions from an earlier run, until the files have been searched.
    remembered: Vec<Position>,
    buffer: Vec<u8>,
    problem: Option<(GapReason, String)>,
}

impl LogTail {
    /// Continues at the positions of this path; without a position, reads the file from its start.
    pub(crate) fn new(path: PathBuf, positions: &[Position]) -> Self {
        let source = path.as_os_str().as_bytes();
        let remembered = positions.iter().filter(|position| position.source.0 == source).cloned().collect();
        Self {
            path,
            current: None,
            old: VecDeque::new(),
            finished: VecDeque::new(),
            remembered,
            buffer: Vec::new(),
            problem: None,
        }
    }

    /// Passes the new lines since the last reading to `take`, oldest first.
    pub(crate) fn read(&mut self, gaps: &mut GapCollector, mut take: impl FnMut(Piece<'_>) -> Flow) {
        self.find(gaps);
        if let Some((reason, detail)) = &self.problem {
            gaps.add("packets", None, self.path.as_os_str().as_bytes(), *reason, detail);
        }
        let mut flow = Flow::On;
        for old in &mut self.old {
            if flow == Flow::On {
                flow = old.read(&mut self.buffer, &self.path, gaps, &mut take);
            }
        }
        self.retire(flow, gaps, &mut take);
        if flow == Flow::On
            && let Some(current) = &mut self.current
        {
            current.read(&mut self.buffer, &self.path, gaps, &mut take);
        }
        self.buffer.shrink_to(CHUNK_BYTES);
    }

    /// The positions at which a later reader continues, oldest file first.
    pub(crate) fn positions(&self) -> Vec<Position> {
        // Positions of files not searched yet (the log is missing) must be kept.
        let source = Bytes::from(self.path.as_os_str().as_bytes());
        let open = self.old.iter().chain(&self.current).map(|reading| reading.position(&source));
        self.remembered.iter().cloned().chain(open).collect()
    }

    /// Updates the open files to match the file at the path.
    fn find(&mut self, gaps: &mut GapCollector) {
        self.problem = None;
        let opened = match open_log(&self.path) {
            Ok((fd, stamp)) => Some((fd, stamp)),
            // Between a rename and the new file, or before the first log.
            Err(refusal) if refusal.is_gone() => None,
            Err(refusal) => {
                self.problem = Some((refusal.reason(), refusal.detail()));
                None
            }
        };
        let Some((fd, stamp)) = opened else {
            if let Some(current) = &mut self.current {
                current.refresh();
            }
            return;
        };
        if !self.remembered.is_empty() {
            self.resume(fd, stamp, gaps);
            return;
        }
        match self.current.take() {
            None => self.current = Some(OpenLog::start(fd, stamp)),
            Some(mut current) if current.is(&stamp) => {
                current.refresh();
                if current.is_rewritten() {
                    self.rewritten(current, fd, stamp, gaps);
                } else {
                    self.current = Some(current);
                }
            }
            Some(mut old) => {
                let since = old.stamp.mtime_ns;
                old.refresh();
                self.follow(old, gaps);
                // The log was rotated more than once since the last reading.
                for between in self.siblings_between(since, stamp, gaps) {
                    self.follow(between, gaps);
                }
                self.current = Some(OpenLog::start(fd, stamp));
            }
        }
    }

    /// Continues where an earlier run of the agent stopped.
    fn resume(&mut self, fd: OwnedFd, stamp: FileStamp, gaps: &mut GapCollector) {
        let mut current = OpenLog::start(fd, stamp);
        let remembered = std::mem::take(&mut self.remembered);
        let last = remembered.len() - 1;
        let mut since = None;
        for (place, position) in remembered.iter().enumerate() {
            if place == last && current.goes_on_at(position) {
                current.resume_at(position.offset);
                continue;
            }
            match self.sibling(position, stamp) {
                Some(mut sibling) => {
                    since = since.max(Some(sibling.stamp.mtime_ns));
                    sibling.resume_at(position.offset);
                    self.follow(sibling, gaps);
                }
                None => gaps.add(
                    "packets",
                    None,
                    self.path.as_os_str().as_bytes(),
                    GapReason::RotatedAway,
                    &format!("inode {}: bytes from {} on were rotated away unread", position.inode, position.offset),
                ),
            }
        }
        // Files created and rotated while the agent was down: newer than the last file read, older than the current
        // file.
        if let Some(since) = since {
            for between in self.siblings_between(since, stamp, gaps) {
                self.follow(between, gaps);
            }
        }
        self.current = Some(current);
    }

    /// Handles a file that was truncated or overwritten in place; a copy may hold the unread bytes.
    fn rewritten(&mut self, current: OpenLog, fd: OwnedFd, stamp: FileStamp, gaps: &mut GapCollector) {
        let position = current.position(&Bytes::default());
        match self.sibling(&position, stamp) {
            Some(mut copy) => {
                copy.resume_at(position.offset);
                self.follow(copy, gaps);
            }
            None if current.seen_size > position.offset => {
                let detail = format!(
                    "truncated in place: bytes {} to {} and all later bytes were not read",
                    position.offset, current.seen_size
                );
                gaps.add("packets", None, self.path.as_os_str().as_bytes(), GapReason::RotatedAway, &detail);
            }
            None => {
                let detail = format!("truncated in place: lines after byte {} may be lost", position.offset);
                gaps.add("packets", None, self.path.as_os_str().as_bytes(), GapReason::RotatedAway, &detail);
            }
        }
        self.current = Some(OpenLog::start(fd, stamp));
    }

    fn follow(&mut self, old: OpenLog, gaps: &mut GapCollector) {
        if self.old.len() >= OLD_FILES_MAX
            && let Some(dropped) = self.old.pop_front()
            && dropped.stamp.size > dropped.offset
        {
            let detail = format!(
                "inode {}: bytes {} to {}: more than {OLD_FILES_MAX} rotated files are unread",
                dropped.stamp.inode, dropped.offset, dropped.stamp.size
            );
            gaps.add("packets", None, self.path.as_os_str().as_bytes(), GapReason::Budget, &detail);
        }
        self.old.push_back(old);
    }

    /// Closes rotated files that are read, quiet, and succeeded by a file with lines.
    fn retire(&mut self, flow: Flow, gaps: &mut GapCollector, take: &mut impl FnMut(Piece<'_>) -> Flow) {
        let succeeded = self.current.as_ref().is_some_and(|current| current.stamp.size > 0);
        while flow == Flow::On && succeeded && self.old.front().is_some_and(|old| old.quiet >= QUIET_READINGS) {
            if let Some(mut old) = self.old.pop_front() {
                old.last(&mut self.buffer, &self.path, gaps, take);
                self.finished.truncate(FINISHED_MAX - 1);
                self.finished.push_front((old.stamp.dev, old.stamp.inode, old.stamp.size));
            }
        }
    }

    /// Finds the rotated file of `position`, or a copy of that file.
    fn sibling(&self, position: &Position, current: FileStamp) -> Option<OpenLog> {
        let mut copy = None;
        for (_, fd, stamp) in self.siblings(current) {
            let reading = OpenLog::start(fd, stamp);
            if !reading.goes_on_at(position) {
                continue;
            }
            if (stamp.dev, stamp.inode) == (position.dev, position.inode) {
                return Some(reading);
            }
            // Without a whole head two files may start alike by chance.
            if position.head_bytes as usize == HEAD_BYTES_MAX {
                copy = Some(reading);
            }
        }
        copy
    }

    /// Rotated files last written at `since` or later, oldest first. A compressed file becomes a gap.
    fn siblings_between(&self, since: i64, current: FileStamp, gaps: &mut GapCollector) -> Vec<OpenLog> {
        let known: Vec<_> = self.old.iter().map(|old| (old.stamp.dev, old.stamp.inode)).collect();
        let mut between = Vec::new();
        for (name, fd, stamp) in self.siblings(current) {
            if stamp.mtime_ns < since || known.contains(&(stamp.dev, stamp.inode)) {
                continue;
            }
            if [&b".gz"[..], b".xz", b".zst", b".bz2"].iter().any(|end| name.ends_with(end)) {
                let detail = format!("{} bytes compressed, not read", stamp.size);
                gaps.add("packets", None, &name, GapReason::RotatedAway, &detail);
                continue;
            }
            let mut reading = OpenLog::start(fd, stamp);
            // A writer that never reopened the log may have continued in a file counted as finished.
            if let Some(&(.., size)) =
                self.finished.iter().find(|(dev, inode, _)| (*dev, *inode) == (stamp.dev, stamp.inode))
                && size <= stamp.size
            {
                reading.resume_at(size);
                reading.seen_size = size;
            }
            between.push(reading);
        }
        between.sort_by_key(|reading| reading.stamp.mtime_ns);
        between
    }

    /// Regular files beside the log whose names start with the log's name, except the log itself.
    fn siblings(&self, current: FileStamp) -> Vec<(Vec<u8>, OwnedFd, FileStamp)> {
        let (Some(folder), Some(name)) = (self.path.parent(), self.path.file_name()) else { return Vec::new() };
        let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
        let beside = entries
            .flatten()
            .take(SIBLINGS_MAX)
            .filter(|entry| entry.file_name() != name && entry.file_name().as_bytes().starts_with(name.as_bytes()));
        let opened = beside.filter_map(|entry| {
            let (fd, stamp) = open_log(&entry.path()).ok()?;
            ((stamp.dev, stamp.inode) != (current.dev, current.inode))
                .then(|| (entry.file_name().as_bytes().to_vec(), fd, stamp))
        });
        opened.collect()
    }
}

impl OpenLog {
    fn start(fd: OwnedFd, stamp: FileStamp) -> Self {
        let head = read_head(&fd, HEAD_BYTES_MAX);
        Self { fd, stamp, offset: 0, seen_size: 0, verified: None, head, passing_over: false, quiet: 0 }
    }

    fn is(&self, stamp: &FileStamp) -> bool {
        (self.stamp.dev, self.stamp.inode) == (stamp.dev, stamp.inode)
    }

    /// Reads the file's stamp again.
    fn refresh(&mut self) {
        if let Ok(stamp) = stamp_of_file(&self.fd) {
            self.stamp = stamp;
        }
    }

    /// True when the file is shorter than the read position, or has another start.
    fn is_rewritten(&mut self) -> bool {
        if self.verified == Some(self.stamp) {
            return false;
        }
        self.verified = Some(self.stamp);
        self.stamp.size < self.offset || read_head(&self.fd, self.head.len()) != self.head
    }

    /// True when `position` belongs to this file or to its original.
    fn goes_on_at(&self, position: &Position) -> bool {
        let covered = usize::try_from(position.head_bytes).unwrap_or(usize::MAX);
        self.stamp.size >= position.offset
            && self.head.get(..covered).is_some_and(|head| head_hash(head) == position.head_hash.0)
            && (covered > 0 || (self.stamp.dev, self.stamp.inode) == (position.dev, position.inode))
    }

    /// Continues at `offset`. When no line starts there, the offset is inside an overlong line.
    fn resume_at(&mut self, offset: u64) {
        let mut before = [0];
        self.offset = offset;
        self.passing_over = offset > 0
            && !(matches!(rustix::io::pread(&self.fd, &mut before, offset - 1), Ok(1)) && before[0] == b'\n');
    }

    fn position(&self, source: &Bytes) -> Position {
        Position {
            source: source.clone(),
            dev: self.stamp.dev,
            inode: self.stamp.inode,
            offset: self.offset,
            head_bytes: self.head.len() as u32,
            head_hash: Bytes::from(head_hash(&self.head)),
            cursor: None,
        }
    }

    /// Passes whole lines up to the end of the file to `take`.
    fn read(
        &mut self,
        buffer: &mut Vec<u8>,
        path: &Path,
        gaps: &mut GapCollector,
        take: &mut impl FnMut(Piece<'_>) -> Flow,
    ) -> Flow {
        self.refresh();
        if self.stamp.size == self.seen_size {
            self.quiet = self.quiet.saturating_add(1);
            return Flow::On;
        }
        self.quiet = 0;
        if self.head.len() < HEAD_BYTES_MAX {
            self.head = read_head(&self.fd, HEAD_BYTES_MAX);
        }
        let backlog = self.stamp.size.saturating_sub(self.offset);
        if backlog > BACKLOG_BYTES_MAX {
            let to = self.stamp.size - BACKLOG_BYTES_MAX;
            let detail = format!("bytes {} to {to} were passed over: {backlog} were unread", self.offset);
            gaps.add("packets", None, path.as_os_str().as_bytes(), GapReason::Budget, &detail);
            self.resume_at(to);
        }
        loop {
            buffer.resize(CHUNK_BYTES, 0);
            let read = match rustix::io::pread(&self.fd, &mut buffer[..], self.offset) {
                Ok(read) => read,
                Err(rustix::io::Errno::INTR) => continue,
                Err(errno) => {
                    let refusal = FileRefusal::from(errno);
                    gaps.add("packets", None, path.as_os_str().as_bytes(), refusal.reason(), &refusal.detail());
                    return Flow::On;
                }
            };
            let start = self.offset;
            let flow = self.hand_out(&buffer[..read], take);
            if flow == Flow::Enough {
                return flow;
            }
            if read < CHUNK_BYTES {
                self.seen_size = start + read as u64;
                return Flow::On;
            }
        }
    }

    /// Passes the lines of a chunk, which starts at the offset, to `take`. Moves the offset behind the passed lines.
    fn hand_out(&mut self, chunk: &[u8], take: &mut impl FnMut(Piece<'_>) -> Flow) -> Flow {
        let mut line_start = 0;
        for line_end in memchr::memchr_iter(b'\n', chunk) {
            let line = &chunk[line_start..line_end];
            self.offset += (line_end + 1 - line_start) as u64;
            line_start = line_end + 1;
            if std::mem::take(&mut self.passing_over) {
                continue;
            }
            let piece = if line.len() > LINE_BYTES_MAX { Piece::TooLong(line) } else { Piece::Line(line) };
            if take(piece) == Flow::Enough {
                return Flow::Enough;
            }
        }
        let rest = &chunk[line_start..];
        if rest.len() > LINE_BYTES_MAX {
            if !self.passing_over {
                take(Piece::TooLong(rest));
                self.passing_over = true;
            }
            self.offset += rest.len() as u64;
        }
        Flow::On
    }

    /// Passes the text after the last line end to `take`, for a file without a writer.
    fn last(
        &mut self,
        buffer: &mut Vec<u8>,
        path: &Path,
        gaps: &mut GapCollector,
        take: &mut impl FnMut(Piece<'_>) -> Flow,
    ) {
        self.read(buffer, path, gaps, take);
        buffer.resize(LINE_BYTES_MAX, 0);
        if let Ok(read @ 1..) = rustix::io::pread(&self.fd, &mut buffer[..], self.offset)
            && !self.passing_over
        {
            take(Piece::LastOfFile(&buffer[..read]));
        }
    }
}

/// Reads up to `bytes` from the start of the file.
fn read_head(fd: &OwnedFd, bytes: usize) -> Vec<u8> {
    let mut head = vec![0; bytes];
    let mut len = 0;
    while len < bytes {
        match rustix::io::pread(fd, &mut head[len..], len as u64) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => break,
        }
    }
    head.truncate(len);
    head
}

fn head_hash(head: &[u8]) -> Vec<u8> {
    if head.is_empty() { Vec::new() } else { blake3::hash(head).as_bytes()[..HASH_BYTES].to_vec() }
}
