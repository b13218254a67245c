//! The head of a log line: priority, time, host, tag; and the head of the kernel's message.
//!
//! ```text
//! [<PRI>] Mar 11 20:35:11 host kernel: [ 3337.368408] ...
//! [<PRI>] 2026-11-24T03:42:03.313386+00:00 host kernel: ...
//! <PRI>1 2026-11-24T03:42:03.313386+00:00 host kernel - - - ...
//! Tue Nov 24 03:42:03 2026 kern.warn kernel: [  511.815368][    C0] ...
//! ```
//!
//! Every part may be missing, so a head is never refused. The only firm statement is the tag: a line with the tag of
//! another program belongs to that program.

mod resolver;
mod time;

pub(crate) use self::resolver::Resolver;
pub(crate) use self::time::LineTime;
use self::time::{number, parse_time, skip_blanks, word};

/// The writer of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tag<'a> {
    Kernel,
    Ulogd,
    Psad,
    /// The line has no tag: ulogd's own files.
    None,
    /// `name:` without a process number, in small letters: another program, or the prefix of a rule. Also a tag at the
    /// start of a line without a time.
    Name(&'a [u8]),
    /// Another program: `name[123]:`, or the application of an RFC 5424 line.
    Program(&'a [u8]),
}

/// The head of a line, and the rest of the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LineHead<'a> {
    pub(crate) time: Option<LineTime>,
    pub(crate) tag: Tag<'a>,
    /// Microseconds since boot, before the tag (`journalctl -o short-monotonic`).
    pub(crate) kernel_us: Option<u64>,
    /// The message: the text after the tag, or after the host in a line without a tag. With the tags
    /// [`Tag::Name`] and [`Tag::Program`] also the tag, because the tag may be the prefix of a rule.
    pub(crate) rest: &'a [u8],
}

/// Words before the tag of a line that lost the start of its head.
const WORDS_MAX: usize = 6;
/// Lines that were relayed can have a second head behind the first host.
const HEADS_MAX: usize = 3;

/// Parses the head of `line`.
pub(crate) fn parse_head(line: &[u8]) -> LineHead<'_> {
    let text = strip_priority(line);
    let (time, text) = match parse_time(text) {
        Some((time, rest)) => (Some(time), rest),
        None => (None, text),
    };
    // The form of nearly all lines with a packet.
    if time.is_some() && text.first().is_some_and(u8::is_ascii_alphanumeric) {
        let host = memchr::memchr(b' ', &text[..text.len().min(256)]).unwrap_or(0);
        if let Some(rest) = text[host..].strip_prefix(b" kernel: ")
            && !text[..host].ends_with(b":")
        {
            return LineHead { time, tag: Tag::Kernel, kernel_us: None, rest };
        }
    }
    find_tag(line, time, text, HEADS_MAX)
}

/// Finds second and later heads in a line: a line can be cut and glued to the next. psad's kmsgsd writes blocks instead
/// of lines, and a full disk or a crash cuts lines, too. Only heads of the kernel with a time count.
pub(crate) fn glued_heads(line: &[u8]) -> Vec<usize> {
    /// Longest head before the tag.
    const HEAD_BYTES_MAX: usize = 128;
    /// Limit of the work for a line that only looks like many heads.
    const FAILED_MAX: usize = 64;
    const TAG: &[u8] = b"kernel";
    // A second time between the first time and the tag is the time of a glued head.
    let is_head = |start: usize, tag: usize| {
        let text = &line[start..];
        let after = strip_priority(text);
        let after = after.strip_prefix(b"1 ").filter(|_| after.len() < text.len()).unwrap_or(after);
        if parse_time(after).is_none() {
            return false;
        }
        let head = parse_head(text);
        let message = line.len() - head.rest.len();
        head.tag == Tag::Kernel
            && head.time.is_some()
            && (tag..tag + HEAD_BYTES_MAX).contains(&message)
            && clocks(&line[start..tag]) <= 1
    };
    let may_start = |start: &usize| matches!(line[*start], b'<' | b'[' | b'0'..=b'9' | b'A'..=b'Z');
    let (mut from, mut failed) = (0, 0);
    let mut starts = Vec::new();
    while let Some(at) = memchr::memmem::find(&line[from..], TAG).filter(|_| failed < FAILED_MAX) {
        let tag = from + at;
        let start =
            (from.max(tag.saturating_sub(HEAD_BYTES_MAX))..tag).find(|start| may_start(start) && is_head(*start, tag));
        failed += usize::from(start.is_none());
        starts.extend(start.filter(|&start| start > 0));
        from = tag + TAG.len();
    }
    starts
}

/// Number of times of day in a text.
fn clocks(text: &[u8]) -> usize {
    let is_clock = |eight: &[u8]| {
        eight.iter().enumerate().all(|(at, byte)| if at % 3 == 2 { *byte == b':' } else { byte.is_ascii_digit() })
    };
    text.windows(8).filter(|eight| is_clock(eight)).count()
}

fn strip_priority(line: &[u8]) -> &[u8] {
    let Some(rest) = line.strip_prefix(b"<") else { return line };
    let digits = rest.iter().take(4).take_while(|byte| byte.is_ascii_digit()).count();
    match rest.get(digits) {
        Some(b'>') if (1..=3).contains(&digits) => skip_blanks(&rest[digits + 1..]),
        _ => line,
    }
}

/// Finds the tag behind the time: at the start, behind a host, or behind words of a cut head.
fn find_tag<'a>(line: &'a [u8], time: Option<LineTime>, text: &'a [u8], heads: usize) -> LineHead<'a> {
    if time.is_none() {
        // `<PRI>1 - host app …`: RFC 5424 with an unknown time; or with a time behind the version.
        if line.first() == Some(&b'<')
            && let Some(rest) = text.strip_prefix(b"1 ")
        {
            let (time, rest) = match (parse_time(rest), rest.strip_prefix(b"- ")) {
                (Some((time, rest)), _) => (Some(time), rest),
                (None, Some(rest)) => (None, rest),
                (None, None) => (None, rest),
            };
            if let Some((tag, rest)) = structured(rest, true) {
                return LineHead { time, tag, kernel_us: None, rest };
            }
            return find_tag(b"", time, rest, heads);
        }
        if let Some(rest) = dmesg_facility(text) {
            return LineHead { time, tag: Tag::Kernel, kernel_us: None, rest };
        }
    }
    let (kernel_us, text) = if time.is_none() { strip_kernel_stamp(text) } else { (None, text) };
    let head = |tag, rest| LineHead { time, tag, kernel_us, rest };
    if time.is_some()
        && let Some((tag, rest)) = structured(text, false)
    {
        return head(tag, rest);
    }
    // `dmesg -T` and `dmesg --time-format iso` write no host.
    let before = strip_priority(&line[..line.len().saturating_sub(text.len())]);
    let has_host = time.is_some() && before.first() != Some(&b'[') && before.get(19) != Some(&b',');
    let mut rest = skip_blanks(text);
    let mut without_host = rest;
    let mut places = 0;
    for _ in 0..WORDS_MAX {
        let next = word(rest);
        let tag = tag_of(next);
        let is_known = matches!(tag, Some((Tag::Kernel | Tag::Ulogd | Tag::Psad, _)));
        let is_packet = next.windows(3).any(|three| three == b"IN=") || next.starts_with(b"OUT=");
        if next.is_empty() || (is_packet && !is_known) {
            break;
        }
        let after = skip_blanks(&rest[next.len()..]);
        if is_facility(next) {
            if time.is_none()
                && heads > 0
                && let Some((time, inner)) = parse_time(after)
            {
                return find_tag(line, Some(time), inner, heads - 1);
            }
            rest = after;
            without_host = after;
            continue;
        }
        if places <= 2
            && heads > 0
            && let Some((inner_time, inner)) = parse_time(strip_priority(rest))
        {
            return find_tag(line, Some(inner_time), inner, heads - 1);
        }
        // Proxmox: `100 6 CHAIN 24/Nov/2026:03:42:03 +0000 policy DROP: IN=…`, all of it the prefix.
        if places == 3
            && time.is_none()
            && let Some((inner_time, _)) = parse_time(rest)
        {
            return LineHead { time: Some(inner_time), ..head(Tag::None, text) };
        }
        match tag {
            Some((tag @ (Tag::Kernel | Tag::Ulogd | Tag::Psad), len)) if len == next.len() && !next.ends_with(b":") => {
                // `kernel - - - message` and `kernel message`.
                let fields = strip_fields(&rest[len..]);
                if fields.is_some() || (next == b"kernel" && places == 1) || next == b"[kernel]" {
                    return head(tag, fields.unwrap_or(after));
                }
            }
            Some((tag @ (Tag::Kernel | Tag::Ulogd | Tag::Psad), len)) => {
                return head(tag, rest[len..].strip_prefix(b" ").unwrap_or(&rest[len..]));
            }
            // The first word of a line without a time may be a part of a tag, so the line is counted.
            Some((Tag::Program(name), _)) if places == 0 && time.is_none() => return head(Tag::Name(name), rest),
            Some((tag @ Tag::Program(_), _)) => return head(tag, rest),
            // Programs have names of small letters; prefixes of rules are mostly written in capitals. A line without
            // any head may start with a prefix.
            Some((tag @ Tag::Name(name), _))
                if name[0].is_ascii_lowercase() && (if time.is_some() { places <= 1 } else { places > 0 }) =>
            {
                return head(tag, rest);
            }
            Some((Tag::Name(_), _)) if places <= 1 && time.is_some() => return head(Tag::None, rest),
            _ => {}
        }
        if places == 0 && has_host && is_host(next) {
            without_host = after;
        }
        places += 1;
        rest = after;
    }
    head(Tag::None, without_host)
}

/// The tag in a word, with the number of bytes of the tag.
fn tag_of(word: &[u8]) -> Option<(Tag<'_>, usize)> {
    if word == b"[kernel]" {
        return Some((Tag::Kernel, word.len()));
    }
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-/()@+~".contains(byte);
    let len = word.iter().take_while(|byte| is_name(byte)).count();
    let (path, mut rest) = word.split_at(len);
    let name = path.rsplit(|&byte| byte == b'/').next().filter(|name| !name.is_empty())?;
    let known = match name {
        b"kernel" => Some(Tag::Kernel),
        b"ulogd" | b"ulogd2" => Some(Tag::Ulogd),
        b"psad" => Some(Tag::Psad),
        _ => None,
    };
    let mut numbered = false;
    if let Some(inner) = rest.strip_prefix(b"[") {
        let digits = inner.iter().take_while(|byte| byte.is_ascii_digit()).count();
        rest = inner[digits..].strip_prefix(b"]")?;
        numbered = true;
    }
    let with_colon = word.len() - rest.len() + 1;
    match (known, rest) {
        (Some(tag), []) => Some((tag, word.len())),
        // The message may follow without a blank.
        (Some(tag), [b':', ..]) => Some((tag, with_colon)),
        (None, [b':']) if numbered => Some((Tag::Program(name), with_colon)),
        (None, [b':']) => Some((Tag::Name(name), with_colon)),
        _ => None,
    }
}

/// `host app procid msgid structured-data message` of RFC 5424. Without a priority before the line only the lines of
/// known writers, and lines with `- -`, are surely of this form.
fn structured(text: &[u8], is_certain: bool) -> Option<(Tag<'_>, &[u8])> {
    let host = word(text);
    let rest = text.get(host.len() + 1..)?;
    let app = word(rest);
    if app.ends_with(b":") || app.ends_with(b"]") || (!is_certain && !is_host(host)) {
        return None;
    }
    let fields = &rest[app.len()..];
    let message = strip_fields(fields)?;
    match app {
        b"kernel" => Some((Tag::Kernel, message)),
        b"ulogd" | b"ulogd2" => Some((Tag::Ulogd, message)),
        b"psad" => Some((Tag::Psad, message)),
        b"-" if is_certain => Some((Tag::None, message)),
        _ if is_certain || memchr::memmem::find(&fields[..fields.len() - message.len()], b" - -").is_some() => {
            Some((Tag::Program(app), message))
        }
        _ => None,
    }
}

/// Removes ` procid msgid structured-data ` and the mark of UTF-8 before a message.
fn strip_fields(text: &[u8]) -> Option<&[u8]> {
    let text = text.strip_prefix(b" ")?;
    let process = word(text);
    if process != b"-" && number::<u64>(process).is_none() {
        return None;
    }
    let text = text[process.len()..].strip_prefix(b" ")?;
    let text = text[word(text).len()..].strip_prefix(b" ")?;
    let rest = match text {
        [b'-', rest @ ..] => rest,
        [b'[', ..] => strip_elements(text)?,
        _ => return None,
    };
    let rest = if rest.is_empty() { rest } else { rest.strip_prefix(b" ")? };
    Some(rest.strip_prefix(b"\xef\xbb\xbf").unwrap_or(rest))
}

/// Removes structured data: `[name key="value"]…`. A prefix in brackets has no value and no `@`.
fn strip_elements(text: &[u8]) -> Option<&[u8]> {
    let mut rest = text;
    while rest.first() == Some(&b'[') {
        let (mut quoted, mut escaped) = (false, false);
        let end = rest.iter().position(|&byte| {
            let ends = byte == b']' && !quoted;
            quoted ^= byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            ends
        })?;
        if !rest[..end].iter().any(|byte| matches!(byte, b'=' | b'@')) {
            return None;
        }
        rest = &rest[end + 1..];
    }
    Some(rest)
}

/// `kern.warn`, `<kern.crit>`, `kern.warn:`: facility and level, as busybox, OpenWrt, FreeBSD and socklog write them.
fn is_facility(word: &[u8]) -> bool {
    let word = word.strip_suffix(b":").unwrap_or(word);
    let word = word.strip_prefix(b"<").and_then(|word| word.strip_suffix(b">")).unwrap_or(word);
    let Some(dot) = memchr::memchr(b'.', word) else { return false };
    let levels: [&[u8]; 11] =
        [b"emerg", b"alert", b"crit", b"err", b"error", b"warn", b"warning", b"notice", b"info", b"debug", b"panic"];
    let facilities: [&[u8]; 9] =
        [b"kern", b"user", b"daemon", b"auth", b"authpriv", b"syslog", b"cron", b"mail", b"local"];
    levels.contains(&&word[dot + 1..]) && facilities.iter().any(|facility| word[..dot].starts_with(facility))
}

/// `kern  :warn  : message` of `dmesg -x`.
fn dmesg_facility(text: &[u8]) -> Option<&[u8]> {
    let level = text.strip_prefix(b"kern ")?.trim_ascii_start().strip_prefix(b":")?;
    let end = memchr::memchr(b':', &level[..level.len().min(10)])?;
    Some(skip_blanks(&level[end + 1..]))
}

fn is_host(word: &[u8]) -> bool {
    word.iter().all(|byte| byte.is_ascii_alphanumeric() || b"._:@/%~+-".contains(byte)) && !word.ends_with(b":")
}

/// The kernel's message without its own head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Message<'a> {
    /// Microseconds since boot.
    pub(crate) kernel_us: Option<u64>,
    /// N of `message repeated N times`, rsyslog's reduction of equal messages; otherwise 1.
    pub(crate) repeated: u32,
    pub(crate) text: &'a [u8],
}

/// Removes from the start of a message: the kernel's stamp and caller (CONFIG_PRINTK_CALLER), its level, a second tag,
/// and `message repeated N times: [ … ]`.
pub(crate) fn parse_message(text: &[u8]) -> Message<'_> {
    let mut message = Message { kernel_us: None, repeated: 1, text };
    loop {
        let text = message.text;
        message.text = match text {
            [b' ' | b'\t' | b'\0', rest @ ..] => rest,
            [b'[', ..] => match strip_kernel_stamp(text) {
                (Some(us), rest) => {
                    message.kernel_us.get_or_insert(us);
                    strip_caller(rest)
                }
                (None, _) => return message,
            },
            [b'<', ..] => match strip_level(text) {
                Some(rest) => rest,
                None => return message,
            },
            [b'k', ..] => match text.strip_prefix(b"kernel: ") {
                Some(rest) => rest,
                None => return message,
            },
            [b'm', ..] if message.repeated == 1 => match strip_repeat(text) {
                Some((rest, times)) => {
                    message.repeated = times;
                    rest
                }
                None => return message,
            },
            [0xef, 0xbb, 0xbf, rest @ ..] => rest,
            _ => return message,
        };
    }
}

/// Removes a level inside a line: `<4>`. Kernels before 3.x wrote the level wherever a new printk began.
pub(crate) fn strip_level(text: &[u8]) -> Option<&[u8]> {
    match text {
        [b'<', b'0'..=b'9', b'>', rest @ ..] | [b'<', b'0'..=b'9', b'0'..=b'9', b'>', rest @ ..] => Some(rest),
        _ => None,
    }
}

/// Parses `message repeated 28 times: [ <message>]`. Returns the message and the count.
fn strip_repeat(text: &[u8]) -> Option<(&[u8], u32)> {
    let rest = text.strip_prefix(b"message repeated ")?;
    let digits = rest.iter().take(9).take_while(|byte| byte.is_ascii_digit()).count();
    let times = number(&rest[..digits]).filter(|&times| times > 0)?;
    let message = rest[digits..].strip_prefix(b" times: [")?;
    // A cut line has no closing bracket.
    Some((message.trim_ascii_end().strip_suffix(b"]").unwrap_or(message), times))
}

/// Removes `[    C0]`, `[ T1234]`: the processor or thread that wrote the message.
fn strip_caller(text: &[u8]) -> &[u8] {
    let inner = || {
        let inner = text.strip_prefix(b"[")?.trim_ascii_start();
        let (b'C' | b'T', inner) = inner.split_first()? else { return None };
        let digits = inner.iter().take(12).take_while(|byte| byte.is_ascii_digit()).count();
        let rest = inner[digits..].strip_prefix(b"]").filter(|_| digits > 0)?;
        Some(rest.strip_prefix(b" ").unwrap_or(rest))
    };
    inner().unwrap_or(text)
}

/// Removes the kernel timestamp `[ 3337.368408] `: seconds and microseconds since boot. A prefix of the firewall may
/// start with `[` too.
fn strip_kernel_stamp(text: &[u8]) -> (Option<u64>, &[u8]) {
    let stamp = || {
        let inner = text.strip_prefix(b"[")?.trim_ascii_start();
        let dot = inner.iter().take(12).position(|&byte| byte == b'.')?;
        let micros: u64 = number(inner.get(dot + 1..dot + 7)?)?;
        let seconds: u64 = number(&inner[..dot])?;
        let after = match &inner[dot + 7..] {
            [b']', after @ ..] => after,
            // `[  511.815368 <    0.000001 >]` of `dmesg -d`.
            delta => {
                let delta = delta.strip_prefix(b" <")?;
                &delta[memchr::memmem::find(&delta[..delta.len().min(24)], b">]")? + 2..]
            }
        };
        Some((seconds.checked_mul(1_000_000)?.checked_add(micros)?, after.strip_prefix(b" ").unwrap_or(after)))
    };
    stamp().map_or((None, text), |(micros, after)| (Some(micros), after))
}

#[cfg(test)]
mod tests;
