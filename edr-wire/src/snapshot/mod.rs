//! The snapshot: everything the agent saw at one tick.
//!
//! msgpack with named fields, so that any consumer in any language can read it. Rows are sorted (processes by pid,
//! files by descriptor, sockets by inode), and a row whose facts did not change has the same bytes as in the snapshot
//! before: equality of bytes is equality of state.

mod encode;
mod host;
mod msgpack;
mod packet;
mod process;
mod psad;
mod socket;
mod view;

pub(crate) use encode::write_named;
pub use encode::{Rows, SnapshotParts, elements, encode_row, encode_row_into};
pub use host::{Agent, Gap, GapReason, Host, Position, Reread, SourceCost, SpoolState, Time};
pub use packet::{Address, BytesRef, Dotted, Packet, PacketRow, TcpFlags};
pub use process::{Access, Capabilities, Container, Exe, Fd, FileKind, Io, MappedFile, Namespaces, OpenFile, Process};
pub use psad::{
    Attacker, Blocked, Dshield, PrefixCounter, ProtocolCounter, Psad, PsadConf, PsadEvent, PsadMode, PsadRunState,
    ScanSource, ScanTarget, ScannedPort, SignatureMatch, SourceTotals, TargetPackets, TopSignature, Unparsed,
};
use serde::{Deserialize, Serialize};
pub use socket::{Family, Socket};
pub use view::{SnapshotError, SnapshotView};

/// Version of the snapshot's field set. It grows with every added field; a reader skips fields it does not know.
pub const SCHEMA: u16 = 1;

/// One whole snapshot, owned. The agent encodes through [`SnapshotParts`], a reader looks through [`SnapshotView`];
/// this type is for those who want all of it at once (`edr-agentd snapshot`, tests).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// [`SCHEMA`] of the writer.
    pub schema: u16,
    /// The host.
    pub host: Host,
    /// The agent.
    pub agent: Agent,
    /// When.
    pub time: Time,
    /// How far each tailed log was read.
    #[serde(default)]
    pub positions: Vec<Position>,
    /// Processes by pid.
    #[serde(default)]
    pub processes: Vec<Process>,
    /// Sockets by inode.
    #[serde(default)]
    pub sockets: Vec<Socket>,
    /// What psad knows.
    #[serde(default)]
    pub psad: Psad,
    /// Firewall log lines since the snapshot before.
    #[serde(default)]
    pub packets: Vec<Packet>,
    /// How old carried-over rows are.
    #[serde(default)]
    pub reread: Reread,
    /// What was missed and why.
    #[serde(default)]
    pub gaps: Vec<Gap>,
}
