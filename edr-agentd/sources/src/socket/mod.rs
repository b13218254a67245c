//! Sockets of every family, in every network namespace.
//!
//! The agent's own namespace is read by netlink ([`netlink`]), which has the most facts. Other namespaces cannot be
//! entered from the unit's sandbox (`setns(2)` is refused), so the files in `/proc/PID/net` of a process in each are
//! read ([`proc_net`]). Parsers take bytes and know no file. A table that the kernel does not list is reported as a
//! gap.
//!
//! Sockets listed nowhere by the kernel are missing here as in ss(8): TCP and UDP sockets neither bound nor connected
//! (before Linux 6.8 also TCP sockets that are only bound).

mod counts;
mod entry;
mod inet_diag;
mod message;
mod namespaces;
mod netlink;
mod netlink_diag;
mod packet_diag;
mod proc_net;
mod rows;
mod tables;
mod turns;
mod unix_diag;
mod vsock_diag;
mod xdp_diag;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use edr_wire::snapshot::{Family, GapReason, Socket};
use rustix::io::Errno;

use crate::common::cost::CallCounter;
use crate::common::errno::reason;
use crate::common::owner::Owner;
use crate::common::{GapCollector, proc_files};
use crate::tick::{RowCount, Source, Tick};
use counts::SocketCounts;
use entry::{SOCK_DIAG, SocketEntry};
use message::MalformedMessage;
use namespaces::OtherNamespaces;
use netlink::{Diag, Dump};
use rows::{SocketRows, owner_in, owner_of};
use tables::{DiagQuery, SocketTable, TABLES};

/// The source's name in gaps.
const SOURCE: &str = "sockets";
/// The files of the namespace of sockets made by this thread.
const OWN_NET: &str = "thread-self/net";
/// Number of ticks for which a missing table is remembered: the kernel starts modprobe(8) at every query of a missing
/// table.
const UNSUPPORTED_TICKS: u64 = 60;

/// Reads the sockets of the host.
#[derive(Debug)]
pub struct SocketReader {
    proc_root: Arc<OwnedFd>,
    /// The agent's own namespace, with the netlink socket; `None` for a proc tree of another system.
    own: Option<OwnNamespace>,
    others: OtherNamespaces,
    tick: u64,
    found: SocketRows,
    /// The rows of the table that is being read.
    table: SocketRows,
    text: Vec<u8>,
    row: Socket,
}

/// The agent's own network namespace.
#[derive(Debug)]
struct OwnNamespace {
    netns: u64,
    /// `None` where the sandbox or the kernel has no netlink.
    diag: Option<Diag>,
    /// Tables missing in the kernel, with the tick of the next query.
    unsupported: BTreeMap<&'static str, u64>,
}

impl Source for SocketReader {
    fn name(&self) -> &'static str {
        SOURCE
    }

    fn call_counter(&self) -> CallCounter {
        CallCounter::Source
    }

    /// Pushes one row per socket, sorted by (inode, netns, protocol, endpoints). Other namespaces are read through the
    /// processes in [`Tick::inhabitants`].
    fn read(&mut self, tick: &mut Tick) -> RowCount {
        let Tick { inhabitants, rows, gaps, budget, .. } = tick;
        let bytes_max = budget.rows_bytes.saturating_sub(rows.processes.byte_len()) as u64;
        self.tick += 1;
        self.found.clear();
        if self.own.is_some() {
            self.read_own(gaps);
        }
        let own = self.own.as_ref().map(|own| own.netns);
        self.others.read(&self.proc_root, own, inhabitants, &mut self.text, &mut self.found, gaps);
        self.found.finish(bytes_max);
        self.found.report(&inhabitants.names, gaps);
        for found in &self.found.rows {
            found.fill(&mut self.row);
            rows.sockets.push(&self.row);
        }
        RowCount { rows: rows.sockets.len(), carried: 0 }
    }
}

impl SocketReader {
    /// Opens the netlink socket; `proc_root` serves tables without sock_diag. A tree other than `/proc` has no netlink,
    /// so all tables are read from files.
    ///
    /// # Errors
    /// When `proc_root` cannot be opened.
    pub fn open(proc_root: &Path) -> io::Result<Self> {
        let root = proc_files::open_dir(rustix::fs::CWD, proc_root)
            .map_err(|errno| io::Error::new(errno.kind(), format!("open {proc_root:?}: {errno}")))?;
        let own = if proc_files::is_own_proc(proc_root) {
            let netns = proc_files::namespace(&root, "thread-self/ns/net")
                .map_err(|errno| io::Error::new(errno.kind(), format!("read own network namespace: {errno}")))?;
            Some(OwnNamespace { netns, diag: Diag::open().ok(), unsupported: BTreeMap::new() })
        } else {
            None
        };
        Ok(Self {
            proc_root: Arc::new(root),
            own,
            others: OtherNamespaces::default(),
            tick: 0,
            found: SocketRows::default(),
            table: SocketRows::default(),
            text: Vec::new(),
            row: Socket::default(),
        })
    }

    fn read_own(&mut self, gaps: &mut GapCollector) {
        let Some(own) = &mut self.own else { return };
        if own.diag.is_none() {
            own.diag = Diag::open().map_err(|error| gap(gaps, "sock_diag", reason(&error), &error.to_string())).ok();
        }
        let counts = SocketCounts::read(
            |file, text| proc_files::read(&self.proc_root, &format!("{OWN_NET}/{file}"), text).map(|_| ()),
            &mut self.text,
        );
        if let Some(counts) = &counts {
            counts.report_unlisted(gaps);
        }
        for table in &TABLES {
            if counts.as_ref().is_some_and(|counts| counts.shows_empty(table)) {
                continue;
            }
            let asked_in_vain = own.unsupported.get(table.name).is_some_and(|again| *again > self.tick);
            let asked = match &mut own.diag {
                Some(diag) if !asked_in_vain => {
                    let asked = ask(table, own.netns, &mut self.table, gaps, |take| table.dump(diag, take));
                    if matches!(table.asked, DiagQuery::Netlink) {
                        quiet(&mut self.table, diag);
                    }
                    self.found.append(&mut self.table);
                    asked
                }
                _ => Err(Errno::NOENT.into()),
            };
            let Err(error) = asked else { continue };
            if is_unsupported(&error) && !asked_in_vain && own.diag.is_some() {
                own.unsupported.insert(table.name, self.tick + UNSUPPORTED_TICKS);
            }
            read_file(table, &self.proc_root, own.netns, &error, &mut self.text, &mut self.found, gaps);
        }
    }
}

/// Takes a whole table from `dump` into `found`, which is empty before. A table that changed during the read is read
/// once more.
fn ask(
    table: &SocketTable,
    netns: u64,
    found: &mut SocketRows,
    gaps: &mut GapCollector,
    mut dump: impl FnMut(&mut dyn FnMut(Result<SocketEntry, MalformedMessage>)) -> io::Result<Dump>,
) -> io::Result<()> {
    let mut read = |found: &mut SocketRows| {
        found.clear();
        let mut malformed = 0;
        let dump = dump(&mut |row| match row {
            Ok(row) => found.push(SocketEntry { netns, owner: owner_of(&row), ..row }),
            Err(MalformedMessage(_)) => malformed += 1,
        });
        if dump.is_err() {
            // Half a table beside the rows of its file would list sockets twice.
            found.clear();
        }
        dump.map(|dump| Dump { malformed: dump.malformed + malformed, ..dump })
    };
    let mut dump = read(found)?;
    if dump.interrupted {
        dump = read(found)?;
    }
    if dump.interrupted {
        gap(gaps, table.name, GapReason::Io, "the table changed twice during the read");
    }
    if dump.malformed > 0 {
        gap(gaps, table.name, GapReason::Malformed, &format!("{} messages", dump.malformed));
    }
    Ok(())
}

/// Sets the queues of the two sockets of this query to 0. Only the query fills these queues, and a row with the query's
/// traffic would differ at every tick.
fn quiet(found: &mut SocketRows, diag: &Diag) {
    let is_asking = |row: &&mut SocketEntry| {
        row.family == Family::Netlink
            && row.protocol == SOCK_DIAG
            && (row.local_port == 0 || Some(row.local_port) == diag.port_id())
    };
    for row in found.iter_mut().filter(is_asking) {
        (row.receive_queue, row.send_queue) = (0, 0);
    }
}

/// Reads a table of the own namespace from its file, because netlink failed with `error`.
fn read_file(
    table: &SocketTable,
    proc_root: &OwnedFd,
    netns: u64,
    error: &io::Error,
    text: &mut Vec<u8>,
    found: &mut SocketRows,
    gaps: &mut GapCollector,
) {
    let why = if is_unsupported(error) { GapReason::Unsupported } else { reason(error) };
    let Some(file) = table.file else {
        return gap(gaps, table.name, why, "no sock_diag and no file in /proc/net");
    };
    match proc_files::read(proc_root, &format!("{OWN_NET}/{}", table.name), text) {
        Ok(cut) => {
            take_file(table.name, file, text, cut, (netns, None), found, gaps);
        }
        Err(error) => return gap(gaps, table.name, reason(&error), &error.to_string()),
    }
    if why != GapReason::Unsupported || table.file_tells_less() {
        gap(gaps, table.name, why, &format!("sock_diag: {error}; read from /proc/net, with fewer fields"));
    }
}

/// Takes the rows of a file and returns their number; `field` names the table in gaps. The namespace has an owner
/// unless it is the agent's own.
fn take_file(
    field: &str,
    file: tables::NetFile,
    text: &[u8],
    cut: bool,
    (netns, owner): (u64, Option<Owner>),
    found: &mut SocketRows,
    gaps: &mut GapCollector,
) -> u64 {
    let (mut taken, mut malformed) = (0, 0);
    file.parse(text, |row| match row {
        Ok(row) => {
            taken += 1;
            let owner = owner.map_or_else(|| owner_of(&row), |owner| owner_in(&row, owner));
            found.push(SocketEntry { netns, owner, ..row });
        }
        Err(MalformedMessage(_)) => malformed += 1,
    });
    if malformed > 0 {
        gap(gaps, field, GapReason::Malformed, &format!("{malformed} rows"));
    }
    if cut {
        gap(gaps, field, GapReason::TooLong, "the file is longer than the limit on reads");
    }
    taken
}

/// True when the kernel has no such table: `ENOENT` for a missing module, the rest for a missing family.
fn is_unsupported(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::NOENT) || reason(error) == GapReason::Unsupported
}

fn gap(gaps: &mut GapCollector, field: &str, reason: GapReason, detail: &str) {
    gaps.add(SOURCE, None, field.as_bytes(), reason, detail);
}

fn gap_count(gaps: &mut GapCollector, field: &str, reason: GapReason, detail: &str, count: u64) {
    gaps.add_count(SOURCE, field.as_bytes(), reason, detail, count);
}

#[cfg(test)]
mod tests;
