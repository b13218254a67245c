//! The choice of frames to give up, compared with a plain list of frames.

use edr_wire::frame::FrameKind;

use super::tests::header;
use super::*;

const EPOCH: Epoch = Epoch([1; 8]);
const SECOND: i64 = 1_000_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Made {
    seq: u64,
    seconds: i64,
    kind: FrameKind,
    bytes: u64,
}

/// Frames of one epoch at intervals of about 10 s, with a clock that is sometimes set.
fn frames(random: &mut impl FnMut(u64) -> u64) -> Vec<Made> {
    let mut seconds = random(1_000) as i64;
    let count = 2 + random(150);
    let mut frame = |seq| {
        seconds += match random(60) {
            0 => -(random(900) as i64),
            1 => random(9_000) as i64,
            _ => 8 + random(5) as i64,
        };
        let kind = if seq == 1 || random(12) == 0 { FrameKind::Key } else { FrameKind::Delta };
        Made { seq, seconds, kind, bytes: 1 + random(20) }
    };
    (1..=count).map(&mut frame).collect()
}

/// The plain list: as long as the frames do not fit, the oldest slot with more than one frame is reduced to one.
fn relieved(mut frames: Vec<Made>, limit: u64) -> Vec<Made> {
    let newest = frames[frames.len() - 1];
    let key = frames.iter().rfind(|made| made.kind == FrameKind::Key).unwrap().seq;
    let largest = frames.iter().map(|made| made.bytes).max().unwrap();
    let is_kept = |made: &Made| made.seq == newest.seq || made.seq == key;
    let is_full = |frames: &[Made]| frames.iter().map(|made| made.bytes).sum::<u64>() + 2 * largest > limit;
    for step in [60, 600] {
        let mut slots: Vec<Vec<Made>> = Vec::new();
        for &made in &frames {
            match slots.last_mut().filter(|slot| slot[0].seconds.div_euclid(step) == made.seconds.div_euclid(step)) {
                Some(slot) => slot.push(made),
                None => slots.push(vec![made]),
            }
        }
        for at in 0..slots.len() {
            if is_full(&slots.concat()) {
                let slot = &mut slots[at];
                let stays = slot.iter().rfind(|made| made.kind == FrameKind::Key).or(slot.last()).unwrap().seq;
                slot.retain(|made| made.seq == stays || is_kept(made));
            }
        }
        frames = slots.concat();
    }
    while is_full(&frames) {
        let end = frames.iter().skip(1).position(|made| made.kind == FrameKind::Key).map_or(frames.len(), |at| at + 1);
        if frames[..end].iter().any(is_kept) {
            break;
        }
        frames.drain(..end);
    }
    frames
}

#[test]
fn the_ledger_gives_up_the_same_frames_as_a_plain_list() {
    let mut state = 1_u64;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let (mut thinned, mut dropped) = (0, 0);
    for number in 0..3_000 {
        let made = frames(&mut random);
        let mut ledger = Ledger::default();
        let key_of = |seq| made.iter().rfind(|made| made.seq <= seq && made.kind == FrameKind::Key).unwrap().seq;
        for frame in &made {
            let mut header = header(FrameId { epoch: EPOCH, seq: frame.seq });
            (header.kind, header.base_seq) = (frame.kind, key_of(frame.seq));
            header.captured_ns = frame.seconds * SECOND;
            ledger.accepted(&header, frame.bytes, Store::Disk);
        }
        let limit = random(1 + made.iter().map(|made| made.bytes).sum::<u64>()) / (1 + random(6));
        assert_eq!(ledger.relieve(Room { disk_bytes: limit, memory_bytes: 0 }, &BTreeSet::new()), []);
        let left: Vec<u64> = made.iter().map(|made| made.seq).filter(|&seq| ledger.is_unsent(id(seq))).collect();
        let expected: Vec<u64> = relieved(made.clone(), limit).iter().map(|made| made.seq).collect();
        assert_eq!(left, expected, "sequence {number}, {limit} bytes of {made:?}");
        // All frames that stay can be read, and all frames that went are declared, in few ranges.
        assert!(left.iter().all(|&seq| left.contains(&key_of(seq))), "sequence {number}: a key is missing");
        let (lost, _) = ledger.collect();
        let said = |seq| lost.iter().any(|range| (range.first_seq..=range.last_seq).contains(&seq));
        assert!(made.iter().all(|made| left.contains(&made.seq) || said(made.seq)), "sequence {number}: {lost:?}");
        assert!(lost.len() <= 2, "sequence {number}: {lost:?}");
        thinned += usize::from(lost.iter().any(|range| range.reason == "thinned"));
        dropped += usize::from(lost.iter().any(|range| range.reason == "spool_full"));
    }
    assert!(thinned > 500 && dropped > 500, "{thinned} {dropped}");
}

fn id(seq: u64) -> FrameId {
    FrameId { epoch: EPOCH, seq }
}

/// A start knows the sizes and times of files. A header is read only where a frame may go: never of a frame that is
/// alone in its ten minutes.
#[test]
fn only_headers_of_frames_that_may_go_are_read() {
    let mut ledger = Ledger::default();
    let origin = Origin { epoch: EPOCH, previous: None, captured_ns: 0 };
    let file = |seconds: i64| FrameFile { bytes: 10, written_ns: seconds * SECOND };
    let files = (1..=50).map(|seq| (seq, file(600 * seq as i64))).chain([(51, file(40_000)), (52, file(40_001))]);
    ledger.found(origin, &files.collect(), 0);
    let mut read = Vec::new();
    // Room for all but one.
    let room = Room { disk_bytes: 530, memory_bytes: 0 };
    loop {
        let unread = ledger.relieve(room, &BTreeSet::new());
        if unread.is_empty() {
            break;
        }
        for id in unread {
            read.push(id.seq);
            let mut header = header(id);
            header.captured_ns = 40_000 * SECOND;
            ledger.examined(&header);
        }
    }
    assert_eq!(read, [51, 52]);
    assert_eq!((ledger.books().unsent().0, ledger.is_unsent(id(51))), (51, false));
}
