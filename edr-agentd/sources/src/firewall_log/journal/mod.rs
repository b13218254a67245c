//! The messages of the kernel and of psad, from the files of the journal.
//!
//! The files are read without a library and without `journalctl`. For each field and value (`_TRANSPORT=kernel`) a
//! journal file has the list of entries, so new entries are found without reading entries of other programs. For each
//! file the number of taken entries is remembered; across files, and across a restart of the agent, the cursor decides.

mod cursor;
mod file;
mod hash;
mod lz4;

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use edr_wire::Bytes;
use edr_wire::snapshot::{GapReason, Position};

use self::cursor::JournalCursor;
use self::file::{JournalError, JournalFile, JournalMessage, Matches, identity};
use super::tail::Flow;
use crate::common::GapCollector;
use crate::common::files::{FileStamp, open_log, stamp_of_path};

/// Limit of the entries of each writer taken at the first start: a journal can hold any number of entries.
const FIRST_ENTRIES_MAX: u64 = 50_000;
/// Limit of journal files known at once.
const FILES_MAX: usize = 4_096;

/// Number of writers.
const WRITERS: usize = 3;

/// The writer of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Writer {
    Kernel,
    Psad,
    /// journald itself, about messages of the kernel that it missed.
    Missed,
}

impl Writer {
    const ALL: [Self; WRITERS] = [Self::Kernel, Self::Psad, Self::Missed];

    fn field(self) -> &'static [u8] {
        match self {
            Self::Kernel => b"_TRANSPORT=kernel",
            Self::Psad => b"SYSLOG_IDENTIFIER=psad",
            // `SD_MESSAGE_JOURNAL_MISSED` of systemd's sd-messages.h.
            Self::Missed => b"MESSAGE_ID=e9bf28e6e834481bb6f48f548ad13606",
        }
    }

    /// The name of the writer's position.
    fn source(self) -> &'static str {
        match self {
            Self::Kernel => "journal",
            Self::Psad => "journal:psad",
            Self::Missed => "journal:missed",
        }
    }
}

/// An entry with the message.
#[derive(Debug)]
pub(super) struct JournalEntry<'a> {
    pub(super) writer: Writer,
    /// Unix time in ns.
    pub(super) time: i64,
    /// Kernel entries only: microseconds since boot.
    pub(super) kernel_us: Option<u64>,
    /// `None` for an overlong message.
    pub(super) message: Option<&'a [u8]>,
}

/// A journal file that may get more entries.
#[derive(Debug)]
struct FollowedFile {
    path: PathBuf,
    file: JournalFile,
    matches: [Matches; WRITERS],
    /// Number of entries in the file at the last reading.
    seen_entries: Option<u64>,
    /// True when the entries before the cursors were skipped.
    is_placed: bool,
}

/// The journal of this host.
#[derive(Debug)]
pub(crate) struct JournalTail {
    folders: Vec<PathBuf>,
    files: HashMap<(u64, u64), FollowedFile>,
    /// Completely read files, and damaged archived files.
    finished: HashMap<(u64, u64), ()>,
    listed: Vec<(PathBuf, Option<FileStamp>)>,
    cursors: [Option<JournalCursor>; WRITERS],
    is_first: bool,
}

impl JournalTail {
    /// Continues after the cursors in `positions`; without cursors starts with the last [`FIRST_ENTRIES_MAX`] entries.
    pub(crate) fn new(folders: Vec<PathBuf>, positions: &[Position]) -> Self {
        let cursors = Writer::ALL.map(|writer| {
            let position = positions.iter().find(|position| position.source.0 == writer.source().as_bytes())?;
            JournalCursor::parse(position.cursor.as_deref()?)
        });
        let is_first = cursors.iter().all(Option::is_none);
        Self { folders, files: HashMap::new(), finished: HashMap::new(), listed: Vec::new(), cursors, is_first }
    }

    /// True when a folder in `folders` holds a journal.
    pub(crate) fn exists(folders: &[PathBuf]) -> bool {
        folders.iter().any(|folder| !machine_folders(folder).is_empty())
    }

    /// Passes the new entries since the last reading to `take`, file by file, oldest first.
    pub(super) fn read(
        &mut self,
        now_ns: i64,
        gaps: &mut GapCollector,
        mut take: impl FnMut(JournalEntry<'_>) -> Flow,
    ) {
        self.list(now_ns, gaps);
        let mut order: Vec<(u64, (u64, u64))> = Vec::new();
        let mut broken = Vec::new();
        for (&identity, followed) in &mut self.files {
            match followed.file.refresh() {
                Ok(()) if followed.seen_entries != Some(followed.file.header.entries) => {
                    order.push((followed.file.header.head_realtime_us, identity));
                }
                Ok(()) => {}
                Err(error) => broken.push((identity, error)),
            }
        }
        order.sort_unstable();
        if self.is_first && !order.is_empty() {
            self.is_first = false;
            self.limit_first(&order);
        }
        self.name_vacuumed(gaps);
        for (_, identity) in order {
            let Some(followed) = self.files.get_mut(&identity) else { continue };
            match followed.read(&mut self.cursors, gaps, &mut take) {
                Ok(Flow::On) => {}
                Ok(Flow::Enough) => break,
                Err(error) => broken.push((identity, error)),
            }
        }
        for (identity, error) in broken {
            if let Some(followed) = self.files.get(&identity) {
                gaps.add(
                    "packets",
                    None,
                    followed.path.as_os_str().as_bytes(),
                    GapReason::Malformed,
                    &error.to_string(),
                );
                // A file in use may be complete at the next reading.
                if followed.file.header.is_archived {
                    self.files.remove(&identity);
                    self.finished.insert(identity, ());
                }
            }
        }
        let finished: Vec<_> =
            self.files.iter().filter(|(_, followed)| followed.is_finished()).map(|(id, _)| *id).collect();
        for identity in finished {
            self.files.remove(&identity);
            self.finished.insert(identity, ());
        }
        self.files.values_mut().for_each(|followed| followed.file.rest());
    }

    /// The positions at which a later reader continues.
    pub(crate) fn positions(&self) -> Vec<Position> {
        let position = |(writer, cursor): (Writer, &Option<JournalCursor>)| {
            let cursor = Some(cursor.as_ref()?.to_string());
            Some(Position { source: Bytes::from(writer.source()), cursor, ..Position::default() })
        };
        Writer::ALL.into_iter().zip(&self.cursors).filter_map(position).collect()
    }

    /// Finds new files when the folders have changed.
    fn list(&mut self, now_ns: i64, gaps: &mut GapCollector) {
        let machines: Vec<PathBuf> = self.folders.iter().flat_map(|folder| machine_folders(folder)).collect();
        let stamp_of = |folder: PathBuf| {
            let stamp = stamp_of_path(&folder).filter(|stamp| stamp.is_settled(now_ns));
            (folder, stamp)
        };
        let listed: Vec<_> = machines.into_iter().map(stamp_of).collect();
        let settled = listed.iter().all(|(_, stamp)| stamp.is_some());
        if settled && listed == self.listed && !listed.is_empty() {
            return;
        }
        self.listed = listed;
        let mut there = HashMap::new();
        for (folder, _) in &self.listed {
            let Ok(entries) = std::fs::read_dir(folder) else { continue };
            for entry in entries.flatten().take(FILES_MAX) {
                if !is_system_journal(entry.file_name().as_bytes()) {
                    continue;
                }
                let Ok((fd, stamp)) = open_log(&entry.path()) else { continue };
                let identity = identity(&stamp);
                there.insert(identity, ());
                if self.finished.contains_key(&identity) {
                    continue;
                }
                if let Some(followed) = self.files.get_mut(&identity) {
                    // Rotated: the same file under another name.
                    followed.path = entry.path();
                    continue;
                }
                match JournalFile::open(fd) {
                    Ok(file) => {
                        let followed = FollowedFile {
                            path: entry.path(),
                            file,
                            matches: [Matches::default(); WRITERS],
                            seen_entries: None,
                            is_placed: false,
                        };
                        self.files.insert(identity, followed);
                    }
                    Err(error) => {
                        let field = entry.path();
                        gaps.add(
                            "packets",
                            None,
                            field.as_os_str().as_bytes(),
                            GapReason::Malformed,
                            &error.to_string(),
                        );
                    }
                }
            }
        }
        // A removed file is still open and is read to the end; then the file is dropped.
        self.finished.retain(|identity, ()| there.contains_key(identity));
    }

    /// At the first start, skips all but the last entries.
    fn limit_first(&mut self, order: &[(u64, (u64, u64))]) {
        for (place, writer) in Writer::ALL.into_iter().enumerate() {
            let mut left = FIRST_ENTRIES_MAX;
            for (_, identity) in order.iter().rev() {
                let Some(followed) = self.files.get_mut(identity) else { continue };
                let matches = &mut followed.matches[place];
                let count = followed.file.count(writer.field(), matches).unwrap_or(0);
                matches.taken = count.saturating_sub(left);
                left = left.saturating_sub(count);
            }
        }
    }

    /// Adds a gap when the file of the cursor was removed: the entries after the cursor in that file are lost.
    fn name_vacuumed(&mut self, gaps: &mut GapCollector) {
        let Some(cursor) = self.cursors[0].filter(|_| self.files.values().any(|followed| !followed.is_placed)) else {
            return;
        };
        let of_sequence = || {
            let files = self.files.values().map(|followed| &followed.file.header);
            files.filter(|header| header.seqnum_id == cursor.seqnum_id && header.entries > 0)
        };
        // Checked only at the start: later the file was followed.
        let at_start = self.files.values().all(|followed| !followed.is_placed) && self.finished.is_empty();
        if let Some(first) = of_sequence().map(|header| header.head_seqnum).min()
            && at_start
            && first > cursor.entry.seqnum + 1
        {
            let detail = format!("entries {} to {} were removed unread", cursor.entry.seqnum + 1, first - 1);
            gaps.add("packets", None, b"journal", GapReason::RotatedAway, &detail);
        }
    }
}

impl FollowedFile {
    fn read(
        &mut self,
        cursors: &mut [Option<JournalCursor>; WRITERS],
        gaps: &mut GapCollector,
        take: &mut impl FnMut(JournalEntry<'_>) -> Flow,
    ) -> Result<Flow, JournalError> {
        let entries = self.file.header.entries;
        if !std::mem::replace(&mut self.is_placed, true) {
            for (place, writer) in Writer::ALL.into_iter().enumerate() {
                if let Some(cursor) = &cursors[place] {
                    self.pass_over(writer, place, cursor)?;
                }
            }
        }
        for (place, writer) in Writer::ALL.into_iter().enumerate() {
            let mut matches = self.matches[place];
            let count = self.file.count(writer.field(), &mut matches)?;
            while matches.taken < count {
                let next = matches.taken;
                let at = self.file.entry_at(&mut matches, next)?;
                let entry = self.file.entry(at)?;
                let fields = self.file.fields(at)?;
                matches.taken += 1;
                self.matches[place] = matches;
                cursors[place] = Some(JournalCursor { seqnum_id: self.file.header.seqnum_id, entry });
                // Every program that may write to the journal can claim to be psad or journald, so only entries of
                // root count. The transport `kernel` cannot be forged.
                if writer != Writer::Kernel && !fields.is_roots {
                    continue;
                }
                let message = match &fields.message {
                    Some(JournalMessage::Text(text)) => Some(text.as_slice()),
                    Some(JournalMessage::TooLong) => None,
                    Some(JournalMessage::Compressed(how)) => {
                        let detail = format!("a message compressed with {how}");
                        gaps.add("packets", None, b"journal", GapReason::Unsupported, &detail);
                        continue;
                    }
                    None => continue,
                };
                let time = i64::try_from(entry.realtime_us).unwrap_or(i64::MAX).saturating_mul(1_000);
                let flow = take(JournalEntry { writer, time, kernel_us: fields.source_us, message });
                if flow == Flow::Enough {
                    return Ok(flow);
                }
            }
            self.matches[place] = matches;
        }
        self.seen_entries = Some(entries);
        Ok(Flow::On)
    }

    /// Skips the entries up to the cursor, by binary search.
    fn pass_over(&mut self, writer: Writer, place: usize, cursor: &JournalCursor) -> Result<(), JournalError> {
        let mut matches = self.matches[place];
        let count = self.file.count(writer.field(), &mut matches)?;
        let (mut low, mut high) = (matches.taken, count);
        while low < high {
            let middle = low + (high - low) / 2;
            let at = self.file.entry_at(&mut matches, middle)?;
            let entry = self.file.entry(at)?;
            if cursor.is_before(&self.file.header.seqnum_id, &entry) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        matches.taken = low;
        self.matches[place] = matches;
        Ok(())
    }

    fn is_finished(&self) -> bool {
        self.file.header.is_archived && self.seen_entries == Some(self.file.header.entries)
    }
}

/// Folders named by a machine id. Journals of namespaces (`<machine id>.<name>`) have no messages of the kernel.
fn machine_folders(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut machines: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            name.len() == 32 && name.as_bytes().iter().all(u8::is_ascii_hexdigit)
        })
        .map(|entry| entry.path())
        .collect();
    machines.sort();
    machines
}

/// True for `system.journal` and `system@….journal`, also with the `~` of an uncleanly closed file.
fn is_system_journal(name: &[u8]) -> bool {
    let is_systems = name == b"system.journal" || name.starts_with(b"system@");
    is_systems && (name.ends_with(b".journal") || name.ends_with(b".journal~"))
}
