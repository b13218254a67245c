//! Every limit on bytes that another party controls, with its reason, in one place.

/// A snapshot, uncompressed. A host of 470 processes and 32,000 open files needs 5.2 MB; the agent stops listing
/// rows at 24 MiB, so that a snapshot it made always fits.
pub const RAW_BYTES_MAX: usize = 32 << 20;
/// Where the agent starts counting rows instead of listing them.
pub const RAW_BYTES_SOFT: usize = 24 << 20;
/// The zstd window that still holds a key snapshot and the next one (2 × 32 MiB).
pub const WINDOW_LOG_MAX: u32 = 26;
/// Nesting of msgpack: the snapshot needs 9; a debug build overflows its stack near 100,000.
pub const DEPTH_MAX: usize = 32;
/// msgpack elements of a snapshot: a full 24 MiB of the smallest rows an agent makes (2.9 bytes an element) are 8.7
/// million. Walking over them builds nothing, so this bounds time.
pub const ELEMENTS_MAX: usize = 16_000_000;
/// msgpack elements of one row, or of one field that is decoded at once. They are built, up to 24 bytes each and
/// three times that while a list grows, so this bounds memory. 4,096 open files of one process are 100,000.
pub const ROW_ELEMENTS_MAX: usize = 524_288;
/// Processes of a snapshot; `pid_max` of most hosts is 4,194,304 but rows cost at least 100 bytes each.
pub const PROCESSES_MAX: usize = 262_144;
/// Rows of any other list of a snapshot.
pub const ROWS_MAX: usize = 1_000_000;
/// Arguments listed of one process.
pub const ARGV_MAX: usize = 4_096;
/// Bytes kept of one command line.
pub const ARGV_BYTES_MAX: usize = 64 << 10;
/// Open files listed of one process, as delivered; the count of all is exact.
pub const FILES_PER_PROCESS_MAX: usize = 4_096;
/// Body bytes of one part, as delivered: with its header below every broker's default of 1 MB.
pub const PART_BYTES: usize = 768 << 10;
/// One Kafka record or one part in a spool file: a topic may be configured for larger messages than the default.
pub const RECORD_BYTES_MAX: usize = 4 << 20;
/// Parts of one frame: 32 MiB of incompressible snapshot in parts of 64 KiB.
pub const PARTS_MAX: u32 = 520;
/// Longest time between two snapshots, ns: the agent takes no longer interval, and by a longer one a host that fell
/// silent would never be missed.
pub const INTERVAL_NS_MAX: u64 = 3_600_000_000_000;
/// Entries in `lost` and in `missed` of one frame; beyond it, those that are closest are joined. With 1,024 of each, a
/// header of 170 KiB and a body of [`PART_BYTES`] still are below every broker's default.
pub const RANGES_MAX: usize = 1_024;
