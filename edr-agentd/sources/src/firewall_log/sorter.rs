//! Sorts the lines of a log into packets, events of psad, and lines of other programs.

use std::collections::BTreeMap;

use edr_wire::Bytes;
use edr_wire::snapshot::{BytesRef, PsadEvent};

use super::fragment::{is_fragment, lost, repeats};
use super::head::{LineHead, LineTime, Message, Resolver, Tag, glued_heads, parse_head, parse_message};
use super::journal::{JournalEntry, Writer};
use super::record::{LineFault, Record, RecordEnd, parse_record};
use super::tail::{Flow, Piece};
use super::{LogContent, LogFormat, LogRows, parse_event};

/// Raw bytes of packets per tick.
const RAW_BYTES_MAX: usize = 4 << 20;
/// Events per tick.
const EVENTS_MAX: usize = 2_000;
/// Kept bytes of the first invalid line.
const FIRST_BYTES_MAX: usize = 256;
/// A shorter prefix has no room for the head of a line.
const HEAD_BYTES_MIN: usize = 24;

/// The line before the next line, for `last message repeated N times`.
#[derive(Debug, Default)]
pub(super) struct PreviousLine {
    kind: PreviousKind,
    /// The message of a packet.
    text: Vec<u8>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum PreviousKind {
    /// No line was read yet, or only a part of a line.
    #[default]
    Unknown,
    Packet,
    Other,
}

/// Sorts the lines of one reading.
#[derive(Debug)]
pub(super) struct Sorter<'a> {
    found: &'a mut LogRows,
    pub(super) faults: BTreeMap<LineFault, (u64, Bytes)>,
    resolver: &'a mut Resolver,
    previous: &'a mut PreviousLine,
    pub(super) packets_max: usize,
    raw_bytes: usize,
    format: LogFormat,
    wanted: LogContent,
}

/// A message with the facts from the head of its line.
#[derive(Debug, Clone, Copy)]
struct PacketText<'a> {
    line: &'a [u8],
    time: Option<LineTime>,
    message: Message<'a>,
    end: RecordEnd,
    /// The tag of the kernel or of ulogd: no text of another program.
    is_writers: bool,
}

impl<'a> Sorter<'a> {
    pub(super) fn new(
        found: &'a mut LogRows,
        (format, wanted): (LogFormat, LogContent),
        resolver: &'a mut Resolver,
        previous: &'a mut PreviousLine,
    ) -> Self {
        Self {
            found,
            faults: BTreeMap::new(),
            resolver,
            previous,
            packets_max: usize::MAX,
            raw_bytes: 0,
            format,
            wanted,
        }
    }

    pub(super) fn take(&mut self, piece: Piece<'_>) -> Flow {
        match piece {
            Piece::TooLong(line) => {
                self.fault(LineFault::TooLong, line, 1);
                self.previous.kind = PreviousKind::Unknown;
            }
            Piece::Line(line) => {
                self.line(line, if self.format == LogFormat::Fwdata { RecordEnd::Blank } else { RecordEnd::Whole });
            }
            Piece::LastOfFile(line) => self.line(line, RecordEnd::Blank),
        }
        self.flow()
    }

    pub(super) fn take_entry(&mut self, entry: &JournalEntry<'_>) -> Flow {
        match (entry.writer, entry.message) {
            (Writer::Missed, message) => {
                self.fault(LineFault::Lost, b"", message.and_then(lost).unwrap_or(1));
            }
            (_, None) => self.fault(LineFault::TooLong, b"", 1),
            (Writer::Psad, Some(message)) => {
                self.found.events.push(PsadEvent { time: Some(entry.time), ..parse_event(message) });
            }
            (Writer::Kernel, Some(line)) => {
                let mut message = parse_message(line);
                message.kernel_us = entry.kernel_us.or(message.kernel_us);
                let time = Some(LineTime::Full(entry.time));
                self.message(PacketText { line, time, message, end: RecordEnd::Whole, is_writers: true }, true);
            }
        }
        self.flow()
    }

    pub(super) fn flow(&self) -> Flow {
        let full = self.found.packets.len() >= self.packets_max || self.raw_bytes >= RAW_BYTES_MAX;
        if full || self.found.events.len() >= EVENTS_MAX { Flow::Enough } else { Flow::On }
    }

    /// Takes a line. After a crash a line is cut, and a block of NUL stands between the line and the next line.
    fn line(&mut self, line: &[u8], end: RecordEnd) {
        let Some(nul) = memchr::memchr(0, line) else {
            self.text(line, end);
            return;
        };
        let mut rest = line;
        let mut next = Some(nul);
        while let Some(nul) = next {
            if nul > 0 {
                self.text(&rest[..nul], RecordEnd::Blank);
            }
            rest = &rest[nul..];
            rest = &rest[rest.iter().position(|&byte| byte != 0).unwrap_or(rest.len())..];
            next = memchr::memchr(0, rest);
        }
        if !rest.is_empty() {
            self.text(rest, end);
        }
    }

    fn text(&mut self, text: &[u8], end: RecordEnd) {
        if self.format == LogFormat::Fwdata {
            self.pieces(text, &glued_heads(text), end);
        } else {
            self.record(text, end, false);
        }
    }

    /// Takes the lines that are glued together in `text`; further lines begin at `starts`.
    fn pieces(&mut self, text: &[u8], starts: &[usize], end: RecordEnd) {
        let mut start = 0;
        for &next in starts {
            self.record(&text[start..next], RecordEnd::Cut, true);
            start = next;
        }
        self.record(&text[start..], end, true);
    }

    fn record(&mut self, line: &[u8], end: RecordEnd, is_piece: bool) {
        let head = parse_head(line);
        if head.tag == Tag::Psad && self.format == LogFormat::Syslog {
            let time = head.time.and_then(|time| self.resolver.resolve(time));
            self.found.events.push(PsadEvent { time, ..parse_event(head.rest) });
            self.previous.kind = PreviousKind::Other;
            return;
        }
        if self.wanted == LogContent::Events {
            return;
        }
        if let Tag::Program(name) | Tag::Name(name) = head.tag
            && self.format != LogFormat::Ulogd
        {
            self.claimed(line, name, &head);
            return;
        }
        let mut message = parse_message(head.rest);
        message.kernel_us = message.kernel_us.or(head.kernel_us);
        let is_writers = matches!(head.tag, Tag::Kernel | Tag::Ulogd);
        // A blank line belongs to no program.
        if line.trim_ascii().is_empty() {
            return;
        }
        let text = PacketText { line, time: head.time, message, end, is_writers };
        self.message(text, is_piece);
    }

    /// Takes a line with the tag of another program.
    fn claimed(&mut self, line: &[u8], name: &[u8], head: &LineHead<'_>) {
        self.previous.kind = match self.previous.kind {
            // `syslog-ng[7]: Last message '…' repeated 3 times` is about the line before.
            kind if memchr::memmem::find(head.rest, b"repeated ").is_some() && is_logger(name) => kind,
            _ => PreviousKind::Other,
        };
        if is_logger(name) {
            let message = memchr::memmem::find(head.rest, b": ").map_or(head.rest, |at| &head.rest[at + 2..]);
            if let Some(times) = repeats(message) {
                self.repeat(times, line, head.time);
            } else if let Some(messages) = lost(head.rest) {
                self.fault(LineFault::Lost, b"", messages);
            }
        } else if self.format == LogFormat::Fwdata {
            self.fault(LineFault::NoHeader, line, 1);
        } else if matches!(head.tag, Tag::Name(_)) && parse_record(head.rest, RecordEnd::Whole).is_some() {
            // Without a process number the name may be the prefix of a rule.
            self.fault(LineFault::OtherName, b"", 1);
        }
    }

    fn message(&mut self, text: PacketText<'_>, is_piece: bool) {
        let message = text.message;
        if matches!(message.text.first(), Some(b'l' | b'L' | b'm' | b'-'))
            && let Some(times) = repeats(message.text)
        {
            self.repeat(times, text.line, text.time);
            return;
        }
        let Some(record) = parse_record(message.text, text.end) else {
            self.no_packet(&text);
            return;
        };
        let prefix = record.packet.prefix.0;
        let is_glued = record.second.is_some()
            || (prefix.len() >= HEAD_BYTES_MIN && memchr::memmem::find(prefix, b"kernel").is_some());
        if is_glued && !is_piece && self.format != LogFormat::Journal {
            let starts = glued_heads(text.line);
            if !starts.is_empty() {
                self.pieces(text.line, &starts, text.end);
                return;
            }
        }
        let time = text.time.and_then(|time| self.resolver.resolve(time));
        if let Some(second) = record.second {
            self.several(&text, second, time);
            return;
        }
        self.push(record, text.line, time, &message);
        self.previous.kind = PreviousKind::Packet;
        self.previous.text.clear();
        self.previous.text.extend_from_slice(message.text);
    }

    /// Takes a text with several packets and a single head; only the last may be whole. The prefixes of the later
    /// packets are unknown: the cut text stands before them.
    fn several(&mut self, text: &PacketText<'_>, last: usize, time: Option<i64>) {
        let whole = text.message.text;
        let mut starts = vec![whole.len(), last];
        while let Some(record) = parse_record(&whole[..starts[starts.len() - 1]], RecordEnd::Cut) {
            match record.second {
                Some(start) => starts.push(start),
                None => break,
            }
        }
        starts.push(0);
        starts.reverse();
        for pair in starts.windows(2) {
            let [start, end] = [pair[0], pair[1]];
            let is_last = end == whole.len();
            let piece = &whole[start..end];
            if let Some(record) = parse_record(piece, if is_last { text.end } else { RecordEnd::Cut }) {
                self.push(record, piece, time, &text.message);
            }
        }
        self.previous.kind = PreviousKind::Unknown;
    }

    fn push(&mut self, record: Record<'_>, raw: &[u8], time: Option<i64>, message: &Message<'_>) {
        let mut packet = record.packet;
        packet.time = time;
        packet.kernel_us = message.kernel_us;
        packet.repeated = message.repeated;
        packet.raw = BytesRef(raw);
        self.raw_bytes += raw.len();
        self.found.packets.push_packet(&packet);
        if record.bad {
            self.fault(LineFault::BadValue, raw, 1);
        }
    }

    /// Counts a line that is no packet, when the line may tell of a packet.
    fn no_packet(&mut self, text: &PacketText<'_>) {
        // A part of a packet line may be repeated, too.
        self.previous.kind = PreviousKind::Unknown;
        let message = text.message;
        let has_head = text.time.is_some() || text.is_writers;
        // An unrecognized line of a syslog file may belong to another program, so its text stays on the host.
        let shown = if text.is_writers || self.format != LogFormat::Syslog { text.line } else { b"" };
        if let Some(messages) = lost(message.text) {
            self.fault(LineFault::Lost, b"", messages);
        } else if matches!(self.format, LogFormat::Fwdata | LogFormat::Ulogd) {
            let fault = if has_head { LineFault::NoInterfaces } else { LineFault::NoHeader };
            self.fault(fault, shown, message.repeated.into());
        } else if is_fragment(message.text) {
            self.fault(LineFault::Fragment, shown, message.repeated.into());
        } else if !has_head {
            self.fault(LineFault::NoHeader, shown, 1);
        } else {
            self.previous.kind = PreviousKind::Other;
        }
    }

    /// Takes `last message repeated N times`.
    fn repeat(&mut self, times: u64, line: &[u8], time: Option<LineTime>) {
        match self.previous.kind {
            PreviousKind::Other => {}
            PreviousKind::Unknown => self.fault(LineFault::UnknownRepeat, b"", times),
            PreviousKind::Packet => {
                let time = time.and_then(|time| self.resolver.resolve(time));
                let previous = std::mem::take(&mut self.previous.text);
                let repeated = u32::try_from(times).unwrap_or(u32::MAX);
                if let Some(record) = parse_record(&previous, RecordEnd::Whole) {
                    let message = Message { kernel_us: None, repeated, text: &previous };
                    self.push(Record { bad: false, ..record }, line, time, &message);
                }
                self.previous.text = previous;
            }
        }
    }

    fn fault(&mut self, fault: LineFault, shown: &[u8], count: u64) {
        let first = || Bytes::from(&shown[..shown.len().min(FIRST_BYTES_MAX)]);
        self.faults.entry(fault).or_insert_with(|| (0, first())).0 += count;
    }
}

/// True for the programs that write logs.
fn is_logger(name: &[u8]) -> bool {
    let names: [&[u8]; 8] =
        [b"systemd-journald", b"journald", b"syslogd", b"syslog", b"syslog-ng", b"rsyslogd", b"rsyslog", b"metalog"];
    names.contains(&name)
}

#[cfg(test)]
mod tests;
