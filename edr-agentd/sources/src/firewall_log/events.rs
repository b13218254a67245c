//! psad's own syslog lines about its detections and actions, in the form of psad 2.2 to 2.4.6.
//!
//! Any program may write a line under psad's name to syslog, so an event is only a claim, as for any reader of the log.

use std::net::IpAddr;

use edr_wire::Bytes;
use edr_wire::snapshot::PsadEvent;

use crate::common::lines::{number, split_once};

/// Kept bytes per line.
const TEXT_BYTES_MAX: usize = 4 << 10;

/// Parses the text after `psad: `; `time` is left empty.
pub(crate) fn parse_event(text: &[u8]) -> PsadEvent {
    let mut event = PsadEvent { text: Bytes::from(&text[..text.len().min(TEXT_BYTES_MAX)]), ..PsadEvent::default() };
    let known = scan(text, &mut event)
        .or_else(|| signature(text, &mut event))
        .or_else(|| block(text, &mut event))
        .or_else(|| level(text, &mut event));
    let kind = known.unwrap_or(match text {
        _ if text.starts_with(b"starting up psad version ") => "start",
        _ if text.starts_with(b"shutting down psad daemons") => "stop",
        _ => "other",
    });
    event.kind = kind.to_owned();
    event
}

/// `scan detected[ (<style>):| :] <src> -> <dst> … DL: <level>[ …]`
fn scan(text: &[u8], event: &mut PsadEvent) -> Option<&'static str> {
    let rest = text.strip_prefix(b"scan detected")?;
    let arrow = memchr::memmem::find(rest, b" -> ")?;
    let src = rest[..arrow].rsplit(|&byte| byte == b' ').next()?;
    let dst = rest[arrow + 4..].split(|&byte| byte == b' ').next()?;
    let level = memchr::memmem::rfind(rest, b" DL: ").map(|at| &rest[at + 5..]);
    let level = level.and_then(|rest| rest.split(|&byte| byte == b' ').next());
    (event.src, event.dst) = (canonical(src)?, canonical(dst)?);
    event.danger_level = level.and_then(number).filter(|level| (1..=5).contains(level));
    Some("scan")
}

/// `src: <src> signature match: "<msg>" (sid: <sid>) …`
fn signature(text: &[u8], event: &mut PsadEvent) -> Option<&'static str> {
    let (src, rest) = split_once(text.strip_prefix(b"src: ")?, b' ')?;
    let rest = rest.strip_prefix(b"signature match: \"")?;
    let sid = &rest[memchr::memmem::rfind(rest, b"\" (sid: ")? + 8..];
    let (sid, _) = split_once(sid, b')')?;
    (event.src, event.sid) = (canonical(src)?, Some(number(sid)?));
    Some("signature")
}

/// `added|renewed|removed iptables auto-block against <address>[ for <seconds> seconds]`
fn block(text: &[u8], event: &mut PsadEvent) -> Option<&'static str> {
    let (verb, rest) = split_once(text, b' ')?;
    let rest = rest.strip_prefix(b"iptables auto-block against ")?;
    let kind = match verb {
        b"added" | b"renewed" => "block",
        b"removed" => "unblock",
        _ => return None,
    };
    event.src = canonical(rest.split(|&byte| byte == b' ').next()?)?;
    Some(kind)
}

/// `auto-assigned danger level: <level> for IP: <address>`
fn level(text: &[u8], event: &mut PsadEvent) -> Option<&'static str> {
    let (level, rest) = split_once(text.strip_prefix(b"auto-assigned danger level: ")?, b' ')?;
    event.src = canonical(rest.strip_prefix(b"for IP: ")?.trim_ascii())?;
    event.danger_level = number(level);
    Some("other")
}

fn canonical(address: &[u8]) -> Option<String> {
    Some(std::str::from_utf8(address).ok()?.parse::<IpAddr>().ok()?.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind() {
        let event = parse_event(
            b"scan detected (Nmap -sT or -sS scan): 192.168.10.55 -> 192.168.10.1 tcp: [1000-1500] flags: SYN tcp \
            pkts: \
              1002 DL: 3 total scan dsts: 1",
        );
        assert_eq!(
            (event.kind.as_str(), event.src.as_str(), event.dst.as_str()),
            ("scan", "192.168.10.55", "192.168.10.1")
        );
        assert_eq!(event.danger_level, Some(3));
        let event = parse_event(b"scan detected: fe80:0000:0000:0000:0213:46ff:fe3a:4136 -> 192.0.2.1 DL: 1");
        assert_eq!((event.kind.as_str(), event.src.as_str()), ("scan", "fe80::213:46ff:fe3a:4136"));
        let event = parse_event(b"src: 192.0.2.9 signature match: \"a \"b\" (c)\" (sid: 100075) tcp port: 445");
        assert_eq!((event.kind.as_str(), event.sid), ("signature", Some(100_075)));
        for (text, kind) in [
            ("added iptables auto-block against 192.0.2.9 for 3600 seconds", "block"),
            ("renewed iptables auto-block against 192.0.2.9 (unlimited timeout)", "block"),
            ("removed iptables auto-block against 192.0.2.9", "unblock"),
            ("starting up psad version 2.4.6", "start"),
            ("shutting down psad daemons", "stop"),
            ("auto-assigned danger level: 5 for IP: 192.0.2.9", "other"),
            ("[+]", "other"),
            ("", "other"),
            ("scan detected x -> y DL: 9", "other"),
        ] {
            let event = parse_event(text.as_bytes());
            assert_eq!((event.kind.as_str(), event.text.to_string().as_str()), (kind, text));
        }
    }
}
