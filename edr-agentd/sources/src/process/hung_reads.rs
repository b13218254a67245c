//! Limits the damage of hung `/proc` reads: which steps are left out, of which processes.
//!
//! A hung read costs a thread and the time until the thread is abandoned; a slow read costs time alone. One user may
//! have thousands of such processes, which must neither stop a snapshot nor empty the rows of other users. So a read
//! counts against the owner of its process, and the counts decide ([`policy::left_out`]). `status` and `cgroup` are
//! always read, so every process keeps a row.

use super::step::{Step, Steps};
use crate::common::hung::AbandonedThread;
use crate::common::hung::policy::{self, ReadCounts, SLOW_PASSES, SLOW_READS_MAX};
use crate::common::owner::Owner;

/// A hung or slow read that counts against its owner.
#[derive(Debug)]
struct HungRead {
    pid: u32,
    step: Step,
    /// `None` until the process is read again.
    owner: Option<Owner>,
    /// `None` for a slow read, and for a hung read that returned.
    abandoned: Option<AbandonedThread>,
    /// Pass until which a slow read counts.
    until: u64,
}

/// All hung reads, and recent slow reads.
#[derive(Debug, Default)]
pub(super) struct HungReads {
    reads: Vec<HungRead>,
    pass: u64,
    hung_in_pass: usize,
    slow_in_pass: usize,
}

impl HungReads {
    pub(super) fn is_empty(&self) -> bool {
        self.reads.is_empty()
    }

    /// Threads abandoned now.
    pub(super) fn abandoned(&self) -> usize {
        self.reads.iter().filter(|read| read.abandoned.is_some()).count()
    }

    /// Begins a pass and forgets old slow reads. A hung read that returned counts as a slow read from now on: otherwise
    /// the process could hang again at once.
    pub(super) fn start_pass(&mut self) {
        self.pass += 1;
        (self.hung_in_pass, self.slow_in_pass) = (0, 0);
        for read in &mut self.reads {
            if read.abandoned.take_if(|abandoned| abandoned.has_returned()).is_some() {
                read.until = self.pass + SLOW_PASSES;
            }
        }
        self.reads.retain(|read| read.abandoned.is_some() || self.pass < read.until);
    }

    /// Adds the read of an abandoned thread.
    pub(super) fn add(&mut self, abandoned: AbandonedThread) {
        let (pid, step) = (abandoned.place.pid, Step::of(abandoned.place.step));
        self.hung_in_pass += 1;
        self.reads.push(HungRead { pid, step, owner: None, abandoned: Some(abandoned), until: 0 });
    }

    /// Adds a slow read.
    pub(super) fn add_slow(&mut self, pid: u32, step: Step, owner: Option<Owner>) {
        self.slow_in_pass += 1;
        if self.reads.len() - self.abandoned() < SLOW_READS_MAX {
            self.reads.push(HungRead { pid, step, owner, abandoned: None, until: self.pass + SLOW_PASSES });
        }
    }

    /// The steps that hang in `pid` itself, with their related steps ([`Step::kin`]).
    pub(super) fn of(&self, pid: u32) -> Steps {
        let hung = self.reads.iter().filter(|read| read.pid == pid && read.abandoned.is_some());
        hung.fold(Steps::NONE, |steps, read| steps.with(read.step.kin()))
    }

    /// The steps to leave out of `pid`, a process of `owner`. The row is doubtful when the row of the tick before was
    /// not whole, or when the process waits for storage.
    pub(super) fn left_out(&mut self, pid: u32, owner: Owner, is_doubtful: bool) -> Steps {
        let (mut of_owner, mut hung_there) = (0, Steps::NONE);
        for read in &mut self.reads {
            if read.pid == pid {
                read.owner = Some(owner);
            } else if read.owner.is_some_and(|other| other.is_related(owner)) {
                of_owner += 1;
                hung_there = hung_there.with(read.step.kin());
            }
        }
        let counts = ReadCounts {
            of_owner,
            abandoned: self.abandoned(),
            hung_in_pass: self.hung_in_pass,
            slow_in_pass: self.slow_in_pass,
        };
        let decision = policy::left_out(counts, is_doubtful);
        let when = |is_left_out, steps| if is_left_out { steps } else { Steps::NONE };
        self.of(pid)
            .with(when(decision.as_of_owner, hung_there.and(Steps::HELD_BACK)))
            .with(when(decision.most, Steps::HELD_BACK))
            .with(when(decision.memory_and_hash, Steps::MEMORY.with(Steps::HASH)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::common::hung::{JobProgress, ReadPosition};

    fn of(uid: u32, cgroup: &str) -> Owner {
        Owner::new(uid, cgroup.as_bytes())
    }

    fn hung(pid: u32, step: Step, thread: &Arc<JobProgress>) -> AbandonedThread {
        AbandonedThread::new(ReadPosition { pid, step: step.into() }, String::new(), thread)
    }

    /// Adds hung reads of an earlier pass: `count` processes of `owner`, in `step`. The reads return when the result is
    /// dropped.
    fn hang(reads: &mut HungReads, first: u32, count: u32, step: Step, owner: Owner) -> Vec<Arc<JobProgress>> {
        let threads = (first..first + count).map(|pid| {
            let thread = Arc::default();
            reads.add(hung(pid, step, &thread));
            assert!(reads.left_out(pid, owner, true).has(step));
            thread
        });
        let threads = threads.collect();
        reads.start_pass();
        threads
    }

    #[test]
    fn two_hangs_leave_out_a_step_of_their_owner_only() {
        let mut reads = HungReads::default();
        let alice = of(1000, "/user.slice/user-1000.slice/session-1.scope");
        let mut threads = hang(&mut reads, 10, 1, Step::Cmdline, alice);
        assert_eq!(reads.left_out(90, alice, true), Steps::NONE, "one may be an accident");
        threads.extend(hang(&mut reads, 11, 1, Step::Cmdline, alice));
        assert_eq!(reads.left_out(90, alice, true), Steps::MEMORY);
        assert_eq!(reads.left_out(91, alice, false), Steps::NONE, "its row was whole a tick ago");
        assert_eq!(reads.left_out(92, of(1001, "/user.slice/user-1001.slice/x"), true), Steps::NONE);
        // Another of her ids, in her slice; her cron job, elsewhere.
        assert_eq!(reads.left_out(93, of(100_000, "/user.slice/user-1000.slice/y"), true), Steps::MEMORY);
        assert_eq!(reads.left_out(94, of(1000, "/system.slice/cron.service"), true), Steps::MEMORY);
        assert_eq!(reads.left_out(95, of(0, "/system.slice/cron.service"), true), Steps::NONE);

        threads.extend(hang(&mut reads, 12, 2, Step::Cmdline, alice));
        assert_eq!((reads.left_out(91, alice, false), reads.abandoned()), (Steps::MEMORY, 4));
        drop(threads);
        reads.start_pass();
        assert_eq!((reads.abandoned(), reads.of(10)), (0, Steps::NONE));
        for _ in 1..SLOW_PASSES {
            reads.start_pass();
            assert_eq!(reads.left_out(90, alice, false), Steps::MEMORY, "they may hang again");
        }
        reads.start_pass();
        assert!(reads.is_empty());
    }

    #[test]
    fn root_in_a_container_is_not_root_on_the_host() {
        let mut reads = HungReads::default();
        let _threads = hang(&mut reads, 10, 4, Step::Stat, of(0, "/docker/0123/x"));
        assert_eq!(reads.left_out(90, of(0, "/docker/0123/y"), false), Steps::HELD_BACK);
        for elsewhere in ["/docker/4567", "/system.slice/sshd.service", "/"] {
            assert_eq!(reads.left_out(91, of(0, elsewhere), true), Steps::NONE, "{elsewhere}");
        }
    }

    #[test]
    fn everyone_is_reached_when_a_pass_or_the_threads_run_out() {
        let (mut reads, other) = (HungReads::default(), of(5, "/system.slice/other.service"));
        let mut threads = Vec::new();
        for pid in 0..20 {
            assert_eq!(reads.left_out(90, other, true) == Steps::NONE, pid < 16, "{pid}");
            threads.extend(hang(&mut reads, pid, 1, Step::Hash, of(1000 + pid, &format!("/x/{pid}"))));
        }
        assert_eq!(reads.left_out(90, other, false), Steps::HELD_BACK);

        let mut reads = HungReads::default();
        for pid in 1..=4 {
            reads.add(hung(pid, Step::Hash, &threads[0]));
            assert_eq!(reads.left_out(90, other, true) == Steps::HELD_BACK, pid >= 3, "{pid}");
            assert_eq!(reads.left_out(90, other, false) == Steps::HELD_BACK, pid >= 4, "{pid}");
        }
    }

    #[test]
    fn slow_reads_count_like_hangs_take_no_thread_and_are_forgiven() {
        let mut reads = HungReads::default();
        let alice = of(1000, "/user.slice/user-1000.slice/session-1.scope");
        for pid in 10..14 {
            reads.add_slow(pid, Step::Hash, Some(alice));
        }
        let everyone = Steps::MEMORY.with(Steps::HASH);
        assert_eq!((reads.left_out(90, of(5, "/x"), false), reads.abandoned()), (everyone, 0));
        for _ in 1..SLOW_PASSES {
            reads.start_pass();
            assert_eq!(reads.left_out(90, alice, false), Steps::HASH);
            assert_eq!(reads.left_out(90, of(5, "/x"), true), Steps::NONE);
        }
        reads.start_pass();
        assert!(reads.is_empty());
        for pid in 0..1_000 {
            reads.add_slow(pid, Step::Hash, None);
        }
        assert_eq!(reads.reads.len(), SLOW_READS_MAX);
    }
}
