//! Encoding of a snapshot from rows, some of which may already be encoded.

use serde::Serialize;

use crate::scan::value_elements;

use super::{Agent, Gap, Host, PacketRow, Position, Psad, Reread, SCHEMA, Time};

/// Encoded rows of one list. A row taken over from the previous snapshot is a copy of its bytes.
#[derive(Debug, Clone, Default)]
pub struct Rows {
    bytes: Vec<u8>,
    count: u32,
}

impl Rows {
    /// Encodes a row and appends the result.
    pub fn push<T: Serialize>(&mut self, row: &T) {
        write_named(&mut self.bytes, row);
        self.count += 1;
    }

    /// Encodes a packet and appends the result: the same bytes as [`Self::push`], but faster.
    pub fn push_packet(&mut self, row: &PacketRow<'_>) {
        row.write(&mut self.bytes);
        self.count += 1;
    }

    /// Appends a row encoded earlier by [`encode_row`].
    pub fn push_encoded(&mut self, row: &[u8]) {
        self.bytes.extend_from_slice(row);
        self.count += 1;
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// True without rows.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The bytes of all rows, joined.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Bytes of all rows.
    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    /// Removes the rows and keeps the allocated memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.count = 0;
    }
}

impl<T: Serialize> FromIterator<T> for Rows {
    fn from_iter<I: IntoIterator<Item = T>>(rows: I) -> Self {
        let mut all = Self::default();
        for row in rows {
            all.push(&row);
        }
        all
    }
}

/// Returns the bytes of one row, for [`Rows::push_encoded`].
pub fn encode_row<T: Serialize>(row: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_named(&mut bytes, row);
    bytes
}

/// [`encode_row`] into an existing buffer.
pub fn encode_row_into<T: Serialize>(row: &T, bytes: &mut Vec<u8>) {
    bytes.clear();
    write_named(bytes, row);
}

/// The number of msgpack elements of a value, as limited by [`crate::limits::ROW_ELEMENTS_MAX`]; `usize::MAX` beyond
/// the limit.
pub fn elements<T: Serialize>(value: &T) -> usize {
    value_elements(&encode_row(value)).unwrap_or(usize::MAX)
}

/// A snapshot ready for encoding: the three long lists as [`Rows`], the rest as values.
#[derive(Debug)]
pub struct SnapshotParts<'a> {
    /// The host.
    pub host: &'a Host,
    /// The agent.
    pub agent: &'a Agent,
    /// The time of the snapshot.
    pub time: &'a Time,
    /// Log positions.
    pub positions: &'a [Position],
    /// Processes, sorted by pid.
    pub processes: &'a Rows,
    /// Sockets, sorted by inode.
    pub sockets: &'a Rows,
    /// The state of psad.
    pub psad: &'a Psad,
    /// Packets, in the order of their logs.
    pub packets: &'a Rows,
    /// Age of carried-over rows.
    pub reread: Reread,
    /// The gaps: facts that were missed.
    pub gaps: &'a [Gap],
}

impl SnapshotParts<'_> {
    /// Returns the snapshot's msgpack: the same bytes as serializing a [`super::Snapshot`] with the same content.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.processes.byte_len() + self.sockets.byte_len() + (64 << 10));
        write_map_len(&mut out, 11);
        field(&mut out, "schema", &SCHEMA);
        field(&mut out, "host", self.host);
        field(&mut out, "agent", self.agent);
        field(&mut out, "time", self.time);
        field(&mut out, "positions", &self.positions);
        rows(&mut out, "processes", self.processes);
        rows(&mut out, "sockets", self.sockets);
        field(&mut out, "psad", self.psad);
        rows(&mut out, "packets", self.packets);
        field(&mut out, "reread", &self.reread);
        field(&mut out, "gaps", &self.gaps);
        out
    }
}

fn field<T: Serialize>(out: &mut Vec<u8>, name: &str, value: &T) {
    write_named(out, name);
    write_named(out, value);
}

fn rows(out: &mut Vec<u8>, name: &str, rows: &Rows) {
    write_named(out, name);
    match rmp::encode::write_array_len(out, rows.count) {
        Ok(_) => out.extend_from_slice(&rows.bytes),
        Err(never) => unreachable!("writing to memory does not fail: {never}"),
    }
}

fn write_map_len(out: &mut Vec<u8>, len: u32) {
    if let Err(never) = rmp::encode::write_map_len(out, len) {
        unreachable!("writing to memory does not fail: {never}");
    }
}

/// Appends msgpack with named fields. Cannot fail: rmp-serde refuses only lists and maps without a length and keys that
/// are not strings, and the wire types have neither.
pub(crate) fn write_named<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    if let Err(never) = rmp_serde::encode::write_named(out, value) {
        unreachable!("a wire type that msgpack cannot hold: {never}");
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Process, Snapshot, Socket};
    use super::*;

    #[test]
    fn parts_and_the_whole_have_the_same_bytes() {
        for rows in [0_u32, 1, 15, 16, 70_000] {
            let snapshot = Snapshot {
                schema: SCHEMA,
                processes: (1..=rows).map(|pid| Process { pid, state: 'S', ..Process::default() }).collect(),
                sockets: (0..rows.min(20)).map(|inode| Socket { inode: inode.into(), ..Socket::default() }).collect(),
                ..Snapshot::default()
            };
            let parts = SnapshotParts {
                host: &snapshot.host,
                agent: &snapshot.agent,
                time: &snapshot.time,
                positions: &snapshot.positions,
                processes: &snapshot.processes.iter().collect(),
                sockets: &snapshot.sockets.iter().collect(),
                psad: &snapshot.psad,
                packets: &snapshot.packets.iter().collect(),
                reread: snapshot.reread.clone(),
                gaps: &snapshot.gaps,
            };
            let encoded = parts.encode();
            assert!(encoded == rmp_serde::to_vec_named(&snapshot).unwrap(), "{rows} rows");
            assert!(rmp_serde::from_slice::<Snapshot>(&encoded).unwrap() == snapshot, "{rows} rows");
        }
    }
}
