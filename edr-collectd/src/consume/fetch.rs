//! Reads partitions from their leaders, each on a thread of its own.
//!
//! librdkafka unfolds all batches of an answer at once, without a limit, and stops at a batch that it cannot read. So
//! librdkafka only keeps this collector in its group and finds the leaders, and the batches are read here: one at a
//! time, with a limit, and what cannot be read is passed over and reported (docs/decisions/2026-11-29-batches.md).
//!
//! Memory: each thread holds one batch as Kafka sent it; only one thread at a time unfolds its batch and hands over the
//! records. A full channel stops the reading.

use std::io::{self, Read, Take};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use edr_daemon::kafka::{Api, BATCH_BYTES_MAX, BrokerConnection, Security, put_text, take_i16, take_i32, take_i64};
use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use rdkafka::types::{RDKafkaErrorCode, RDKafkaRespErr};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::RetryDelay;
use super::client::{ANSWER_MAX, CLIENT_ID, Client};
use super::logs::Log;
use super::record_batch::{Content, FetchedRecord, HEADER_BYTES, RecordBatch};
use crate::config::Kafka;

/// The oldest version of Fetch with all codecs: the brokers since Kafka 2.1 have it.
const FETCH: Api = Api { key: 1, version: 10 };
/// Longest time until a broker answers without records.
const WAIT_MS: i32 = 500;
/// Size of an answer, bytes; a larger first batch comes alone.
const FETCH_BYTES: i32 = 1 << 20;
/// Fetched parts that wait for `poll`.
const PARTS_WAITING: usize = 2;
/// Size of the records handed over at once, bytes; one record may be larger.
const PART_BYTES: usize = 4 << 20;
/// Bytes counted for a record beside key and value.
const RECORD_BYTES: usize = 256;
/// Stack of a thread: the codecs keep their state on the heap.
const STACK_BYTES: usize = 512 << 10;
/// Answers that come again without trouble when a leader moves are reported from this failure in a row on.
const FAILURES_REPORTED: u32 = 2;

/// Something read from a partition.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) partition: i32,
    pub(super) what: FetchedPart,
}

#[derive(Debug)]
pub(super) enum FetchedPart {
    /// Records, in the order of their offsets.
    Records(Vec<FetchedRecord>),
    /// Offsets without a record for a consumer: marks of transactions.
    Marks { first: i64, last: i64 },
    /// A batch that cannot be read.
    Unreadable(UnreadableBatch),
    /// The offsets of the log are others than expected: the positions must be found anew.
    Restart,
    /// The broker refuses.
    Refused(KafkaError),
    /// The leader cannot be read; for people.
    Failed(String),
    /// The leader answers after a failure.
    Answers,
}

/// A batch that cannot be read.
#[derive(Debug)]
pub(super) struct UnreadableBatch {
    pub(super) first: i64,
    pub(super) last: i64,
    /// The batch as Kafka stores it; `None` for a batch above [`BATCH_BYTES_MAX`].
    pub(super) bytes: Option<Vec<u8>>,
    /// For people.
    pub(super) reason: String,
}

/// Starts a thread for each log. The threads end when the receiver is dropped.
pub(super) fn start(client: &Arc<Client>, kafka: &Kafka, logs: &[Log]) -> io::Result<Receiver<Fetched>> {
    let (sender, receiver) = channel(PARTS_WAITING);
    let unpacking = Arc::new(Mutex::new(()));
    for log in logs {
        let reader = PartitionReader {
            client: Arc::downgrade(client),
            security: kafka.security.clone(),
            topic: kafka.topic.clone(),
            partition: log.partition.partition,
            next: log.fetch_from(),
            sender: sender.clone(),
            unpacking: Arc::clone(&unpacking),
            failures: 0,
            doubted: None,
            was_unknown: false,
        };
        std::thread::Builder::new()
            .name(format!("fetch-{}", reader.partition))
            .stack_size(STACK_BYTES)
            .spawn(move || reader.run())?;
    }
    Ok(receiver)
}

/// The reader of a partition.
struct PartitionReader {
    /// Weak: a thread that waits for a broker must not keep a replaced client in the group.
    client: Weak<Client>,
    security: Security,
    topic: String,
    partition: i32,
    /// The next offset to hand over.
    next: i64,
    sender: Sender<Fetched>,
    /// Held while a batch is unfolded and handed over.
    unpacking: Arc<Mutex<()>>,
    /// Failures in a row.
    failures: u32,
    /// First offset of the batch with a wrong checksum at the last attempt: the damage may have happened on the way.
    doubted: Option<i64>,
    /// True when the topic was missing: a topic that comes back may be another one.
    was_unknown: bool,
}

/// Why reading stopped.
enum ReadEnd {
    /// The receiver is gone, or starts the partitions again.
    Ended,
    /// The broker refuses.
    Refused(RDKafkaErrorCode),
    /// To be tried again; for people.
    Failed(String),
}

impl From<io::Error> for ReadEnd {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

impl PartitionReader {
    fn run(mut self) {
        let mut delay = RetryDelay::default();
        loop {
            let Err(stop) = self.read();
            if self.failures == 0 {
                delay = RetryDelay::default();
            }
            self.failures += 1;
            let report = match stop {
                ReadEnd::Ended => return,
                ReadEnd::Refused(code) => {
                    self.was_unknown |= is_unknown(code);
                    FetchedPart::Refused(KafkaError::MessageConsumption(code))
                }
                ReadEnd::Failed(reason) => {
                    FetchedPart::Failed(format!("partition {} cannot be read: {reason}", self.partition))
                }
            };
            if self.failures >= FAILURES_REPORTED && self.send(report).is_err() {
                return;
            }
            std::thread::sleep(delay.next());
            if self.sender.is_closed() {
                return;
            }
        }
    }

    /// Reads until reading stops.
    fn read(&mut self) -> Result<std::convert::Infallible, ReadEnd> {
        let (host, port) = self.leader()?;
        if self.was_unknown {
            self.send(FetchedPart::Restart)?;
            return Err(ReadEnd::Ended);
        }
        let mut connection = BrokerConnection::open(&host, port, &self.security, CLIENT_ID).map_err(ReadEnd::Failed)?;
        loop {
            self.fetch(&mut connection)?;
            if self.failures > 0 {
                self.failures = 0;
                self.send(FetchedPart::Answers)?;
            }
        }
    }

    /// Returns host and port of the partition's leader.
    fn leader(&self) -> Result<(String, u16), ReadEnd> {
        let client = self.client.upgrade().ok_or(ReadEnd::Ended)?;
        let metadata =
            client.fetch_metadata(Some(&self.topic), ANSWER_MAX).map_err(|error| ReadEnd::Failed(error.to_string()))?;
        let topic = metadata.topics().iter().find(|topic| topic.name() == self.topic);
        if let Some(error) = topic.and_then(rdkafka::metadata::MetadataTopic::error) {
            return Err(ReadEnd::Refused(error.into()));
        }
        let partition =
            topic.and_then(|topic| topic.partitions().iter().find(|partition| partition.id() == self.partition));
        let partition = partition.ok_or(ReadEnd::Refused(RDKafkaErrorCode::UnknownPartition))?;
        let broker = metadata.brokers().iter().find(|broker| broker.id() == partition.leader());
        let broker = broker.ok_or_else(|| ReadEnd::Failed("no broker leads the partition".to_owned()))?;
        let port = u16::try_from(broker.port()).map_err(|error| ReadEnd::Failed(error.to_string()))?;
        Ok((broker.host().to_owned(), port))
    }

    /// Asks for the next batches and hands over what the answer has.
    fn fetch(&mut self, connection: &mut BrokerConnection) -> Result<(), ReadEnd> {
        if self.sender.is_closed() {
            return Err(ReadEnd::Ended);
        }
        let mut answer = connection.request(FETCH, &self.question())?;
        // The time for which the broker throttled this client.
        take_i32(&mut answer)?;
        if let Some(code) = error(take_i16(&mut answer)?) {
            return Err(ReadEnd::Refused(code));
        }
        // The session, which is not used.
        take_i32(&mut answer)?;
        take_one(&mut answer)?;
        let name = u64::try_from(take_i16(&mut answer)?).unwrap_or(0);
        skip(&mut answer, name)?;
        take_one(&mut answer)?;
        take_i32(&mut answer)?;
        let code = take_i16(&mut answer)?;
        let high = take_i64(&mut answer)?;
        // The last stable offset, the first offset, and the aborted transactions: a snapshot counts whatever becomes of
        // a transaction.
        take_i64(&mut answer)?;
        take_i64(&mut answer)?;
        let aborted = u64::try_from(take_i32(&mut answer)?).unwrap_or(0);
        skip(&mut answer, aborted * 16)?;
        let length = u64::try_from(take_i32(&mut answer)?).unwrap_or(0);
        match error(code) {
            None => {}
            Some(RDKafkaErrorCode::OffsetOutOfRange) => {
                self.send(FetchedPart::Restart)?;
                return Err(ReadEnd::Ended);
            }
            Some(code) => return Err(ReadEnd::Refused(code)),
        }
        self.batches(&mut (&mut answer).take(length), high)?;
        let left = answer.limit();
        Ok(skip(&mut answer, left)?)
    }

    /// The body of the request: no replica, wait for one byte, also records of open transactions, no session.
    fn question(&self) -> Vec<u8> {
        let mut body = Vec::new();
        for number in [-1, WAIT_MS, 1, FETCH_BYTES] {
            body.extend(number.to_be_bytes());
        }
        body.push(0);
        for number in [0, -1, 1] {
            body.extend(i32::to_be_bytes(number));
        }
        put_text(&mut body, &self.topic);
        // One partition, of any leader epoch; the first offset of a replica; no topics to forget.
        for number in [1, self.partition, -1] {
            body.extend(number.to_be_bytes());
        }
        body.extend(self.next.to_be_bytes());
        body.extend((-1_i64).to_be_bytes());
        body.extend(FETCH_BYTES.to_be_bytes());
        body.extend(0_i32.to_be_bytes());
        body
    }

    /// Reads the batches of an answer. The last batch may be cut.
    fn batches(&mut self, source: &mut Take<impl Read>, high: i64) -> Result<(), ReadEnd> {
        let (is_empty, mut is_cut) = (source.limit() == 0, true);
        while source.limit() >= RecordBatch::LEAST_BYTES as u64 {
            let mut bytes = vec![0; 12];
            source.read_exact(&mut bytes)?;
            let length = i32::from_be_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
            let length = u64::try_from(length).unwrap_or(u64::MAX);
            if length > source.limit() {
                break;
            }
            is_cut = false;
            let is_large = length > (BATCH_BYTES_MAX - bytes.len()) as u64;
            let kept = if is_large { (HEADER_BYTES - bytes.len()) as u64 } else { length };
            source.by_ref().take(kept).read_to_end(&mut bytes)?;
            skip(source, length - kept)?;
            self.batch(bytes, is_large.then_some(length), high)?;
        }
        if is_cut && !is_empty {
            return Err(ReadEnd::Failed(format!("the broker sends no whole batch from offset {} on", self.next)));
        }
        Ok(())
    }

    /// Hands over a batch. `large` has the size of a batch above the limit, of which only the header is there.
    fn batch(&mut self, bytes: Vec<u8>, large: Option<u64>, high: i64) -> Result<(), ReadEnd> {
        let Some(batch) = RecordBatch::new(&bytes) else {
            return Err(ReadEnd::Failed(format!("the broker sends a batch without a header at offset {}", self.next)));
        };
        let (first, last) = (batch.first().max(self.next), batch.last(high));
        if last < self.next {
            return Ok(());
        }
        if large.is_none() && !batch.is_intact() && self.doubted != Some(batch.first()) {
            self.doubted = Some(batch.first());
            return Err(ReadEnd::Failed(format!("the checksum of the batch at offset {} is wrong", batch.first())));
        }
        let unpacking = Arc::clone(&self.unpacking);
        let _turn = unpacking.lock().unwrap_or_else(PoisonError::into_inner);
        let content = match large {
            None => batch.unpack(),
            Some(length) => {
                Err(format!("the batch has {length} bytes; at most {} MiB are read", BATCH_BYTES_MAX >> 20))
            }
        };
        match content {
            Ok(Content::Records(records)) => self.records(records)?,
            Ok(Content::Control) => self.send(FetchedPart::Marks { first, last })?,
            Err(reason) => {
                let bytes = large.is_none().then_some(bytes);
                self.send(FetchedPart::Unreadable(UnreadableBatch { first, last, bytes, reason }))?;
            }
        }
        self.next = last + 1;
        Ok(())
    }

    /// Hands over records, in parts. Records before the next offset are in the batch of a start.
    fn records(&self, records: Vec<FetchedRecord>) -> Result<(), ReadEnd> {
        let (mut part, mut bytes) = (Vec::new(), 0);
        for record in records.into_iter().filter(|record| record.offset >= self.next) {
            bytes += RECORD_BYTES + [&record.key, &record.value].into_iter().flatten().map(Vec::len).sum::<usize>();
            part.push(record);
            if bytes >= PART_BYTES {
                self.send(FetchedPart::Records(std::mem::take(&mut part)))?;
                bytes = 0;
            }
        }
        if part.is_empty() { Ok(()) } else { self.send(FetchedPart::Records(part)) }
    }

    fn send(&self, what: FetchedPart) -> Result<(), ReadEnd> {
        self.sender.blocking_send(Fetched { partition: self.partition, what }).map_err(|_| ReadEnd::Ended)
    }
}

/// Returns the error of a code in an answer; `None` for success.
fn error(code: i16) -> Option<RDKafkaErrorCode> {
    let error = RDKafkaRespErr::try_from(i32::from(code)).unwrap_or(RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN);
    (code != 0).then(|| error.into())
}

/// Returns true when the error tells that the topic is missing.
fn is_unknown(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic | RDKafkaErrorCode::UnknownPartition
    )
}

/// Reads the length of a list; must be 1, because the request names a single topic and partition.
fn take_one(source: &mut impl Read) -> io::Result<()> {
    match take_i32(source)? {
        1 => Ok(()),
        length => Err(io::Error::other(format!("the broker answers for {length} topics or partitions instead of one"))),
    }
}

fn skip(source: &mut impl Read, length: u64) -> io::Result<()> {
    let skipped = io::copy(&mut source.take(length), &mut io::sink())?;
    if skipped == length { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}
