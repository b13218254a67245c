//! Joins scanned ports and attackers with the sockets of the same snapshot (probed × exposed).
//!
//! Promises: the answer for a scanned port is "no" only when every socket that could listen there was listed; with a
//! gap in the tables of sockets the answer is "unknown". Everything that a snapshot can make large is bounded, and
//! beyond a bound the answer is "unknown" too.
//!
//! The addresses of the host are not known here: a socket bound to the wildcard address accepts everything that reaches
//! its network namespace. psad reads the kernel's log of the first namespace ([`Exposure::host_netns`]). So a packet of
//! the chain `INPUT` was for a socket in that namespace, and a packet of `FORWARD` for another host or for another
//! namespace of this host.

mod completeness;
mod listener;
mod probes;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

use edr_wire::Bytes;
use edr_wire::snapshot::{FileKind, Process, Psad, SnapshotView, Socket};

use self::completeness::MissingSockets;
pub use self::listener::{Chain, Listener, Listening, Transport};
use self::listener::{Reach, address};
use crate::cell::joined;

/// Listening sockets to examine; the agent lists at most 50,000 sockets in total.
const LISTENERS_MAX: usize = 16_384;
/// Sockets to and from attackers to keep.
const CONTACTS_MAX: usize = 16_384;
/// Processes listed per socket: a forking server shares a socket with hundreds of children.
const OWNERS_MAX: usize = 64;
/// Ports listed per range of scanned ports.
const PORTS_MAX: usize = 64;
/// Listening sockets compared with one range.
const STEPS_OF_A_RANGE_MAX: usize = 4_096;
/// Rows that psad writes for the ports of each protocol by default (`TOP_PORTS_LOG_THRESHOLD`), if the configuration is
/// unknown.
const TOP_PORTS_USUAL: u64 = 500;

/// A process that holds a socket.
#[derive(Debug)]
pub struct Owner {
    /// Process id.
    pub pid: u32,
    /// `comm`, cut as a [`joined`] value.
    pub comm: Bytes,
    /// Path of the executable, cut as a [`joined`] value; empty when unknown.
    pub exe: Bytes,
    /// systemd unit, of the system or of the user; empty when unknown.
    pub unit: Bytes,
    /// Name of the effective uid; empty when unknown.
    pub user: String,
    /// Wall-clock start time, ns since the epoch; 0 when unknown.
    pub start_time_ns: i64,
}

/// A socket that listens on a scanned port.
#[derive(Debug)]
pub struct ExposedSocket {
    /// Index of the listener.
    listener: usize,
    /// How exposed the socket is.
    pub listening: Listening,
    /// Packets to this port, to any destination, as counted by psad. `None` when psad's list of ports lacks the port:
    /// only a signature match names the port, or the port is in a scanned range and the list is cut.
    pub packets: Option<u64>,
    /// Sources whose scanned ports include this port at an address of the socket; `None` when the limit of comparisons
    /// was reached.
    pub attackers: Option<u64>,
    /// Highest danger level of the sources; 0 for no source.
    pub danger_level: u8,
}

/// A socket to or from an attacker.
#[derive(Debug)]
pub struct Contact {
    /// Address of the attacker.
    pub ip: IpAddr,
    /// Danger level of the attacker, 1 to 5.
    pub danger_level: u8,
    /// The socket.
    pub socket: Socket,
    /// True when the attacker connected to a listening port, false for an outgoing connection, `None` when unknown.
    pub inbound: Option<bool>,
    owners: Vec<usize>,
}

/// Listeners in a range of scanned ports.
#[derive(Debug, PartialEq, Eq)]
pub struct RangeListeners {
    /// The most exposed listener, or the reason why none is listed.
    pub listening: Listening,
    /// Ports with a listener, ascending; at most [`PORTS_MAX`].
    pub ports: Vec<u16>,
}

/// The join of a snapshot.
#[derive(Debug, Default)]
pub struct Exposure {
    /// Network namespace of pid 1, otherwise of the kernel threads; `None` when neither was listed.
    host_netns: Option<u64>,
    missing: MissingSockets,
    owners: Vec<Owner>,
    listeners: Vec<Listener>,
    /// Indexes of the listeners, by protocol and port.
    by_port: BTreeMap<(Transport, u16), Vec<usize>>,
    exposed: Vec<ExposedSocket>,
    contacts: Vec<Contact>,
    contacts_of: HashMap<IpAddr, u64>,
}

impl Exposure {
    /// Joins psad's part of a snapshot with the sockets and their owners.
    pub fn of(view: &SnapshotView) -> Self {
        let psad = view.psad().unwrap_or_default();
        let mut join = Self { missing: MissingSockets::of(view), ..Self::default() };
        let attackers = attackers(&psad);
        join.take_sockets(view, &attackers);
        join.take_owners(view);
        for contact in &mut join.contacts {
            let port = (Transport::of(&contact.socket.protocol), u16::try_from(contact.socket.local_port));
            let (Some(transport), Ok(port)) = (port.0, port.1) else { continue };
            let listeners = join.by_port.get(&(transport, port)).into_iter().flatten();
            let listens = listeners.map(|&at| &join.listeners[at]).any(|other| other.netns == contact.socket.netns);
            // A connection to a listening port came in; a port without a listener belongs to an outgoing connection.
            contact.inbound = match contact.socket.state.as_str() {
                "syn-recv" => Some(true),
                "syn-sent" => Some(false),
                _ if listens => Some(true),
                _ if join.missing.any().is_some() => None,
                _ => Some(false),
            };
        }
        join.expose(&psad);
        join
    }

    fn take_sockets(&mut self, view: &SnapshotView, attackers: &HashMap<IpAddr, u8>) {
        for socket in view.sockets() {
            let Ok(socket) = socket else { continue };
            if let Some(listener) = Listener::of(&socket) {
                if self.listeners.len() == LISTENERS_MAX {
                    self.missing.add(&format!("more than {LISTENERS_MAX} listening sockets"));
                } else {
                    self.by_port.entry((listener.transport, listener.port)).or_default().push(self.listeners.len());
                    self.listeners.push(listener);
                }
            }
            if socket.remote.is_empty() || attackers.is_empty() {
                continue;
            }
            let Some(ip) = address(&socket.remote) else { continue };
            let Some(&danger_level) = attackers.get(&ip) else { continue };
            *self.contacts_of.entry(ip).or_default() += 1;
            if self.contacts.len() < CONTACTS_MAX {
                self.contacts.push(Contact { ip, danger_level, socket, inbound: None, owners: Vec::new() });
            } else {
                self.missing.add(&format!("more than {CONTACTS_MAX} sockets to attackers"));
            }
        }
        // Highest danger level first, then by address.
        self.contacts.sort_by_key(|contact| (std::cmp::Reverse(contact.danger_level), contact.ip));
    }

    /// Finds the processes that hold the listeners and contacts, and the host's network namespace.
    fn take_owners(&mut self, view: &SnapshotView) {
        let mut holders: HashMap<u64, Vec<usize>> = HashMap::new();
        let wanted: HashSet<u64> = self
            .listeners
            .iter()
            .map(|listener| listener.inode)
            .chain(self.contacts.iter().map(|contact| contact.socket.inode))
            .filter(|&inode| inode != 0)
            .collect();
        let mut kernels = None;
        for process in view.processes().flatten() {
            if process.pid == 1 && process.namespaces.net != 0 {
                self.host_netns = Some(process.namespaces.net);
            } else if process.kernel_thread && process.namespaces.net != 0 {
                kernels = kernels.or(Some(process.namespaces.net));
            }
            let mut place = None;
            for file in process.files.iter().filter(|file| file.kind == FileKind::Socket) {
                if !wanted.contains(&file.inode) {
                    continue;
                }
                let of_socket = holders.entry(file.inode).or_default();
                if of_socket.len() == OWNERS_MAX {
                    continue;
                }
                let place = *place.get_or_insert_with(|| {
                    self.owners.push(owner(&process));
                    self.owners.len() - 1
                });
                if of_socket.last() != Some(&place) {
                    of_socket.push(place);
                }
            }
        }
        self.host_netns = self.host_netns.or(kernels);
        for listener in &mut self.listeners {
            listener.owners = holders.get(&listener.inode).cloned().unwrap_or_default();
        }
        for contact in &mut self.contacts {
            contact.owners = holders.get(&contact.socket.inode).cloned().unwrap_or_default();
        }
    }

    /// Finds the listeners on scanned ports.
    fn expose(&mut self, psad: &Psad) {
        let mut scanned: HashMap<(Transport, u16), Option<u64>> = HashMap::new();
        for row in &psad.top_ports {
            let Some(transport) = Transport::of(&row.protocol) else { continue };
            scanned.insert((transport, row.port), Some(row.packets));
        }
        let probes = self.probes(psad, &mut scanned);
        let most = psad.conf.as_ref().map_or(TOP_PORTS_USUAL, |conf| conf.top_rows[2]);
        let is_cut = |transport| {
            let rows = scanned.keys().filter(|(other, _)| *other == transport).count() as u64;
            rows == 0 || (most > 0 && rows >= most)
        };
        let is_cut = [Transport::Tcp, Transport::Udp, Transport::Udplite].map(|one| (one, is_cut(one)));
        for (at, listener) in self.listeners.iter().enumerate() {
            let probed = probes.of.get(&at);
            let in_cut_list = is_cut.contains(&(listener.transport, true)) && probed.is_some();
            let packets = match scanned.get(&(listener.transport, listener.port)) {
                Some(packets) => *packets,
                None if in_cut_list => None,
                None => continue,
            };
            self.exposed.push(ExposedSocket {
                listener: at,
                listening: self.seen_from_outside(listener),
                packets,
                attackers: probes.whole.then(|| probed.map_or(0, |probed| probed.sources)),
                danger_level: probed.map_or(0, |probed| probed.danger_level),
            });
        }
        let order = |row: &ExposedSocket| {
            let listener = &self.listeners[row.listener];
            let rank = (row.listening, std::cmp::Reverse(row.danger_level), std::cmp::Reverse(row.packets));
            (rank, listener.transport, listener.port, listener.netns)
        };
        let mut exposed = std::mem::take(&mut self.exposed);
        exposed.sort_by_key(order);
        self.exposed = exposed;
    }

    fn reach(&self, listener: &Listener, to: Option<IpAddr>, chain: Chain) -> Reach {
        listener.reached_by(to, chain, self.host_netns)
    }

    /// Returns how exposed a listener is when the destination address of the packets is unknown.
    fn seen_from_outside(&self, listener: &Listener) -> Listening {
        if listener.is_loopback() {
            Listening::Loopback
        } else if self.host_netns.is_some_and(|host| host != listener.netns) {
            Listening::OtherNamespace
        } else {
            Listening::Yes
        }
    }

    /// Returns how exposed a port is at any address, and the listeners on the port.
    pub fn on_port(&self, transport: Transport, port: u16) -> (Listening, Vec<&Listener>) {
        let places = self.by_port.get(&(transport, port));
        let found: Vec<&Listener> = places.into_iter().flatten().map(|&at| &self.listeners[at]).collect();
        let best = found.iter().map(|listener| self.seen_from_outside(listener)).min().unwrap_or(Listening::No);
        // An answer below "yes" is uncertain while sockets are missing.
        let known = best == Listening::Yes || self.missing.any().is_none();
        (if known { best } else { Listening::Unknown }, found)
    }

    /// Returns the listeners on the ports `low` to `high` of the packets' destination; `None` for packets sent by this
    /// host.
    pub fn in_range(
        &self,
        transport: Transport,
        (low, high): (u16, u16),
        to: &str,
        chain: Chain,
    ) -> Option<RangeListeners> {
        if chain == Chain::Output {
            return None;
        }
        let to = address(to);
        let mut answer = RangeListeners { listening: Listening::No, ports: Vec::new() };
        if low > high {
            return Some(answer);
        }
        let missing = if chain == Chain::Input { self.missing.host() } else { self.missing.any() };
        let mut unsure = missing.is_some();
        let in_range = self.by_port.range((transport, low)..=(transport, high));
        for (step, (port, &at)) in
            in_range.flat_map(|((_, port), all)| all.iter().map(move |at| (*port, at))).enumerate()
        {
            if step == STEPS_OF_A_RANGE_MAX || answer.ports.len() == PORTS_MAX {
                unsure = true;
                break;
            }
            let listener = &self.listeners[at];
            match self.reach(listener, to, chain) {
                Reach::Yes => {
                    answer.listening = answer.listening.min(match self.seen_from_outside(listener) {
                        Listening::Loopback => Listening::Yes,
                        other => other,
                    });
                    if answer.ports.last() != Some(&port) {
                        answer.ports.push(port);
                    }
                }
                Reach::Perhaps => unsure = true,
                Reach::No => {}
            }
        }
        if answer.listening == Listening::No && unsure {
            answer.listening = Listening::Unknown;
        }
        Some(answer)
    }

    /// Returns the listeners on scanned ports, the most exposed first.
    pub fn exposed(&self) -> &[ExposedSocket] {
        &self.exposed
    }

    /// Returns the listener of a row of [`Self::exposed`].
    pub fn listener(&self, row: &ExposedSocket) -> &Listener {
        &self.listeners[row.listener]
    }

    /// Returns the names of processes that listen on a port, each once and at most three.
    pub fn names_on(&self, transport: Transport, port: u16) -> Vec<&Bytes> {
        let places = self.by_port.get(&(transport, port)).into_iter().flatten();
        let mut names: Vec<&Bytes> = Vec::new();
        for owner in places.flat_map(|&at| self.owners_of(&self.listeners[at])) {
            if names.len() < 3 && !names.contains(&&owner.comm) {
                names.push(&owner.comm);
            }
        }
        names
    }

    /// Returns the sockets to and from attackers, the highest danger level first.
    pub fn contacts(&self) -> &[Contact] {
        &self.contacts
    }

    /// Returns the number of sockets to an address; `None` when none is listed and sockets are missing.
    pub fn contacts_of(&self, ip: &str) -> Option<u64> {
        let listed = address(ip).and_then(|ip| self.contacts_of.get(&ip).copied()).unwrap_or(0);
        (listed > 0 || self.missing.any().is_none()).then_some(listed)
    }

    /// Returns the processes that hold a listener.
    pub fn owners_of(&self, listener: &Listener) -> impl Iterator<Item = &Owner> {
        listener.owners.iter().map(|&at| &self.owners[at])
    }

    /// Returns the processes that hold a contact.
    pub fn holders_of(&self, contact: &Contact) -> impl Iterator<Item = &Owner> {
        contact.owners.iter().map(|&at| &self.owners[at])
    }

    /// Returns the network namespace of the packets in psad's log, if known.
    pub fn host_netns(&self) -> Option<u64> {
        self.host_netns
    }

    /// Returns why sockets may be missing; `None` when all were listed.
    pub fn missing(&self) -> Option<&str> {
        self.missing.any()
    }
}

/// Returns psad's attackers with the highest danger level of each.
fn attackers(psad: &Psad) -> HashMap<IpAddr, u8> {
    let mut attackers = HashMap::new();
    let ranked = psad.top_attackers.iter().map(|row| (&row.ip, row.danger_level));
    for (ip, danger_level) in ranked.chain(psad.sources.iter().map(|source| (&source.ip, source.danger_level))) {
        let Some(ip) = address(ip) else { continue };
        let known = attackers.entry(ip).or_insert(danger_level);
        *known = danger_level.max(*known);
    }
    attackers
}

fn owner(process: &Process) -> Owner {
    let cut = |text: &str| joined(text.as_bytes());
    Owner {
        pid: process.pid,
        comm: joined(&process.comm.0),
        exe: process.exe.as_ref().map_or_else(Bytes::default, |exe| joined(&exe.path.0)),
        unit: process.unit.as_deref().or(process.user_unit.as_deref()).map_or_else(Bytes::default, cut),
        user: process.user.clone().unwrap_or_default(),
        start_time_ns: process.start_time_ns,
    }
}
