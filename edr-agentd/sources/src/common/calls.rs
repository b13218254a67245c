//! Counts the system calls of the sources.
//!
//! The kernel does not count a thread's system calls. So every function with a system call adds to two numbers of the
//! thread here, in less than a nanosecond beside the microsecond of the call. Calls inside libraries are not seen; a
//! source that reads through a library has no count.

use std::cell::Cell;
use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::ops::Sub;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::RawDir;
use rustix::io::Errno;

/// System calls of a thread.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Calls {
    /// System calls.
    pub made: u64,
    /// Bytes returned: contents of files and links, listings, messages.
    pub bytes: u64,
    /// CPU time of other threads on behalf of this thread, ns; not included in this thread's CPU clock.
    pub cpu_ns: u64,
}

impl Sub for Calls {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            made: self.made.saturating_sub(before.made),
            bytes: self.bytes.saturating_sub(before.bytes),
            cpu_ns: self.cpu_ns.saturating_sub(before.cpu_ns),
        }
    }
}

thread_local! {
    static CALLS: Cell<Calls> = const { Cell::new(Calls { made: 0, bytes: 0, cpu_ns: 0 }) };
}

/// Calls of this thread since its start.
pub(crate) fn so_far() -> Calls {
    CALLS.get()
}

/// Adds the calls of another thread on behalf of this thread.
pub(crate) fn add(calls: Calls) {
    let before = CALLS.get();
    CALLS.set(Calls {
        made: before.made + calls.made,
        bytes: before.bytes + calls.bytes,
        cpu_ns: before.cpu_ns + calls.cpu_ns,
    });
}

/// Counts a call without bytes, or a failed call.
pub(crate) fn one() {
    add(Calls { made: 1, ..Calls::default() });
}

/// Counts a call that returned `bytes`.
pub(crate) fn got(bytes: usize) {
    add(Calls { made: 1, bytes: bytes as u64, cpu_ns: 0 });
}

/// Counts an open(2) and, after success, its close(2).
pub(crate) fn opened<E>(file: Result<OwnedFd, E>) -> Result<OwnedFd, E> {
    add(Calls { made: 1 + u64::from(file.is_ok()), ..Calls::default() });
    file
}

/// Counts a read(2) or a similar call.
pub(crate) fn read<E>(length: Result<usize, E>) -> Result<usize, E> {
    got(*length.as_ref().unwrap_or(&0));
    length
}

/// Calls `visit` with each name in an open folder, from the position of `dir` on.
pub(crate) fn each_name(
    dir: impl AsFd,
    buf: &mut [MaybeUninit<u8>],
    mut visit: impl FnMut(&CStr),
) -> Result<(), Errno> {
    let mut entries = RawDir::new(dir, buf);
    loop {
        let asks = entries.is_buffer_empty();
        let Some(entry) = entries.next().transpose()? else {
            one();
            return Ok(());
        };
        let name = entry.file_name();
        // Size of the kernel's record: 19 bytes of numbers, the name with its NUL, up to the next multiple of 8.
        let bytes = (19 + name.count_bytes() + 1).next_multiple_of(8) as u64;
        add(Calls { made: u64::from(asks), bytes, cpu_ns: 0 });
        visit(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_counts_all_its_calls_including_the_last_empty_one() {
        let folder = tempfile::tempdir().unwrap();
        for name in 0..100 {
            std::fs::write(folder.path().join(format!("{name:012}")), "").unwrap();
        }
        for (buffer, calls) in [(32 << 10, 2), (400, 10)] {
            let dir = OwnedFd::from(std::fs::File::open(folder.path()).unwrap());
            let before = so_far();
            let mut names = 0;
            each_name(&dir, &mut vec![MaybeUninit::uninit(); buffer], |_| names += 1).unwrap();
            let made = so_far() - before;
            assert_eq!(names, 102);
            assert!(made.made >= calls && made.made <= calls + 2, "{made:?}");
            assert_eq!(made.bytes, 100 * 32 + 2 * 24);
        }
    }

    #[test]
    fn an_open_counts_its_close_unless_the_open_failed() {
        let before = so_far();
        assert!(opened::<Errno>(Ok(std::fs::File::open("/dev/null").unwrap().into())).is_ok());
        assert!(opened(Err(Errno::NOENT)).is_err());
        assert_eq!(read::<Errno>(Ok(7)), Ok(7));
        one();
        assert_eq!(so_far() - before, Calls { made: 5, bytes: 7, cpu_ns: 0 });
    }
}
