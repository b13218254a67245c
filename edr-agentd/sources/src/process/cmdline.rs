//! `/proc/PID/cmdline` (proc_pid_cmdline(5)).

use edr_wire::Bytes;
use edr_wire::limits::{ARGV_BYTES_MAX, ARGV_MAX};

/// Splits a command line at its NULs, exactly: empty arguments and changes by the process are kept. Returns true when
/// all arguments are within the limits.
pub(super) fn split_cmdline(cmdline: &[u8], argv: &mut Vec<Bytes>) -> bool {
    argv.clear();
    let kept = &cmdline[..cmdline.len().min(ARGV_BYTES_MAX)];
    // Each argument ends with a NUL; a command line rewritten by the process (setproctitle) may lack the last NUL.
    let ended = kept.strip_suffix(b"\0").unwrap_or(kept);
    if kept.is_empty() {
        return cmdline.is_empty();
    }
    let mut arguments = ended.split(|&b| b == 0);
    argv.extend(arguments.by_ref().take(ARGV_MAX).map(Bytes::from));
    arguments.next().is_none() && kept.len() == cmdline.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(cmdline: &[u8]) -> (Vec<Bytes>, bool) {
        let mut argv = vec![Bytes::from(b"old")];
        let all = split_cmdline(cmdline, &mut argv);
        (argv, all)
    }

    #[test]
    fn empty_arguments_and_a_missing_end_are_kept() {
        let arguments = |list: &[&[u8]]| list.iter().map(Bytes::from).collect::<Vec<_>>();
        assert_eq!(split(b""), (vec![], true));
        assert_eq!(split(b"\0"), (arguments(&[b""]), true));
        assert_eq!(split(b"\0\0\0"), (arguments(&[b"", b"", b""]), true));
        assert_eq!(split(b"a\0\0b\0"), (arguments(&[b"a", b"", b"b"]), true));
        assert_eq!(split(b"sshd: root@pts/0"), (arguments(&[b"sshd: root@pts/0"]), true));
    }

    #[test]
    fn limits_are_reported() {
        let many = vec![b'a'; 1].into_iter().chain([0]).cycle().take(2 * (ARGV_MAX + 1)).collect::<Vec<u8>>();
        let (argv, all) = split(&many);
        assert!(argv.len() == ARGV_MAX && !all);
        let long = vec![b'x'; ARGV_BYTES_MAX + 1];
        let (argv, all) = split(&long);
        assert!(argv.len() == 1 && argv[0].0.len() == ARGV_BYTES_MAX && !all);
    }

    proptest! {
        #[test]
        fn arguments_come_back(
            argv in proptest::collection::vec(proptest::collection::vec(1_u8.., 0..20), 1..20)
        ) {
            let cmdline: Vec<u8> = argv.iter().flat_map(|argument| argument.iter().copied().chain([0])).collect();
            let expected: Vec<Bytes> = argv.iter().map(Bytes::from).collect();
            prop_assert_eq!(split(&cmdline), (expected, true));
        }
    }
}
