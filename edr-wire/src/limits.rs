//! Every limit on bytes that another party controls, with its reason.

/// Bytes of an uncompressed snapshot. A host with 470 processes and 32,000 open files needs 5.2 MB. The agent divides
/// 24 MiB ([`RAW_BYTES_SOFT`]) between the owners of processes and sockets, so its snapshots always fit.
pub const RAW_BYTES_MAX: usize = 32 << 20;
/// Bytes of the rows of processes and sockets that the agent lists; further rows are shortened or counted.
pub const RAW_BYTES_SOFT: usize = 24 << 20;
/// Base-2 logarithm of the largest zstd window: large enough for a key snapshot and the next snapshot (2 × 32 MiB).
pub const WINDOW_LOG_MAX: u32 = 26;
/// Nesting depth of msgpack. The snapshot needs 9; a debug build overflows its stack near 100,000.
pub const DEPTH_MAX: usize = 32;
/// msgpack elements of a snapshot. A full 24 MiB of the smallest rows that an agent makes (2.9 bytes per element) has
/// 8.7 million. The walk over the elements builds no values, so this limit bounds time.
pub const ELEMENTS_MAX: usize = 16_000_000;
/// msgpack elements of one row, or of one field that is decoded at once. Decoding builds a value for each element: up
/// to 24 bytes, and three times as much while a list grows. So this limit bounds memory. A process with 4,096 open
/// files has 100,000 elements.
pub const ROW_ELEMENTS_MAX: usize = 524_288;
/// Processes of a snapshot. `pid_max` is 4,194,304 on most hosts, but a row has at least 100 bytes.
pub const PROCESSES_MAX: usize = 262_144;
/// Rows of any other list of a snapshot.
pub const ROWS_MAX: usize = 1_000_000;
/// Listed arguments of one process.
pub const ARGV_MAX: usize = 4_096;
/// Kept bytes of one command line.
pub const ARGV_BYTES_MAX: usize = 64 << 10;
/// Default limit of the open files listed per process; the count of all open files is exact.
pub const FILES_PER_PROCESS_MAX: usize = 4_096;
/// Default limit of the body bytes of one part. With its header a part stays below the default message limit of every
/// broker, 1 MB.
pub const PART_BYTES: usize = 768 << 10;
/// Bytes of one Kafka record, or of one part in a spool file. The limit is above the default of Kafka because a topic
/// may be configured for larger messages.
pub const RECORD_BYTES_MAX: usize = 4 << 20;
/// Bytes of a record's `key_id`, and of its `sig`: an ed25519 signature has 64.
pub const SIGNATURE_BYTES_MAX: usize = 256;
/// Parts of one frame: 32 MiB of incompressible snapshot in parts of 64 KiB.
pub const PARTS_MAX: u32 = 520;
/// Longest time between two snapshots, ns. The agent accepts no longer interval, because with a longer interval the
/// silence of a host would never be noticed.
pub const INTERVAL_NS_MAX: u64 = 3_600_000_000_000;
/// Entries in `lost` and in `missed` of one frame; beyond this number entries of one epoch or reason are joined. With
/// 1,024 entries in each list the header has 170 KiB, and with a body of [`PART_BYTES`] the record still fits the
/// default limit of every broker.
pub const RANGES_MAX: usize = 1_024;
