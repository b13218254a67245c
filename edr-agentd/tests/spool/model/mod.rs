//! The spool under random actions, in step with a reference: a set of frames for each state. After each action, every
//! accepted frame is delivered, present or declared lost, and no file is removed before its loss is declared. At the
//! end every frame is delivered or declared, no (epoch, seq) stands for two snapshots, and order is kept.
//!
//! 2,000 sequences per run, 50,000 with `EDR_TEST_LONG`. Failing seeds are kept in `regressions`.

mod action;
mod folders;
mod reference;
mod sequences;
mod settle;
mod world;

use std::fs;

use edr_wire::frame::FrameKind;
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

use self::action::{Action, action};
use self::world::World;

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if std::env::var_os("EDR_TEST_LONG").is_some() { 50_000 } else { 2_000 },
        max_shrink_iters: 2_000,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(REGRESSIONS))),
        ..ProptestConfig::default()
    })]
    #[test]
    fn no_frame_is_missing_without_a_declaration(actions in prop::collection::vec(action(), 1..60)) {
        replay(&actions);
    }
}

const REGRESSIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/spool/model/regressions");

fn replay(actions: &[Action]) {
    let mut world = World::new();
    for &action in actions {
        world.step(action);
    }
    world.settle();
}

/// The newest frame's key is lost after declaring the loss of further frames. The newest frame's snapshot cannot be
/// read, but its header has the only copy of the declarations. The newest frame is never sent, since room runs out
/// again.
#[test]
fn declarations_survive_the_loss_of_a_key() {
    // The sizes decide which frame becomes a key; one of these sizes gives the wanted scene.
    let scene = |bytes: usize| {
        let mut world = World::new();
        world.quota = 15_000;
        world.spool().set_limits(world.settings());
        while world.spool().declarations().0.is_empty() {
            world.tick(bytes);
        }
        world.act(Action::Quota(1 << 20));
        let key = world.tick(3_000);
        let newest = world.tick(10);
        (key.kind == FrameKind::Key && newest.kind == FrameKind::Delta).then_some((world, key.id))
    };
    let (mut world, key) = (500..3_000).step_by(50).find_map(scene).unwrap();
    fs::remove_file(world.path(key)).unwrap();
    world.reference.harmed.insert(key);
    world.reference.removed.insert(key);
    world.step(Action::Boot);
    world.step(Action::Quota(9_000));
    for _ in 0..8 {
        world.step(Action::Tick(2_000));
    }
    world.settle();
}
