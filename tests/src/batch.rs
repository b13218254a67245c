//! Record batches of Kafka as any client can write them: every codec, and headers that claim what the records do not
//! have.

use std::io::{Read as _, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use crc::{CRC_32_ISCSI, Crc};
use flate2::Compression;
use flate2::write::GzEncoder;
use lz4_flex::frame::FrameEncoder;

use crate::kafka::Broker;
use crate::wait;

/// Time limit for the broker's answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// Kafka's errors while a new partition has no leader: unknown topic, no leader, not the leader.
const NO_LEADER: [i16; 3] = [3, 5, 6];
/// Unfolded size of a block in the frames of Kafka's Java client, bytes.
const JAVA_BLOCK_BYTES: usize = 32 << 10;

static CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// A codec of Kafka.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// No compression.
    None,
    /// gzip.
    Gzip,
    /// A block of snappy, as written by librdkafka.
    Snappy,
    /// Blocks of snappy in frames, as the Java client writes them.
    SnappyJava,
    /// LZ4 frames.
    Lz4,
    /// Zstandard.
    Zstd,
}

impl Codec {
    /// All codecs.
    pub const ALL: [Self; 6] = [Self::None, Self::Gzip, Self::Snappy, Self::SnappyJava, Self::Lz4, Self::Zstd];

    fn number(self) -> i16 {
        match self {
            Self::None => 0,
            Self::Gzip => 1,
            Self::Snappy | Self::SnappyJava => 2,
            Self::Lz4 => 3,
            Self::Zstd => 4,
        }
    }
}

/// A batch to be written.
#[derive(Debug, Clone)]
pub struct TestBatch {
    values: Vec<Option<Arc<[u8]>>>,
    key: Option<Vec<u8>>,
    header: Option<Vec<u8>>,
    codec: Codec,
    base: i64,
    attributes: i16,
    count: Option<i32>,
    raw_records: Option<Vec<u8>>,
}

impl TestBatch {
    /// A batch of the values, all with the same key.
    pub fn new(values: impl IntoIterator<Item: AsRef<[u8]>>) -> Self {
        Self::of(values.into_iter().map(|value| Some(Arc::from(value.as_ref()))).collect())
    }

    /// A batch of `count` equal records; `None` is a record without a value.
    pub fn repeated(value: Option<&[u8]>, count: usize) -> Self {
        Self::of(vec![value.map(Arc::from); count])
    }

    fn of(values: Vec<Option<Arc<[u8]>>>) -> Self {
        Self {
            values,
            key: Some(b"key".to_vec()),
            header: None,
            codec: Codec::None,
            base: 0,
            attributes: 0,
            count: None,
            raw_records: None,
        }
    }

    /// Without a key.
    #[must_use]
    pub fn null_key(mut self) -> Self {
        self.key = None;
        self
    }

    /// With a header of this value in each record.
    #[must_use]
    pub fn header(mut self, value: Vec<u8>) -> Self {
        self.header = Some(value);
        self
    }

    /// Compressed.
    #[must_use]
    pub fn codec(mut self, codec: Codec) -> Self {
        self.codec = codec;
        self
    }

    /// With this first offset. A broker replaces the offset.
    #[must_use]
    pub fn at(mut self, base: i64) -> Self {
        self.base = base;
        self
    }

    /// With these attributes, beside the codec.
    #[must_use]
    pub fn attributes(mut self, attributes: i16) -> Self {
        self.attributes = attributes;
        self
    }

    /// Claims this number of records.
    #[must_use]
    pub fn count(mut self, count: i32) -> Self {
        self.count = Some(count);
        self
    }

    /// With these bytes in place of the records.
    #[must_use]
    pub fn raw_records(mut self, bytes: &[u8]) -> Self {
        self.raw_records = Some(bytes.to_vec());
        self
    }

    /// Returns the bytes of the batch.
    pub fn encode(&self) -> Vec<u8> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now_ms = i64::try_from(now.as_millis()).unwrap_or_default();
        let count = i32::try_from(self.values.len()).unwrap_or(i32::MAX);
        let mut checked = (self.codec.number() | self.attributes).to_be_bytes().to_vec();
        checked.extend((count - 1).to_be_bytes());
        checked.extend(now_ms.to_be_bytes());
        checked.extend(now_ms.to_be_bytes());
        // No producer id, epoch and sequence number.
        checked.extend((-1_i64).to_be_bytes());
        checked.extend((-1_i16).to_be_bytes());
        checked.extend((-1_i32).to_be_bytes());
        checked.extend(self.count.unwrap_or(count).to_be_bytes());
        checked.extend(self.raw_records.clone().unwrap_or_else(|| self.compressed()));
        let mut bytes = self.base.to_be_bytes().to_vec();
        bytes.extend(i32::try_from(checked.len() + 9).unwrap_or(i32::MAX).to_be_bytes());
        bytes.extend((-1_i32).to_be_bytes());
        bytes.push(2);
        bytes.extend(CRC.checksum(&checked).to_be_bytes());
        bytes.extend(checked);
        bytes
    }

    /// Returns the compressed records. Writing to memory does not fail.
    fn compressed(&self) -> Vec<u8> {
        match self.codec {
            Codec::None => self.records(Vec::new()),
            Codec::Gzip => self.records(GzEncoder::new(Vec::new(), Compression::best())).finish().unwrap_or_default(),
            Codec::Snappy => snappy(&self.records(Vec::new())),
            Codec::SnappyJava => {
                let mut bytes = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01".to_vec();
                for block in self.records(Vec::new()).chunks(JAVA_BLOCK_BYTES) {
                    let block = snappy(block);
                    bytes.extend(u32::try_from(block.len()).unwrap_or(u32::MAX).to_be_bytes());
                    bytes.extend(block);
                }
                bytes
            }
            Codec::Lz4 => self.records(FrameEncoder::new(Vec::new())).finish().unwrap_or_default(),
            Codec::Zstd => {
                zstd::Encoder::new(Vec::new(), 3).and_then(|encoder| self.records(encoder).finish()).unwrap_or_default()
            }
        }
    }

    fn records<W: Write>(&self, mut to: W) -> W {
        for (delta, value) in (0_i64..).zip(&self.values) {
            let mut head = vec![0];
            put_varint(&mut head, 0);
            put_varint(&mut head, delta);
            put_bytes(&mut head, self.key.as_deref());
            put_varint(&mut head, value.as_ref().map_or(-1, |value| length(value)));
            let mut tail = Vec::new();
            put_varint(&mut tail, i64::from(self.header.is_some()));
            if let Some(header) = &self.header {
                put_bytes(&mut tail, Some(b"name"));
                put_bytes(&mut tail, Some(header));
            }
            let value = value.as_deref().unwrap_or_default();
            let mut record = Vec::new();
            put_varint(&mut record, length(&head) + length(value) + length(&tail));
            record.extend(head);
            // Writing to memory does not fail.
            let _ = to.write_all(&record).and_then(|()| to.write_all(value)).and_then(|()| to.write_all(&tail));
        }
        to
    }
}

fn snappy(bytes: &[u8]) -> Vec<u8> {
    snap::raw::Encoder::new().compress_vec(bytes).unwrap_or_default()
}

fn length(bytes: &[u8]) -> i64 {
    i64::try_from(bytes.len()).unwrap_or(i64::MAX)
}

fn put_bytes(to: &mut Vec<u8>, bytes: Option<&[u8]>) {
    put_varint(to, bytes.map_or(-1, length));
    to.extend(bytes.unwrap_or_default());
}

fn put_varint(to: &mut Vec<u8>, number: i64) {
    let mut left = (number.wrapping_shl(1) ^ (number >> 63)).cast_unsigned();
    while left >= 0x80 {
        to.push((left & 0x7f) as u8 | 0x80);
        left >>= 7;
    }
    to.push(left as u8);
}

/// Writes the bytes of a batch to a partition, whatever the bytes are, and returns the first offset of the batch.
///
/// # Errors
/// When the broker refuses the batch, with the number of Kafka's error.
pub fn produce_batch(broker: &Broker, topic: &str, partition: i32, batch: &[u8]) -> Result<i64> {
    wait::until("the leader of a new partition", ANSWER_LIMIT, || {
        let (code, offset) = try_produce(broker, topic, partition, batch)?;
        if NO_LEADER.contains(&code) {
            return Ok(None);
        }
        ensure!(code == 0, "the broker refuses the batch: error {code}");
        Ok(Some(offset))
    })
}

/// Sends the batch once, and returns the broker's error and the offset.
fn try_produce(broker: &Broker, topic: &str, partition: i32, batch: &[u8]) -> Result<(i16, i64)> {
    let text = |text: &str| [&i16::try_from(text.len()).unwrap_or(i16::MAX).to_be_bytes(), text.as_bytes()].concat();
    let one = 1_i32.to_be_bytes();
    // Produce, version 7; request 1; no transaction, all replicas, 30 s.
    let mut message = [0_i16.to_be_bytes(), 7_i16.to_be_bytes()].concat();
    message.extend(one);
    message.extend(text("edr-tests"));
    message.extend((-1_i16).to_be_bytes());
    message.extend((-1_i16).to_be_bytes());
    message.extend(30_000_i32.to_be_bytes());
    message.extend(one);
    message.extend(text(topic));
    message.extend(one);
    message.extend(partition.to_be_bytes());
    message.extend(i32::try_from(batch.len()).context("a large batch")?.to_be_bytes());
    message.extend(batch);
    let mut stream = TcpStream::connect(broker.address()).context("connect to the broker")?;
    stream.set_read_timeout(Some(ANSWER_LIMIT)).context("set a timeout")?;
    stream.write_all(&i32::try_from(message.len()).context("a large request")?.to_be_bytes())?;
    stream.write_all(&message).context("send a batch")?;
    // Length, request, topics, name, partitions, partition; then code and offset.
    let mut answer = vec![0; 4 + 4 + 4 + 2 + topic.len() + 4 + 4 + 2 + 8];
    stream.read_exact(&mut answer).context("read the broker's answer")?;
    let offset = answer.split_off(answer.len() - 8);
    let code = answer.split_off(answer.len() - 2);
    Ok((i16::from_be_bytes([code[0], code[1]]), i64::from_be_bytes(offset.try_into().unwrap_or_default())))
}
