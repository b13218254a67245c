//! Tests of accounts against a simple model: a map from each number to all that is known about the number.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const BOOT: &str = "11111111-2222-3333-4444-555555555555";

fn epoch(n: u8) -> Epoch {
    Epoch([n; 8])
}

fn lost(n: u8, first_seq: u64, last_seq: u64, reason: &str) -> LostRange {
    LostRange { epoch: epoch(n), first_seq, last_seq, reason: reason.to_owned() }
}

fn missed(from: u64, to: u64, ticks: u64, reason: &str) -> MissedTicks {
    MissedTicks { from_boottime_ns: from, to_boottime_ns: to, ticks, reason: reason.to_owned() }
}

fn nothing() -> Declarations {
    Declarations { boot_id: BOOT.to_owned(), ..Declarations::default() }
}

fn declaring(lost: Vec<LostRange>, missed: Vec<MissedTicks>) -> Declarations {
    Declarations { lost, missed, ..nothing() }
}

fn of(previous: u8, last_seq: u64) -> Declarations {
    Declarations { previous_epoch: Some(PreviousEpoch { id: epoch(previous), last_seq }), ..nothing() }
}

/// Kind, reason and range of a loss.
type LossParts = (&'static str, String, Option<(u64, u64)>);

fn losses(account: &Account) -> Vec<LossParts> {
    account.summary().losses.into_iter().map(|loss| (loss.kind.name(), loss.reason, loss.seqs)).collect()
}

#[test]
fn frames_without_a_hole_are_complete() {
    let mut account = Account::default();
    for seq in [1, 2, 4, 3, 3] {
        account.frame(epoch(1), seq, 7, seq as i64, &nothing());
    }
    let summary = account.summary();
    assert!(summary.is_complete());
    assert_eq!((summary.archived, summary.last, summary.since_ns), (4, Some((epoch(1), 4)), Some(1)));
    assert_eq!(summary.brief(), "complete");
    assert_eq!(account.entries(), 1);
    assert!(!Account::default().summary().is_complete());
}

#[test]
fn each_missing_number_has_one_class_and_the_times_around() {
    let mut account = Account::default();
    account.frame(epoch(1), 1, 7, 10, &nothing());
    account.frame(epoch(1), 9, 7, 90, &declaring(vec![lost(1, 2, 3, "spool_full"), lost(1, 1, 4, "many")], vec![]));
    account.part(epoch(1), 5, &nothing());
    account.part(epoch(1), 9, &nothing());
    account.frame(epoch(2), 1, 7, 100, &of(1, 11));
    assert_eq!(
        losses(&account),
        [
            ("unexplained", String::new(), Some((10, 11))),
            ("unexplained", String::new(), Some((6, 8))),
            ("incomplete", String::new(), Some((5, 5))),
            ("lost", "many".to_owned(), Some((4, 4))),
            ("lost", "spool_full".to_owned(), Some((2, 3))),
        ]
    );
    let summary = account.summary();
    assert_eq!((summary.archived, summary.lost, summary.incomplete, summary.unexplained), (3, 3, 1, 5));
    assert_eq!(summary.brief(), "5 unexplained, 3 lost, 1 incomplete");
    let spool_full = summary.losses.last().unwrap();
    assert_eq!((spool_full.from_ns, spool_full.to_ns), (Some(10), Some(90)));
    assert!(spool_full.text().starts_with("lost: 2 frames, seq 2 to 3 of epoch 0101010101010101, reason spool_full, "));
    assert_eq!((summary.losses[0].from_ns, summary.losses[0].to_ns), (Some(90), None));
}

#[test]
fn numbers_before_the_first_archived_frame_are_no_riddle() {
    let mut account = Account::default();
    account.frame(epoch(2), 40, 7, 10, &of(1, 5));
    assert_eq!(
        losses(&account),
        [("before_first", String::new(), Some((1, 39))), ("before_first", String::new(), Some((1, 5)))]
    );
    account.frame(epoch(2), 42, 7, 12, &of(1, 5));
    account.frame(epoch(4), 1, 7, 14, &of(3, 2));
    assert_eq!(
        losses(&account)[..2],
        [("unexplained", String::new(), Some((1, 2))), ("unexplained", String::new(), Some((41, 41)))]
    );
    assert!(!account.summary().is_complete());
}

#[test]
fn missed_ticks_count_once_and_have_a_time() {
    let mut account = Account::default();
    for seq in 1..=3 {
        let ticks = vec![missed(10, 30, 3, "overrun"), missed(50, 60, 2, "stopped")];
        account.frame(epoch(1), seq, 7, 1_000, &declaring(vec![], ticks));
    }
    // A part of a known declaration, and a declaration that has grown.
    account.frame(epoch(1), 4, 7, 1_000, &declaring(vec![], vec![missed(20, 20, 1, "overrun")]));
    account.frame(epoch(1), 5, 7, 1_000, &declaring(vec![], vec![missed(50, 70, 3, "stopped")]));
    let summary = account.summary();
    assert_eq!((summary.missed, summary.losses.len()), (6, 2));
    assert_eq!((summary.losses[0].reason.as_str(), summary.losses[0].from_ns), ("stopped", None));
    assert!(summary.losses[0].text().ends_with(&format!("reason stopped, 0 s to 0 s after the start of boot {BOOT}")));
    account.set_boot(BOOT, 1_000);
    let summary = account.summary();
    assert_eq!((summary.losses[0].from_ns, summary.losses[0].to_ns), (Some(1_050), Some(1_070)));
    // The same times in another boot are other ticks.
    let other = Declarations { boot_id: "other".into(), ..declaring(vec![], vec![missed(10, 30, 3, "overrun")]) };
    account.frame(epoch(2), 1, 7, 2_000, &other);
    assert_eq!(account.summary().missed, 9);
}

#[test]
fn a_day_is_counted_again_or_leaves_with_its_files() {
    let mut account = Account::default();
    for seq in 1..=6 {
        account.frame(epoch(1), seq, if seq <= 3 { 7 } else { 8 }, seq as i64, &nothing());
    }
    account.frame(epoch(2), 1, 9, 7, &of(1, 6));
    let mut again = account.clone();
    again.uncount_day(8);
    for seq in [4, 6] {
        again.frame(epoch(1), seq, 8, seq as i64, &nothing());
    }
    assert_eq!(losses(&again), [("unexplained", String::new(), Some((5, 5)))]);
    account.forget_day(7);
    assert!(account.summary().is_complete(), "{:?}", account.summary());
    assert_eq!(account.summary().archived, 4);
    account.forget_day(8);
    account.frame(epoch(2), 2, 9, 8, &of(1, 6));
    assert_eq!((account.summary().archived, losses(&account)), (2, vec![]));
}

#[test]
fn retention_changes_the_class_of_no_number_that_stays() {
    // Epoch 1 begins with number 5. Epoch 2 loses the frames of day 7, which are not the first frames of the host.
    let mut account = Account::default();
    account.frame(epoch(2), 1, 7, 10, &nothing());
    account.frame(epoch(2), 2, 8, 20, &of(1, 6));
    account.frame(epoch(1), 5, 8, 5, &nothing());
    let before_first = ("before_first", String::new(), Some((1, 4)));
    let unexplained = ("unexplained", String::new(), Some((6, 6)));
    assert_eq!(losses(&account), [unexplained.clone(), before_first.clone()]);
    account.forget_day(7);
    assert_eq!(losses(&account), [unexplained.clone(), before_first]);

    // Nothing of epoch 1 is archived. Epoch 2 loses its first frames, and has frames left.
    let mut account = Account::default();
    account.frame(epoch(2), 2, 7, 10, &of(1, 6));
    account.frame(epoch(2), 4, 8, 20, &nothing());
    let of_first = ("before_first", String::new(), Some((1, 6)));
    let hole = ("unexplained", String::new(), Some((3, 3)));
    assert_eq!(losses(&account)[..], [hole.clone(), ("before_first", String::new(), Some((1, 1))), of_first.clone()]);
    account.forget_day(7);
    assert_eq!(losses(&account), [hole, of_first]);

    // Epoch 1 had the first frames and leaves the account; nothing of epoch 2 was ever archived.
    let mut account = Account::default();
    account.frame(epoch(1), 1, 7, 10, &nothing());
    account.frame(epoch(3), 2, 8, 20, &of(2, 3));
    let later = [("unexplained", String::new(), Some((1, 1))), ("unexplained", String::new(), Some((1, 3)))];
    assert_eq!(losses(&account), later);
    account.forget_day(7);
    assert_eq!(losses(&account), later);
    let saved = serde_json::to_string(&account).unwrap();
    assert_eq!(losses(&serde_json::from_str(&saved).unwrap()), later);
}

#[test]
fn a_brief_summary_counts_all_losses_and_has_the_newest() {
    let mut account = Account::default();
    for seq in (1..=41).step_by(2) {
        account.frame(epoch(1), seq, 7, seq as i64, &nothing());
    }
    account.frame(epoch(1), 42, 7, 42, &declaring(vec![], vec![missed(5, 9, 2, "a"), missed(5, 7, 1, "b")]));
    let (all, brief) = (account.summary(), account.brief_summary());
    assert_eq!((all.losses.len(), all.loss_count), (22, 22));
    assert_eq!(brief.losses[..], all.losses[..BRIEF_LOSSES_MAX]);
    assert_eq!(brief.lines(2).last().unwrap(), "20 more losses");
    assert!(!brief.is_complete());
    assert_eq!(brief, Summary { losses: brief.losses.clone(), ..all });
}

#[test]
fn joined_ticks_are_in_the_order_of_all_ticks() {
    let mut account = Account::default();
    let ticks = [missed(5, 9, 2, "a"), missed(5, 7, 1, "b"), missed(6, 9, 1, "a")];
    account.frame(epoch(1), 1, 7, 1, &declaring(vec![], ticks.to_vec()));
    account.shrink(3);
    let reasons: Vec<String> = account.summary().losses.into_iter().map(|loss| loss.reason).collect();
    assert_eq!(reasons, ["a", "b"], "the newest first");
}

#[test]
fn a_hostile_host_costs_bounded_memory_and_is_never_complete() {
    let mut account = Account::default();
    for n in 0..5_000_u64 {
        let id = Epoch(n.to_be_bytes());
        let reason = format!("r{n}");
        let declared = Declarations {
            boot_id: format!("b{}", n / 3),
            previous_epoch: Some(PreviousEpoch { id: Epoch((n * 7).to_be_bytes()), last_seq: u64::MAX }),
            lost: vec![LostRange { epoch: id, first_seq: 0, last_seq: u64::MAX, reason: reason.clone() }],
            missed: vec![missed(n, u64::MAX, u64::MAX, &reason), missed(n, 0, 0, "overrun")],
        };
        account.frame(id, u64::MAX - n, i32::MAX, i64::MIN, &declared);
        account.part(id, 1, &declared);
        account.frame(epoch(9), 2 * n + 1, 1, 1, &declared);
        account.shrink(ENTRIES_MAX);
        assert!(account.entries() <= ENTRIES_MAX && account.epochs.len() <= EPOCHS_MAX);
    }
    let summary = account.summary();
    assert!(!summary.is_complete() && summary.is_cut && summary.brief().contains("older ones not counted"));
    assert!(summary.losses.len() <= 3 * ENTRIES_MAX);
    let saved = serde_json::to_string(&account).unwrap();
    assert_eq!(serde_json::from_str::<Account>(&saved).unwrap(), account);
    account.shrink(4);
    assert!(account.entries() <= 4);
}

#[test]
fn many_missed_ticks_are_joined_and_none_is_lost() {
    let mut account = Account::default();
    for n in 0..10_000 {
        account.frame(epoch(1), n + 1, 7, 1, &declaring(vec![], vec![missed(10 * n, 10 * n, 1, "overrun")]));
        account.shrink(ENTRIES_MAX);
    }
    let summary = account.summary();
    assert_eq!((summary.missed, summary.archived, summary.is_cut), (10_000, 10_000, false));
}

/// What happens to a number of an epoch.
#[derive(Debug, Clone)]
enum Happening {
    Frame(u8, u64, i32),
    Part(u8, u64),
    Lost(u8, u64, u64, &'static str),
    Named(u8, u64),
}

fn happening() -> impl Strategy<Value = Happening> {
    let reason = prop_oneof![Just("spool_full"), Just("vanished"), Just("thinned"), Just("many")];
    prop_oneof![
        6 => (1..4_u8, 1..40_u64, 1..3_i32).prop_map(|(n, seq, day)| Happening::Frame(n, seq, day)),
        1 => (1..4_u8, 1..40_u64).prop_map(|(n, seq)| Happening::Part(n, seq)),
        2 => (1..4_u8, 0..40_u64, 0..6_u64, reason)
            .prop_map(|(n, first, more, why)| Happening::Lost(n, first, first + more, why)),
        1 => (1..4_u8, 1..50_u64).prop_map(|(n, last)| Happening::Named(n, last)),
    ]
}

/// The place of a reason when a number has several.
fn rank(reason: &str) -> u8 {
    match reason {
        "thinned" => 1,
        "many" => 2,
        _ => 0,
    }
}

/// Everything known about the numbers of an epoch.
#[derive(Debug, Default)]
struct Model {
    highest: u64,
    archived: BTreeMap<u64, i32>,
    parts: BTreeSet<u64>,
    lost: BTreeMap<u64, BTreeSet<(u8, &'static str)>>,
}

impl Model {
    fn class(&self, seq: u64) -> (&'static str, &str) {
        if self.archived.contains_key(&seq) {
            return ("archived", "");
        }
        match self.lost.get(&seq).and_then(BTreeSet::first) {
            Some((_, reason)) => ("lost", reason),
            None if self.parts.contains(&seq) => ("incomplete", ""),
            None => ("open", ""),
        }
    }
}

fn apply(account: &mut Account, model: &mut BTreeMap<u8, Model>, happening: &Happening) {
    // All declarations come in frames of epoch 9, which is never looked at.
    let carry = |account: &mut Account, declared: &Declarations| account.frame(epoch(9), 1, 0, 0, declared);
    match *happening {
        Happening::Frame(n, seq, day) => {
            account.frame(epoch(n), seq, day, seq as i64, &nothing());
            let model = model.entry(n).or_default();
            model.archived.entry(seq).or_insert(day);
            model.parts.remove(&seq);
            model.highest = model.highest.max(seq);
        }
        Happening::Part(n, seq) => {
            account.part(epoch(n), seq, &nothing());
            let model = model.entry(n).or_default();
            if !model.archived.contains_key(&seq) {
                model.parts.insert(seq);
            }
            model.highest = model.highest.max(seq);
        }
        Happening::Lost(n, first, last, reason) => {
            carry(account, &declaring(vec![lost(n, first, last, reason)], vec![]));
            let model = model.entry(n).or_default();
            for seq in first.max(1)..=last {
                model.lost.entry(seq).or_default().insert((rank(reason), reason));
                model.highest = model.highest.max(seq);
            }
        }
        Happening::Named(n, last) => {
            carry(account, &of(n, last));
            let model = model.entry(n).or_default();
            model.highest = model.highest.max(last);
        }
    }
}

/// Compares the class of every number.
fn agree(account: &Account, model: &BTreeMap<u8, Model>) -> Result<(), TestCaseError> {
    let summary = account.summary();
    for (n, model) in model {
        let mut found: BTreeMap<u64, (&str, &str)> = BTreeMap::new();
        for loss in summary.losses.iter().filter(|loss| loss.epoch == Some(epoch(*n))) {
            let (first, last) = loss.seqs.unwrap();
            prop_assert_eq!(loss.count, last - first + 1);
            for seq in first..=last {
                let name = if loss.kind >= LossKind::Unexplained { "open" } else { loss.kind.name() };
                prop_assert!(found.insert(seq, (name, &loss.reason)).is_none(), "{} has two classes", seq);
            }
        }
        for seq in 1..=model.highest {
            let class = found.remove(&seq).unwrap_or(("archived", ""));
            prop_assert_eq!(class, model.class(seq), "{} of epoch {}", seq, n);
        }
        prop_assert!(found.is_empty(), "above the highest: {:?}", found);
    }
    let open = summary.unexplained + summary.before_first;
    let total: u64 = model.values().map(|model| model.highest).sum();
    let ours = account.epochs.iter().any(|known| known.epoch == epoch(9));
    prop_assert_eq!(summary.archived - u64::from(ours) + summary.lost + summary.incomplete + open, total);
    Ok(())
}

proptest! {
    #[test]
    fn every_number_has_the_class_of_the_model(
        happenings in prop::collection::vec(happening(), 0..80),
        cut in 0..80_usize,
    ) {
        let (mut account, mut model) = (Account::default(), BTreeMap::new());
        for happening in &happenings {
            apply(&mut account, &mut model, happening);
        }
        agree(&account, &model)?;
        // Reading everything a second time changes no class.
        let before = account.summary();
        happenings.iter().for_each(|happening| apply(&mut account, &mut BTreeMap::new(), happening));
        prop_assert_eq!(&account.summary().losses, &before.losses);
        // Two halves are the whole, also when the first was saved and loaded.
        let (mut first, mut second, mut ignored) = (Account::default(), Account::default(), BTreeMap::new());
        let (early, late) = happenings.split_at(cut.min(happenings.len()));
        early.iter().for_each(|happening| apply(&mut first, &mut ignored, happening));
        late.iter().for_each(|happening| apply(&mut second, &mut ignored, happening));
        let saved = serde_json::to_string(&second).unwrap();
        first.merge(&serde_json::from_str(&saved).unwrap());
        agree(&first, &model)?;
        // A day counted again without its numbers leaves holes.
        account.uncount_day(1);
        for model in model.values_mut() {
            model.archived.retain(|_, day| *day != 1);
        }
        agree(&account, &model)?;
    }

    #[test]
    fn any_numbers_are_taken(
        numbers in prop::collection::vec((any::<u64>(), any::<u64>(), any::<bool>()), 0..200),
        entries in 1..50_usize,
    ) {
        let mut account = Account::default();
        for (a, b, is_frame) in numbers {
            let declared = declaring(vec![lost(1, a, b, "x")], vec![missed(a, b, a, "y")]);
            if is_frame {
                account.frame(epoch(1), a.max(1), (b % 3) as i32, b as i64, &declared);
            } else {
                account.part(epoch(2), b, &declared);
            }
            account.shrink(entries);
            prop_assert!(account.entries() <= entries);
            let summary = account.summary();
            prop_assert!(!summary.is_complete() || !summary.is_cut);
        }
    }
}
