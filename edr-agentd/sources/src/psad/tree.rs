//! psad's folder: rankings, counters, blocked addresses, status, and the folders of sources.

use std::path::{Path, PathBuf};

use edr_wire::Bytes;
use edr_wire::snapshot::{
    Attacker, Blocked, Dshield, GapReason, PrefixCounter, ProtocolCounter, Psad, ScannedPort, TopSignature,
};

use super::blocked::parse_blocked;
use super::config::Conf;
use super::counters::{parse_dshield, parse_prefix_counters, parse_protocol_counters};
use super::file_value::{FileValue, WhenEmpty};
use super::folder::Folder;
use super::rankings::{parse_top_attackers, parse_top_ports, parse_top_signatures};
use super::source_folders::SourceFolders;
use super::watch::FolderWatch;
use crate::common::GapCollector;
use crate::common::files::{FileRefusal, FileStamp};
use crate::common::lines::BadLines;

/// Maximum number of rows of a ranking or counter file in a snapshot. psad writes 500 unless configured without limits.
const LIST_ROWS_MAX: usize = 5_000;
/// Bytes of `status.out` in a snapshot.
const STATUS_BYTES_MAX: usize = 1 << 20;

/// Names of psad's files inside its folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PsadFileNames {
    top_attackers: Vec<u8>,
    top_signatures: Vec<u8>,
    top_ports: Vec<u8>,
    protocol_counters: Vec<u8>,
    prefix_counters: Vec<u8>,
    dshield: Vec<u8>,
    blocked_iptables: Vec<u8>,
    blocked_tcpwr: Vec<u8>,
    status: Vec<u8>,
}

impl PsadFileNames {
    /// Takes the names from the configuration. Only the last part of each path counts, because all files are in psad's
    /// folder.
    pub(crate) fn of(conf: &Conf) -> Self {
        let name = |key: &str, default: &str| {
            let path = conf.path(key, || PathBuf::from(default));
            path.file_name().map_or_else(|| default.into(), |name| name.to_string_lossy().into_owned().into_bytes())
        };
        Self {
            top_attackers: name("TOP_ATTACKERS_FILE", "top_attackers"),
            top_signatures: name("TOP_SIGS_FILE", "top_sigs"),
            top_ports: name("TOP_SCANNED_PORTS_FILE", "top_ports"),
            protocol_counters: name("PACKET_COUNTER_FILE", "packet_ctr"),
            prefix_counters: name("IPT_PREFIX_COUNTER_FILE", "ipt_prefix_ctr"),
            dshield: name("DSHIELD_COUNTER_FILE", "dshield_ctr"),
            blocked_iptables: name("AUTO_BLOCK_IPT_FILE", "auto_blocked_iptables"),
            blocked_tcpwr: name("AUTO_BLOCK_TCPWR_FILE", "auto_blocked_tcpwr"),
            status: name("STATUS_OUTPUT_FILE", "status.out"),
        }
    }
}

/// The folder and the values of the files.
#[derive(Debug)]
pub(crate) struct PsadFiles {
    path: PathBuf,
    names: PsadFileNames,
    folder: Option<(Folder, (u64, u64))>,
    attackers: FileValue<Vec<Attacker>>,
    signatures: FileValue<Vec<TopSignature>>,
    ports: FileValue<Vec<ScannedPort>>,
    protocols: FileValue<Vec<ProtocolCounter>>,
    prefixes: FileValue<Vec<PrefixCounter>>,
    dshield: FileValue<Option<Dshield>>,
    blocked_iptables: FileValue<Vec<Blocked>>,
    blocked_tcpwr: FileValue<Vec<Blocked>>,
    status: FileValue<Bytes>,
    sources: SourceFolders,
    watch: FolderWatch,
    fell_ns: Option<i64>,
}

/// Times of psad's files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct FileTimes {
    /// Newest of the files rewritten at each pass, Unix time in ns.
    pub(crate) heartbeat_ns: Option<i64>,
    /// `dshield_ctr`: written at psad's start, and after a mail to DShield.
    pub(crate) dshield_ns: Option<i64>,
    /// `packet_ctr` with lower counters than before: psad starts with counters of 0.
    pub(crate) fell_ns: Option<i64>,
    /// `status.out`.
    pub(crate) status_ns: Option<i64>,
}

impl PsadFiles {
    pub(crate) fn new(path: PathBuf, names: PsadFileNames) -> Self {
        Self {
            path,
            names,
            folder: None,
            attackers: FileValue::default(),
            signatures: FileValue::default(),
            ports: FileValue::default(),
            protocols: FileValue::default(),
            prefixes: FileValue::default(),
            dshield: FileValue::default(),
            blocked_iptables: FileValue::default(),
            blocked_tcpwr: FileValue::default(),
            status: FileValue::default(),
            sources: SourceFolders::default(),
            watch: FolderWatch::default(),
            fell_ns: None,
        }
    }

    pub(crate) fn is_of(&self, path: &Path, names: &PsadFileNames) -> bool {
        self.path == path && self.names == *names
    }

    /// Discards all values after a restart of psad, because an old value must not stand in for a file not written yet.
    pub(crate) fn forget(&mut self) {
        let rescans = self.watch.rescans;
        *self = Self::new(std::mem::take(&mut self.path), self.names.clone());
        self.watch.rescans = rescans;
    }

    /// Reads changed files into `psad`; returns `None` when the folder does not exist.
    ///
    /// # Errors
    /// When the folder exists but cannot be opened.
    pub(crate) fn read(
        &mut self,
        psad: &mut Psad,
        sources_max: usize,
        now_ns: i64,
        gaps: &mut GapCollector,
    ) -> Result<Option<FileTimes>, FileRefusal> {
        if !self.open()? {
            return Ok(None);
        }
        let Some((folder, _)) = &self.folder else { return Ok(None) };
        let before = self.protocols.value.iter().map(|row| row.packets).sum::<u64>();
        let names = &self.names;
        let torn = WhenEmpty::Torn;
        self.attackers.look(folder, &names.top_attackers, now_ns, torn, parse_top_attackers);
        self.signatures.look(folder, &names.top_signatures, now_ns, torn, parse_top_signatures);
        self.ports.look(folder, &names.top_ports, now_ns, torn, parse_top_ports);
        self.protocols.look(folder, &names.protocol_counters, now_ns, WhenEmpty::NoRows, parse_protocol_counters);
        self.prefixes.look(folder, &names.prefix_counters, now_ns, WhenEmpty::NoRows, parse_prefix_counters);
        self.dshield.look(folder, &names.dshield, now_ns, torn, parse_dshield);
        self.blocked_iptables.look(folder, &names.blocked_iptables, now_ns, WhenEmpty::NoRows, parse_blocked);
        self.blocked_tcpwr.look(folder, &names.blocked_tcpwr, now_ns, WhenEmpty::NoRows, parse_blocked);
        self.status.look(folder, &names.status, now_ns, WhenEmpty::Torn, |text, _| {
            Bytes::from(&text[..text.len().min(STATUS_BYTES_MAX)])
        });
        let after = self.protocols.value.iter().map(|row| row.packets).sum::<u64>();
        if after < before {
            // psad was restarted: the rankings of the earlier run must not stay.
            self.attackers.forget_kept();
            self.signatures.forget_kept();
            self.ports.forget_kept();
            self.fell_ns = self.protocols.seen_ns();
        }

        let mut bad = BadLines::default();
        let mut times = FileTimes::default();
        let mut heartbeat = |good_ns: Option<i64>| times.heartbeat_ns = times.heartbeat_ns.max(good_ns);
        psad.top_attackers = list(&self.attackers, &names.top_attackers, &mut bad, gaps);
        heartbeat(self.attackers.seen_ns());
        psad.top_signatures = list(&self.signatures, &names.top_signatures, &mut bad, gaps);
        heartbeat(self.signatures.seen_ns());
        psad.top_ports = list(&self.ports, &names.top_ports, &mut bad, gaps);
        heartbeat(self.ports.seen_ns());
        psad.protocol_counters = list(&self.protocols, &names.protocol_counters, &mut bad, gaps);
        heartbeat(self.protocols.seen_ns());
        psad.prefix_counters = list(&self.prefixes, &names.prefix_counters, &mut bad, gaps);
        heartbeat(self.prefixes.seen_ns());
        psad.blocked = list(&self.blocked_iptables, &names.blocked_iptables, &mut bad, gaps);
        psad.blocked.extend(list(&self.blocked_tcpwr, &names.blocked_tcpwr, &mut bad, gaps));
        psad.dshield = held(&self.dshield, &names.dshield, &mut bad, gaps).to_owned();
        psad.status_text = held(&self.status, &names.status, &mut bad, gaps).clone();
        times.dshield_ns = self.dshield.good_ns();
        times.status_ns = self.status.good_ns();
        times.fell_ns = self.fell_ns;

        let first = self.attackers.value.iter().filter_map(|row| Some((row.ip.parse().ok()?, row.packets)));
        let reading = self.sources.read(folder, &mut self.watch, first, sources_max, now_ns, gaps);
        psad.rescans = self.watch.rescans;
        psad.sources = reading.sources;
        psad.sources_left_out = reading.left_out;
        bad.merge(&reading.bad);
        psad.unparsed = bad.into_wire();
        Ok(Some(times))
    }

    /// Opens the folder at the path; returns false when the folder does not exist.
    fn open(&mut self) -> Result<bool, FileRefusal> {
        let folder = match Folder::open(&self.path) {
            Ok(folder) => folder,
            Err(refusal) if refusal.is_gone() => {
                self.forget();
                return Ok(false);
            }
            Err(refusal) => return Err(refusal),
        };
        let FileStamp { dev, inode, .. } = folder.stamp()?;
        if self.folder.as_ref().is_none_or(|(_, identity)| *identity != (dev, inode)) {
            self.forget();
            self.folder = Some((folder, (dev, inode)));
            self.watch.start(&self.path);
        }
        Ok(true)
    }
}

/// Returns a file's value, and records the invalid lines and the problem.
fn held<'a, T: Default>(held: &'a FileValue<T>, name: &[u8], bad: &mut BadLines, gaps: &mut GapCollector) -> &'a T {
    bad.merge(&held.bad);
    if let Some(problem) = &held.problem {
        gaps.add("psad", None, name, problem.reason, &problem.detail);
    }
    &held.value
}

/// Returns a file's rows, up to a limit.
fn list<T: Clone>(file: &FileValue<Vec<T>>, name: &[u8], bad: &mut BadLines, gaps: &mut GapCollector) -> Vec<T> {
    let rows = held(file, name, bad, gaps);
    if rows.len() > LIST_ROWS_MAX {
        let detail = format!("{} rows, the first {LIST_ROWS_MAX} are here", rows.len());
        gaps.add("psad", None, name, GapReason::TooLong, &detail);
    }
    rows[..rows.len().min(LIST_ROWS_MAX)].to_vec()
}
