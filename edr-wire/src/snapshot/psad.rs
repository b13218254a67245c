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
    /// The folders of sources, by address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<ScanSource>,
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
