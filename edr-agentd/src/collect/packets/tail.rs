//! Following a log file by its position, through rename, truncation and copying.
//!
//! A position is the device, the inode, the bytes read and the hash of the file's first bytes: so a reused inode and a
//! rewritten file are known for what they are. The position moves only over whole lines, and a reader that starts
//! anew goes on exactly there. What cannot be read any more is a gap with its range of bytes.
//!
//! - Renamed: the old file is read on through its open descriptor (or found again by its inode) until it is quiet and
//!   the new one has lines; writers go on writing to it until they reopen.
//! - Truncated in place, or copied and truncated: the new content is read from its start; what was not yet read is
//!   looked for in a copy beside it that starts with the same bytes.
//! - Compressed or deleted while the agent was down: a gap.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use edr_wire::Bytes;
use edr_wire::snapshot::{GapReason, Position};

use super::super::Gaps;
use super::super::psad::folder::{Refusal, Stamp, open_log, stamp_of_file};
use super::super::psad::lines::LINE_BYTES_MAX;

/// First bytes of a file that its hash covers.
const HEAD_BYTES_MAX: usize = 256;
/// Bytes of a hash kept.
const HASH_BYTES: usize = 16;
/// Bytes read at once.
const CHUNK_BYTES: usize = 256 << 10;
/// Unread bytes of one log after which the older ones are passed over, with a gap: reading them would take minutes,
/// and what is new matters more.
const BACKLOG_BYTES_MAX: u64 = 64 << 20;
/// Rotated files followed at once.
const OLD_FILES_MAX: usize = 4;
/// Readings without growth after which a rotated file is quiet.
const QUIET_READINGS: u32 = 3;
/// Rotated files remembered after they were read.
const FINISHED_MAX: usize = 16;
/// Files looked at in the log's folder when a rotated one is searched.
const SIBLINGS_MAX: usize = 1_024;

/// What a line's consumer wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    On,
    /// This tick's budget is used up; the line was taken.
    Enough,
}

/// What the tail hands out.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Piece<'a> {
    /// A line without its end.
    Line(&'a [u8]),
    /// The end of a rotated file that does not end with a line's end.
    LastOfFile(&'a [u8]),
    /// First bytes of a line longer than [`LINE_BYTES_MAX`]; the rest of it was passed over.
    TooLong(&'a [u8]),
}

/// An open log file and how far it is read.
#[derive(Debug)]
struct Reading {
    fd: OwnedFd,
    stamp: Stamp,
    offset: u64,
    /// Size at which the last reading found nothing more; unread bytes below it are a line without its end.
    seen_size: u64,
    /// When the file was last found to start as it did.
    verified: Option<Stamp>,
    head: Vec<u8>,
    /// In the middle of a line that is too long.
    passing_over: bool,
    quiet: u32,
}

/// One log by its path.
#[derive(Debug)]
pub(crate) struct LogTail {
    path: PathBuf,
    current: Option<Reading>,
    old: VecDeque<Reading>,
    /// Device, inode and size of rotated files that were read to their end, latest first.
    finished: VecDeque<(u64, u64, u64)>,
    /// Positions from an earlier run, until the files have been looked for.
    remembered: Vec<Position>,
    buffer: Vec<u8>,
    problem: Option<(GapReason, String)>,
}

impl LogTail {
    /// Goes on where `positions` of this path say; without one, the file is read from its start.
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

    /// Hands out the lines since the last reading, oldest first.
    pub(crate) fn read(&mut self, gaps: &mut Gaps, mut take: impl FnMut(Piece<'_>) -> Flow) {
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

    /// Where a later reader would go on, oldest file first.
    pub(crate) fn positions(&self) -> Vec<Position> {
        // What has not been looked for yet (the log is not there) must not be forgotten.
        let source = Bytes::from(self.path.as_os_str().as_bytes());
        let open = self.old.iter().chain(&self.current).map(|reading| reading.position(&source));
        self.remembered.iter().cloned().chain(open).collect()
    }

    /// Brings the open files in line with what is at the path.
    fn find(&mut self, gaps: &mut Gaps) {
        self.problem = None;
        let opened = match open_log(&self.path) {
            Ok((fd, stamp)) => Some((fd, stamp)),
            // Between a rename and the new file; or there is no log yet.
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
            None => self.current = Some(Reading::start(fd, stamp)),
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
                // Rotated more than once since the last reading.
                for between in self.siblings_between(since, stamp, gaps) {
                    self.follow(between, gaps);
                }
                self.current = Some(Reading::start(fd, stamp));
            }
        }
    }

    /// Goes on where an earlier run of the agent stopped.
    fn resume(&mut self, fd: OwnedFd, stamp: Stamp, gaps: &mut Gaps) {
        let mut current = Reading::start(fd, stamp);
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
        // Files that came and were rotated while nobody looked: newer than the one read last, older than the current.
        if let Some(since) = since {
            for between in self.siblings_between(since, stamp, gaps) {
                self.follow(between, gaps);
            }
        }
        self.current = Some(current);
    }

    /// The file was truncated or overwritten in place; a copy may hold what was not yet read.
    fn rewritten(&mut self, current: Reading, fd: OwnedFd, stamp: Stamp, gaps: &mut Gaps) {
        let position = current.position(&Bytes::default());
        match self.sibling(&position, stamp) {
            Some(mut copy) => {
                copy.resume_at(position.offset);
                self.follow(copy, gaps);
            }
            None if current.seen_size > position.offset => {
                let detail = format!(
                    "truncated in place: bytes {} to {} and whatever came after them were not read",
                    position.offset, current.seen_size
                );
                gaps.add("packets", None, self.path.as_os_str().as_bytes(), GapReason::RotatedAway, &detail);
            }
            None => {
                let detail = format!("truncated in place: lines after byte {} may be lost", position.offset);
                gaps.add("packets", None, self.path.as_os_str().as_bytes(), GapReason::RotatedAway, &detail);
            }
        }
        self.current = Some(Reading::start(fd, stamp));
    }

    fn follow(&mut self, old: Reading, gaps: &mut Gaps) {
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

    /// Lets go of rotated files that are read, quiet, and succeeded by a file with lines.
    fn retire(&mut self, flow: Flow, gaps: &mut Gaps, take: &mut impl FnMut(Piece<'_>) -> Flow) {
        let succeeded = self.current.as_ref().is_some_and(|current| current.stamp.size > 0);
        while flow == Flow::On && succeeded && self.old.front().is_some_and(|old| old.quiet >= QUIET_READINGS) {
            if let Some(mut old) = self.old.pop_front() {
                old.last(&mut self.buffer, &self.path, gaps, take);
                self.finished.truncate(FINISHED_MAX - 1);
                self.finished.push_front((old.stamp.dev, old.stamp.inode, old.stamp.size));
            }
        }
    }

    /// The rotated file that `position` is in, or a copy of it.
    fn sibling(&self, position: &Position, current: Stamp) -> Option<Reading> {
        let mut copy = None;
        for (_, fd, stamp) in self.siblings(current) {
            let reading = Reading::start(fd, stamp);
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

    /// Rotated files last written at `since` or later, oldest first. A compressed one is a gap.
    fn siblings_between(&self, since: i64, current: Stamp, gaps: &mut Gaps) -> Vec<Reading> {
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
            let mut reading = Reading::start(fd, stamp);
            // A writer that never reopened its log may have gone on in a file that was taken for finished.
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

    /// Regular files beside the log whose names start with its name, except the log itself.
    fn siblings(&self, current: Stamp) -> Vec<(Vec<u8>, OwnedFd, Stamp)> {
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

impl Reading {
    fn start(fd: OwnedFd, stamp: Stamp) -> Self {
        let head = read_head(&fd, HEAD_BYTES_MAX);
        Self { fd, stamp, offset: 0, seen_size: 0, verified: None, head, passing_over: false, quiet: 0 }
    }

    fn is(&self, stamp: &Stamp) -> bool {
        (self.stamp.dev, self.stamp.inode) == (stamp.dev, stamp.inode)
    }

    /// Asks for the size again.
    fn refresh(&mut self) {
        if let Ok(stamp) = stamp_of_file(&self.fd) {
            self.stamp = stamp;
        }
    }

    /// Shorter than what was read of it, or with another start.
    fn is_rewritten(&mut self) -> bool {
        if self.verified == Some(self.stamp) {
            return false;
        }
        self.verified = Some(self.stamp);
        self.stamp.size < self.offset || read_head(&self.fd, self.head.len()) != self.head
    }

    /// `position` is one in this file, or in a copy of it.
    fn goes_on_at(&self, position: &Position) -> bool {
        let covered = usize::try_from(position.head_bytes).unwrap_or(usize::MAX);
        self.stamp.size >= position.offset
            && self.head.get(..covered).is_some_and(|head| head_hash(head) == position.head_hash.0)
            && (covered > 0 || (self.stamp.dev, self.stamp.inode) == (position.dev, position.inode))
    }

    /// Goes on at `offset`. When no line starts there, it was in the middle of one that is too long.
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

    /// Hands out whole lines up to the end of the file.
    fn read(
        &mut self,
        buffer: &mut Vec<u8>,
        path: &Path,
        gaps: &mut Gaps,
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
                    let refusal = Refusal::from(errno);
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

    /// Hands out the lines of one chunk that starts at the offset, and moves the offset behind them.
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

    /// Hands out what a file that nobody writes to any more has after its last line's end.
    fn last(&mut self, buffer: &mut Vec<u8>, path: &Path, gaps: &mut Gaps, take: &mut impl FnMut(Piece<'_>) -> Flow) {
        self.read(buffer, path, gaps, take);
        buffer.resize(LINE_BYTES_MAX, 0);
        if let Ok(read @ 1..) = rustix::io::pread(&self.fd, &mut buffer[..], self.offset)
            && !self.passing_over
        {
            take(Piece::LastOfFile(&buffer[..read]));
        }
    }
}

/// Up to `bytes` from the file's start.
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
