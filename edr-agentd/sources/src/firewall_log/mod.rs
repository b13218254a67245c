//! The packets logged by the firewall, from the host's log.
//!
//! Promises: every line of the log is taken once. A line is a packet, an event of psad, a line of another program, or
//! is counted with the reason for not being recognized. The cost of a tick is bounded, and lines left for the next tick
//! are not lost.

mod events;
mod header;
mod journal;
#[cfg(test)]
mod properties;
mod record;
mod tail;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use edr_wire::Bytes;
use edr_wire::snapshot::{BytesRef, GapReason, Position, PsadEvent, Rows};
use jiff::tz::TimeZone;

pub(crate) use self::events::parse_event;
use self::header::{Resolver, Tag, glued_headers, parse_header};
pub(crate) use self::journal::JournalTail;
use self::journal::{JournalEntry, Writer};
use self::record::{LineFault, RecordEnd, parse_record};
use self::tail::{Flow, LogTail, Piece};
use crate::common::GapCollector;

/// Raw bytes of packets per tick.
const RAW_BYTES_MAX: usize = 4 << 20;
/// Events per tick.
const EVENTS_MAX: usize = 2_000;
/// Kept bytes of the first invalid line.
const FIRST_BYTES_MAX: usize = 256;

/// The form of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// A file of a syslog daemon: whole lines from many programs; lines with a packet are tagged `kernel:`.
    Syslog,
    /// `fwdata`: kmsgsd copies blocks of the kernel's lines, so lines can be cut and glued together.
    Fwdata,
    /// A file of ulogd: only packets, without a tag.
    Ulogd,
    /// Entries of the journal: messages without a head, each with the writer and the time.
    Journal,
}

/// The result of a reading of the logs.
#[derive(Debug, Default)]
pub(crate) struct LogRows {
    pub(crate) packets: Rows,
    pub(crate) events: Vec<PsadEvent>,
}

/// The content wanted from a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogContent {
    /// Packets, and psad's own lines in between.
    Packets,
    /// Only psad's own lines, when the packets are read from another log.
    Events,
}

/// The path that stands for the journal.
pub(crate) const JOURNAL: &str = "journal";

/// A log of packets, events or both.
#[derive(Debug)]
pub(crate) struct PacketLog {
    path: PathBuf,
    tail: Tail,
    format: LogFormat,
    wanted: LogContent,
}

/// The reader of a log.
#[derive(Debug)]
enum Tail {
    File(LogTail),
    Journal(JournalTail),
}

impl PacketLog {
    /// Opens the log at `path` and continues at `positions`.
    pub(crate) fn file(path: PathBuf, format: LogFormat, wanted: LogContent, positions: &[Position]) -> Self {
        Self { tail: Tail::File(LogTail::new(path.clone(), positions)), path, format, wanted }
    }

    /// Opens the journal in `folders` and continues at `positions`.
    pub(crate) fn journal(folders: Vec<PathBuf>, positions: &[Position]) -> Self {
        let tail = Tail::Journal(JournalTail::new(folders, positions));
        Self { path: PathBuf::from(JOURNAL), tail, format: LogFormat::Journal, wanted: LogContent::Packets }
    }

    pub(crate) fn is_of(&self, path: &Path, format: LogFormat) -> bool {
        self.path == path && self.format == format
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the new lines since the last reading, up to `packets_max` packets.
    pub(crate) fn read(&mut self, now_ns: i64, packets_max: usize, found: &mut LogRows, gaps: &mut GapCollector) {
        let mut sorter = Sorter {
            found,
            faults: BTreeMap::new(),
            resolver: Resolver::new(now_ns, TimeZone::system()),
            packets_max,
            raw_bytes: 0,
            wanted: self.wanted,
            format: self.format,
        };
        match &mut self.tail {
            Tail::File(tail) => {
                tail.read(gaps, |piece| sorter.take(piece));
            }
            Tail::Journal(tail) => tail.read(now_ns, gaps, |entry| sorter.take_entry(&entry)),
        }
        for (fault, (count, first)) in sorter.faults {
            let detail = format!("{}: {first}", self.path.display());
            gaps.add_count("packets", fault.name().as_bytes(), GapReason::Malformed, &detail, count);
        }
    }

    /// The positions at which a later reader continues.
    pub(crate) fn positions(&self) -> Vec<Position> {
        match &self.tail {
            Tail::File(tail) => tail.positions(),
            Tail::Journal(tail) => tail.positions(),
        }
    }
}

/// Sorts lines into packets, events and foreign lines.
#[derive(Debug)]
struct Sorter<'a> {
    found: &'a mut LogRows,
    faults: BTreeMap<LineFault, (u64, Bytes)>,
    resolver: Resolver,
    packets_max: usize,
    raw_bytes: usize,
    wanted: LogContent,
    format: LogFormat,
}

impl Sorter<'_> {
    fn take(&mut self, piece: Piece<'_>) -> Flow {
        match piece {
            Piece::TooLong(line) => self.fault(LineFault::TooLong, line),
            Piece::Line(line) => {
                self.line(line, if self.format == LogFormat::Fwdata { RecordEnd::Blank } else { RecordEnd::Whole });
            }
            Piece::LastOfFile(line) => self.line(line, RecordEnd::Blank),
        }
        self.flow()
    }

    fn take_entry(&mut self, entry: &JournalEntry<'_>) -> Flow {
        match (entry.writer, entry.message) {
            (_, None) => self.fault(LineFault::TooLong, b""),
            (Writer::Psad, Some(message)) => {
                self.found.events.push(PsadEvent { time: Some(entry.time), ..parse_event(message) });
            }
            (Writer::Kernel, Some(message)) => {
                self.packet(message, message, Some(entry.time), entry.kernel_us, RecordEnd::Whole);
            }
        }
        self.flow()
    }

    fn flow(&self) -> Flow {
        let full = self.found.packets.len() >= self.packets_max || self.raw_bytes >= RAW_BYTES_MAX;
        if full || self.found.events.len() >= EVENTS_MAX { Flow::Enough } else { Flow::On }
    }

    fn line(&mut self, line: &[u8], end: RecordEnd) {
        if self.format != LogFormat::Fwdata {
            self.record(line, end);
            return;
        }
        let mut start = 0;
        for next in glued_headers(line) {
            self.record(&line[start..next], RecordEnd::Cut);
            start = next;
        }
        self.record(&line[start..], end);
    }

    fn record(&mut self, line: &[u8], end: RecordEnd) {
        let Some(header) = parse_header(line) else {
            // A blank line belongs to no program.
            if self.wanted == LogContent::Packets && !line.is_empty() {
                self.fault(LineFault::NoHeader, line);
            }
            return;
        };
        match (header.tag, self.wanted, self.format) {
            (Tag::Psad, _, LogFormat::Syslog) => {
                let mut event = parse_event(header.rest);
                event.time = self.resolver.resolve(header.time);
                self.found.events.push(event);
            }
            (Tag::Kernel, LogContent::Packets, _) | (Tag::Other, LogContent::Packets, LogFormat::Ulogd) => {
                let time = self.resolver.resolve(header.time);
                self.packet(line, header.rest, time, header.kernel_us, end);
            }
            (_, LogContent::Packets, LogFormat::Fwdata) => self.fault(LineFault::NoHeader, line),
            _ => {}
        }
    }

    fn packet(&mut self, line: &[u8], record: &[u8], time: Option<i64>, kernel_us: Option<u64>, end: RecordEnd) {
        match parse_record(record, end) {
            Ok((mut packet, bad)) => {
                packet.time = time;
                packet.kernel_us = kernel_us;
                packet.raw = BytesRef(line);
                self.raw_bytes += line.len();
                self.found.packets.push_packet(&packet);
                if bad {
                    self.fault(LineFault::BadValue, line);
                }
            }
            // A syslog file and the journal also hold further messages of the kernel.
            Err(fault) => {
                let looks_like_one = [&b"IN="[..], b"OUT="].iter().all(|key| memchr::memmem::find(line, key).is_some());
                if matches!(self.format, LogFormat::Fwdata | LogFormat::Ulogd) || looks_like_one {
                    self.fault(fault, line);
                }
            }
        }
    }

    fn fault(&mut self, fault: LineFault, line: &[u8]) {
        // An unrecognized line of a syslog file may belong to another program, so its text stays on the host.
        let shown = if fault == LineFault::NoHeader && self.format == LogFormat::Syslog { &[][..] } else { line };
        let first = || Bytes::from(&shown[..shown.len().min(FIRST_BYTES_MAX)]);
        self.faults.entry(fault).or_insert_with(|| (0, first())).0 += 1;
    }
}
