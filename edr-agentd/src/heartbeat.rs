//! Progress of a thread, for the watchdog. systemd is told that the agent lives only when every thread has moved
//! since, or rightly waits: a ping from a timer would hide a hung one.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// One thread's pulse.
#[derive(Debug, Default)]
pub struct Heartbeat {
    beats: AtomicU64,
    /// In a wait that ends by itself.
    idle: AtomicBool,
}

impl Heartbeat {
    /// The thread moved.
    pub fn beat(&self) {
        self.beats.fetch_add(1, Ordering::Relaxed);
    }

    /// The thread waits for its next work.
    pub fn idle<T>(&self, wait: impl FnOnce() -> T) -> T {
        self.idle.store(true, Ordering::Relaxed);
        let result = wait();
        self.idle.store(false, Ordering::Relaxed);
        self.beat();
        result
    }
}

/// Whoever looks at a heartbeat, and what it saw last.
#[derive(Debug, Default)]
pub struct Observer {
    seen: u64,
}

impl Observer {
    /// Whether the thread moved since the last look, or rightly waits.
    pub fn is_alive(&mut self, heartbeat: &Heartbeat) -> bool {
        let beats = heartbeat.beats.load(Ordering::Relaxed);
        let moved = std::mem::replace(&mut self.seen, beats) != beats;
        moved || heartbeat.idle.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_neither_moves_nor_waits_is_not_alive() {
        let (heartbeat, mut observer) = (Heartbeat::default(), Observer::default());
        assert!(!observer.is_alive(&heartbeat));
        heartbeat.beat();
        assert!(observer.is_alive(&heartbeat));
        assert!(!observer.is_alive(&heartbeat));
        heartbeat.idle(|| assert!(observer.is_alive(&heartbeat) && observer.is_alive(&heartbeat)));
        assert!(observer.is_alive(&heartbeat));
        assert!(!observer.is_alive(&heartbeat));
    }
}
