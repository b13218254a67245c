//! Frames whose number or time cannot be right, mixed with frames of an honest host.

use edr_archive::testing::{header, partition, records};
use edr_archive::{RecordPosition, SavedFacts};
use edr_wire::frame::{FrameHeader, LostRange, PreviousEpoch, Record};
use edr_wire::{Epoch, HostId};

use super::Newest;

const SECOND_NS: i64 = 1_000_000_000;
/// The honest host's first frame is captured and received at this time.
const BEGIN_NS: i64 = 1_800_000_000 * SECOND_NS;

/// Offers a frame at a time of receipt, in s after the begin.
fn offer(newest: &Newest, header: &FrameHeader, received_s: i64) {
    let raw = format!("{header:?}");
    let received_ns = BEGIN_NS + received_s * SECOND_NS;
    for bytes in records(header, raw.as_bytes(), None, 1 << 20) {
        let place = RecordPosition { received_ns, partition: 0, offset: received_s };
        newest.offer(&partition(0), place, Record::decode(&bytes).unwrap());
    }
}

/// A frame captured some seconds after the begin.
fn frame(epoch: u8, seq: u64, captured_s: i64) -> FrameHeader {
    let captured_ns = BEGIN_NS.saturating_add(captured_s.saturating_mul(SECOND_NS));
    FrameHeader { epoch: Epoch([epoch; 8]), captured_ns, ..header(1, seq) }
}

/// The honest host: a frame each 10 s, received 1 s after the capture.
fn honest(newest: &Newest, seqs: std::ops::RangeInclusive<u64>) {
    for seq in seqs {
        let captured_s = 10 * i64::try_from(seq).unwrap();
        offer(newest, &frame(1, seq, captured_s), captured_s + 1);
    }
}

fn shown(newest: &Newest) -> (u8, u64) {
    let (epoch, seq) = newest.current(HostId([1; 16])).unwrap().newest.saved.frame.key.place();
    (epoch.0[0], seq)
}

fn alarms(newest: &Newest) -> Vec<String> {
    newest.row(HostId([1; 16])).unwrap().alarms
}

#[test]
fn a_number_that_the_host_cannot_have_reached_hides_no_later_frame() {
    let highest = u64::try_from(i64::MAX).unwrap();
    for jump in [20, 1_000, 1 << 31, 1 << 32, (1 << 32) + 1, 1 << 62, highest, u64::MAX - 1, u64::MAX] {
        let newest = Newest::default();
        honest(&newest, 1..=3);
        for after in 0..5 {
            offer(&newest, &frame(1, jump.saturating_add(after), 32), 33);
            assert_eq!(shown(&newest), (1, 3 + after), "{jump}");
            honest(&newest, 4 + after..=4 + after);
            assert_eq!(shown(&newest), (1, 4 + after), "{jump}");
        }
        let found = alarms(&newest);
        assert!(found[0].starts_with("frames with a number that the host cannot have reached: "), "{jump}: {found:?}");
        // The account has no hole up to the forged number.
        let account = newest.account(HostId([1; 16]));
        assert!(account.is_complete() && account.last == Some((Epoch([1; 8]), 8)), "{jump}: {account:?}");
        // A start knows the alarm, and reads the same frames again.
        let after = Newest::default();
        after.restore(newest.save(|_| true));
        honest(&after, 1..=8);
        assert_eq!((shown(&after), alarms(&after)), ((1, 8), found));
    }
}

#[test]
fn declared_losses_and_times_without_a_collector_explain_a_jump() {
    let newest = Newest::default();
    honest(&newest, 1..=3);
    let declared = LostRange { epoch: Epoch([1; 8]), first_seq: 4, last_seq: 900, reason: "spool_full".into() };
    offer(&newest, &FrameHeader { lost: vec![declared], ..frame(1, 901, 40) }, 41);
    assert_eq!((shown(&newest), alarms(&newest)), ((1, 901), vec![]));
    // The topic lost the frames of a day; a drained spool has every sixth frame.
    offer(&newest, &frame(1, 901 + 8_640, 86_440), 86_441);
    for n in 1..10 {
        offer(&newest, &frame(1, 9_541 + 6 * n, 86_440 + 60 * i64::try_from(n).unwrap()), 87_200);
    }
    assert_eq!((shown(&newest), alarms(&newest)), ((1, 9_595), vec![]));
    // The host was silent for longer than ten minutes, its clock was set back by a day, and its interval is 1 s now.
    offer(&newest, &frame(1, 9_595 + 600, 1_400), 87_900);
    assert_eq!((shown(&newest), alarms(&newest)), ((1, 10_195), vec![]));
    // A first frame may have any number below the limit.
    let late = Newest::default();
    offer(&late, &frame(1, 5_000_000, 10), 11);
    assert_eq!((shown(&late), alarms(&late)), ((1, 5_000_000), vec![]));
}

#[test]
fn a_capture_time_after_the_receipt_hides_no_later_frame() {
    let at_end = i64::MAX / SECOND_NS;
    for captured_s in [at_end, 86_400 * 365, 86_400, 3_600, 62] {
        let newest = Newest::default();
        honest(&newest, 1..=3);
        // In other epochs, with and without the honest one as their predecessor, and in the epoch of the host.
        let previous_epoch = Some(PreviousEpoch { id: Epoch([1; 8]), last_seq: 3 });
        let forged = [
            frame(8, 1, captured_s),
            FrameHeader { previous_epoch, ..frame(9, 1, captured_s) },
            frame(1, 4, captured_s),
        ];
        for (header, received_s) in forged.iter().zip(32..) {
            offer(&newest, header, received_s);
            assert_eq!(shown(&newest), (1, 3), "{captured_s}");
        }
        let found = alarms(&newest);
        assert!(found[0].starts_with("frames captured later than they were received: 3, "), "{found:?}");
        honest(&newest, 5..=6);
        assert_eq!((shown(&newest), newest.row(HostId([1; 16])).unwrap().seq), ((1, 6), 6));
        assert!(newest.doubt_of(HostId([1; 16]), (Epoch([8; 8]), 1)).is_some());
        assert!(newest.doubt_of(HostId([1; 16]), (Epoch([1; 8]), 5)).is_none());
    }
}

#[test]
fn a_host_with_a_wrong_clock_stays_visible_with_an_alarm() {
    // An hour ahead from the first frame on, and drifting.
    let newest = Newest::default();
    for seq in 1..=20 {
        let sent_s = 10 * i64::try_from(seq).unwrap();
        offer(&newest, &frame(1, seq, 3_600 + sent_s + sent_s / 200), sent_s);
        assert_eq!(shown(&newest), (1, seq));
    }
    assert_eq!(alarms(&newest), ["its clock is 3601 s ahead of the collector's"]);
    // The clock is set right, within the epoch and with a new one.
    offer(&newest, &frame(1, 21, 210), 211);
    assert_eq!(shown(&newest), (1, 21));
    offer(&newest, &frame(2, 1, 230), 231);
    assert_eq!(shown(&newest), (2, 1));
    // A clock that jumps ahead by five minutes hides the host for an hour at most.
    let newest = Newest::default();
    honest(&newest, 1..=1);
    for (seq, received_s) in [(2, 20), (3, 30), (300, 3_000), (361, 3_610), (362, 3_621), (363, 3_631)] {
        offer(&newest, &frame(1, seq, received_s + 300), received_s);
        assert_eq!(shown(&newest), (1, if received_s < 3_611 { 1 } else { seq }), "at {received_s} s");
    }
    // Only frames that cannot be right: the first is listed, and a later frame takes the place.
    let newest = Newest::default();
    offer(&newest, &frame(9, 1 << 40, i64::MAX / SECOND_NS), 1);
    offer(&newest, &frame(8, 1, i64::MAX / SECOND_NS), 2);
    assert_eq!(shown(&newest), (9, 1 << 40));
    honest(&newest, 1..=1);
    assert_eq!(shown(&newest), (1, 1));
}

#[test]
fn an_epoch_that_goes_on_below_its_newest_number_is_an_alarm() {
    let below =
        |alarms: &[String]| alarms.iter().any(|alarm| alarm.starts_with("frames of an epoch that goes on below"));
    let newest = Newest::default();
    honest(&newest, 1..=10);
    // Frames delivered late or twice are no second sender.
    offer(&newest, &frame(1, 13, 130), 131);
    offer(&newest, &frame(1, 12, 120), 132);
    honest(&newest, 1..=10);
    assert_eq!((shown(&newest), alarms(&newest)), ((1, 13), vec![]));
    offer(&newest, &frame(1, 11, 140), 141);
    assert!(below(&alarms(&newest)), "{:?}", alarms(&newest));
    assert_eq!(shown(&newest), (1, 13));

    // Two senders with the same epoch; the second is a little ahead.
    let newest = Newest::default();
    honest(&newest, 1..=3);
    offer(&newest, &frame(1, 5, 32), 33);
    honest(&newest, 4..=4);
    assert!(below(&alarms(&newest)), "{:?}", alarms(&newest));
    honest(&newest, 5..=6);
    assert_eq!(shown(&newest), (1, 6));
    assert!(alarms(&newest).iter().any(|alarm| alarm.starts_with("frames that came again with another content: 1")));
}

#[test]
fn frames_in_doubt_cost_bounded_memory_whatever_they_claim() {
    let newest = Newest::default();
    honest(&newest, 1..=3);
    newest.set_facts(
        &newest.current(HostId([1; 16])).unwrap(),
        SavedFacts { interval_ns: u64::MAX, ..SavedFacts::default() },
    );
    for n in 0..2_000_u64 {
        let epoch = u8::try_from(n % 200 + 2).unwrap();
        let lost = LostRange { epoch: Epoch([1; 8]), first_seq: 0, last_seq: u64::MAX, reason: "x".into() };
        offer(&newest, &FrameHeader { lost: vec![lost], ..frame(epoch, u64::MAX - n, i64::MIN / SECOND_NS) }, 34);
        offer(&newest, &frame(epoch, n + 1, i64::MAX / SECOND_NS), 34);
    }
    assert_eq!(shown(&newest), (1, 3));
    let saved = newest.save(|_| true).hosts.remove(0);
    assert!(saved.doubts.jumps.frames.len() <= 16 && saved.doubts.early.frames.len() <= 16);
    assert_eq!((saved.doubts.jumps.count, saved.doubts.early.count), (2_000, 2_000));
    honest(&newest, 4..=4);
    assert_eq!(shown(&newest), (1, 4));
}
