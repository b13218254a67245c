//! Sequences of actions that once lost a frame.

use super::action::{Action, Pick};
use super::replay;

/// Plays a sequence with variations: with larger snapshots, since the sizes decide which frames are keys and are given
/// up together, and with changed choices of epochs and frames, since the sequence was found with epochs in random
/// order.
fn replay_alike(actions: &[Action]) {
    for (more, turn) in (0..4).flat_map(|more| (0..8_u64).map(move |turn| (80 * more, turn << 61))) {
        let alike = |action: &Action| match *action {
            Action::Tick(bytes) => Action::Tick(bytes + more),
            Action::Away(pick) => Action::Away(Pick(pick.0.wrapping_add(turn))),
            Action::Flip(pick, bit) => Action::Flip(Pick(pick.0.wrapping_add(turn)), bit),
            Action::Remove(pick) => Action::Remove(Pick(pick.0.wrapping_add(turn))),
            other => other,
        };
        replay(&actions.iter().map(alike).collect::<Vec<_>>());
    }
}

#[test]
fn an_epoch_that_was_away_at_a_start_comes_back_under_a_small_quota() {
    use Action::*;
    replay_alike(&[
        Tick(0),
        Quota(4000),
        Crash(0),
        Tick(279),
        Tick(437),
        Tick(51),
        Away(Pick(706687976043083898)),
        Boot,
        Back,
        Tick(2076),
        Boot,
        Tick(1697),
        Tick(510),
        Tick(901),
    ]);
}

#[test]
fn an_epoch_is_away_over_a_crash_and_later_frames_are_damaged() {
    use Action::*;
    replay_alike(&[
        Quota(4000),
        Tick(0),
        Away(Pick(0)),
        Tick(0),
        Tick(0),
        Crash(0),
        Tick(10),
        Tick(516),
        Tick(1294),
        Remove(Pick(6165765084756860418)),
        Tick(960),
        Flip(Pick(6148914786494070860), Pick(249795514048309913)),
        Tick(32),
        Remove(Pick(13902704139473724181)),
        Flip(Pick(11797218704391669291), Pick(332281530530317424)),
    ]);
}

#[test]
fn three_epochs_are_away_and_come_back_one_run_later() {
    use Action::*;
    replay_alike(&[
        Tick(525),
        Tick(1720),
        Away(Pick(13837097841611792269)),
        Tick(1991),
        Tick(2825),
        Away(Pick(1319585292781520658)),
        Tick(1136),
        Away(Pick(14873839663217533993)),
        Back,
        Tick(2246),
        Remove(Pick(15804390416687895813)),
        Flip(Pick(4469416878457070048), Pick(16712853179863065748)),
        Tick(1992),
        Tick(1292),
        Tick(2866),
        Ship(1),
        Tick(366),
        Boot,
        Tick(2617),
        Tick(2635),
        Tick(387),
        Ship(3),
        Tick(882),
        Ship(4),
        Ship(2),
        Ship(5),
    ]);
}

#[test]
fn the_first_to_declare_is_damaged_and_the_others_run_out_of_room() {
    use Action::*;
    replay_alike(&[
        Tick(58),
        Flip(Pick(8557571990866927809), Pick(200574365989782600)),
        Ship(5),
        Tick(253),
        Tick(2514),
        Tick(2136),
        Away(Pick(12379499466212164488)),
        Tick(1079),
        Boot,
        Tick(667),
        Quota(19257),
        Tick(612),
        Ship(5),
        Ship(5),
        Tick(1593),
        Ship(5),
        Tick(1576),
        Ship(5),
        Back,
        Back,
        Tick(1209),
        Tick(465),
        Ship(3),
        Tick(2212),
        Ship(4),
        Tick(460),
        TornNewest(162),
        Tick(2426),
        Tick(2966),
        Tick(1059),
        Ship(1),
        Flip(Pick(8169920419735251945), Pick(13162399721995759397)),
        Quota(36706),
    ]);
}

#[test]
fn epochs_go_away_and_come_back_over_several_crashes() {
    use Action::*;
    replay_alike(&[
        Tick(1985),
        Boot,
        Ship(5),
        Tick(1802),
        Away(Pick(8328828490541332300)),
        Ship(4),
        Tick(2543),
        Tick(1493),
        Tick(926),
        Away(Pick(3006383936484420635)),
        Flip(Pick(8640593474139300553), Pick(5875631662301292029)),
        Crash(1186),
        Ship(1),
        Tick(1454),
        Tick(725),
        Away(Pick(8514008335472064640)),
        TornNewest(177),
        Crash(773),
        Ship(4),
        Tick(1530),
        TornNewest(207),
        Tick(1767),
        Ship(4),
        Tick(1565),
        Tick(815),
        Away(Pick(17496119932609517824)),
        Tick(1229),
        Tick(1789),
        Ship(4),
        Back,
        Tick(473),
        Tick(0),
        Ship(1),
        Away(Pick(17145752751746999892)),
        Back,
        Crash(534),
        Back,
        Remove(Pick(433613573177585971)),
        Tick(597),
        Tick(2252),
        Tick(2676),
        Tick(2330),
        Away(Pick(2711882753162741564)),
        Ship(1),
        Tick(2761),
        Tick(2519),
    ]);
}

#[test]
fn epochs_come_back_between_changes_of_the_quota() {
    use Action::*;
    replay_alike(&[
        Ship(5),
        Tick(2841),
        Tick(1648),
        Quota(12611),
        Tick(2048),
        Tick(586),
        Away(Pick(11056583823450163161)),
        Tick(2453),
        Tick(291),
        TornNewest(25),
        Tick(784),
        Tick(1474),
        Away(Pick(14152840037735871970)),
        Tick(1191),
        Tick(716),
        Away(Pick(2062714430241341481)),
        Boot,
        Tick(2897),
        Flip(Pick(1119927042873120788), Pick(10096264381774412719)),
        Ship(2),
        Ship(5),
        Tick(785),
        Tick(855),
        Tick(133),
        Ship(1),
        Tick(9),
        Ship(2),
        Tick(40),
        Tick(828),
        Ship(2),
        Tick(1733),
        Ship(3),
        Flip(Pick(5983242857322275363), Pick(6530288028033994445)),
        Back,
        Back,
        Quota(20594),
        Back,
        Crash(1476),
        Quota(6938),
        Tick(615),
        Ship(4),
        Tick(1324),
        Tick(1452),
        Quota(14320),
        Tick(932),
        Tick(1021),
        Away(Pick(5543994443332342767)),
        Ship(2),
    ]);
}
