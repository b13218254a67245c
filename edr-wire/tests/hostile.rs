//! Hostile frames cost bounded memory and an error. A single test, because it measures the memory of the whole process.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use edr_wire::frame::{EncodedFrame, Frame, FrameHeader, FrameKind, Record};
use edr_wire::limits::{PROCESSES_MAX, RAW_BYTES_MAX};
use edr_wire::snapshot::{Process, SnapshotView};
use edr_wire::{Epoch, HostId};

/// Memory limit for decoding any frame whose key is at hand, as documented in docs/wire-format.md.
const COST_BYTES_MAX: usize = 96 << 20;

/// The system's allocator, with a count of the allocated bytes.
struct CountingAllocator;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

#[expect(unsafe_code, reason = "a global allocator is an unsafe trait")]
// SAFETY: every call goes to the system's allocator unchanged; counting touches only atomics.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(NOW.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Runs `work` and returns its result with the peak of the additional memory, in bytes.
fn cost<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = NOW.load(Relaxed);
    PEAK.store(before, Relaxed);
    let result = work();
    (result, PEAK.load(Relaxed) - before)
}

fn header(kind: FrameKind, seq: u64, base_seq: u64) -> FrameHeader {
    FrameHeader {
        host_id: HostId([7; 16]),
        epoch: Epoch([1; 8]),
        seq,
        kind,
        base_seq,
        boot_id: String::new(),
        previous_epoch: None,
        captured_ns: 0,
        lost: Vec::new(),
        missed: Vec::new(),
        bye: false,
    }
}

/// Reads a frame as a collector does: decodes records, decompresses, finds the rows, and decodes each row.
fn read(records: &[Vec<u8>], key_raw: Option<&[u8]>) -> Result<usize, String> {
    let records = records.iter().map(|record| Record::decode(record).map_err(|error| error.to_string()));
    let frame = Frame::assemble(records.collect::<Result<_, _>>()?).map_err(|error| error.to_string())?;
    let raw = frame.open(key_raw).map_err(|error| error.to_string())?;
    let view = SnapshotView::parse(raw).map_err(|error| error.to_string())?;
    let rows: Result<Vec<u32>, _> = view.processes().map(|process| process.map(|process| process.pid)).collect();
    rows.map(|rows| rows.len()).map_err(|error| error.to_string())
}

/// Returns a snapshot with these bytes as the value of `processes`.
fn snapshot(processes: &[u8]) -> Vec<u8> {
    let mut raw = rmp_serde::to_vec_named(&edr_wire::snapshot::Snapshot::default()).unwrap();
    let field = b"\xa9processes";
    let at = raw.windows(field.len()).position(|window| window == field).unwrap() + field.len();
    assert_eq!(raw[at], 0x90, "an empty array");
    raw.splice(at..=at, processes.iter().copied());
    raw
}

/// Returns a process row with these bytes as the value of `argv`.
fn process_with(argv: &[u8]) -> Vec<u8> {
    let process = Process { state: 'S', argv: vec![edr_wire::Bytes::default()], ..Process::default() };
    let mut row = rmp_serde::to_vec_named(&process).unwrap();
    let field = b"\xa4argv\x91\xc4\x00";
    let at = row.windows(field.len()).position(|window| window == field).unwrap() + 5;
    row.splice(at..at + 3, argv.iter().copied());
    row
}

fn array_of(count: usize, row: &[u8]) -> Vec<u8> {
    let mut array = vec![0xdd];
    array.extend_from_slice(&u32::try_from(count).unwrap().to_be_bytes());
    array.extend(std::iter::repeat_n(row, count).flatten());
    array
}

#[test]
fn a_hostile_frame_costs_bounded_memory() {
    let small_process = rmp_serde::to_vec_named(&Process { state: 'S', ..Process::default() }).unwrap();
    let fits = (24 << 20) / small_process.len();
    let deep = vec![0x91; 31 << 20];
    let cases: Vec<(&str, Vec<u8>, Result<usize, &str>)> = vec![
        ("zeros", vec![0; RAW_BYTES_MAX], Err("a map expected")),
        ("nested arrays", snapshot(&deep), Err("nested deeper")),
        ("a row of nested arrays", snapshot(&array_of(1, &deep)), Err("nested deeper")),
        ("ten million nils", snapshot(&array_of(10_000_000, &[0xc0])), Err("entries, 262144 are allowed")),
        ("a row of ten million nils", snapshot(&array_of(1, &array_of(10_000_000, &[0xc0]))), Err("elements")),
        ("an argv of half a million", snapshot(&array_of(1, &process_with(&array_of(500_000, &[0xc4, 0])))), Ok(1)),
        ("a claim of 2^32 rows", snapshot(&[0xdd, 0xff, 0xff, 0xff, 0xff]), Err("entries, 262144 are allowed")),
        ("as many processes as allowed", snapshot(&array_of(PROCESSES_MAX, &[0x80])), Err("missing field")),
        ("real processes", snapshot(&array_of(fits, &small_process)), Ok(fits)),
    ];
    for (name, raw, expected) in cases {
        let key = EncodedFrame::encode(&header(FrameKind::Key, 1, 1), &raw, None, 768 << 10).unwrap();
        let (result, bytes) = cost(|| read(&key.records, None));
        match (&result, expected) {
            (Ok(rows), Ok(expected)) => assert_eq!(*rows, expected, "{name}"),
            (Err(error), Err(part)) => assert!(error.contains(part), "{name}: {error}"),
            _ => panic!("{name}: {result:?}, expected {expected:?}"),
        }
        assert!(bytes < COST_BYTES_MAX, "{name}: {} MiB", bytes >> 20);

        let delta = EncodedFrame::encode(&header(FrameKind::Delta, 2, 1), &raw, Some(&raw), 768 << 10).unwrap();
        let (result, bytes) = cost(|| read(&delta.records, Some(&raw)));
        assert_eq!(result.is_ok(), expected.is_ok(), "{name}, as a delta");
        assert!(bytes + raw.len() < COST_BYTES_MAX, "{name}, as a delta: {} MiB", (bytes + raw.len()) >> 20);
    }
}
