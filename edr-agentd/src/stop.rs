//! The request to end all threads.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

/// Set once, seen by all: a flag to look at, and a descriptor to wait for.
#[derive(Debug)]
pub struct Stop {
    requested: AtomicBool,
    /// Readable from the request on; never read, so that the state stays.
    event: OwnedFd,
}

impl Stop {
    /// Nothing is requested yet.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn new() -> io::Result<Self> {
        Ok(Self { requested: AtomicBool::new(false), event: eventfd(0, EventfdFlags::CLOEXEC)? })
    }

    /// Asks every thread to end.
    pub fn request(&self) {
        self.requested.store(true, Ordering::Release);
        // An eventfd takes 2^64 - 1 such writes before a write fails.
        let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
    }

    /// True after the request.
    pub fn is_requested(&self) -> bool {
        self.requested.load(Ordering::Acquire)
    }

    /// Waits for the request, at most `timeout`; true after the request.
    pub fn wait(&self, timeout: Duration) -> bool {
        self.wait_or(&[], Some(timeout))
    }

    /// Waits for the request, for a readable descriptor in `others`, or for `timeout`; true after the request.
    pub fn wait_or(&self, others: &[BorrowedFd<'_>], timeout: Option<Duration>) -> bool {
        let mut watched = vec![PollFd::new(&self.event, PollFlags::IN)];
        watched.extend(others.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)));
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        // EINTR and ENOMEM: the caller checks its clock and calls again.
        let _ = poll(&mut watched, timeout.as_ref());
        self.is_requested()
    }
}

impl AsFd for Stop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_ends_present_and_later_waits() {
        let stop = Stop::new().unwrap();
        assert!(!stop.wait(Duration::ZERO));
        std::thread::scope(|scope| {
            let waiting = [(), ()].map(|()| scope.spawn(|| stop.wait(Duration::from_secs(60))));
            stop.request();
            assert!(waiting.into_iter().all(|thread| thread.join().unwrap()));
        });
        assert!(stop.wait(Duration::from_secs(60)));
    }
}
