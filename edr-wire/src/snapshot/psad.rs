//! The state of psad, in the terms of psad. Formats: psad 2.2 to 2.4.6.

use serde::{Deserialize, Serialize};

use super::process::is_false;
use crate::Bytes;

/// The state of psad, read from its files. ECS: `edr.psad.*`; OCSF: Detection Finding.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Psad {
    /// Source of psad's packets.
    pub mode: PsadMode,
    /// Condition of psad.
    pub state: PsadRunState,
    /// Process id of psad, when psad runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Unix time, ns, of the newest file that psad rewrites at each pass: the heartbeat of psad.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fresh_as_of: Option<i64>,
    /// Unix time, ns, of psad's start, at which the counters began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counters_since: Option<i64>,
    /// True when `status.out` is older than psad's start and so describes an earlier run.
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
    /// The sources of scans (one folder of psad each), by address; only the worst sources when there are more than the
    /// agent's limit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<ScanSource>,
    /// Totals of the sources beyond the limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sources_left_out: Option<SourceTotals>,
    /// The settings of psad; `None` when the configuration could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conf: Option<PsadConf>,
    /// Number of complete rescans since the agent started, made because inotify(7) lost changes (`IN_Q_OVERFLOW`).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rescans: u64,
    /// psad's own log lines since the previous snapshot.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<PsadEvent>,
    /// The text of `status.out`, unchanged.
    #[serde(default, skip_serializing_if = "Bytes::is_empty")]
    pub status_text: Bytes,
    /// Invalid lines in psad's files, and the first bytes of the first invalid line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unparsed: Option<Unparsed>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Totals of sources that are counted instead of listed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceTotals {
    /// Number of sources.
    pub sources: u64,
    /// Packets of the sources whose folder was read.
    pub packets: u64,
    /// Number of sources of each danger level, 1 to 5; only sources whose folder was read.
    pub by_danger_level: [u64; 5],
}

/// The settings of `psad.conf` for input, alerts and blocking.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PsadConf {
    /// `PSAD_DIR`: the folder of psad's files.
    pub dir: Bytes,
    /// Path of the log behind `packets`; `journal` for the journal; empty for none.
    #[serde(default, skip_serializing_if = "Bytes::is_empty")]
    pub packet_log: Bytes,
    /// `CHECK_INTERVAL`, or `-I`: seconds between two passes.
    pub check_interval_s: u64,
    /// `SCAN_TIMEOUT`, seconds.
    pub scan_timeout_s: u64,
    /// `DANGER_LEVEL1` to `DANGER_LEVEL5`: for each level the packets at which a source reaches the level.
    pub danger_levels: [u64; 5],
    /// `MIN_DANGER_LEVEL`: sources below this level have no folder.
    pub min_danger_level: u64,
    /// `EMAIL_ALERT_DANGER_LEVEL`.
    pub email_danger_level: u64,
    /// `AUTO_IDS_DANGER_LEVEL` when `ENABLE_AUTO_IDS` is on: psad blocks sources from this level on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_danger_level: Option<u64>,
    /// `AUTO_BLOCK_TIMEOUT`, seconds; 0 is for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_timeout_s: Option<u64>,
    /// `IMPORT_OLD_SCANS`: counters continue across a restart of psad.
    #[serde(default, skip_serializing_if = "is_false")]
    pub import_old_scans: bool,
    /// `ENABLE_DSHIELD_ALERTS`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub dshield: bool,
    /// `TOP_*_LOG_THRESHOLD`: the most rows that psad writes of attackers, signatures and ports; 0 for all.
    pub top_rows: [u64; 3],
}

/// Source of psad's packets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PsadMode {
    /// The journal, through psad's own reader process.
    Journal,
    /// A syslog file.
    File,
    /// `fwdata`, written by kmsgsd.
    Kmsgsd,
    /// The file of ulogd.
    Ulogd,
    /// This host has no psad.
    #[default]
    Absent,
    /// A mode unknown to this version.
    #[serde(other)]
    Unknown,
}

/// Condition of psad.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PsadRunState {
    /// The heartbeat is fresh.
    Running,
    /// The process exists, but the heartbeat is stale.
    Stuck,
    /// The files exist, but the process does not.
    Dead,
    /// This host has no psad.
    #[default]
    Absent,
    /// A state unknown to this version.
    #[serde(other)]
    Unknown,
}

/// A row of `top_attackers`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attacker {
    /// Address, canonical.
    pub ip: String,
    /// Danger level, 1 to 5.
    pub danger_level: u8,
    /// Packets since `counters_since`.
    pub packets: u64,
    /// Distinct signatures.
    pub unique_signatures: u64,
    /// Signature matches.
    pub signature_matches: u64,
    /// True when psad counts the source as local.
    #[serde(default, skip_serializing_if = "is_false")]
    pub is_local: bool,
}

/// A row of `top_sigs`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopSignature {
    /// Id of a Snort signature; ids of psad's own signatures start at 100000.
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
    /// Packets logged under the prefix.
    pub packets: u64,
}

/// `dshield_ctr`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dshield {
    /// Mails sent to DShield.
    pub emails: u64,
    /// Packets reported in the mails.
    pub packets: u64,
}

/// An address blocked by psad.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocked {
    /// Address or network.
    pub address: String,
    /// Unix time of the block, seconds; 0 when missing (very old versions of psad).
    pub since: u64,
}

/// A source of scans: one folder of psad.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScanSource {
    /// Address, canonical.
    pub ip: String,
    /// Danger level, 1 to 5; 0 when its file could not be read.
    pub danger_level: u8,
    /// Operating system guessed from TOS and TTL.
    #[serde(default, skip_serializing_if = "Bytes::is_empty")]
    pub os_guess: Bytes,
    /// Guesses of p0f, one per line: `genre:version:extra:text`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub p0f_guess: Vec<Bytes>,
    /// Alerts sent.
    pub emails: u64,
    /// Activity by destination.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<ScanTarget>,
}

/// The activity of a source against one destination.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScanTarget {
    /// Destination, canonical.
    pub ip: String,
    /// Unix time, seconds, at which psad first saw this source and destination together; 0 when unknown.
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
    /// Lowest destination port; `None` for a protocol without ports.
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
    /// Id of the signature.
    pub sid: u64,
    /// Matches.
    pub matches: u64,
    /// Message of the signature.
    pub msg: Bytes,
    /// `INPUT`, `FORWARD`, `OUTPUT`.
    pub chain: String,
    /// Protocol.
    pub protocol: String,
    /// Destination port; 0 for a protocol without ports.
    pub port: u16,
    /// TCP flags; `NA` for none.
    pub flags: String,
    /// True for a rule of fwsnort.
    #[serde(default, skip_serializing_if = "is_false")]
    pub is_fwsnort: bool,
    /// True for one of psad's own signatures.
    #[serde(default, skip_serializing_if = "is_false")]
    pub is_psad: bool,
}

/// A syslog line of psad about a detection or an action.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PsadEvent {
    /// Unix time, ns; `None` when the time of the line is unreadable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<i64>,
    /// `scan`, `signature`, `block`, `unblock`, `start`, `stop`, `other`.
    pub kind: String,
    /// Source named in the line, canonical.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub src: String,
    /// Destination named in the line, canonical.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub dst: String,
    /// Danger level named in the line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub danger_level: Option<u8>,
    /// Signature id named in the line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sid: Option<u64>,
    /// The text after `psad: `.
    pub text: Bytes,
}

/// Invalid lines of psad's files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unparsed {
    /// Number of lines.
    pub lines: u64,
    /// First bytes of the first invalid line.
    pub first: Bytes,
}
