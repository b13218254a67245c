//! The kernel's counts of sockets by protocol in a namespace: cheap to read, and not forgeable from inside.

use std::io;

use edr_wire::snapshot::GapReason;

use super::SOURCE;
use super::proc_net;
use super::tables::{CountCoverage, SocketTable, TABLES};
use crate::common::GapCollector;

/// `protocols` and `sockstat` of `/proc/PID/net`.
#[derive(Debug)]
pub(super) struct SocketCounts {
    in_use: Vec<(Vec<u8>, u64)>,
    time_wait: Option<u64>,
}

impl SocketCounts {
    /// Reads both files through `read`; `None` without the first.
    pub(super) fn read(mut read: impl FnMut(&str, &mut Vec<u8>) -> io::Result<()>, text: &mut Vec<u8>) -> Option<Self> {
        read("protocols", text).ok()?;
        let in_use = proc_net::in_use(text).map(|(name, count)| (name.to_vec(), count)).collect();
        let time_wait = read("sockstat", text).ok().and_then(|()| proc_net::time_wait(text));
        Some(Self { in_use, time_wait })
    }

    /// Sockets in use of a table; `None` when the kernel has none of its protocols.
    pub(super) fn of(&self, table: &SocketTable) -> Option<u64> {
        let mut counts = self.in_use.iter().filter(|(name, _)| table.is_registered_as(name));
        let (_, first) = counts.next()?;
        Some(counts.fold(*first, |sum, (_, count)| sum.saturating_add(*count)))
    }

    /// True when a query is needless: the kernel has no such protocol, or counts every socket of the protocol and
    /// counts 0.
    pub(super) fn shows_empty(&self, table: &SocketTable) -> bool {
        match self.of(table) {
            None => true,
            Some(count) => count == 0 && table.counted == CountCoverage::Whole,
        }
    }

    /// True when the file of another namespace need not be read: the file would be empty, or would contain only the
    /// kernel's own sockets, which are listed in the agent's namespace.
    pub(super) fn shows_empty_file(&self, table: &SocketTable) -> bool {
        let none_beside = match table.counted {
            CountCoverage::Whole | CountCoverage::ButKernels => true,
            CountCoverage::TcpInUse => self.time_wait == Some(0),
            CountCoverage::Unsure => false,
        };
        self.of(table).is_none_or(|count| count == 0 && none_beside)
    }

    /// Reports families of the kernel without a table here: `AF_ALG`, TIPC, Bluetooth, …
    pub(super) fn report_unlisted(&self, gaps: &mut GapCollector) {
        for (name, count) in &self.in_use {
            if !TABLES.iter().any(|table| table.is_registered_as(name)) {
                let detail = format!("the kernel counts {count} sockets in use");
                gaps.add(SOURCE, None, name, GapReason::Unsupported, &detail);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(protocols: &str, sockstat: Option<&str>) -> SocketCounts {
        let read = |file: &str, text: &mut Vec<u8>| {
            let content = if file == "protocols" { Some(protocols) } else { sockstat };
            text.clear();
            text.extend_from_slice(content.ok_or(io::ErrorKind::NotFound)?.as_bytes());
            Ok(())
        };
        SocketCounts::read(read, &mut Vec::new()).unwrap()
    }

    fn names(wanted: impl Fn(&SocketTable) -> bool) -> Vec<&'static str> {
        TABLES.iter().filter(|table| wanted(table)).map(|table| table.name).collect()
    }

    #[test]
    fn only_tables_that_may_hold_sockets_are_asked_for() {
        let protocols = "heading\nTCP 1 0\nTCPv6 1 0\nUDP 1 2\nUDPv6 1 0\nNETLINK 1 0\nUNIX 1 0\nUNIX-STREAM 1 1\n";
        let (idle, busy) = (Some("TCP: inuse 0 orphan 0 tw 0\n"), Some("TCP: inuse 0 orphan 0 tw 1\n"));
        // sock_diag also lists bound TCP sockets, which have no count, and the kernel's own netlink sockets.
        assert_eq!(
            names(|table| !counts(protocols, idle).shows_empty(table)),
            ["tcp", "tcp6", "udp", "unix", "netlink"]
        );
        assert_eq!(names(|table| !counts(protocols, idle).shows_empty_file(table)), ["udp", "unix"]);
        let with_time_wait = ["tcp", "tcp6", "udp", "unix"];
        assert_eq!(names(|table| !counts(protocols, busy).shows_empty_file(table)), with_time_wait);
        assert_eq!(names(|table| !counts(protocols, None).shows_empty_file(table)), with_time_wait, "nobody counted");
    }

    #[test]
    fn a_family_without_a_table_is_a_gap_with_its_count() {
        let mut gaps = GapCollector::default();
        counts("heading\nTCP 1 5\nALG 1 3\nUNIX 1 1\n", None).report_unlisted(&mut gaps);
        let gaps = gaps.take();
        assert_eq!(
            (gaps.len(), gaps[0].field.as_ref(), gaps[0].reason),
            (1, b"ALG".as_slice(), GapReason::Unsupported)
        );
        assert_eq!(gaps[0].detail, "the kernel counts 3 sockets in use");
    }
}
