//! `/proc/PID/status` (proc_pid_status(5)).

use edr_wire::snapshot::Capabilities;

use super::number::{decimal, hex};
use super::{MalformedFile, malformed};

/// Maximum number of supplementary groups kept per process. A process may have 65,536 groups.
pub(super) const GROUPS_MAX: usize = 1_024;
/// Bytes of a line with [`GROUPS_MAX`] groups and the start of the next: `Groups:`, a tab, numbers of up to ten digits
/// with a blank each. All other lines are shorter.
const LINE_BYTES_MAX: usize = 8 + (GROUPS_MAX + 1) * 11;

/// Facts of `status` needed for a row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ProcessStatus {
    pub(super) uids: [u32; 4],
    pub(super) gids: [u32; 4],
    pub(super) groups: Vec<u32>,
    /// There are more groups than [`GROUPS_MAX`].
    pub(super) groups_cut: bool,
    pub(super) capabilities: Capabilities,
    pub(super) seccomp: u8,
    pub(super) no_new_privs: bool,
    /// `VmRSS`, KiB; `None` for a process without its own memory.
    pub(super) rss_kib: Option<u64>,
    /// `VmLck` is not 0.
    pub(super) locked: bool,
}

/// Shortens each line of the first piece of `status` to the part needed by [`parse_status`], to make room for the next
/// piece. Returns the length of the rest. 65,536 groups are ten times the size of a buffer, and the capabilities come
/// after the groups.
pub(super) fn shorten_lines(piece: &mut [u8]) -> usize {
    let (mut line_start, mut kept) = (0, 0);
    while line_start < piece.len() {
        let end = memchr::memchr(b'\n', &piece[line_start..]).map(|len| line_start + len);
        let line_end = end.unwrap_or(piece.len());
        let shortened = line_start..line_end.min(line_start + LINE_BYTES_MAX);
        piece.copy_within(shortened.clone(), kept);
        kept += shortened.len();
        if end.is_some() {
            piece[kept] = b'\n';
            kept += 1;
        }
        line_start = line_end + 1;
    }
    kept
}

/// Parses `status` into `into`, whose memory is reused. An unterminated line was cut and is ignored.
///
/// `Name:`, the only line under the control of the process, comes first and the kernel escapes its newlines, so a
/// process cannot imitate another line.
pub(super) fn parse_status(status: &[u8], into: &mut ProcessStatus) -> Result<(), MalformedFile> {
    const FILE: &str = "status";
    let mut groups = std::mem::take(&mut into.groups);
    groups.clear();
    *into = ProcessStatus { groups, ..ProcessStatus::default() };
    let (mut has_uid, mut has_gid, mut has_capabilities) = (false, false, false);
    for line in status.split_inclusive(|&b| b == b'\n') {
        let Some(line) = line.strip_suffix(b"\n") else { break };
        let Some(colon) = line.iter().position(|&b| b == b':') else { continue };
        let value = line[colon + 1..].trim_ascii();
        match &line[..colon] {
            b"Uid" => {
                into.uids = four(value).ok_or(malformed(FILE, "Uid"))?;
                has_uid = true;
            }
            b"Gid" => {
                into.gids = four(value).ok_or(malformed(FILE, "Gid"))?;
                has_gid = true;
            }
            b"Groups" => {
                for group in value.split(|&b| b == b' ').filter(|group| !group.is_empty()) {
                    if into.groups.len() == GROUPS_MAX {
                        into.groups_cut = true;
                        break;
                    }
                    into.groups.push(id(group).ok_or(malformed(FILE, "Groups"))?);
                }
            }
            b"VmLck" => into.locked = !value.starts_with(b"0 "),
            b"VmRSS" => into.rss_kib = value.split(|&b| b == b' ').next().and_then(decimal),
            b"CapInh" => into.capabilities.inheritable = hex(value).ok_or(malformed(FILE, "CapInh"))?,
            b"CapPrm" => into.capabilities.permitted = hex(value).ok_or(malformed(FILE, "CapPrm"))?,
            b"CapEff" => into.capabilities.effective = hex(value).ok_or(malformed(FILE, "CapEff"))?,
            b"CapBnd" => {
                into.capabilities.bounding = hex(value).ok_or(malformed(FILE, "CapBnd"))?;
                // The kernel prints these four together, in this order.
                has_capabilities = true;
            }
            b"CapAmb" => into.capabilities.ambient = hex(value).ok_or(malformed(FILE, "CapAmb"))?,
            b"NoNewPrivs" => into.no_new_privs = value == b"1",
            b"Seccomp" => {
                into.seccomp =
                    decimal(value).and_then(|mode| u8::try_from(mode).ok()).ok_or(malformed(FILE, "Seccomp"))?;
                // No later line is needed for a row.
                break;
            }
            _ => {}
        }
    }
    if !(has_uid && has_gid) {
        return Err(malformed(FILE, "Uid and Gid"));
    }
    // A process with a cut status must not look like a process without rights.
    if has_capabilities { Ok(()) } else { Err(malformed(FILE, "CapBnd, at its end")) }
}

fn id(digits: &[u8]) -> Option<u32> {
    decimal(digits).and_then(|id| u32::try_from(id).ok())
}

fn four(value: &[u8]) -> Option<[u32; 4]> {
    let mut ids = [0; 4];
    let mut fields = value.split(|&b| b == b'\t');
    for slot in &mut ids {
        *slot = id(fields.next()?)?;
    }
    fields.next().is_none().then_some(ids)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SSHD: &[u8] = b"Name:\ta\\nUid:\\t1\nUmask:\t0022\nState:\tS (sleeping)\nUid:\t1000\t0\t0\t4294967295\n\
        Gid:\t1\t2\t3\t4\nFDSize:\t64\nGroups:\t4 24 1000 \nVmLck:\t      12 kB\nVmRSS:\t     344 kB\n\
        CapInh:\t0000000000000001\n\
        CapPrm:\t000001ffffffffff\nCapEff:\t0000000000000002\nCapBnd:\t0000000000000003\nCapAmb:\t0000000000000004\n\
        NoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t1\n";

    #[test]
    fn fields_are_as_in_the_manual_page() {
        let mut status = ProcessStatus { groups: vec![9; 9], ..ProcessStatus::default() };
        parse_status(SSHD, &mut status).unwrap();
        assert_eq!(
            status,
            ProcessStatus {
                uids: [1000, 0, 0, u32::MAX],
                gids: [1, 2, 3, 4],
                groups: vec![4, 24, 1000],
                groups_cut: false,
                rss_kib: Some(344),
                capabilities: Capabilities {
                    inheritable: 1,
                    permitted: 0x1ff_ffff_ffff,
                    effective: 2,
                    bounding: 3,
                    ambient: 4
                },
                seccomp: 2,
                no_new_privs: true,
                locked: true,
            }
        );
    }

    #[test]
    fn a_status_without_ids_is_malformed() {
        let mut status = ProcessStatus::default();
        assert!(parse_status(b"", &mut status).is_err());
        assert!(parse_status(b"Uid:\t1\t1\t1\nGid:\t1\t1\t1\t1\n", &mut status).is_err());
        assert!(parse_status(b"Uid:\t1\t1\t1\t1\n", &mut status).is_err());
    }

    #[test]
    fn groups_are_bounded_and_the_cut_is_reported() {
        let groups: Vec<String> = (0..2 * GROUPS_MAX).map(|group| group.to_string()).collect();
        let text =
            format!("Uid:\t1\t1\t1\t1\nGid:\t1\t1\t1\t1\nGroups:\t{} \nCapBnd:\t0000000000000003\n", groups.join(" "));
        let mut status = ProcessStatus::default();
        parse_status(text.as_bytes(), &mut status).unwrap();
        assert!(status.groups_cut && status.groups.len() == GROUPS_MAX);
    }

    #[test]
    fn a_cut_status_is_malformed_not_without_capabilities() {
        let whole = SSHD.windows(7).position(|window| window == b"CapAmb:").unwrap();
        let mut status = ProcessStatus::default();
        for cut in 0..whole {
            assert!(parse_status(&SSHD[..cut], &mut status).is_err(), "{cut}");
        }
        parse_status(&SSHD[..whole], &mut status).unwrap();
        assert_eq!((status.capabilities.effective, status.capabilities.bounding), (2, 3));
    }

    #[test]
    fn pieces_with_shortened_lines_parse_like_the_whole() {
        let groups: String = (0..65_536_u32).map(|group| format!("{} ", u32::MAX - group)).collect();
        let text = [
            &b"Name:\tx\nUid:\t1\t1\t1\t1\nGid:\t1\t1\t1\t1\nGroups:\t"[..],
            groups.as_bytes(),
            b"\nCapInh:\t0000000000000001\nCapPrm:\t0000000000000002\nCapEff:\t0000000000000003\n\
            CapBnd:\t000000000000000f\n\
            CapAmb:\t0000000000000004\nNoNewPrivs:\t1\nSeccomp:\t2\n",
        ]
        .concat();
        let (mut whole, mut pieced) = (ProcessStatus::default(), ProcessStatus::default());
        parse_status(&text, &mut whole).unwrap();
        assert_eq!((whole.groups.len(), whole.groups_cut, whole.capabilities.effective), (GROUPS_MAX, true, 3));
        for buffer_bytes in [12_000, 16_384, 65_537] {
            let (mut buffer, mut len, mut rest) = (vec![0; buffer_bytes], 0, &text[..]);
            while !rest.is_empty() {
                len = shorten_lines(&mut buffer[..len]);
                let piece = rest.split_off(..rest.len().min(buffer_bytes - len)).unwrap();
                buffer[len..len + piece.len()].copy_from_slice(piece);
                len += piece.len();
            }
            parse_status(&buffer[..len], &mut pieced).unwrap();
            assert_eq!(pieced, whole);
        }
    }

    proptest! {
        #[test]
        fn shortening_keeps_short_lines(lines in proptest::collection::vec("[a-z:]{0,9}", 0..9)) {
            let text = lines.join("\n").into_bytes();
            let mut shortened = text.clone();
            let kept = shorten_lines(&mut shortened);
            prop_assert_eq!(&shortened[..kept], &text[..]);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0..SSHD.len()) {
            let mut status = ProcessStatus::default();
            let _ = parse_status(&bytes, &mut status);
            let _ = parse_status(&SSHD[..cut], &mut status);
        }
    }
}
