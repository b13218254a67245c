//! `/proc/PID/status` (proc_pid_status(5)).

use edr_wire::snapshot::Capabilities;

use super::number::{decimal, hex};
use super::{Malformed, malformed};

/// Supplementary groups kept of one process. A process may have 65,536 of them.
pub(super) const GROUPS_MAX: usize = 1_024;

/// What a row needs of `status`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) uids: [u32; 4],
    pub(super) gids: [u32; 4],
    pub(super) groups: Vec<u32>,
    /// There are more groups than [`GROUPS_MAX`].
    pub(super) groups_cut: bool,
    pub(super) capabilities: Capabilities,
    pub(super) seccomp: u8,
    pub(super) no_new_privs: bool,
    /// `VmRSS`, KiB; without memory of its own a process has none.
    pub(super) rss_kib: Option<u64>,
    /// `VmLck` is not 0.
    pub(super) locked: bool,
}

/// Parses `status` into `into`, whose memory is reused.
///
/// `Name:`, the one line a process controls, comes first and the kernel escapes its newlines, so it cannot imitate
/// another line.
pub(super) fn parse_status(status: &[u8], into: &mut Status) -> Result<(), Malformed> {
    const FILE: &str = "status";
    let mut groups = std::mem::take(&mut into.groups);
    groups.clear();
    *into = Status { groups, ..Status::default() };
    let (mut has_uid, mut has_gid) = (false, false);
    for line in status.split(|&b| b == b'\n') {
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
            b"CapBnd" => into.capabilities.bounding = hex(value).ok_or(malformed(FILE, "CapBnd"))?,
            b"CapAmb" => into.capabilities.ambient = hex(value).ok_or(malformed(FILE, "CapAmb"))?,
            b"NoNewPrivs" => into.no_new_privs = value == b"1",
            b"Seccomp" => {
                into.seccomp =
                    decimal(value).and_then(|mode| u8::try_from(mode).ok()).ok_or(malformed(FILE, "Seccomp"))?;
                // Nothing that a row needs comes after it.
                break;
            }
            _ => {}
        }
    }
    if has_uid && has_gid { Ok(()) } else { Err(malformed(FILE, "Uid and Gid")) }
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
        Gid:\t1\t2\t3\t4\nFDSize:\t64\nGroups:\t4 24 1000 \nVmLck:\t      12 kB\nVmRSS:\t     344 kB\nCapInh:\t0000000000000001\n\
        CapPrm:\t000001ffffffffff\nCapEff:\t0000000000000002\nCapBnd:\t0000000000000003\nCapAmb:\t0000000000000004\n\
        NoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t1\n";

    #[test]
    fn fields_are_those_of_the_manual_page() {
        let mut status = Status { groups: vec![9; 9], ..Status::default() };
        parse_status(SSHD, &mut status).unwrap();
        assert_eq!(
            status,
            Status {
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
        let mut status = Status::default();
        assert!(parse_status(b"", &mut status).is_err());
        assert!(parse_status(b"Uid:\t1\t1\t1\nGid:\t1\t1\t1\t1\n", &mut status).is_err());
        assert!(parse_status(b"Uid:\t1\t1\t1\t1\n", &mut status).is_err());
    }

    #[test]
    fn groups_are_bounded_and_the_cut_is_told() {
        let groups: Vec<String> = (0..2 * GROUPS_MAX).map(|group| group.to_string()).collect();
        let text = format!("Uid:\t1\t1\t1\t1\nGid:\t1\t1\t1\t1\nGroups:\t{} \n", groups.join(" "));
        let mut status = Status::default();
        parse_status(text.as_bytes(), &mut status).unwrap();
        assert!(status.groups_cut && status.groups.len() == GROUPS_MAX);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0..SSHD.len()) {
            let mut status = Status::default();
            let _ = parse_status(&bytes, &mut status);
            let _ = parse_status(&SSHD[..cut], &mut status);
        }
    }
}
