//! A logged packet: the text after the head of a line.
//!
//! `<prefix>IN=<if> OUT=<if> KEY=value FLAG …`, in the fixed order of the kernel's `nf_log`. Pure. An invalid value is
//! treated as missing. A field inside the brackets of an ICMP error belongs to the quoted packet. User-space writers
//! (ulogd, Proxmox) leave out the interface that there is none of.

use edr_wire::snapshot::{Address, BytesRef, Dotted, PacketRow};

use super::head::strip_level;

/// The fault of a line that is no packet, or only a part of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LineFault {
    /// Fields of a packet without the start of the packet, or the start alone: the line was cut.
    Fragment,
    /// `IN=…` or `OUT=…` is missing in a log that has only packets.
    NoInterfaces,
    /// `last message repeated N times` after a line of an earlier run of the agent.
    UnknownRepeat,
    /// Messages that were lost before the log, as the writer of the log noted.
    Lost,
    /// A packet under the name of another program.
    OtherName,
    /// The head of a syslog line is missing.
    NoHeader,
    /// The line is longer than the limit.
    TooLong,
    /// A field has an invalid value.
    BadValue,
}

impl LineFault {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Fragment => "a part of a packet",
            Self::NoInterfaces => "no IN= and OUT=",
            Self::UnknownRepeat => "a repeated line that was not read",
            Self::Lost => "messages lost before the log",
            Self::OtherName => "a packet under the name of a program",
            Self::NoHeader => "no head of a syslog line",
            Self::TooLong => "line too long",
            Self::BadValue => "a field with a value that cannot be",
        }
    }
}

/// The meaning of the end of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecordEnd {
    /// The writer writes whole lines, so the record is complete.
    Whole,
    /// A complete record ends with a blank, as written by the kernel: kmsgsd writes blocks.
    Blank,
    /// More text follows on the same line, so the record is cut.
    Cut,
}

/// A packet, and facts about its line.
#[derive(Debug)]
pub(crate) struct Record<'a> {
    /// All fields except `time`, `kernel_us` and `raw`.
    pub(crate) packet: PacketRow<'a>,
    /// A field has an invalid value, and is left out.
    pub(crate) bad: bool,
    /// Start of the packet, when a cut packet stands before.
    pub(crate) second: Option<usize>,
}

/// Parses the prefix and the packet; `None` for a text without a packet.
pub(crate) fn parse_record(text: &[u8], end: RecordEnd) -> Option<Record<'_>> {
    let start = find_packet(text)?;
    let whole = match end {
        RecordEnd::Whole => true,
        RecordEnd::Blank => text.ends_with(b" "),
        RecordEnd::Cut => false,
    };
    let mut packet = PacketRow { repeated: 1, cut: !whole, ..PacketRow::default() };
    packet.prefix = BytesRef(text[..start.at].trim_ascii_end());
    packet.interface_in = BytesRef(start.interface_in);
    packet.interface_out = BytesRef(start.interface_out);
    let bad = parse_fields(&text[start.fields..], whole, &mut packet);
    packet.chain = match (packet.interface_in.is_empty(), packet.interface_out.is_empty()) {
        (false, true) => "INPUT",
        (false, false) => "FORWARD",
        (true, false) => "OUTPUT",
        (true, true) => "",
    };
    Some(Record { packet, bad, second: start.second.then_some(start.at) })
}

/// The start of a packet in a text.
#[derive(Debug, Default)]
struct PacketStart<'a> {
    /// The end of the prefix.
    at: usize,
    interface_in: &'a [u8],
    /// Set only for a packet that starts with `OUT=`.
    interface_out: &'a [u8],
    /// Start of the further fields.
    fields: usize,
    /// A cut packet stands before.
    second: bool,
}

/// Finds the packet: the last `IN=` that is followed by `OUT=` and by a further field, or by the end. A prefix may look
/// like the start of a packet, but the kernel writes everything after the prefix.
fn find_packet(text: &[u8]) -> Option<PacketStart<'_>> {
    let mut found: Option<(PacketStart<'_>, bool)> = None;
    for at in memchr::memchr_iter(b'I', text) {
        if !text[at + 1..].starts_with(b"N=") {
            continue;
        }
        let is_word = !at.checked_sub(1).is_some_and(|before| text[before].is_ascii_alphanumeric());
        if (!is_word && text[..at].ends_with(b"PHYS")) || found.as_ref().is_some_and(|(_, known)| *known && !is_word) {
            continue;
        }
        let interface_in = word_at(text, at + 3);
        let fields = at + 3 + interface_in.len();
        if !is_start(&text[fields..]) {
            continue;
        }
        let second = found.as_ref().is_some_and(|(first, _)| has_address(&text[first.fields..at]));
        found = Some((PacketStart { at, interface_in, fields, second, ..PacketStart::default() }, is_word));
    }
    found.map(|(start, _)| start).or_else(|| find_outgoing(text))
}

/// Finds a packet that starts with `OUT=`.
fn find_outgoing(text: &[u8]) -> Option<PacketStart<'_>> {
    let mut found = None;
    for at in memchr::memchr_iter(b'O', text) {
        let is_word = !at.checked_sub(1).is_some_and(|before| text[before].is_ascii_alphanumeric());
        if !is_word || !text[at..].starts_with(b"OUT=") {
            continue;
        }
        let interface_out = word_at(text, at + 4);
        let fields = at + 4 + interface_out.len();
        // Without an interface the line lost its start.
        if !interface_out.is_empty() && is_link_field(&text[fields..]) {
            found = Some(PacketStart { at, interface_out, fields, ..PacketStart::default() });
        }
    }
    found
}

/// True when a packet goes on in `rest`, the text after `IN=<if>`: with `OUT=` and any field, or with an address.
fn is_start(rest: &[u8]) -> bool {
    let mut rest = rest;
    // Kernels 2.4 and 2.6.
    if let Some(after) = rest.strip_prefix(b" PHYSIN=") {
        rest = &after[word_at(after, 0).len()..];
    }
    let Some(after) = rest.strip_prefix(b" OUT=") else { return is_link_field(rest) };
    let next = after[word_at(after, 0).len()..].trim_ascii_start();
    let next = strip_level(next).unwrap_or(next);
    let key = next.iter().take(12).take_while(|byte| byte.is_ascii_uppercase()).count();
    let is_field = key >= 2 && matches!(next.get(key), Some(b'=' | b' ')) && !next.starts_with(b"IN=");
    is_field || next.is_empty()
}

/// True when `rest` starts with the link or an address.
fn is_link_field(rest: &[u8]) -> bool {
    let Some(rest) = rest.strip_prefix(b" ") else { return false };
    let next = strip_level(rest).unwrap_or(rest);
    [&b"MAC"[..], b"SRC=", b"DST=", b"PHYSIN=", b"PHYSOUT="].iter().any(|key| next.starts_with(key))
}

/// True when the text has an address of a packet: the text is not only a prefix.
fn has_address(text: &[u8]) -> bool {
    [&b"SRC="[..], b"MAC="].iter().any(|key| {
        let value = memchr::memmem::find(text, key).map_or(&b""[..], |at| word_at(text, at + 4));
        value.first().is_some_and(u8::is_ascii_hexdigit) && value.iter().take(5).any(|byte| matches!(byte, b'.' | b':'))
    })
}

/// The bytes from `at` to the next blank.
fn word_at(text: &[u8], at: usize) -> &[u8] {
    let rest = &text[at..];
    &rest[..memchr::memchr(b' ', rest).unwrap_or(rest.len())]
}

/// Parses the fields after `IN=`; returns true when a field has an invalid value.
fn parse_fields<'a>(text: &'a [u8], whole: bool, packet: &mut PacketRow<'a>) -> bool {
    // The last word of a cut record may be incomplete.
    let words_end = if whole { text.len() } else { memchr::memrchr(b' ', text).unwrap_or(0) };
    let mut rest = &text[..words_end];
    let mut bad = false;
    // The kernel writes the start of every packet in this order, so most words need no search.
    if let Some(value) = take(&mut rest, b"OUT=") {
        packet.interface_out = BytesRef(value);
    }
    if let Some(value) = take(&mut rest, b"MAC=") {
        packet.mac = BytesRef(value);
    }
    if let Some(value) = take(&mut rest, b"SRC=") {
        bad |= !set_address(&mut packet.src, value);
    }
    if let Some(value) = take(&mut rest, b"DST=") {
        bad |= !set_address(&mut packet.dst, value);
    }
    if let Some(value) = take(&mut rest, b"LEN=") {
        bad |= !set(&mut packet.length, value);
    }
    take(&mut rest, b"TOS=");
    take(&mut rest, b"PREC=");
    if let Some(value) = take(&mut rest, b"TTL=") {
        bad |= !set(&mut packet.ttl, value);
    }
    take(&mut rest, b"ID=");
    take(&mut rest, b"DF");
    let mut after_protocol = false;
    if let Some(value) = take(&mut rest, b"PROTO=") {
        after_protocol = true;
        bad |= !set_protocol(&mut packet.protocol, value);
        if let Some(value) = take(&mut rest, b"SPT=") {
            bad |= !set(&mut packet.src_port, value);
        }
        if let Some(value) = take(&mut rest, b"DPT=") {
            bad |= !set(&mut packet.dst_port, value);
        }
        take(&mut rest, b"WINDOW=");
        take(&mut rest, b"RES=");
    }
    let mut after_type = false;
    while let Some(&first) = rest.first() {
        match first {
            b' ' => {
                rest = &rest[1..];
                continue;
            }
            // Text in brackets does not belong to this packet: a quoted packet, options, `INCOMPLETE [2 bytes]`.
            b'[' | b'(' => {
                let Some(len) = bracket_len(rest) else { break };
                rest = &rest[len..];
                continue;
            }
            _ => {}
        }
        if first == b'<'
            && let Some(after) = strip_level(rest)
        {
            rest = after;
        }
        let (key, value) = split_key(rest);
        let (value, after) = value.split_at(word_len(value));
        rest = after;
        let bytes = |field: &mut BytesRef<'a>| {
            if field.is_empty() {
                *field = BytesRef(value);
            }
        };
        match key {
            b"OUT=" => bytes(&mut packet.interface_out),
            b"MAC=" => bytes(&mut packet.mac),
            b"SRC=" => bad |= !set_address(&mut packet.src, value),
            b"DST=" => bad |= !set_address(&mut packet.dst, value),
            // UDP has a second `LEN=`, the length of the datagram.
            b"LEN=" if !after_protocol => bad |= !set(&mut packet.length, value),
            b"TTL=" | b"HOPLIMIT=" => bad |= !set(&mut packet.ttl, value),
            b"PROTO=" if !after_protocol => {
                after_protocol = true;
                bad |= !set_protocol(&mut packet.protocol, value);
            }
            b"SPT=" if after_protocol => bad |= !set(&mut packet.src_port, value),
            b"DPT=" if after_protocol => bad |= !set(&mut packet.dst_port, value),
            b"TYPE=" if after_protocol => {
                after_type = true;
                bad |= !set(&mut packet.icmp_type, value);
            }
            b"CODE=" if after_type => bad |= !set(&mut packet.icmp_code, value),
            b"" if after_protocol && packet.protocol == "tcp" => {
                packet.flags.set(value);
            }
            _ => {}
        }
    }
    bad
}

/// Returns the value of the next word, when the word has this key.
#[inline]
fn take<'a, const N: usize>(rest: &mut &'a [u8], key: &[u8; N]) -> Option<&'a [u8]> {
    let word = rest.strip_prefix(b" ")?;
    let (start, value) = word.split_first_chunk::<N>()?;
    if start != key {
        return None;
    }
    let (value, after) = value.split_at(word_len(value));
    *rest = after;
    Some(value)
}

/// Splits a word behind the key and `=`. The key is empty for unknown keys.
fn split_key(word: &[u8]) -> (&[u8], &[u8]) {
    let len = match word {
        [b'O', b'U', b'T', b'=', ..]
        | [b'M', b'A', b'C', b'=', ..]
        | [b'S', b'R', b'C', b'=', ..]
        | [b'D', b'S' | b'P', b'T', b'=', ..]
        | [b'L', b'E', b'N', b'=', ..]
        | [b'T', b'T', b'L', b'=', ..]
        | [b'S', b'P', b'T', b'=', ..] => 4,
        [b'T', b'Y', b'P', b'E', b'=', ..] | [b'C', b'O', b'D', b'E', b'=', ..] => 5,
        [b'P', b'R', b'O', b'T', b'O', b'=', ..] => 6,
        [b'H', b'O', b'P', b'L', b'I', b'M', b'I', b'T', b'=', ..] => 9,
        _ => 0,
    };
    word.split_at(len)
}

/// The number of bytes before the first blank. Words are too short for a general search, so eight bytes are checked at
/// once.
fn word_len(text: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let mut at = 0;
    while let Some((eight, _)) = text[at..].split_first_chunk::<8>() {
        let differs = u64::from_le_bytes(*eight) ^ (ONES * u64::from(b' '));
        // The lowest marked byte is the first blank; higher marks may be false.
        let marks = differs.wrapping_sub(ONES) & !differs & (ONES << 7);
        if marks != 0 {
            return at + marks.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    text[at..].iter().position(|&byte| byte == b' ').map_or(text.len(), |len| at + len)
}

/// Bytes from an opening bracket to the closing bracket; `None` without a closing bracket.
fn bracket_len(text: &[u8]) -> Option<usize> {
    let mut open = 0_usize;
    for (at, byte) in text.iter().enumerate() {
        match byte {
            b'[' | b'(' => open += 1,
            b']' | b')' => {
                open -= 1;
                if open == 0 {
                    return Some(at + 1);
                }
            }
            _ => {}
        }
    }
    None
}

fn set<T: TryFrom<u64>>(field: &mut Option<T>, value: &[u8]) -> bool {
    if field.is_some() {
        return true;
    }
    if value.is_empty() || value.len() > 10 {
        return false;
    }
    let number = value
        .iter()
        .try_fold(0_u64, |number, byte| byte.is_ascii_digit().then(|| number * 10 + u64::from(byte - b'0')));
    *field = number.and_then(|number| T::try_from(number).ok());
    field.is_some()
}

fn set_address<'a>(field: &mut Address<'a>, value: &'a [u8]) -> bool {
    if !field.is_none() {
        return true;
    }
    *field = match Dotted::new(value) {
        Some(dotted) => Address::V4(dotted),
        None => match std::str::from_utf8(value).map(str::parse) {
            Ok(Ok(address)) => Address::V6(address),
            _ => return false,
        },
    };
    true
}

fn set_protocol<'a>(field: &mut &'a str, value: &'a [u8]) -> bool {
    *field = match value {
        b"TCP" => "tcp",
        b"UDP" => "udp",
        b"UDPLITE" => "udplite",
        b"ICMP" => "icmp",
        b"ICMPv6" => "icmpv6",
        b"ESP" => "esp",
        b"AH" => "ah",
        number => match std::str::from_utf8(number) {
            Ok(text) if number.iter().all(u8::is_ascii_digit) && text.parse::<u8>().is_ok() => text,
            _ => return false,
        },
    };
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_word_ends_at_the_first_blank(text in "[ =a-c\u{80}-\u{ff}]{0,40}") {
            let bytes = text.as_bytes();
            prop_assert_eq!(word_len(bytes), bytes.iter().position(|&byte| byte == b' ').unwrap_or(bytes.len()));
        }
    }
}
