//! What psad knows, in psad's words. Formats: psad 2.2 to 2.4.6.

use serde::{Deserialize, Serialize};

use super::process::is_false;
use crate::Bytes;

/// psad's state as its files tell it. ECS: `edr.psad.*`; OCSF: Detection Finding.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Psad {
    /// Where psad takes its packets from.
    pub mode: PsadMode,
    /// How psad is.
    pub state: PsadRunState,
    /// Its process, when it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Unix time, ns, of the newest of the files psad rewrites at each pass: its heartbeat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fresh_as_of: Option<i64>,
    /// Unix time, ns, since when the counters count: psad's start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counters_since: Option<i64>,
    /// `status.out` is older than psad's start: it tells of an earlier run.
    #[serde(default, skip_serializing_if = "is_false")]
    pub status_stale: bool,
    /// Rows of `top_attackers`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub top_attackers: Vec<Attacker>,
    /// Rows of `top_sigs`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub top_signatures: Vec<TopSignature>,
    /// Rows of `top_ports`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub top_ports: Vec<ScannedPort>,
    /// Rows of `packet_ctr`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub protocol_counters: Vec<ProtocolCounter>,
    /// Rows of `ipt_prefix_ctr`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prefix_counters: Vec<PrefixCounter>,
    /// `dshield_ctr`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dshield: Option<Dshield>,
    /// Rows of `auto_blocked_iptables` and `auto_blocked_tcpwr`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocked: Vec<Blocked>,
    /// The folders of sources, by address; the worst of them when there are more than the agent's limit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<ScanSource>,
    /// What the sources beyond that limit add up to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sources_left_out: Option<SourceTotals>,
    /// What psad's configuration says about all this; `None` when it could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conf: Option<PsadConf>,
    /// How often the agent had to look at everything anew because it was not told of every change (inotify(7):
    /// `IN_Q_OVERFLOW`), since it started.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rescans: u64,
    /// psad's own log lines since the snapshot before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<PsadEvent>,
    /// `status.out` as it is.
    #[serde(default, skip_serializing_if = "Bytes::is_empty")]
    pub status_text: Bytes,
    /// Lines of psad's files that could not be read, and the first bytes of the first of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unparsed: Option<Unparsed>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Sources that are counted instead of listed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceTotals {
    /// How many.
    pub sources: u64,
    /// Their packets, of those whose folder was read.
    pub packets: u64,
    /// How many of each danger level, 1 to 5, of those whose folder was read.
    pub by_danger_level: [u64; 5],
}

/// The settings of `psad.conf` that say what psad reads, when it alerts and whom it blocks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PsadConf {
    /// `PSAD_DIR`: psad's files.
    pub dir: Bytes,
    /// The log whose packets are in `packets`; `journal` for the journal; empty when there is none.
    #[serde(default, skip_serializing_if = "Bytes::is_empty")]
    pub packet_log: Bytes,
    /// `CHECK_INTERVAL`, or `-I`: seconds between two passes.
    pub check_interval_s: u64,
    /// `SCAN_TIMEOUT`, seconds.
    pub scan_timeout_s: u64,
    /// `DANGER_LEVEL1` to `DANGER_LEVEL5`: packets from which on a source has that level.
    pub danger_levels: [u64; 5],
    /// `MIN_DANGER_LEVEL`: sources below it have no folder.
    pub min_danger_level: u64,
    /// `EMAIL_ALERT_DANGER_LEVEL`.
    pub email_danger_level: u64,
    /// `AUTO_IDS_DANGER_LEVEL` when `ENABLE_AUTO_IDS` is on: the level from which on psad blocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_danger_level: Option<u64>,
    /// `AUTO_BLOCK_TIMEOUT`, seconds; 0 is for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_timeout_s: Option<u64>,
    /// `IMPORT_OLD_SCANS`: counters go on over psad's restart.
    #[serde(default, skip_serializing_if = "is_false")]
    pub import_old_scans: bool,
    /// `ENABLE_DSHIELD_ALERTS`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub dshield: bool,
    /// Rows psad writes at most of attackers, signatures and ports (`TOP_*_LOG_THRESHOLD`), 0 is all.
    pub top_rows: [u64; 3],
}

/// Where psad takes its packets from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PsadMode {
    /// From the journal, through a reader of its own.
    Journal,
    /// From a syslog file.
    File,
    /// From `fwdata`, which kmsgsd fills.
    Kmsgsd,
    /// From ulogd's file.
    Ulogd,
    /// There is no psad on this host.
    #[default]
    Absent,
    /// A mode this version does not know.
    #[serde(other)]
    Unknown,
}

/// How psad is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PsadRunState {
    /// Its heartbeat is fresh.
    Running,
    /// Its process is there, its heartbeat is not.
    Stuck,
    /// Its files are there, its process is not.
    Dead,
    /// There is no psad on this host.
    #[default]
    Absent,
    /// A state this version does not know.
    #[serde(other)]
    Unknown,
}

/// A row of `top_attackers`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attacker {
    /// Address, canonical.
    pub ip: String,
    /// 1 to 5.
    pub danger_level: u8,
    /// Packets since `counters_since`.
    pub packets: u64,
    /// Distinct signatures.
    pub unique_signatures: u64,
    /// Signature matches.
    pub signature_matches: u64,
    /// psad counts the source as its own side.
    #[serde(default, skip_serializing_if = "is_false")]
    pub is_local: bool,
}

/// A row of `top_sigs`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopSignature {
    /// Snort's id, or psad's own from 100000.
    pub sid: u64,
    /// Message of the signature.
    pub msg: Bytes,
    /// Matches.
    pub matches: u64,
    /// Distinct sources.
    pub sources: u64,
    /// `tcp`, `udp`, `icmp`, `ip`.
    pub protocol: String,
}

/// A row of `top_ports`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScannedPort {
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Destination port.
    pub port: u16,
    /// Packets.
    pub packets: u64,
}

/// A row of `packet_ctr`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProtocolCounter {
    /// `tcp`, `udp`, `udplite`, `icmp`, `icmp6`, or the IP protocol number.
    pub protocol: String,
    /// Packets.
    pub packets: u64,
}

/// A row of `ipt_prefix_ctr`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrefixCounter {
    /// Log prefix of the firewall rule.
    pub prefix: Bytes,
    /// Packets logged under it.
    pub packets: u64,
}

/// `dshield_ctr`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dshield {
    /// Mails sent to DShield.
    pub emails: u64,
    /// Packets reported in them.
    pub packets: u64,
}

/// An address psad blocks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocked {
    /// Address or network.
    pub address: String,
    /// Unix time, seconds; 0 where a very old psad wrote none.
    pub since: u64,
}

/// A source that scanned: one folder of psad's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScanSource {
    /// Address, canonical.
    pub ip: String,
    /// 1 to 5; 0 when its file could not be read.
    pub danger_level: u8,
    /// Guess from TOS and TTL.
    #[serde(default, skip_serializing_if = "Bytes::is_empty")]
    pub os_guess: Bytes,
    /// Guesses of p0f, one a line: `genre:version:extra:text`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub p0f_guess: Vec<Bytes>,
    /// Alerts sent.
    pub emails: u64,
    /// By destination.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<ScanTarget>,
}

/// What a source did to one destination.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScanTarget {
    /// Destination, canonical.
    pub ip: String,
    /// Unix time, seconds, at which psad first saw source and destination together; 0 where unknown.
    pub start_time: u64,
    /// Rows of `_packet_ctr`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub packets: Vec<TargetPackets>,
    /// Rows of `_signatures`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signatures: Vec<SignatureMatch>,
}

/// A row of `_packet_ctr`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetPackets {
    /// `INPUT`, `FORWARD`, `OUTPUT`.
    pub chain: String,
    /// Interface.
    pub interface: Bytes,
    /// Name or number of the protocol.
    pub protocol: String,
    /// Packets.
    pub packets: u64,
    /// Lowest destination port; `None` where the protocol has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_low: Option<u16>,
    /// Highest destination port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_high: Option<u16>,
}

/// A row of `_signatures`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignatureMatch {
    /// Unix time, seconds.
    pub time: u64,
    /// Signature.
    pub sid: u64,
    /// Matches.
    pub matches: u64,
    /// Its message.
    pub msg: Bytes,
    /// `INPUT`, `FORWARD`, `OUTPUT`.
    pub chain: String,
    /// Protocol.
    pub protocol: String,
    /// Destination port; 0 where the protocol has none.
    pub port: u16,
    /// TCP flags, `NA` where there are none.
    pub flags: String,
    /// A rule of fwsnort.
    #[serde(default, skip_serializing_if = "is_false")]
    pub is_fwsnort: bool,
    /// A signature of psad's own.
    #[serde(default, skip_serializing_if = "is_false")]
    pub is_psad: bool,
}

/// A line psad wrote to syslog about what it saw or did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PsadEvent {
    /// Unix time, ns; `None` where the line's time could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<i64>,
    /// `scan`, `signature`, `block`, `unblock`, `start`, `stop`, `other`.
    pub kind: String,
    /// The source it is about, canonical.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub src: String,
    /// The destination, canonical.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub dst: String,
    /// The danger level it states.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub danger_level: Option<u8>,
    /// The signature it names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sid: Option<u64>,
    /// The text after `psad: `.
    pub text: Bytes,
}

/// Lines that could not be read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unparsed {
    /// How many.
    pub lines: u64,
    /// First bytes of the first one.
    pub first: Bytes,
}
