//! Reading a snapshot row by row, at a bounded cost.
//!
//! A hostile snapshot of 32 MiB can hold 262,144 processes of a few bytes each; as owned values they would need
//! hundreds of megabytes. So a reader keeps the raw bytes and the place of each row, and builds one row at a time.

use std::ops::Range;

use serde::de::DeserializeOwned;

use super::{Agent, Gap, Host, Packet, Position, Process, Psad, Reread, Socket, Time};
use crate::limits::{DEPTH_MAX, PROCESSES_MAX, RAW_BYTES_MAX, ROWS_MAX};
use crate::scan::{Cursor, ScanError, ValueHead};

/// The reason why bytes are not a snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The snapshot is larger than [`RAW_BYTES_MAX`].
    #[error("snapshot of {0} bytes, {RAW_BYTES_MAX} are allowed")]
    TooLarge(usize),
    /// The bytes are not acceptable msgpack.
    #[error("snapshot: {0}")]
    Structure(#[from] ScanError),
    /// A mandatory field is missing.
    #[error("snapshot has no field {0:?}")]
    Missing(&'static str),
    /// A field or row has another shape.
    #[error("{field}: {source}")]
    Field {
        /// Name of the field.
        field: &'static str,
        /// Cause.
        source: rmp_serde::decode::Error,
    },
}

/// The checked raw bytes of a snapshot, with the place of every row. Memory: the bytes, and 4 bytes per row.
#[derive(Debug)]
pub struct SnapshotView {
    raw: Vec<u8>,
    host: Range<usize>,
    agent: Range<usize>,
    time: Range<usize>,
    positions: Range<usize>,
    psad: Range<usize>,
    packets: Range<usize>,
    reread: Range<usize>,
    gaps: Range<usize>,
    processes: RowPlaces,
    sockets: RowPlaces,
}

/// The start offsets of the rows of a list, then the end offset of the last row.
#[derive(Debug, Default)]
struct RowPlaces(Vec<u32>);

impl RowPlaces {
    fn len(&self) -> usize {
        self.0.len().saturating_sub(1)
    }

    fn rows<'a>(&'a self, raw: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        self.0.windows(2).map(|place| &raw[place[0] as usize..place[1] as usize])
    }
}

impl SnapshotView {
    /// Checks structure and limits of a snapshot's msgpack and stores the places of its rows. Rows are decoded later,
    /// on demand.
    ///
    /// # Errors
    /// When the bytes are no snapshot or exceed a limit of [`crate::limits`].
    pub fn parse(raw: Vec<u8>) -> Result<Self, SnapshotError> {
        if raw.len() > RAW_BYTES_MAX {
            return Err(SnapshotError::TooLarge(raw.len()));
        }
        let mut view = Self {
            raw: Vec::new(),
            host: 0..0,
            agent: 0..0,
            time: 0..0,
            positions: 0..0,
            psad: 0..0,
            packets: 0..0,
            reread: 0..0,
            gaps: 0..0,
            processes: RowPlaces::default(),
            sockets: RowPlaces::default(),
        };
        let mut cursor = Cursor::new(&raw);
        let ValueHead::Map(fields) = cursor.head()? else {
            return Err(ScanError::Unexpected { what: "a map", at: 0 }.into());
        };
        for _ in 0..fields {
            let place = match cursor.text()? {
                "processes" => {
                    view.processes = places(&mut cursor, "processes", PROCESSES_MAX)?;
                    continue;
                }
                "sockets" => {
                    view.sockets = places(&mut cursor, "sockets", ROWS_MAX)?;
                    continue;
                }
                "host" => &mut view.host,
                "agent" => &mut view.agent,
                "time" => &mut view.time,
                "positions" => &mut view.positions,
                "psad" => &mut view.psad,
                "packets" => &mut view.packets,
                "reread" => &mut view.reread,
                "gaps" => &mut view.gaps,
                _ => &mut (0..0),
            };
            let start = cursor.at;
            cursor.skip(1)?;
            *place = start..cursor.at;
        }
        if !cursor.is_at_end() {
            return Err(ScanError::Unexpected { what: "the end", at: cursor.at }.into());
        }
        for (name, place) in [("host", &view.host), ("agent", &view.agent), ("time", &view.time)] {
            if place.is_empty() {
                return Err(SnapshotError::Missing(name));
            }
        }
        view.raw = raw;
        Ok(view)
    }

    /// The host.
    ///
    /// # Errors
    /// When the field has another shape.
    pub fn host(&self) -> Result<Host, SnapshotError> {
        decode("host", &self.raw[self.host.clone()])
    }

    /// The agent.
    ///
    /// # Errors
    /// When the field has another shape.
    pub fn agent(&self) -> Result<Agent, SnapshotError> {
        decode("agent", &self.raw[self.agent.clone()])
    }

    /// The time of the snapshot.
    ///
    /// # Errors
    /// When the field has another shape.
    pub fn time(&self) -> Result<Time, SnapshotError> {
        decode("time", &self.raw[self.time.clone()])
    }

    /// The state of psad; the default when the snapshot lacks the field.
    ///
    /// # Errors
    /// When the field has another shape.
    pub fn psad(&self) -> Result<Psad, SnapshotError> {
        self.optional("psad", &self.psad)
    }

    /// Log positions.
    ///
    /// # Errors
    /// When the field has another shape.
    pub fn positions(&self) -> Result<Vec<Position>, SnapshotError> {
        self.optional("positions", &self.positions)
    }

    /// Firewall log lines.
    ///
    /// # Errors
    /// When the field has another shape.
    pub fn packets(&self) -> Result<Vec<Packet>, SnapshotError> {
        self.optional("packets", &self.packets)
    }

    /// Age of carried-over rows.
    ///
    /// # Errors
    /// When the field has another shape.
    pub fn reread(&self) -> Result<Reread, SnapshotError> {
        self.optional("reread", &self.reread)
    }

    /// The gaps: facts that were missed.
    ///
    /// # Errors
    /// When the field has another shape.
    pub fn gaps(&self) -> Result<Vec<Gap>, SnapshotError> {
        self.optional("gaps", &self.gaps)
    }

    /// Number of process rows.
    pub fn process_count(&self) -> usize {
        self.processes.len()
    }

    /// Number of socket rows.
    pub fn socket_count(&self) -> usize {
        self.sockets.len()
    }

    /// Processes by pid, decoded one at a time.
    pub fn processes(&self) -> impl Iterator<Item = Result<Process, SnapshotError>> {
        self.processes.rows(&self.raw).map(|row| decode("processes", row))
    }

    /// Sockets by inode, decoded one at a time.
    pub fn sockets(&self) -> impl Iterator<Item = Result<Socket, SnapshotError>> {
        self.sockets.rows(&self.raw).map(|row| decode("sockets", row))
    }

    /// The bytes of each process row: equal bytes mean equal state.
    pub fn process_rows(&self) -> impl Iterator<Item = &[u8]> {
        self.processes.rows(&self.raw)
    }

    /// The whole snapshot as msgpack.
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    fn optional<T: DeserializeOwned + Default>(
        &self,
        field: &'static str,
        place: &Range<usize>,
    ) -> Result<T, SnapshotError> {
        if place.is_empty() { Ok(T::default()) } else { decode(field, &self.raw[place.clone()]) }
    }
}

fn places(cursor: &mut Cursor<'_>, what: &'static str, max: usize) -> Result<RowPlaces, ScanError> {
    let at = cursor.at;
    let ValueHead::Array(count) = cursor.head()? else {
        return Err(ScanError::Unexpected { what: "an array", at });
    };
    if count > max {
        return Err(ScanError::TooLong { what, count, max });
    }
    let mut places = Vec::new();
    // RAW_BYTES_MAX keeps every place below 2^32.
    places.push(cursor.at as u32);
    for _ in 0..count {
        cursor.skip(2)?;
        places.push(cursor.at as u32);
    }
    Ok(RowPlaces(places))
}

pub(crate) fn decode<T: DeserializeOwned>(field: &'static str, bytes: &[u8]) -> Result<T, SnapshotError> {
    let mut deserializer = rmp_serde::Deserializer::from_read_ref(bytes);
    deserializer.set_max_depth(DEPTH_MAX);
    T::deserialize(&mut deserializer).map_err(|source| SnapshotError::Field { field, source })
}
