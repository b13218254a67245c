//! `/proc/PID/io` (proc_pid_io(5)) and `/proc/PID/loginuid` (proc_pid_loginuid(5)).

use edr_wire::snapshot::Io;

use super::number::decimal;
use super::{MalformedFile, malformed};

/// Parses `io`.
pub(super) fn parse_io(io: &[u8]) -> Result<Io, MalformedFile> {
    let mut parsed = Io::default();
    let mut found = 0;
    for line in io.split(|&b| b == b'\n') {
        let mut parts = line.splitn(2, |&b| b == b':');
        let (Some(key), Some(value)) = (parts.next(), parts.next()) else { continue };
        let field = match key {
            b"rchar" => &mut parsed.rchar,
            b"wchar" => &mut parsed.wchar,
            b"read_bytes" => &mut parsed.read_bytes,
            b"write_bytes" => &mut parsed.write_bytes,
            _ => continue,
        };
        *field = decimal(value.trim_ascii()).ok_or(malformed("io", "a number"))?;
        found += 1;
    }
    if found == 4 { Ok(parsed) } else { Err(malformed("io", "rchar, wchar, read_bytes and write_bytes")) }
}

/// Parses `loginuid`; `None` without a login.
pub(super) fn parse_loginuid(loginuid: &[u8]) -> Result<Option<u32>, MalformedFile> {
    let uid = decimal(loginuid.trim_ascii()).and_then(|uid| u32::try_from(uid).ok());
    uid.map(|uid| Some(uid).filter(|&uid| uid != u32::MAX)).ok_or(malformed("loginuid", "a number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_as_in_the_manual_page() {
        let text = b"rchar: 1\nwchar: 2\nsyscr: 3\nsyscw: 4\nread_bytes: 5\nwrite_bytes: 6\ncancelled_write_bytes: 7\n";
        assert_eq!(parse_io(text), Ok(Io { rchar: 1, wchar: 2, read_bytes: 5, write_bytes: 6 }));
        for len in 0..text.len() - "6\ncancelled_write_bytes: 7\n".len() {
            assert!(parse_io(&text[..len]).is_err(), "{len}");
        }
        assert!(parse_io(b"rchar: x\nwchar: 2\nread_bytes: 5\nwrite_bytes: 6\n").is_err());
        assert_eq!(parse_loginuid(b"4294967295"), Ok(None));
        assert_eq!(parse_loginuid(b"1000"), Ok(Some(1000)));
        assert!(parse_loginuid(b"").is_err());
    }
}
