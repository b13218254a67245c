//! Computes the values of a snapshot for the list of hosts.

use edr_archive::SavedFacts;
use edr_wire::snapshot::{SnapshotError, SnapshotView};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};

/// Bytes kept of a name or a reason from a host.
const TEXT_BYTES_MAX: usize = 256;
/// Reasons kept for incomplete data of an agent.
const REASONS_MAX: usize = 16;

/// Returns counts and names of a snapshot. Rows are traversed, but not built.
///
/// # Errors
/// When the snapshot's host or agent has an unexpected shape.
pub fn facts(view: &SnapshotView) -> Result<SavedFacts, SnapshotError> {
    let (host, agent) = (view.host()?, view.agent()?);
    let psad = view.psad().unwrap_or_default();
    let files = view.process_rows().map(|row| rmp_serde::from_slice::<FileCount>(row).map_or(0, |row| row.total()));
    let attackers = psad.top_attackers.iter().map(|attacker| attacker.danger_level);
    let sources = psad.sources.iter().map(|source| source.danger_level);
    Ok(SavedFacts {
        hostname: bounded(host.hostname),
        os: bounded(host.os),
        booted_ns: booted_ns(view),
        boot_id: bounded(host.boot_id),
        interval_ns: agent.interval_ns,
        processes: view.process_count(),
        files: usize::try_from(files.fold(0, u64::saturating_add)).unwrap_or(usize::MAX),
        sockets: view.socket_count(),
        danger_level: attackers.chain(sources).max().unwrap_or(0).min(5),
        psad: format!("{}/{}", name(&psad.mode), name(&psad.state)),
        degraded: agent.degraded.into_iter().take(REASONS_MAX).map(bounded).collect(),
    })
}

/// Returns the wall-clock time of the boot of a snapshot, ns since the epoch.
pub(super) fn booted_ns(view: &SnapshotView) -> Option<i64> {
    let time = view.time().ok().filter(|time| time.boottime_ns > 0)?;
    time.wall_ns.checked_sub(i64::try_from(time.boottime_ns).ok()?)
}

/// Returns the wire's name of a value of a closed list.
fn name(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name,
        _ => String::new(),
    }
}

/// Cuts a text, which may come from a host.
pub(super) fn bounded(mut text: String) -> String {
    if text.len() > TEXT_BYTES_MAX {
        let end = (0..=TEXT_BYTES_MAX).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

/// The number of open files of a process.
#[derive(Deserialize)]
struct FileCount {
    #[serde(default)]
    files_total: Option<u64>,
    #[serde(default)]
    files: Length,
}

impl FileCount {
    fn total(&self) -> u64 {
        self.files_total.unwrap_or(self.files.0)
    }
}

/// The length of a list, counted without building the elements.
#[derive(Default)]
struct Length(u64);

impl<'de> Deserialize<'de> for Length {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct LengthVisitor;
        impl<'de> Visitor<'de> for LengthVisitor {
            type Value = Length;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Length, A::Error> {
                let mut length = 0;
                while list.next_element::<IgnoredAny>()?.is_some() {
                    length += 1;
                }
                Ok(Length(length))
            }
        }
        deserializer.deserialize_seq(LengthVisitor)
    }
}

#[cfg(test)]
mod tests {
    use edr_model::testing::{host_snapshot, sample};

    use super::*;

    #[test]
    fn facts_equal_the_snapshots() {
        let mut snapshot = sample();
        snapshot.processes[0].files_total = Some(5_000);
        snapshot.agent.degraded = vec!["x".repeat(1 << 20)];
        let facts = facts(&host_snapshot(&snapshot).view).unwrap();
        assert_eq!((facts.processes, facts.files, facts.sockets, facts.danger_level), (3, 5_004, 2, 5));
        assert_eq!((facts.hostname.as_str(), facts.psad.as_str()), ("web-1", "absent/absent"));
        assert!(facts.degraded[0].len() < 300);
    }
}
