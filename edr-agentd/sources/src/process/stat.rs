//! `/proc/PID/stat` (proc_pid_stat(5)).

use super::number::{decimal, signed};
use super::{MalformedFile, malformed};

/// The fields of `stat` needed for a row, under the names of proc_pid_stat(5), without values that change by
/// themselves: two equal values mean that the row's part of `stat` is unchanged.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Stat<'a> {
    pub(super) pid: u32,
    /// Field 2, without its parentheses. Up to 15 bytes for a user process, up to 63 for a kernel thread.
    pub(super) comm: &'a [u8],
    pub(super) state: u8,
    pub(super) ppid: u32,
    pub(super) pgrp: u32,
    pub(super) session: u32,
    pub(super) tty_nr: u32,
    pub(super) tpgid: i32,
    pub(super) flags: u32,
    pub(super) utime: u64,
    pub(super) stime: u64,
    pub(super) priority: i32,
    pub(super) nice: i32,
    pub(super) num_threads: u32,
    pub(super) starttime: u64,
    pub(super) vsize: u64,
    pub(super) rss: u64,
    /// Bottom of the stack; every execve(2) changes the address. 0 without the right to trace the process.
    pub(super) startstack: u64,
    /// End of the environment. 0 while execve(2) has not put the arguments in their place yet, and without the right to
    /// trace the process.
    pub(super) env_end: u64,
}

impl Stat<'_> {
    /// `PF_KTHREAD` of `include/linux/sched.h`: the only proof of a kernel thread.
    pub(super) fn is_kernel_thread(&self) -> bool {
        self.flags & procfs::process::StatFlags::PF_KTHREAD.bits() != 0
    }

    /// Zombie or dead: no memory, no descriptors, no executable any more.
    pub(super) fn is_dead(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }
}

/// Parses `stat`. A process may be named `a) R 1 (b`, so the fields start after the *last* parenthesis.
///
/// The crate `procfs` parses all 52 fields into `String`s, and loses a `comm` with invalid UTF-8; this parser takes a
/// third of the time (0.4 µs instead of 1.5 µs a line).
pub(super) fn parse_stat(stat: &[u8]) -> Result<Stat<'_>, MalformedFile> {
    const FILE: &str = "stat";
    let open = stat.iter().position(|&b| b == b'(').ok_or(malformed(FILE, "("))?;
    let close = stat.iter().rposition(|&b| b == b')').filter(|&close| close > open).ok_or(malformed(FILE, ")"))?;
    let pid = decimal(stat[..open].trim_ascii_end()).ok_or(malformed(FILE, "pid"))?;

    let mut fields = [&[][..]; 49]; // field 3 (state) to field 51 (env_end), which Linux 3.5 added
    let mut rest = stat[close + 1..].trim_ascii().split(|&b| b == b' ');
    for field in &mut fields {
        *field = rest.next().ok_or(malformed(FILE, "51 fields"))?;
    }
    let field = |number: usize| fields[number - 3];
    let unsigned = |number: usize, name: &'static str| decimal(field(number)).ok_or(malformed(FILE, name));
    let int = |number: usize, name: &'static str| {
        signed(field(number)).and_then(|n| i32::try_from(n).ok()).ok_or(malformed(FILE, name))
    };
    // A pid of another pid namespace reads as 0, a session without a leader there as -1.
    let id = |number: usize, name: &'static str| int(number, name).map(|n| u32::try_from(n).unwrap_or(0));

    Ok(Stat {
        pid: u32::try_from(pid).map_err(|_| malformed(FILE, "pid"))?,
        comm: &stat[open + 1..close],
        state: match field(3) {
            [letter] if letter.is_ascii_alphabetic() => *letter,
            _ => return Err(malformed(FILE, "state")),
        },
        ppid: id(4, "ppid")?,
        pgrp: id(5, "pgrp")?,
        session: id(6, "session")?,
        // Printed as an int, made by new_encode_dev(): a number of 32 bits.
        tty_nr: int(7, "tty_nr")?.cast_unsigned(),
        tpgid: int(8, "tpgid")?,
        flags: u32::try_from(unsigned(9, "flags")?).map_err(|_| malformed(FILE, "flags"))?,
        utime: unsigned(14, "utime")?,
        stime: unsigned(15, "stime")?,
        priority: int(18, "priority")?,
        nice: int(19, "nice")?,
        num_threads: u32::try_from(unsigned(20, "num_threads")?).map_err(|_| malformed(FILE, "num_threads"))?,
        starttime: unsigned(22, "starttime")?,
        vsize: unsigned(23, "vsize")?,
        rss: signed(field(24)).ok_or(malformed(FILE, "rss"))?.max(0).cast_unsigned(),
        startstack: unsigned(28, "startstack")?,
        env_end: unsigned(51, "env_end")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TAIL: &[u8] =
        b" S 1 42 43 34817 42 4194560 90 1 2 3 17 5 1 1 20 0 4 0 77777 8192000 345 18446744073709551615 \
        1 2 140723000000000 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0 1 2 3 4 5 6 7 0\n";

    fn with_comm(comm: &[u8]) -> Vec<u8> {
        [b"42 (", comm, b")", TAIL].concat()
    }

    #[test]
    fn fields_are_as_in_the_manual_page() {
        let line = with_comm(b"sshd");
        let stat = parse_stat(&line).unwrap();
        assert_eq!((stat.pid, stat.comm, stat.state), (42, b"sshd".as_slice(), b'S'));
        assert_eq!((stat.ppid, stat.pgrp, stat.session, stat.tty_nr, stat.tpgid), (1, 42, 43, 34817, 42));
        assert_eq!((stat.flags, stat.utime, stat.stime), (4_194_560, 17, 5));
        assert_eq!((stat.priority, stat.nice, stat.num_threads, stat.starttime), (20, 0, 4, 77_777));
        assert_eq!((stat.vsize, stat.rss, stat.startstack), (8_192_000, 345, 140_723_000_000_000));
        assert_eq!(stat.env_end, 7);
        assert!(!stat.is_kernel_thread() && !stat.is_dead());
    }

    #[test]
    fn a_comm_that_imitates_the_fields_stays_a_comm() {
        for comm in [b") R 1 1 \n\x1b[2J".as_slice(), b"", b")", b"((((", b"a) Z 0 0 0 0", b"\xff\xfe\n"] {
            let line = with_comm(comm);
            let stat = parse_stat(&line).unwrap();
            assert_eq!((stat.comm, stat.state, stat.ppid), (comm, b'S', 1), "{comm:?}");
        }
    }

    #[test]
    fn a_cut_line_is_an_error() {
        let line = with_comm(b"x");
        let starttime_ends = line.windows(5).position(|w| w == b"77777").unwrap() + 5;
        for len in 0..starttime_ends {
            assert!(parse_stat(&line[..len]).is_err(), "{len}");
        }
    }

    #[test]
    fn a_line_of_the_kernel_is_parsed_like_procfs() {
        let line = std::fs::read("/proc/self/stat").unwrap();
        let ours = parse_stat(&line).unwrap();
        let theirs = <procfs::process::Stat as procfs::FromRead>::from_read(line.as_slice()).unwrap();
        assert_eq!(i64::from(ours.pid), i64::from(theirs.pid));
        assert_eq!((ours.starttime, ours.utime, ours.vsize), (theirs.starttime, theirs.utime, theirs.vsize));
        assert_eq!((ours.rss, i64::from(ours.num_threads)), (theirs.rss, theirs.num_threads));
        assert_eq!((ours.startstack, ours.flags), (theirs.startstack, theirs.flags));
        assert_eq!(Some(ours.env_end), theirs.env_end);
    }

    proptest! {
        #[test]
        fn any_comm_comes_back(comm in proptest::collection::vec(any::<u8>(), 0..64)) {
            let line = with_comm(&comm);
            let stat = parse_stat(&line).unwrap();
            prop_assert_eq!((stat.comm, stat.starttime), (comm.as_slice(), 77_777));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse_stat(&bytes);
        }
    }
}
