//! Every line exactly once, through all kinds of rotation.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;

use edr_wire::snapshot::GapReason;
use proptest::prelude::*;

use super::world::{PsadWorld, read};

fn line(n: u32) -> String {
    format!(
        "2026-11-24T03:48:58.{n:06}+00:00 fw01 kernel: [ 2331.{n:06}] DROP IN=eth0 OUT= SRC=198.51.100.7 DST=192.0.2.1 \
         LEN=44 TOS=0x00 PREC=0x00 TTL=51 ID={} PROTO=TCP SPT=40000 DPT=1001 WINDOW=1024 RES=0x00 SYN URGP=0 \n",
        n % 65_536
    )
}

fn append(path: &Path, text: &str) {
    OpenOptions::new().append(true).create(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

/// Numbers of the packets read.
fn numbers(reading: &crate::world::PsadReading) -> Vec<u64> {
    reading.packets.iter().map(|packet| packet.kernel_us.unwrap() - 2_331_000_000).collect()
}

fn world() -> (PsadWorld, std::path::PathBuf) {
    let world = PsadWorld::empty();
    world.write(&world.psad("packet_ctr"), "");
    let log = world.log_dir().join("kern.log");
    append(&log, &line(0));
    (world, log)
}

#[test]
fn a_line_is_taken_when_whole() {
    let (world, log) = world();
    let mut reader = world.reader(&[]);
    assert_eq!(numbers(&read(&mut reader).0), [0]);
    let next = line(1);
    append(&log, &next[..50]);
    assert_eq!(numbers(&read(&mut reader).0), [0; 0]);
    append(&log, &next[50..]);
    assert_eq!(numbers(&read(&mut reader).0), [1]);
}

#[test]
fn renamed_and_still_written_to() {
    let (world, log) = world();
    let mut reader = world.reader(&[]);
    read(&mut reader);
    append(&log, &line(1));
    let rotated = log.with_extension("log.1");
    fs::rename(&log, &rotated).unwrap();
    append(&rotated, &line(2));
    append(&log, &line(3));
    assert_eq!(numbers(&read(&mut reader).0), [1, 2, 3]);
    // The writer reopens the log late.
    append(&rotated, &line(4));
    append(&log, &line(5));
    let (reading, gaps) = read(&mut reader);
    assert_eq!(numbers(&reading), [4, 5]);
    assert!(gaps.is_empty(), "{gaps:?}");
    assert_eq!(reading.positions.len(), 2, "both files are followed");
    for _ in 0..4 {
        read(&mut reader);
    }
    assert_eq!(read(&mut reader).0.positions.len(), 1, "the old one is quiet");
}

#[test]
fn rotated_while_the_agent_was_down() {
    let (world, log) = world();
    let (first, _) = world.read_once();
    append(&log, &line(1));
    fs::rename(&log, log.with_extension("log.2")).unwrap();
    append(&log, &line(2));
    fs::rename(&log, log.with_extension("log.1")).unwrap();
    append(&log, &line(3));
    let (reading, gaps) = read(&mut world.reader(&first.positions));
    assert_eq!(numbers(&reading), [1, 2, 3]);
    assert!(gaps.is_empty(), "{gaps:?}");
    let (again, _) = read(&mut world.reader(&reading.positions));
    assert_eq!(numbers(&again), [0; 0]);
}

#[test]
fn compressed_at_once_while_the_agent_was_down() {
    let (world, log) = world();
    let (first, _) = world.read_once();
    let offset = first.positions[0].offset;
    append(&log, &line(1));
    fs::write(log.with_extension("log.1.gz"), b"\x1f\x8b").unwrap();
    fs::remove_file(&log).unwrap();
    append(&log, &line(2));
    let (reading, gaps) = read(&mut world.reader(&first.positions));
    assert_eq!(numbers(&reading), [2]);
    assert_eq!(gaps[0].reason, GapReason::RotatedAway);
    assert!(gaps[0].detail.contains(&format!("bytes from {offset} on")), "{gaps:?}");
}

#[test]
fn copied_and_truncated() {
    let (world, log) = world();
    append(&log, &line(1));
    let mut reader = world.reader(&[]);
    read(&mut reader);
    append(&log, &line(2));
    fs::copy(&log, log.with_extension("log.1")).unwrap();
    File::options().write(true).open(&log).unwrap().set_len(0).unwrap();
    append(&log, &line(3));
    let (reading, gaps) = read(&mut reader);
    assert_eq!(numbers(&reading), [2, 3]);
    assert!(gaps.is_empty(), "{gaps:?}");
}

#[test]
fn truncated_and_grown_beyond_the_read_position() {
    let (world, log) = world();
    let mut reader = world.reader(&[]);
    read(&mut reader);
    fs::write(&log, [line(1), line(2), line(3)].concat()).unwrap();
    let (reading, gaps) = read(&mut reader);
    assert_eq!(numbers(&reading), [1, 2, 3]);
    assert_eq!(gaps[0].reason, GapReason::RotatedAway, "{gaps:?}");
}

#[test]
fn a_budget_leaves_the_rest_for_the_next_tick() {
    let (world, log) = world();
    append(&log, &(1..10).map(line).collect::<String>());
    let settings = edr_sources::psad::PsadSettings { packets_max: 4, ..world.settings() };
    let mut reader = edr_sources::psad::PsadReader::open(settings.clone(), &[]);
    assert_eq!(numbers(&read(&mut reader).0), [0, 1, 2, 3]);
    let (second, _) = read(&mut reader);
    assert_eq!(numbers(&second), [4, 5, 6, 7]);
    let mut next = edr_sources::psad::PsadReader::open(settings, &second.positions);
    assert_eq!(numbers(&read(&mut next).0), [8, 9]);
}

#[derive(Debug, Clone)]
enum LogAction {
    Write(u8),
    WriteHalf,
    Rename,
    CopyTruncate,
    Read,
    Restart,
}

fn actions() -> impl Strategy<Value = Vec<LogAction>> {
    let action = prop_oneof![
        4 => (1_u8..5).prop_map(LogAction::Write),
        1 => Just(LogAction::WriteHalf),
        1 => Just(LogAction::Rename),
        1 => Just(LogAction::CopyTruncate),
        3 => Just(LogAction::Read),
        1 => Just(LogAction::Restart),
    ];
    proptest::collection::vec(action, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// In any order of actions each line must be read once and in order, without gaps, as long as the number of
    /// rotations between two readings stays within the limit.
    #[test]
    fn every_line_once(actions in actions()) {
        let (world, log) = world();
        let mut reader = world.reader(&[]);
        let mut written = 1_u32;
        // Files rotated before the agent's first start are ignored.
        let mut seen = numbers(&read(&mut reader).0);
        let mut rotations = 0;
        let mut pending = String::new();
        let mut positions = Vec::new();
        for action in actions {
            match action {
                LogAction::Write(count) => {
                    append(&log, &std::mem::take(&mut pending));
                    for _ in 0..count {
                        append(&log, &line(written));
                        written += 1;
                    }
                }
                LogAction::WriteHalf => {
                    append(&log, &std::mem::take(&mut pending));
                    let next = line(written);
                    written += 1;
                    append(&log, &next[..70]);
                    pending = next[70..].to_owned();
                }
                LogAction::Rename if pending.is_empty() && fs::metadata(&log).unwrap().len() > 0 => {
                    rotations += 1;
                    // Files written at the same moment have equal timestamps, so rotations are further apart.
                    wait_for_clock(&log);
                    fs::rename(&log, log.with_extension(format!("log.{rotations}"))).unwrap();
                    append(&log, &line(written));
                    written += 1;
                }
                LogAction::CopyTruncate if pending.is_empty() && fs::metadata(&log).unwrap().len() > 256 => {
                    // One reading between two rotations, as in a tick: a copy is recognized by its first bytes.
                    let (reading, gaps) = read(&mut reader);
                    prop_assert!(gaps.is_empty(), "{:?}", gaps);
                    seen.extend(numbers(&reading));
                    append(&log, &line(written));
                    written += 1;
                    rotations += 1;
                    let copy = log.with_extension(format!("log.{rotations}"));
                    fs::copy(&log, &copy).unwrap();
                    wait_for_clock(&copy);
                    File::options().write(true).open(&log).unwrap().set_len(0).unwrap();
                    let (reading, gaps) = read(&mut reader);
                    prop_assert!(gaps.is_empty(), "{:?}", gaps);
                    seen.extend(numbers(&reading));
                    positions = reading.positions;
                    append(&log, &line(written));
                    written += 1;
                }
                LogAction::Read => {
                    let (reading, gaps) = read(&mut reader);
                    prop_assert!(gaps.is_empty(), "{:?}", gaps);
                    seen.extend(numbers(&reading));
                    positions = reading.positions;
                }
                LogAction::Restart if !positions.is_empty() => {
                    let (reading, _) = read(&mut reader);
                    seen.extend(numbers(&reading));
                    positions = reading.positions;
                    reader = world.reader(&positions);
                }
                _ => {}
            }
            if rotations >= 3 {
                break;
            }
        }
        append(&log, &pending);
        let (reading, gaps) = read(&mut reader);
        prop_assert!(gaps.is_empty(), "{:?}", gaps);
        seen.extend(numbers(&reading));
        prop_assert_eq!(seen, (0..u64::from(written)).collect::<Vec<_>>());
    }
}

/// Waits until a newly written file would be younger than the log: timestamps are as coarse as the kernel's tick.
fn wait_for_clock(log: &Path) {
    let written = fs::metadata(log).unwrap().modified().unwrap();
    let probe = log.with_extension("probe");
    while fs::write(&probe, "x").is_err() || fs::metadata(&probe).unwrap().modified().unwrap() <= written {}
    fs::remove_file(&probe).unwrap();
}
