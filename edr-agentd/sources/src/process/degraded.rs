//! Reasons for missing facts on this host, each with its remedy. Found by attempts to read, not by the user id.

use std::os::fd::AsFd;
use std::path::Path;

use procfs::FromBufRead;
use procfs::process::MountInfos;
use rustix::fs::{CWD, Mode, OFlags, openat};

use super::file::read_link;
use super::link::namespace_inode;
use super::status::{ProcessStatus, parse_status};
use crate::common::DescriptorAccess;

/// Bits of capability sets (capabilities(7)).
const CAP_DAC_OVERRIDE: u64 = 1 << 1;
const CAP_DAC_READ_SEARCH: u64 = 1 << 2;
const CAP_SYS_PTRACE: u64 = 1 << 19;
/// Inode of the first pid namespace (`PROC_PID_INIT_INO`, `include/linux/proc_ns.h`).
const FIRST_PID_NAMESPACE: u64 = 0xefff_fffc;
/// Number of ids in a user namespace that maps all ids, like the initial namespace (user_namespaces(7)).
const ALL_IDS: u64 = u32::MAX as u64;

/// Returns each reason for incomplete snapshots, with its remedy; empty when snapshots are complete.
///
/// Reads the agent's own `status`, `uid_map` and `mountinfo`. `access` holds the observations of a pass over all
/// processes.
pub fn degraded(proc_root: &Path, access: &DescriptorAccess) -> Vec<String> {
    let mut reasons = Vec::new();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let proc = match openat(CWD, proc_root, flags, Mode::empty()) {
        Ok(proc) => proc,
        Err(errno) => {
            let root = proc_root.display();
            return vec![format!("degraded: no processes; mount /proc: open {root}: {}", std::io::Error::from(errno))];
        }
    };
    let own = own_status();
    let effective = own.capabilities.effective;
    let mut missing = Vec::new();
    if effective & CAP_SYS_PTRACE == 0 {
        missing.push("CAP_SYS_PTRACE");
    }
    if effective & (CAP_DAC_READ_SEARCH | CAP_DAC_OVERRIDE) == 0 {
        missing.push("CAP_DAC_READ_SEARCH");
    }
    let sees_all_ids = sees_all_ids();
    if !missing.is_empty() {
        reasons.push(format!(
            "degraded: no descriptors of other users' processes ({} missing); run as root or with CAP_SYS_PTRACE and \
            CAP_DAC_READ_SEARCH",
            missing.join(" and ")
        ));
    } else if !sees_all_ids {
        reasons.push(
            "degraded: no descriptors of processes outside of this user namespace, where its capabilities do not \
            count; \
            run without PrivateUsers= or outside of the container"
                .to_owned(),
        );
    } else if let Some(pid) = access.refused() {
        reasons.push(format!(
            "degraded: descriptors of other users' processes are refused (process {pid}) although the capabilities are \
            there; look for a security module's denials in the kernel's log"
        ));
    }
    if effective & CAP_SYS_PTRACE == 0
        && let Some(mode) = hidepid(proc_root)
    {
        reasons.push(format!(
            "degraded: processes of other users are hidden (/proc is mounted with hidepid={mode}); run with \
            CAP_SYS_PTRACE"
        ));
    }
    let mut link = [0; 64];
    let namespace = read_link(proc.as_fd(), c"self/ns/pid", &mut link).ok().and_then(namespace_inode);
    if namespace.is_some_and(|inode| inode != FIRST_PID_NAMESPACE) {
        reasons.push(
            "degraded: processes outside of this pid namespace are not visible; run on the host, or in its pid \
            namespace"
                .to_owned(),
        );
    }
    reasons
}

fn own_status() -> ProcessStatus {
    let mut status = ProcessStatus::default();
    let text = std::fs::read("/proc/self/status").unwrap_or_default();
    // Without the file no capability counts as held, which is the safe assumption.
    let _ = parse_status(&text, &mut status);
    status
}

fn sees_all_ids() -> bool {
    let Ok(map) = std::fs::read_to_string("/proc/self/uid_map") else { return true };
    let ids = map.lines().filter_map(|line| line.split_ascii_whitespace().nth(2)?.parse::<u64>().ok());
    ids.sum::<u64>() >= ALL_IDS
}

/// `hidepid` of the mount at `proc_root` (proc(5)); `None` when nothing is hidden.
fn hidepid(proc_root: &Path) -> Option<String> {
    let mountinfo = std::fs::read("/proc/self/mountinfo").ok()?;
    // A mount point that is not UTF-8 belongs to another mount.
    let mountinfo = String::from_utf8_lossy(&mountinfo);
    hidepid_of(&mountinfo, &std::fs::canonicalize(proc_root).ok()?)
}

fn hidepid_of(mountinfo: &str, proc_root: &Path) -> Option<String> {
    let mounts = MountInfos::from_buf_read(mountinfo.as_bytes()).ok()?;
    // The last mount at a mount point is the visible mount.
    let proc = mounts.into_iter().rfind(|mount| mount.fs_type == "proc" && mount.mount_point == proc_root)?;
    let mode = proc.super_options.get("hidepid").cloned().flatten()?;
    (!matches!(mode.as_str(), "0" | "off")).then_some(mode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_that_is_seen_decides() {
        let line = |options: &str, point: &str| format!("22 28 0:21 / {point} rw,nosuid - proc proc rw{options}\n");
        let of = |text: &str| hidepid_of(text, Path::new("/proc"));
        assert_eq!(of(&line("", "/proc")), None);
        assert_eq!(of(&line(",hidepid=invisible", "/proc")), Some("invisible".to_owned()));
        assert_eq!(of(&line(",hidepid=2", "/elsewhere")), None);
        assert_eq!(of(&(line(",hidepid=2", "/proc") + &line(",hidepid=0", "/proc"))), None);
        assert_eq!(of(&(line("", "/proc") + &line(",hidepid=2,gid=4", "/proc"))), Some("2".to_owned()));
        assert_eq!(of("garbage"), None);
    }

    #[test]
    fn a_missing_root_is_reported() {
        let reasons = degraded(Path::new("/nonexistent"), &DescriptorAccess::default());
        assert_eq!(reasons.len(), 1);
        assert!(reasons[0].starts_with("degraded: no processes; mount /proc: open /nonexistent: "), "{reasons:?}");
    }
}
