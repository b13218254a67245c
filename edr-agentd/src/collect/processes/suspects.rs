//! Whose reads hang, and what is therefore not read of whom.
//!
//! Each read that hangs costs a thread and the time until it is given up; one that is slow (memory or an executable on a
//! file system of somebody's own that answers just in time) costs the time alone. A user may have thousands of processes whose
//! reads hang; that must neither stop a snapshot nor empty the rows of others. So after two hangs the processes that
//! belong together with those that hang are read with care, and nobody else's: the first measure that reaches everyone
//! takes threads of eight such owners at once. Care means that the reads which hung are left out of what was not read
//! well before; when the hangs go on, of everything of that owner. A row there always is: `status` and `cgroup` do not
//! wait for the process.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use super::step::{Step, Steps};

/// Hangs after which the kindred are read with care, and those after which all that hung is left out of them.
const OF_ONE_OWNER: Thresholds = Thresholds { care: 2, stop: 4 };
/// The same for everyone's processes, by all the threads that are left behind.
const OF_ALL: Thresholds = Thresholds { care: 16, stop: 20 };
/// And by the hangs of one pass, each of which takes the time after which a read is given up: four, of two seconds or
/// little more, fit a tick.
const OF_A_PASS: Thresholds = Thresholds { care: 3, stop: 4 };
/// Threads left behind at most. With the last four nothing but `status` and `cgroup` is read.
pub(super) const LEFT_BEHIND_MAX: usize = OF_ALL.stop + 4;

#[derive(Debug, Clone, Copy)]
struct Thresholds {
    care: usize,
    stop: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Suspicion {
    None,
    /// Against what was not read well in the tick before, and what waits for storage right now.
    Care,
    /// Against everything.
    Stop,
}

impl Thresholds {
    fn reached(self, count: usize) -> Suspicion {
        match count {
            count if count >= self.stop => Suspicion::Stop,
            count if count >= self.care => Suspicion::Care,
            _ => Suspicion::None,
        }
    }
}

/// Whose process it is, as far as suspicion goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner {
    /// The real user id.
    pub(super) uid: u32,
    /// Where its cgroup is, two folders deep: a user's slice, a service, a container; `None` at the root. A user with
    /// many ids (subuid(5)) has one of these, and a container's root is not the host's.
    home: Option<u64>,
    /// It sleeps for storage now, as one that waits for a dead file system does.
    waits: bool,
}

impl Owner {
    pub(super) fn new(uid: u32, cgroup_path: &[u8], waits: bool) -> Self {
        let mut hasher = DefaultHasher::new();
        let mut parts = 0;
        for part in cgroup_path.split(|&b| b == b'/').filter(|part| !part.is_empty()).take(2) {
            part.hash(&mut hasher);
            parts += 1;
        }
        Self { uid, home: (parts > 0).then(|| hasher.finish()), waits }
    }

    /// Root's processes are kin only where they live together: too much runs as root.
    fn is_kin(self, other: Self) -> bool {
        (self.uid != 0 && self.uid == other.uid)
            || (self.home.is_some() && self.home == other.home)
            || (self.home, self.uid) == (other.home, other.uid)
    }
}

/// Passes for which a slow read is remembered: five minutes of ticks.
const SLOW_FOR: u64 = 30;
/// Slow reads remembered.
const SLOW_MAX: usize = 64;

/// Why a read counts against its owner, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// This thread was left behind, and is not back.
    Hangs { worker: u64 },
    /// It was slow in this pass.
    Slow { pass: u64 },
}

/// A read that counts against its owner.
#[derive(Debug, Clone, Copy)]
struct Stuck {
    why: Why,
    pid: u32,
    step: Step,
    /// `None` until its process is looked at again.
    owner: Option<Owner>,
}

/// What one pass lost its time with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Lost {
    /// Reads given up.
    pub(super) hangs: usize,
    /// Reads that came back, late.
    pub(super) slow: usize,
}

/// All reads that hang, and the slow ones of late.
#[derive(Debug, Default)]
pub(super) struct Suspects(Vec<Stuck>);

impl Suspects {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Threads left behind.
    pub(super) fn left_behind(&self) -> usize {
        self.0.iter().filter(|stuck| matches!(stuck.why, Why::Hangs { .. })).count()
    }

    /// `worker` hangs in a read of `pid`.
    pub(super) fn add(&mut self, worker: u64, pid: u32, step: Step) {
        self.0.push(Stuck { why: Why::Hangs { worker }, pid, step, owner: None });
    }

    /// A read of `pid` came back, late.
    pub(super) fn add_slow(&mut self, pass: u64, pid: u32, step: Step, owner: Option<Owner>) {
        let slow = |stuck: &Stuck| matches!(stuck.why, Why::Slow { .. });
        if self.0.iter().filter(|stuck| slow(stuck)).count() < SLOW_MAX {
            self.0.push(Stuck { why: Why::Slow { pass }, pid, step, owner });
        }
    }

    /// A pass begins: what was slow long ago is forgiven.
    pub(super) fn start_pass(&mut self, number: u64) {
        self.0.retain(|stuck| !matches!(stuck.why, Why::Slow { pass } if pass + SLOW_FOR <= number));
    }

    /// `worker` came back, in this pass: its read was slow. Who lets go in time could do it again at once otherwise.
    pub(super) fn came_back(&mut self, worker: u64, pass: u64) {
        let Some(place) = self.0.iter().position(|stuck| stuck.why == Why::Hangs { worker }) else { return };
        let stuck = self.0.remove(place);
        self.add_slow(pass, stuck.pid, stuck.step, stuck.owner);
    }

    /// What hangs of `pid` itself, with its kin.
    pub(super) fn of(&self, pid: u32) -> Steps {
        let hangs = |stuck: &&Stuck| stuck.pid == pid && matches!(stuck.why, Why::Hangs { .. });
        self.0.iter().filter(hangs).fold(Steps::NONE, |steps, stuck| steps.with(stuck.step.kin()))
    }

    /// What is not to be read of `pid`, now that its owner is known. `read_well`: its row of the tick before is whole;
    /// `lost` is what this pass lost so far.
    pub(super) fn avoid(&mut self, pid: u32, owner: Owner, read_well: bool, lost: Lost) -> Steps {
        let (mut kindred, mut theirs) = (0, Steps::NONE);
        for stuck in &mut self.0 {
            if stuck.pid == pid {
                stuck.owner = Some(owner);
            } else if stuck.owner.is_some_and(|other| other.is_kin(owner)) {
                kindred += 1;
                theirs = theirs.with(stuck.step.kin());
            }
        }
        let is_left_out = |suspicion| match suspicion {
            Suspicion::None => false,
            Suspicion::Care => !read_well || owner.waits,
            Suspicion::Stop => true,
        };
        let mut avoid = self.of(pid);
        if is_left_out(OF_ONE_OWNER.reached(kindred)) {
            avoid = avoid.with(theirs.and(Steps::HELD_BACK));
        }
        if is_left_out(OF_ALL.reached(self.left_behind()).max(OF_A_PASS.reached(lost.hangs))) {
            avoid = avoid.with(Steps::HELD_BACK);
        }
        if is_left_out(OF_A_PASS.reached(lost.slow)) {
            avoid = avoid.with(Step::Cmdline.kin()).with(Step::Hash.kin());
        }
        avoid
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY: Steps = Steps::of(&[Step::Cmdline, Step::Maps]);

    fn lost(hangs: usize) -> Lost {
        Lost { hangs, slow: 0 }
    }

    fn of(uid: u32, cgroup: &str) -> Owner {
        Owner::new(uid, cgroup.as_bytes(), false)
    }

    /// So many processes of `owner` hang in `step`, the first pid given.
    fn hang(suspects: &mut Suspects, first: u32, count: u32, step: Step, owner: Owner) {
        for pid in first..first + count {
            suspects.add(pid.into(), pid, step);
            assert!(suspects.avoid(pid, owner, false, lost(0)).has(step));
        }
    }

    #[test]
    fn two_hangs_cost_the_kindred_that_one_thing_and_nobody_else_anything() {
        let mut suspects = Suspects::default();
        let alice = of(1000, "/user.slice/user-1000.slice/session-1.scope");
        hang(&mut suspects, 10, 1, Step::Cmdline, alice);
        assert_eq!(suspects.avoid(90, alice, false, lost(1)), Steps::NONE, "one may be an accident");
        hang(&mut suspects, 11, 1, Step::Cmdline, alice);
        assert_eq!(suspects.avoid(90, alice, false, lost(2)), MEMORY);
        assert_eq!(suspects.avoid(91, alice, true, lost(2)), Steps::NONE, "it answered a tick ago");
        assert_eq!(suspects.avoid(91, Owner { waits: true, ..alice }, true, lost(2)), MEMORY);
        assert_eq!(suspects.avoid(92, of(1001, "/user.slice/user-1001.slice/x"), false, lost(2)), Steps::NONE);
        // Another of her ids, in her slice; her cron job, elsewhere.
        assert_eq!(suspects.avoid(93, of(100_000, "/user.slice/user-1000.slice/y"), false, lost(2)), MEMORY);
        assert_eq!(suspects.avoid(94, of(1000, "/system.slice/cron.service"), false, lost(2)), MEMORY);
        assert_eq!(suspects.avoid(95, of(0, "/system.slice/cron.service"), false, lost(2)), Steps::NONE);

        hang(&mut suspects, 12, 2, Step::Cmdline, alice);
        assert_eq!(suspects.avoid(91, alice, true, lost(2)), MEMORY);
        for worker in 10..14 {
            suspects.came_back(worker, 1);
        }
        assert_eq!((suspects.left_behind(), suspects.of(10)), (0, Steps::NONE));
        assert_eq!(suspects.avoid(90, alice, true, lost(0)), MEMORY, "they may do it again");
        suspects.start_pass(1 + SLOW_FOR);
        assert_eq!(suspects.avoid(90, alice, false, lost(0)), Steps::NONE);
    }

    #[test]
    fn root_in_a_container_is_not_root_on_the_host() {
        let mut suspects = Suspects::default();
        hang(&mut suspects, 10, 4, Step::Stat, of(0, "/docker/0123/x"));
        assert_eq!(suspects.avoid(90, of(0, "/docker/0123/y"), true, lost(0)), Steps::HELD_BACK);
        assert_eq!(suspects.avoid(91, of(0, "/docker/4567"), false, lost(0)), Steps::NONE);
        assert_eq!(suspects.avoid(92, of(0, "/system.slice/sshd.service"), false, lost(0)), Steps::NONE);
        assert_eq!(suspects.avoid(93, of(0, "/"), false, lost(0)), Steps::NONE);
    }

    #[test]
    fn everyone_is_read_with_care_only_when_threads_or_time_run_out() {
        let mut suspects = Suspects::default();
        let other = of(5, "/system.slice/other.service");
        assert_eq!(suspects.avoid(90, other, false, lost(2)), Steps::NONE);
        assert_eq!(suspects.avoid(90, other, false, lost(3)), Steps::HELD_BACK);
        assert_eq!(suspects.avoid(90, other, true, lost(3)), Steps::NONE);
        assert_eq!(suspects.avoid(90, other, true, lost(4)), Steps::HELD_BACK);
        for pid in 0..20 {
            let alone = suspects.avoid(90, other, false, lost(0));
            assert_eq!(alone == Steps::NONE, pid < 16, "{pid}");
            assert_eq!(suspects.avoid(90, other, true, lost(0)), Steps::NONE);
            hang(&mut suspects, pid, 1, Step::Hash, of(1000 + pid, &format!("/x/{pid}")));
        }
        assert_eq!(suspects.avoid(90, other, true, lost(0)), Steps::HELD_BACK);
    }

    #[test]
    fn slow_reads_count_like_hangs_take_no_thread_and_are_forgiven() {
        let mut suspects = Suspects::default();
        let alice = of(1000, "/user.slice/user-1000.slice/session-1.scope");
        for pid in 10..12 {
            suspects.add_slow(1, pid, Step::Hash, Some(alice));
        }
        let hash = Step::Hash.kin();
        assert_eq!((suspects.avoid(90, alice, false, lost(0)), suspects.left_behind()), (hash, 0));
        suspects.start_pass(SLOW_FOR);
        assert_eq!(suspects.avoid(90, alice, false, lost(0)), hash);
        suspects.start_pass(1 + SLOW_FOR);
        assert!(suspects.is_empty());
        let other = of(5, "/x");
        assert_eq!(suspects.avoid(90, other, true, Lost { hangs: 0, slow: 4 }), MEMORY.with(hash));
        for pid in 0..1_000 {
            suspects.add_slow(2, pid, Step::Hash, None);
        }
        assert_eq!(suspects.0.len(), SLOW_MAX);
    }
}
