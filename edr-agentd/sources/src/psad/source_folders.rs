//! The folders of sources: their list, their ranking, and the details of the worst.
//!
//! A flood of forged sources makes as many folders. The danger level and the packets of every folder are known. The
//! worst sources, up to a limit, are kept with all their targets; the rest become totals. Only changed folders are
//! read.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use edr_wire::Bytes;
use edr_wire::snapshot::{GapReason, ScanSource, ScanTarget, SignatureMatch, SourceTotals, TargetPackets, elements};
use rustix::fs::FileType;

use super::file_value::{FileValue, WhenEmpty};
use super::folder::Folder;
use super::signatures::parse_signatures;
use super::sources::{
    SourceFile, parse_danger_level, parse_number, parse_os_guess, parse_p0f_guesses, parse_target_packets,
};
use super::watch::{FolderWatch, Marks};
use crate::common::GapCollector;
use crate::common::files::{FileRefusal, FileStamp};
use crate::common::lines::{BadLines, address};

/// Limit of known folders; further folders are only counted.
const FOLDERS_MAX: usize = 200_000;
/// Maximum number of folders read per tick; the rest is read in the next ticks.
const LOOKS_MAX: usize = 10_000;
/// Folders checked for changes per tick without an event.
const POLLS_MAX: usize = 5_000;
/// Readings in which every watched folder is checked once without an event, because a file system may not report
/// changes.
const SLOW_POLL_READINGS: usize = 30;
/// Maximum number of files read per folder: six for each of about six hundred targets.
const FILES_MAX: usize = 4_096;
/// msgpack elements of all sources in detail, about 20 per signature match. A reader refuses a whole snapshot whose
/// `psad` has more than [`edr_wire::limits::ROW_ELEMENTS_MAX`] elements; psad's remaining lists and events need the
/// rest.
const ELEMENTS_MAX: usize = 250_000;

/// The value of a file in a source's folder.
#[derive(Debug, Default)]
enum SourceValue {
    #[default]
    Missing,
    Number(u64),
    Text(Bytes),
    Texts(Vec<Bytes>),
    Packets(Vec<TargetPackets>),
    Signatures(Vec<SignatureMatch>),
}

impl SourceValue {
    fn parse(file: SourceFile, text: &[u8], bad: &mut BadLines) -> Self {
        let number = |value: Option<u64>| value.map_or(Self::Missing, Self::Number);
        match file {
            SourceFile::DangerLevel => number(parse_danger_level(text, bad).map(u64::from)),
            SourceFile::OsGuess => Self::Text(parse_os_guess(text)),
            SourceFile::P0fGuess => Self::Texts(parse_p0f_guesses(text)),
            SourceFile::EmailCounter | SourceFile::TargetEmailCounter(_) | SourceFile::TargetStart(_) => {
                number(parse_number(text, bad))
            }
            SourceFile::TargetPackets(_) => Self::Packets(parse_target_packets(text, bad)),
            SourceFile::TargetSignatures(_) => Self::Signatures(parse_signatures(text, bad)),
        }
    }
}

/// A file of a source's folder.
#[derive(Debug)]
struct FolderFile {
    name: Box<[u8]>,
    held: FileValue<SourceValue>,
}

/// A folder with all files.
#[derive(Debug, Default)]
struct SourceDetail {
    folder: Option<FileStamp>,
    files: BTreeMap<SourceFile, FolderFile>,
    /// Number of names beyond the limit.
    beyond: usize,
    source: ScanSource,
    /// msgpack elements of the source.
    elements: usize,
}

/// A source, identified by the folder.
#[derive(Debug, Default)]
struct SourceFolder {
    /// Stamp of `danger_level`, which psad writes in each pass with packets of the source; `None` before the first
    /// read.
    level: Option<FileStamp>,
    danger_level: u8,
    packets: u64,
    problem: Option<(GapReason, String)>,
    detail: Option<Box<SourceDetail>>,
    /// True when an event arrived after the last read.
    marked: bool,
    /// True when the kernel reports changes in the folder.
    watched: bool,
}

/// All sources.
#[derive(Debug, Default)]
pub(crate) struct SourceFolders {
    known: BTreeMap<IpAddr, SourceFolder>,
    /// Stamp of psad's folder at the last listing; `None` when the folder had not settled by then.
    listed: Option<FileStamp>,
    folders_beyond: usize,
    /// Number of readings so far.
    turn: usize,
}

/// The result of a reading.
#[derive(Debug, Default)]
pub(crate) struct SourcesReading {
    pub(crate) sources: Vec<ScanSource>,
    pub(crate) left_out: Option<SourceTotals>,
    pub(crate) bad: BadLines,
}

impl SourceFolders {
    /// Reads changed folders. `first` are the addresses with priority when not all folders can be read in this tick,
    /// each with the number of packets.
    pub(crate) fn read(
        &mut self,
        folder: &Folder,
        watch: &mut FolderWatch,
        first: impl Iterator<Item = (IpAddr, u64)>,
        sources_max: usize,
        now_ns: i64,
        gaps: &mut GapCollector,
    ) -> SourcesReading {
        self.turn = self.turn.wrapping_add(1);
        let marks = watch.take();
        if (marks.listing || self.listed.is_none() || self.turn.is_multiple_of(SLOW_POLL_READINGS))
            && let Err(refusal) = self.list(folder, watch, now_ns)
        {
            gaps.add("psad", None, b"sources", refusal.reason(), &refusal.detail());
        }
        self.mark(&marks, watch);
        let mut looks = LOOKS_MAX;
        for (address, packets) in first {
            let is_news =
                |known: &&mut SourceFolder| known.is_unread() || (known.detail.is_none() && known.packets != packets);
            if let Some(known) = self.known.get_mut(&address).filter(is_news)
                && looks > 0
            {
                looks -= 1;
                known.look(folder, address, now_ns);
            }
        }
        let waiting = self.look(folder, &mut looks, now_ns);
        self.known.retain(|address, known| {
            let is_gone = known.problem.as_ref().is_some_and(|(reason, _)| *reason == GapReason::Gone);
            if is_gone && known.watched {
                watch.remove(&folder_name(*address), true);
            }
            !is_gone
        });
        self.choose(folder, watch, sources_max, &mut looks, now_ns);
        self.watch(watch);
        if let Some(problem) = watch.problem() {
            gaps.add("psad", None, b"inotify", GapReason::Budget, &format!("{problem}: folders are polled instead"));
        }
        let reading = self.collect(gaps);
        if waiting > 0 {
            let detail = format!("{waiting} folders changed and are not read yet: {LOOKS_MAX} are read in a tick");
            gaps.add("psad", None, b"sources", GapReason::Budget, &detail);
        }
        reading
    }

    /// Marks the sources with events.
    fn mark(&mut self, marks: &Marks, watch: &mut FolderWatch) {
        if marks.everything {
            self.known.values_mut().for_each(|known| known.marked = true);
        }
        for address in &marks.renewed {
            if let Some(known) = self.known.get_mut(address) {
                known.marked = true;
                if std::mem::take(&mut known.watched) {
                    watch.remove(&folder_name(*address), true);
                }
            }
        }
        for address in &marks.sources {
            if let Some(known) = self.known.get_mut(address) {
                known.marked = true;
            }
        }
    }

    /// Reads the possibly changed folders; returns the number of folders left for the next reading.
    fn look(&mut self, folder: &Folder, looks: &mut usize, now_ns: i64) -> u64 {
        let polled = self.known.values().filter(|known| !known.watched).count();
        let slices = polled.div_ceil(POLLS_MAX).max(1);
        let (mut waiting, mut place) = (0, 0);
        for (&address, known) in &mut self.known {
            let slices = if known.watched { SLOW_POLL_READINGS } else { slices };
            let poll = place % slices == self.turn % slices;
            place += 1;
            if !known.is_due() && !known.may_have_changed(folder, address, poll) {
                continue;
            }
            if *looks == 0 {
                known.marked = true;
                waiting += 1;
                continue;
            }
            *looks -= 1;
            known.look(folder, address, now_ns);
        }
        waiting
    }

    /// Watches the folders in detail, up to the limit of watches.
    fn watch(&mut self, watch: &mut FolderWatch) {
        for (address, known) in &mut self.known {
            if known.detail.is_some() && !known.watched && watch.is_active() {
                known.watched = watch.add(&folder_name(*address));
                // The folder may have changed between the read and the watch.
                known.marked |= known.watched;
                if !known.watched {
                    return;
                }
            }
        }
    }

    /// Lists psad's folder again when a name was added or removed.
    fn list(&mut self, folder: &Folder, watch: &mut FolderWatch, now_ns: i64) -> Result<(), FileRefusal> {
        let stamp = folder.stamp()?;
        if self.listed == Some(stamp) {
            return Ok(());
        }
        let mut there = BTreeSet::new();
        let mut beyond = 0;
        folder.names(|name, kind| {
            if !matches!(kind, FileType::Directory | FileType::Unknown) {
                return;
            }
            if let Some(address) = address(name) {
                if there.len() < FOLDERS_MAX {
                    there.insert(address);
                } else {
                    beyond += 1;
                }
            }
        })?;
        self.folders_beyond = beyond;
        self.known.retain(|address, known| {
            let stays = there.contains(address);
            if !stays && known.watched {
                watch.remove(&folder_name(*address), true);
            }
            stays
        });
        for address in there {
            self.known.entry(address).or_default();
        }
        self.listed = stamp.is_settled(now_ns).then_some(stamp);
        Ok(())
    }

    /// Chooses the sources kept in detail, and reads those not yet in detail.
    fn choose(&mut self, folder: &Folder, watch: &mut FolderWatch, sources_max: usize, looks: &mut usize, now_ns: i64) {
        if self.known.len() <= sources_max {
            return;
        }
        let rank = |(address, known): (&IpAddr, &SourceFolder)| {
            (Reverse(known.danger_level), Reverse(known.packets), *address)
        };
        let mut ranks: Vec<_> = self.known.iter().map(rank).collect();
        if sources_max > 0 {
            ranks.select_nth_unstable(sources_max - 1);
        }
        for (place, (.., address)) in ranks.into_iter().enumerate() {
            let Some(known) = self.known.get_mut(&address) else { continue };
            if place >= sources_max {
                known.detail = None;
                if std::mem::take(&mut known.watched) {
                    watch.remove(&folder_name(address), false);
                }
            } else if known.detail.is_none() && known.level.is_some() && *looks > 0 {
                *looks -= 1;
                known.look(folder, address, now_ns);
            }
        }
    }

    /// The sources in detail within the limit of elements, the worst first.
    fn fitting(&self) -> BTreeSet<IpAddr> {
        let detailed = |(&address, known): (&IpAddr, &SourceFolder)| {
            let elements = known.detail.as_ref()?.elements;
            Some((Reverse(known.danger_level), Reverse(known.packets), address, elements))
        };
        let mut worst_first: Vec<_> = self.known.iter().filter_map(detailed).collect();
        worst_first.sort_unstable();
        let mut room = ELEMENTS_MAX;
        let fits = |(.., address, elements): (_, _, IpAddr, usize)| {
            room = room.checked_sub(elements)?;
            Some(address)
        };
        worst_first.into_iter().filter_map(fits).collect()
    }

    fn collect(&mut self, gaps: &mut GapCollector) -> SourcesReading {
        let mut reading = SourcesReading::default();
        let mut left_out = SourceTotals::default();
        let fitting = self.fitting();
        for (address, known) in &self.known {
            if let Some((reason, detail)) = &known.problem {
                gaps.add("psad", None, address.to_string().as_bytes(), *reason, detail);
            }
            let Some(detail) = known.detail.as_ref().filter(|_| fitting.contains(address)) else {
                left_out.sources += 1;
                left_out.packets = left_out.packets.saturating_add(known.packets);
                if let Some(level) = usize::from(known.danger_level).checked_sub(1) {
                    left_out.by_danger_level[level] += 1;
                }
                continue;
            };
            for file in detail.files.values() {
                reading.bad.merge(&file.held.bad);
                if let Some(problem) = &file.held.problem {
                    let field = [address.to_string().as_bytes(), b"/", &file.name].concat();
                    gaps.add("psad", None, &field, problem.reason, &problem.detail);
                }
            }
            if detail.beyond > 0 {
                let text = format!("{} files not read: {FILES_MAX} of a source are", detail.beyond);
                gaps.add("psad", None, address.to_string().as_bytes(), GapReason::TooLong, &text);
            }
            reading.sources.push(detail.source.clone());
        }
        if self.folders_beyond > 0 {
            left_out.sources += self.folders_beyond as u64;
            let text = format!("{} folders beyond {FOLDERS_MAX} were not read", self.folders_beyond);
            gaps.add("psad", None, b"sources", GapReason::TooLong, &text);
        }
        reading.left_out = (left_out.sources > 0).then_some(left_out);
        reading
    }
}

impl SourceFolder {
    /// True when the folder was never read and has no problem.
    fn is_unread(&self) -> bool {
        self.level.is_none() && self.problem.is_none()
    }

    /// True when the folder must be read.
    fn is_due(&self) -> bool {
        self.marked
            || self.level.is_none()
            || self.problem.is_some()
            || self.detail.as_ref().is_some_and(|d| d.is_pending())
    }

    /// True when the folder must be read without an event. For a folder in detail, `danger_level` is checked at each
    /// reading: psad writes this file after packets of the source, and the event of the last change may be late. For
    /// the remaining folders the file is checked only in turn.
    fn may_have_changed(&self, folder: &Folder, address: IpAddr, is_turn: bool) -> bool {
        if self.detail.is_some() && is_turn {
            return true;
        }
        if self.detail.is_none() && !is_turn {
            return false;
        }
        let name = [folder_name(address).as_bytes(), b"/danger_level"].concat();
        folder.stamp_of(&name).ok() != self.level
    }

    /// Reads the changed files of the folder.
    fn look(&mut self, folder: &Folder, address: IpAddr, now_ns: i64) {
        self.marked = false;
        let mut detail = self.detail.take().unwrap_or_default();
        match detail.look(folder, address, now_ns) {
            Ok(()) => {
                self.problem = None;
                self.danger_level = detail.source.danger_level;
                let packets = detail.source.targets.iter().flat_map(|target| &target.packets);
                self.packets = packets.fold(0, |sum: u64, row| sum.saturating_add(row.packets));
                self.level = detail.level_stamp();
                self.detail = Some(detail);
            }
            Err(refusal) => self.problem = Some((refusal.reason(), refusal.detail())),
        }
    }
}

impl SourceDetail {
    /// True when a part of the folder had not settled when it was read.
    fn is_pending(&self) -> bool {
        self.folder.is_none() || self.files.values().any(|file| file.held.is_pending())
    }

    fn look(&mut self, parent: &Folder, address: IpAddr, now_ns: i64) -> Result<(), FileRefusal> {
        let folder = parent.sub(folder_name(address).as_bytes())?;
        let stamp = folder.stamp()?;
        let mut changed = self.folder != Some(stamp);
        if changed {
            self.list(&folder)?;
            self.folder = stamp.is_settled(now_ns).then_some(stamp);
        }
        for (&kind, file) in &mut self.files {
            changed |= file
                .held
                .look(&folder, &file.name, now_ns, WhenEmpty::Torn, |text, bad| SourceValue::parse(kind, text, bad));
        }
        if changed {
            self.build(address);
        }
        Ok(())
    }

    fn list(&mut self, folder: &Folder) -> Result<(), FileRefusal> {
        let mut there = BTreeMap::new();
        let mut beyond = 0;
        folder.names(|name, _| {
            if let Some(kind) = SourceFile::of(name) {
                if there.len() < FILES_MAX {
                    there.insert(kind, Box::from(name));
                } else {
                    beyond += 1;
                }
            }
        })?;
        self.beyond = beyond;
        self.files.retain(|kind, _| there.contains_key(kind));
        for (kind, name) in there {
            self.files.entry(kind).or_insert_with(|| FolderFile { name, held: FileValue::default() });
        }
        Ok(())
    }

    fn build(&mut self, address: IpAddr) {
        let mut source = ScanSource { ip: address.to_string(), ..ScanSource::default() };
        let mut targets: BTreeMap<IpAddr, ScanTarget> = BTreeMap::new();
        let mut of = |ip: IpAddr, set: &mut dyn FnMut(&mut ScanTarget)| {
            set(targets.entry(ip).or_insert_with(|| ScanTarget { ip: ip.to_string(), ..ScanTarget::default() }));
        };
        for (&kind, file) in &self.files {
            match (kind, &file.held.value) {
                (SourceFile::DangerLevel, SourceValue::Number(level)) => source.danger_level = *level as u8,
                (SourceFile::OsGuess, SourceValue::Text(guess)) => source.os_guess = guess.clone(),
                (SourceFile::P0fGuess, SourceValue::Texts(guesses)) => source.p0f_guess = guesses.clone(),
                (SourceFile::EmailCounter | SourceFile::TargetEmailCounter(_), SourceValue::Number(emails)) => {
                    source.emails = source.emails.saturating_add(*emails);
                }
                (SourceFile::TargetStart(ip), SourceValue::Number(time)) => {
                    of(ip, &mut |target| target.start_time = *time);
                }
                (SourceFile::TargetPackets(ip), SourceValue::Packets(rows)) => {
                    of(ip, &mut |target| target.packets = rows.clone());
                }
                (SourceFile::TargetSignatures(ip), SourceValue::Signatures(rows)) => {
                    of(ip, &mut |target| target.signatures = rows.clone());
                }
                _ => {}
            }
        }
        source.targets = targets.into_values().collect();
        self.elements = elements(&source);
        self.source = source;
    }

    fn level_stamp(&self) -> Option<FileStamp> {
        self.files.get(&SourceFile::DangerLevel).and_then(|file| file.held.stamp()).or(self.folder)
    }
}

/// psad's name of a source's folder: IPv6 in full.
fn folder_name(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => {
            let groups = address.segments().map(|group| format!("{group:04x}"));
            groups.join(":")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folders_name_is_psads_form_of_the_address() {
        for name in ["192.0.2.1", "2001:0db8:0000:f101:0000:0000:0000:0002"] {
            assert_eq!(folder_name(address(name.as_bytes()).unwrap()), name);
        }
    }
}
