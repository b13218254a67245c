//! One logged packet: what follows the head of its line.
//!
//! `<prefix>IN=<if> OUT=<if> KEY=value FLAG …`, in the fixed order of the kernel's `nf_log`. Pure. A value that is not
//! one of its field is no value; a field inside the brackets of an ICMP error belongs to the packet quoted there.

use edr_wire::snapshot::{Address, BytesRef, PacketRow};

/// What is wrong with a line that is no packet, or not all of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// There is no `IN=… OUT=…`: a line of another part of the kernel, or cut before it.
    NoInterfaces,
    /// No head of a syslog line.
    NoHeader,
    /// Longer than the cap.
    TooLong,
    /// A field's value is not one of that field.
    BadValue,
}

impl Fault {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::NoInterfaces => "no IN= and OUT=",
            Self::NoHeader => "no head of a syslog line",
            Self::TooLong => "line too long",
            Self::BadValue => "a field with a value that cannot be",
        }
    }
}

/// Whether the end of the text is the end of the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The writer writes whole lines.
    Whole,
    /// A record is whole when it ends with a blank, as the kernel ends it: kmsgsd writes blocks.
    Blank,
    /// Something else follows on the same line.
    Cut,
}

/// Parses the prefix and the packet. Sets all fields but `time`, `kernel_us` and `raw`.
///
/// # Errors
/// [`Fault::NoInterfaces`]. A record with a bad value is returned without it, and the flag beside it is set.
pub(crate) fn parse_record(text: &[u8], end: End) -> Result<(PacketRow<'_>, bool), Fault> {
    let (text, repeated) = strip_repeat(text);
    let (at, interface_in) = find_interfaces(text).ok_or(Fault::NoInterfaces)?;
    let whole = match end {
        End::Whole => true,
        End::Blank => text.ends_with(b" "),
        End::Cut => false,
    };
    let mut packet = PacketRow { repeated, cut: !whole, ..PacketRow::default() };
    packet.prefix = BytesRef(text[..at].trim_ascii_end());
    packet.interface_in = BytesRef(interface_in);
    let bad = parse_fields(&text[at + 3 + interface_in.len()..], whole, &mut packet);
    packet.chain = match (packet.interface_in.is_empty(), packet.interface_out.is_empty()) {
        (false, true) => "INPUT",
        (false, false) => "FORWARD",
        (true, false) => "OUTPUT",
        (true, true) => "",
    };
    Ok((packet, bad))
}

/// `message repeated 28 times: [ <record>]`: rsyslog's reduction of equal messages.
fn strip_repeat(text: &[u8]) -> (&[u8], u32) {
    let inner = || {
        let rest = text.strip_prefix(b"message repeated ")?;
        let digits = rest.iter().take(9).take_while(|byte| byte.is_ascii_digit()).count();
        let times: u32 = std::str::from_utf8(&rest[..digits]).ok()?.parse().ok().filter(|&times| times > 0)?;
        let record = rest[digits..].strip_prefix(b" times: [")?.trim_ascii_end().strip_suffix(b"]")?;
        Some((record.strip_prefix(b" ").unwrap_or(record), times))
    };
    inner().unwrap_or((text, 1))
}

/// Where `IN=` starts and its value: the first one that `OUT=` follows, with at most a `PHYSIN=` between (kernels of
/// the 2.4 and 2.6 series). A prefix may hold `IN=` too.
fn find_interfaces(text: &[u8]) -> Option<(usize, &[u8])> {
    for equals in memchr::memchr_iter(b'=', text) {
        let Some(at) = equals.checked_sub(2).filter(|&at| text[at..].starts_with(b"IN")) else { continue };
        let value = word_at(text, at + 3);
        let mut rest = &text[at + 3 + value.len()..];
        if let Some(after) = rest.strip_prefix(b" PHYSIN=") {
            rest = &after[word_at(after, 0).len()..];
        }
        if rest.starts_with(b" OUT=") {
            return Some((at, value));
        }
    }
    None
}

/// The bytes from `at` to the next blank.
fn word_at(text: &[u8], at: usize) -> &[u8] {
    let rest = &text[at..];
    &rest[..memchr::memchr(b' ', rest).unwrap_or(rest.len())]
}

/// Reads the fields after `IN=`; true when one had a value that cannot be.
fn parse_fields<'a>(text: &'a [u8], whole: bool, packet: &mut PacketRow<'a>) -> bool {
    let mut bad = false;
    let mut after_protocol = false;
    let mut after_type = false;
    let mut at = 0;
    while at < text.len() {
        if text[at] == b' ' {
            at += 1;
            continue;
        }
        let (len, equals) = measure_word(&text[at..]);
        let word = &text[at..at + len];
        let last = at + word.len() == text.len();
        // The last word of a cut record may be half a word.
        if last && !whole {
            break;
        }
        // What is in brackets is not of this packet: the quoted one, options, `INCOMPLETE [2 bytes]`.
        if let b'[' | b'(' = word[0] {
            let Some(len) = bracket_len(&text[at..]) else { break };
            at += len;
            continue;
        }
        at += word.len();
        let Some(equals) = equals else {
            if after_protocol && packet.protocol == "tcp" {
                packet.flags.set(word);
            }
            continue;
        };
        let value = &word[equals + 1..];
        let bytes = |field: &mut BytesRef<'a>| {
            if field.is_empty() {
                *field = BytesRef(value);
            }
        };
        match &word[..equals] {
            b"OUT" => bytes(&mut packet.interface_out),
            b"MAC" => bytes(&mut packet.mac),
            b"SRC" => bad |= !set_address(&mut packet.src, value),
            b"DST" => bad |= !set_address(&mut packet.dst, value),
            // UDP has a second one, of itself.
            b"LEN" if !after_protocol => bad |= !set(&mut packet.length, value),
            b"TTL" | b"HOPLIMIT" => bad |= !set(&mut packet.ttl, value),
            b"PROTO" if !after_protocol => {
                after_protocol = true;
                bad |= !set_protocol(&mut packet.protocol, value);
            }
            b"SPT" if after_protocol => bad |= !set(&mut packet.src_port, value),
            b"DPT" if after_protocol => bad |= !set(&mut packet.dst_port, value),
            b"TYPE" if after_protocol => {
                after_type = true;
                bad |= !set(&mut packet.icmp_type, value);
            }
            b"CODE" if after_type => bad |= !set(&mut packet.icmp_code, value),
            _ => {}
        }
    }
    bad
}

/// How long the word is that `text` starts with, and where its first `=` is. Words are too short for a search each:
/// eight bytes are looked at in one go.
fn measure_word(text: &[u8]) -> (usize, Option<usize>) {
    const ONES: u64 = 0x0101_0101_0101_0101;
    // The lowest marked byte is the first one equal to `byte`; marks above it may be false.
    let find = |eight: u64, byte: u8| {
        let differs = eight ^ (ONES * u64::from(byte));
        let marks = differs.wrapping_sub(ONES) & !differs & (ONES << 7);
        (marks != 0).then_some(marks.trailing_zeros() as usize / 8)
    };
    let mut equals = None;
    let mut at = 0;
    while let Some((eight, _)) = text[at..].split_first_chunk::<8>() {
        let eight = u64::from_le_bytes(*eight);
        let blank = find(eight, b' ');
        if equals.is_none() {
            equals = find(eight, b'=').filter(|place| blank.is_none_or(|blank| *place < blank)).map(|place| at + place);
        }
        match blank {
            Some(blank) => return (at + blank, equals),
            None => at += 8,
        }
    }
    while at < text.len() && text[at] != b' ' {
        if text[at] == b'=' && equals.is_none() {
            equals = Some(at);
        }
        at += 1;
    }
    (at, equals)
}

/// Bytes from an opening bracket to its closing one; `None` when it is cut before it.
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
    let Ok(text) = std::str::from_utf8(value) else { return false };
    // Dotted, an address has one form only, the canonical one.
    *field = if is_ipv4(value) {
        Address::Canonical(text)
    } else {
        match text.parse() {
            Ok(address) => Address::V6(address),
            Err(_) => return false,
        }
    };
    true
}

/// Four numbers up to 255 without leading zeros: what `Ipv4Addr` parses, in a quarter of the time.
fn is_ipv4(text: &[u8]) -> bool {
    let (mut octets, mut number, mut digits) = (0, 0_u32, 0);
    for &byte in text {
        if byte == b'.' {
            if digits == 0 || octets == 3 {
                return false;
            }
            (octets, number, digits) = (octets + 1, 0, 0);
        } else if byte.is_ascii_digit() && !(digits > 0 && number == 0) {
            (number, digits) = (number * 10 + u32::from(byte - b'0'), digits + 1);
            if number > 255 {
                return false;
            }
        } else {
            return false;
        }
    }
    octets == 3 && digits > 0
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
        fn an_ipv4_address_is_what_the_standard_library_takes(text in "([0-9]{1,4}|[.x]){0,9}|([0-9]{1,3}\\.){3}[0-9]{1,3}") {
            prop_assert_eq!(is_ipv4(text.as_bytes()), text.parse::<std::net::Ipv4Addr>().is_ok(), "{}", text);
        }

        #[test]
        fn a_word_ends_at_the_first_blank(text in "[ =a-c\u{80}-\u{ff}]{0,40}") {
            let bytes = text.as_bytes();
            let end = bytes.iter().position(|&byte| byte == b' ').unwrap_or(bytes.len());
            let equals = bytes[..end].iter().position(|&byte| byte == b'=');
            prop_assert_eq!(measure_word(bytes), (end, equals));
        }
    }
}
