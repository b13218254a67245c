//! Meaning of error numbers, in one place.

use std::io;

use edr_wire::snapshot::GapReason;
use rustix::io::Errno;

/// The gap reason for a failed read of a kernel file or of a log.
pub fn reason(error: &io::Error) -> GapReason {
    let Some(errno) = Errno::from_io_error(error) else {
        return match error.kind() {
            io::ErrorKind::TimedOut => GapReason::Stuck,
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => GapReason::Malformed,
            _ => GapReason::Io,
        };
    };
    match errno {
        Errno::NOENT | Errno::SRCH => GapReason::Gone,
        Errno::ACCESS | Errno::PERM => GapReason::Denied,
        Errno::TIMEDOUT => GapReason::Stuck,
        Errno::NAMETOOLONG | Errno::TOOBIG | Errno::MSGSIZE => GapReason::TooLong,
        Errno::NOSYS | Errno::OPNOTSUPP | Errno::PROTONOSUPPORT | Errno::AFNOSUPPORT => GapReason::Unsupported,
        Errno::INVAL | Errno::ILSEQ => GapReason::Malformed,
        Errno::MFILE | Errno::NFILE | Errno::NOMEM => GapReason::Budget,
        _ => GapReason::Io,
    }
}
