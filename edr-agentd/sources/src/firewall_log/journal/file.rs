//! A journal file in the format of <https://systemd.io/JOURNAL_FILE_FORMAT/>, read while journald writes the file.
//!
//! The file is not mapped, because truncation of a mapped file would kill the agent. Every offset, size and count from
//! the file is checked before use, and every walk is bounded.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use super::hash::{jenkins64, siphash24};
use super::lz4;
use crate::common::files::FileStamp;
use crate::common::lines::LINE_BYTES_MAX;

/// Bytes read of the header; all versions have at least this length.
const HEADER_BYTES: usize = 208;
/// Bytes read at once.
const BLOCK_BYTES: u64 = 64 << 10;
/// Maximum number of blocks cached during a reading.
const BLOCKS_MAX: usize = 64;
/// Maximum number of objects in a bucket of a hash table; journald rotates long before.
const CHAIN_MAX: usize = 10_000;
/// Maximum number of fields per entry.
const FIELDS_MAX: u64 = 1_024;
/// Cached places of unwanted fields.
const UNWANTED_MAX: usize = 4_096;

const XZ: u8 = 1;
const LZ4: u8 = 2;
const ZSTD: u8 = 4;

const INCOMPATIBLE_KEYED_HASH: u32 = 4;
const INCOMPATIBLE_COMPACT: u32 = 16;
/// The compressions, and the two features above.
const INCOMPATIBLE_KNOWN: u32 = 1 | 2 | 8 | INCOMPATIBLE_KEYED_HASH | INCOMPATIBLE_COMPACT;

/// The reason why a part of the file could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum JournalError {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{what} at byte {at}")]
    Malformed { what: &'static str, at: u64 },
    #[error("a journal file with features this version does not know: {0:#x}")]
    Unknown(u32),
}

impl From<rustix::io::Errno> for JournalError {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::Io(errno.into())
    }
}

/// The fields of the file header.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct JournalHeader {
    pub(super) file_id: [u8; 16],
    pub(super) seqnum_id: [u8; 16],
    pub(super) entries: u64,
    pub(super) head_seqnum: u64,
    pub(super) head_realtime_us: u64,
    /// True for a complete file, which journald no longer writes.
    pub(super) is_archived: bool,
    incompatible: u32,
    header_bytes: u64,
    hash_table: u64,
    hash_table_bytes: u64,
}

impl JournalHeader {
    fn parse(bytes: &[u8; HEADER_BYTES]) -> Result<Self, JournalError> {
        if &bytes[..8] != b"LPKSHHRH" {
            return Err(JournalError::Malformed { what: "no signature of a journal file", at: 0 });
        }
        let incompatible = u32_at(bytes, 12);
        if incompatible & !INCOMPATIBLE_KNOWN != 0 {
            return Err(JournalError::Unknown(incompatible));
        }
        let id = |at: usize| std::array::from_fn(|n| bytes[at + n]);
        Ok(Self {
            file_id: id(24),
            seqnum_id: id(72),
            entries: u64_at(bytes, 152),
            head_seqnum: u64_at(bytes, 168),
            head_realtime_us: u64_at(bytes, 184),
            is_archived: bytes[16] == 2,
            incompatible,
            header_bytes: u64_at(bytes, 88),
            hash_table: u64_at(bytes, 104),
            hash_table_bytes: u64_at(bytes, 112),
        })
    }

    fn is_compact(&self) -> bool {
        self.incompatible & INCOMPATIBLE_COMPACT != 0
    }
}

/// The head of an entry, without fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EntryHead {
    pub(super) seqnum: u64,
    pub(super) realtime_us: u64,
    pub(super) monotonic_us: u64,
    pub(super) boot_id: [u8; 16],
    pub(super) xor_hash: u64,
}

/// The entries with one value of a field, and the number of entries taken.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Matches {
    /// Place of the data object; 0 while the file has no such entry.
    data: u64,
    pub(super) taken: u64,
    /// The entry array with the next entry, and the index of the array's first item; 0 to start from the first array.
    array: u64,
    array_start: u64,
}

/// An open journal file.
#[derive(Debug)]
pub(super) struct JournalFile {
    fd: OwnedFd,
    pub(super) header: JournalHeader,
    file_bytes: u64,
    blocks: HashMap<u64, Vec<u8>>,
    unwanted: HashMap<u64, ()>,
}

/// The wanted fields of an entry.
#[derive(Debug, Default)]
pub(super) struct EntryFields {
    pub(super) message: Option<JournalMessage>,
    /// `_SOURCE_MONOTONIC_TIMESTAMP`.
    pub(super) source_us: Option<u64>,
    /// `_UID=0`.
    pub(super) is_roots: bool,
}

/// A `MESSAGE` field.
#[derive(Debug)]
pub(super) enum JournalMessage {
    Text(Vec<u8>),
    /// Longer than a line may be, or damaged compressed data.
    TooLong,
    /// Compressed by an unsupported method.
    Compressed(&'static str),
}

impl JournalFile {
    pub(super) fn open(fd: OwnedFd) -> Result<Self, JournalError> {
        let mut file = Self {
            fd,
            header: JournalHeader::default(),
            file_bytes: 0,
            blocks: HashMap::new(),
            unwanted: HashMap::new(),
        };
        file.refresh()?;
        Ok(file)
    }

    /// Reads the header again and clears the cache.
    pub(super) fn refresh(&mut self) -> Result<(), JournalError> {
        self.blocks.clear();
        let mut bytes = [0; HEADER_BYTES];
        let mut len = 0;
        while len < HEADER_BYTES {
            match rustix::io::pread(&self.fd, &mut bytes[len..], len as u64) {
                Ok(0) => return Err(JournalError::Malformed { what: "a header that is cut", at: len as u64 }),
                Ok(read) => len += read,
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        self.header = JournalHeader::parse(&bytes)?;
        self.file_bytes = u64::try_from(rustix::fs::fstat(&self.fd)?.st_size).unwrap_or(0);
        Ok(())
    }

    /// Frees the cache after a reading.
    pub(super) fn rest(&mut self) {
        self.blocks = HashMap::new();
    }

    /// The number of entries with `field` (`NAME=value`). `matches` caches the place of the data object.
    pub(super) fn count(&mut self, field: &[u8], matches: &mut Matches) -> Result<u64, JournalError> {
        if matches.data == 0 {
            matches.data = self.find_data(field)?.unwrap_or(0);
        }
        if matches.data == 0 {
            return Ok(0);
        }
        // The count is limited to the number of entries in the file, so that the walk ends.
        Ok(self.u64(matches.data + 56)?.min(self.header.entries))
    }

    /// The place of entry number `index` of `matches`. Moving forward is cheap; moving back starts from the first
    /// array.
    pub(super) fn entry_at(&mut self, matches: &mut Matches, index: u64) -> Result<u64, JournalError> {
        if index == 0 {
            return self.u64(matches.data + 40);
        }
        let index = index - 1;
        if matches.array == 0 || index < matches.array_start {
            matches.array = self.u64(matches.data + 48)?;
            matches.array_start = 0;
        }
        let item_bytes = if self.header.is_compact() { 4 } else { 8 };
        loop {
            let size = self.object(matches.array, 6)?;
            let items = (size - 24) / item_bytes;
            if items == 0 {
                return Err(JournalError::Malformed { what: "an empty entry array", at: matches.array });
            }
            if index < matches.array_start + items {
                let item = matches.array + 24 + (index - matches.array_start) * item_bytes;
                return if self.header.is_compact() { self.u32(item).map(u64::from) } else { self.u64(item) };
            }
            let next = self.u64(matches.array + 16)?;
            // journald only appends.
            if next <= matches.array {
                return Err(JournalError::Malformed { what: "an entry array with a backward link", at: matches.array });
            }
            (matches.array, matches.array_start) = (next, matches.array_start + items);
        }
    }

    /// Reads the head of an entry.
    pub(super) fn entry(&mut self, at: u64) -> Result<EntryHead, JournalError> {
        self.object(at, 3)?;
        let mut bytes = [0; 64];
        self.read(at, &mut bytes)?;
        Ok(EntryHead {
            seqnum: u64_at(&bytes, 16),
            realtime_us: u64_at(&bytes, 24),
            monotonic_us: u64_at(&bytes, 32),
            boot_id: std::array::from_fn(|n| bytes[40 + n]),
            xor_hash: u64_at(&bytes, 56),
        })
    }

    /// Reads the wanted fields of the entry at `at`.
    pub(super) fn fields(&mut self, at: u64) -> Result<EntryFields, JournalError> {
        let size = self.object(at, 3)?;
        let item_bytes = if self.header.is_compact() { 4 } else { 16 };
        let mut fields = EntryFields::default();
        for item in 0..((size - 64) / item_bytes).min(FIELDS_MAX) {
            let item = at + 64 + item * item_bytes;
            let data = if self.header.is_compact() { u64::from(self.u32(item)?) } else { self.u64(item)? };
            if !self.unwanted.contains_key(&data) {
                self.field(data, &mut fields)?;
            }
        }
        Ok(fields)
    }

    fn field(&mut self, data: u64, fields: &mut EntryFields) -> Result<(), JournalError> {
        const MESSAGE: &[u8] = b"MESSAGE=";
        const SOURCE: &[u8] = b"_SOURCE_MONOTONIC_TIMESTAMP=";
        let size = self.object(data, 1)?;
        let flags = self.u8(data + 1)?;
        let payload = self.payload(data);
        let bytes = size.saturating_sub(payload - data);
        if flags & (XZ | LZ4 | ZSTD) != 0 {
            // Among compressed fields only a message is wanted.
            let packed_max = LINE_BYTES_MAX as u64;
            let packed = self.copy(payload, bytes.min(packed_max))?;
            let text = match flags {
                _ if bytes > packed_max => None,
                LZ4 => lz4::unpack(&packed, LINE_BYTES_MAX),
                ZSTD => zstd::bulk::decompress(&packed, LINE_BYTES_MAX).ok(),
                _ => {
                    fields.message.get_or_insert(JournalMessage::Compressed("xz"));
                    return Ok(());
                }
            };
            match text {
                Some(text) => {
                    if let Some(message) = text.strip_prefix(MESSAGE) {
                        fields.message = Some(JournalMessage::Text(message.to_vec()));
                    }
                }
                None => {
                    fields.message.get_or_insert(JournalMessage::TooLong);
                }
            }
            return Ok(());
        }
        let start = self.copy(payload, bytes.min(SOURCE.len() as u64))?;
        if start.starts_with(MESSAGE) {
            fields.message = Some(if bytes > LINE_BYTES_MAX as u64 {
                JournalMessage::TooLong
            } else {
                JournalMessage::Text(self.copy(payload + MESSAGE.len() as u64, bytes - MESSAGE.len() as u64)?)
            });
        } else if start == SOURCE {
            let text = self.copy(payload + SOURCE.len() as u64, (bytes - SOURCE.len() as u64).min(20))?;
            fields.source_us = std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok());
        } else if start == b"_UID=0" {
            fields.is_roots = true;
        } else if self.unwanted.len() < UNWANTED_MAX {
            self.unwanted.insert(data, ());
        }
        Ok(())
    }

    /// Finds the data object of `field`.
    fn find_data(&mut self, field: &[u8]) -> Result<Option<u64>, JournalError> {
        let keyed = self.header.incompatible & INCOMPATIBLE_KEYED_HASH != 0;
        let hash = if keyed { siphash24(self.header.file_id, field) } else { jenkins64(field) };
        let buckets = self.header.hash_table_bytes / 16;
        if buckets == 0 {
            return Ok(None);
        }
        // The header comes from the file: the place of the table is untrusted.
        let bucket = self.header.hash_table.saturating_add(hash % buckets * 16);
        let mut at = self.u64(bucket)?;
        for _ in 0..CHAIN_MAX {
            if at == 0 {
                return Ok(None);
            }
            let size = self.object(at, 1)?;
            let payload = self.payload(at);
            if self.u64(at + 16)? == hash
                && size.saturating_sub(payload - at) == field.len() as u64
                && self.copy(payload, field.len() as u64)? == field
            {
                return Ok(Some(at));
            }
            at = self.u64(at + 24)?;
        }
        Err(JournalError::Malformed { what: "a hash chain without an end", at })
    }

    /// The start of a data object's payload.
    fn payload(&self, data: u64) -> u64 {
        data + if self.header.is_compact() { 72 } else { 64 }
    }

    /// Returns the size of the object of type `kind` at `at`; an error for any other object.
    fn object(&mut self, at: u64, kind: u8) -> Result<u64, JournalError> {
        let least = [16, 64, 0, 64, 0, 0, 24];
        if !at.is_multiple_of(8) || at < self.header.header_bytes {
            return Err(JournalError::Malformed { what: "a reference to where no object is", at });
        }
        let mut head = [0; 16];
        self.read(at, &mut head)?;
        let size = u64_at(&head, 8);
        let fits = at.checked_add(size).is_some_and(|end| end <= self.file_bytes);
        if head[0] != kind || size < least[usize::from(kind)] || !fits {
            return Err(JournalError::Malformed { what: "another object than expected", at });
        }
        Ok(size)
    }

    fn u8(&mut self, at: u64) -> Result<u8, JournalError> {
        let mut bytes = [0; 1];
        self.read(at, &mut bytes)?;
        Ok(bytes[0])
    }

    fn u32(&mut self, at: u64) -> Result<u32, JournalError> {
        let mut bytes = [0; 4];
        self.read(at, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn u64(&mut self, at: u64) -> Result<u64, JournalError> {
        let mut bytes = [0; 8];
        self.read(at, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn copy(&mut self, at: u64, len: u64) -> Result<Vec<u8>, JournalError> {
        let mut bytes = vec![0; len as usize];
        self.read(at, &mut bytes)?;
        Ok(bytes)
    }

    /// Fills `out` from the file, block by block.
    fn read(&mut self, at: u64, out: &mut [u8]) -> Result<(), JournalError> {
        let mut done = 0;
        while done < out.len() {
            let at = at.checked_add(done as u64).ok_or(JournalError::Malformed { what: "an offset too large", at })?;
            let number = at / BLOCK_BYTES;
            if !self.blocks.contains_key(&number) {
                if self.blocks.len() >= BLOCKS_MAX {
                    self.blocks.clear();
                }
                let block = self.load(number)?;
                self.blocks.insert(number, block);
            }
            let from = (at % BLOCK_BYTES) as usize;
            let block = self.blocks.get(&number).and_then(|block| block.get(from..)).unwrap_or_default();
            if block.is_empty() {
                return Err(JournalError::Malformed { what: "the file ends", at });
            }
            let len = block.len().min(out.len() - done);
            out[done..done + len].copy_from_slice(&block[..len]);
            done += len;
        }
        Ok(())
    }

    fn load(&self, number: u64) -> Result<Vec<u8>, JournalError> {
        let mut block = vec![0; BLOCK_BYTES as usize];
        let mut len = 0;
        while len < block.len() {
            match rustix::io::pread(&self.fd, &mut block[len..], number * BLOCK_BYTES + len as u64) {
                Ok(0) => break,
                Ok(read) => len += read,
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        block.truncate(len);
        Ok(block)
    }
}

/// Device and inode.
pub(super) fn identity(stamp: &FileStamp) -> (u64, u64) {
    (stamp.dev, stamp.inode)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().rev().fold(0, |number, &byte| number << 8 | u32::from(byte))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
}
