//! Lines that tell of packets without having them: parts of packet lines, `last message repeated N times`, and lost
//! messages.

/// Limit of a count in a line: any program may write such a line.
const COUNT_MAX: u64 = u32::MAX as u64;

/// True when the text has a field of a packet that no other message of the kernel has, or two further fields.
pub(super) fn is_fragment(text: &[u8]) -> bool {
    let mut weak = 0;
    memchr::memchr_iter(b'=', text).any(|equals| {
        let letters = text[..equals].iter().rev().take(9).take_while(|byte| byte.is_ascii_uppercase()).count();
        let key = &text[equals - letters..equals];
        let before = text[..equals - letters].last();
        let is_word = before.is_none_or(|byte| !byte.is_ascii_alphanumeric() && *byte != b'_');
        match key {
            _ if !is_word => {}
            b"IN" | b"OUT" | b"PHYSIN" | b"PHYSOUT" | b"MACSRC" | b"MACDST" | b"MACPROTO" | b"SRC" | b"DST"
            | b"TOS" | b"PREC" | b"TTL" | b"HOPLIMIT" | b"FLOWLBL" | b"PROTO" | b"SPT" | b"DPT" | b"WINDOW"
            | b"URGP" => {
                return true;
            }
            b"MAC" | b"LEN" | b"ID" | b"SEQ" | b"ACK" | b"RES" | b"TYPE" | b"CODE" | b"MARK" | b"UID" | b"GID"
            | b"TC" | b"MTU" | b"SPI" => weak += 1,
            _ => {}
        }
        weak >= 2
    })
}

/// N of `last message repeated N times`: syslogd, busybox, FreeBSD; `Last message '…' repeated N times, suppressed by
/// syslog-ng on host`; `Last output repeated N times` of metalog.
pub(super) fn repeats(text: &[u8]) -> Option<u64> {
    let text = text.strip_prefix(b"--- ").unwrap_or(text);
    let starts: [&[u8]; 5] =
        [b"last message ", b"Last message ", b"Last output ", b"last output ", b"message repeated "];
    let start = starts.iter().find(|start| text.starts_with(start))?;
    let rest = if start.starts_with(b"message") { text } else { &text[start.len()..] };
    let times = &rest[memchr::memmem::rfind(rest, b"repeated ")? + 9..];
    let digits = times.iter().take_while(|byte| byte.is_ascii_digit()).count();
    times[digits..].starts_with(b" time").then(|| count(times)).flatten()
}

/// Number of messages that a writer of a log names as lost, among them perhaps packets.
pub(super) fn lost(text: &[u8]) -> Option<u64> {
    let after = |words: &[u8]| Some(&text[memchr::memmem::find(text, words)? + words.len()..]);
    if let Some(number) = after(b"Missed ")
        && memchr::memmem::find(number, b" kernel messages").is_some()
    {
        return count(number);
    }
    if after(b"/dev/kmsg buffer overrun").is_some() {
        return Some(1);
    }
    if let Some(number) = after(b"imjournal: ")
        && memchr::memmem::find(number, b" messages lost due to rate-limiting").is_some()
    {
        return count(number);
    }
    if let Some(number) = after(b"** ")
        && memchr::memmem::find(number, b" printk messages dropped").is_some()
    {
        return count(number);
    }
    None
}

fn count(text: &[u8]) -> Option<u64> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let number = std::str::from_utf8(&text[..digits]).ok()?;
    if number.is_empty() { None } else { Some(number.parse().unwrap_or(COUNT_MAX).min(COUNT_MAX)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_packet_lines_are_known_and_other_messages_of_the_kernel_are_not() {
        for text in [
            "TTL=126 ID=15317 DF PROTO=TCP SPT=59344 DPT=443 WINDOW=8212 RES=0x00 ACK PSH URGP=0 ",
            "DROP IN=eth0",
            "DROP IN=",
            "URGP=0 ",
            "x OUT=eth1",
            "LEN=60 ID=4",
            "SYN URGP=0",
            "CODE=3 [MTU=1400",
        ] {
            assert!(is_fragment(text.as_bytes()), "{text}");
        }
        for text in [
            "",
            "=",
            "usb 1-1: New USB device found, idVendor=1d6b, idProduct=0002, bcdDevice= 6.18",
            "audit: type=1400 audit(1795491723.313:42): apparmor=\"DENIED\" pid=1 comm=\"x\"",
            "Command line: BOOT_IMAGE=/vmlinuz root=UUID=0a1b ro TERM=xterm",
            "pci 0000:00:01.0: MAC=x",
            "e1000: MAIN=1 XOUT=2",
        ] {
            assert!(!is_fragment(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn repeats_and_losses() {
        for (text, times) in [
            ("last message repeated 3 times", Some(3)),
            ("last message repeated 1 time", Some(1)),
            ("--- last message repeated 2 times ---", Some(2)),
            ("Last message 'DROP IN=eth0 OUT= M' repeated 17 times, suppressed by syslog-ng on fw", Some(17)),
            ("Last output repeated 4 times", Some(4)),
            // The word before was taken for a host.
            ("message repeated 5 times", Some(5)),
            ("last message repeated 99999999999999999999 times", Some(COUNT_MAX)),
            ("last message repeated times", None),
            ("the last message repeated 3 times", None),
            ("last message received", None),
        ] {
            assert_eq!(repeats(text.as_bytes()), times, "{text}");
        }
        for (text, messages) in [
            ("systemd-journald[312]: Missed 12 kernel messages", Some(12)),
            ("Missed x kernel messages", None),
            ("Missed 12 messages", None),
            ("systemd-journald[1]: /dev/kmsg buffer overrun, some messages lost.", Some(1)),
            (
                "rsyslogd: imjournal: 100 messages lost due to rate-limiting (20000 allowed within 600 seconds)",
                Some(100),
            ),
            ("** 42 printk messages dropped **", Some(42)),
            ("usb 1-1: new device", None),
        ] {
            assert_eq!(lost(text.as_bytes()), messages, "{text}");
        }
    }
}
