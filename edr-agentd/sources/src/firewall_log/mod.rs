//! The packets logged by the firewall, from the host's log.
//!
//! Promises: every line of the log is taken once. A line is a packet, an event of psad, a line of another program, or
//! is counted with the reason for not being recognized. Every packet of which the log tells is counted: as a row, in
//! `repeated` of a row, or in a gap. The packet decides, not the head of its line: a line without a known time or tag
//! is a packet all the same, and only the tag of another program refuses a packet. The cost of a tick is bounded, and
//! lines left for the next tick are not lost.

mod events;
mod fragment;
mod head;
mod journal;
#[cfg(test)]
mod properties;
mod record;
mod sorter;
mod tail;

use std::path::{Path, PathBuf};

use edr_wire::snapshot::{GapReason, Position, PsadEvent, Rows};
use jiff::tz::TimeZone;

pub(crate) use self::events::parse_event;
use self::head::Resolver;
pub(crate) use self::journal::JournalTail;
use self::sorter::{PreviousLine, Sorter};
use self::tail::{Flow, LogTail};
use crate::common::GapCollector;

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
    resolver: Resolver,
    previous: PreviousLine,
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
        Self::new(Tail::File(LogTail::new(path.clone(), positions)), path, format, wanted)
    }

    /// Opens the journal in `folders` and continues at `positions`.
    pub(crate) fn journal(folders: Vec<PathBuf>, positions: &[Position]) -> Self {
        let tail = Tail::Journal(JournalTail::new(folders, positions));
        Self::new(tail, PathBuf::from(JOURNAL), LogFormat::Journal, LogContent::Packets)
    }

    fn new(tail: Tail, path: PathBuf, format: LogFormat, wanted: LogContent) -> Self {
        let resolver = Resolver::new(0, TimeZone::UTC);
        Self { path, tail, format, wanted, resolver, previous: PreviousLine::default() }
    }

    pub(crate) fn is_of(&self, path: &Path, format: LogFormat) -> bool {
        self.path == path && self.format == format
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the new lines since the last reading, up to `packets_max` packets.
    pub(crate) fn read(&mut self, now_ns: i64, packets_max: usize, found: &mut LogRows, gaps: &mut GapCollector) {
        self.resolver.set_now(now_ns, TimeZone::system());
        let mut sorter = Sorter::new(found, (self.format, self.wanted), &mut self.resolver, &mut self.previous);
        sorter.packets_max = packets_max;
        match &mut self.tail {
            Tail::File(tail) => {
                tail.read(gaps, |piece| sorter.take(piece));
            }
            Tail::Journal(tail) => tail.read(now_ns, gaps, |entry| sorter.take_entry(&entry)),
        }
        let flow = sorter.flow();
        for (fault, (count, first)) in sorter.faults {
            let detail = format!("{}: {first}", self.path.display());
            gaps.add_count("packets", fault.name().as_bytes(), GapReason::Malformed, &detail, count);
        }
        if flow == Flow::On {
            self.resolver.caught_up();
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
