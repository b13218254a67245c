//! The snapshot: the state of a host at one tick.
//!
//! A snapshot is msgpack with named fields, readable by any consumer in any language. Rows are sorted: processes by
//! pid, files by descriptor, sockets by inode. A row with unchanged facts has the same bytes as in the previous
//! snapshot: equality of bytes is equality of state.

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

/// Version of the snapshot's field set. The version grows with every added field; a reader skips unknown fields.
pub const SCHEMA: u16 = 1;

/// A whole snapshot as an owned value, for `edr-agentd snapshot` and tests. The agent encodes with [`SnapshotParts`];
/// the collector reads with [`SnapshotView`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// [`SCHEMA`] of the writer.
    pub schema: u16,
    /// The host.
    pub host: Host,
    /// The agent.
    pub agent: Agent,
    /// The time of the tick.
    pub time: Time,
    /// Read position of each tailed log.
    #[serde(default)]
    pub positions: Vec<Position>,
    /// Processes by pid.
    #[serde(default)]
    pub processes: Vec<Process>,
    /// Sockets by inode.
    #[serde(default)]
    pub sockets: Vec<Socket>,
    /// The state of psad.
    #[serde(default)]
    pub psad: Psad,
    /// Firewall log lines since the previous snapshot.
    #[serde(default)]
    pub packets: Vec<Packet>,
    /// Age of carried-over rows.
    #[serde(default)]
    pub reread: Reread,
    /// Facts that were missed, each with its reason.
    #[serde(default)]
    pub gaps: Vec<Gap>,
}
