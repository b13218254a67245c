//! Probed × exposed: what was scanned, joined with the sockets of the same snapshot.
//!
//! Promises: a scanned port gets "no" only when every socket that could listen there was listed; a gap in the tables of
//! sockets makes it "unknown". What a snapshot can make large is bounded, and what is beyond a bound is unknown too.
//!
//! It does not know the host's addresses: a socket bound to the wildcard address takes whatever reaches its network
//! namespace. psad reads the kernel's log of the first namespace ([`Exposure::host_netns`]), so a packet of the chain
//! `INPUT` was meant for a socket there, one of `FORWARD` for another host or another namespace of this one.

mod completeness;
mod listener;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

use edr_wire::Bytes;
use edr_wire::snapshot::{FileKind, Process, Psad, SnapshotView, Socket};

use self::completeness::Missing;
pub(crate) use self::listener::{Chain, Listener, Listening, Reach, Transport, address};
use super::table::joined;

/// Listening sockets that are looked at; the agent lists at most 50,000 sockets in all.
const LISTENERS_MAX: usize = 16_384;
/// Sockets to attackers that are kept.
const CONTACTS_MAX: usize = 16_384;
/// Processes named of one socket: a forking server shares it with hundreds of children.
const OWNERS_MAX: usize = 64;
/// Ports named of one range of scanned ports.
const PORTS_MAX: usize = 64;
/// Listening sockets compared with one range, and with all ranges of a snapshot.
const STEPS_OF_A_RANGE_MAX: usize = 4_096;
const STEPS_MAX: usize = 4_000_000;
/// Rows psad writes of each protocol's ports when its configuration is not known (`TOP_PORTS_LOG_THRESHOLD`).
const TOP_PORTS_USUAL: u64 = 500;

/// A process that holds a socket.
#[derive(Debug)]
pub(crate) struct Owner {
    pub(crate) pid: u32,
    pub(crate) comm: Bytes,
    pub(crate) exe: Bytes,
    pub(crate) unit: Bytes,
    pub(crate) user: String,
    pub(crate) start_time_ns: i64,
}

/// A socket that listens on a scanned port.
#[derive(Debug)]
pub(crate) struct Exposed {
    /// Place among [`Exposure::listener`]s.
    pub(crate) listener: usize,
    pub(crate) listening: Listening,
    /// Packets psad counted to this port, whatever their destination; `None` when the port is in a scanned range and
    /// psad's list of ports is cut.
    pub(crate) packets: Option<u64>,
    /// Sources whose scanned ports include this one at an address it is bound to; `None` when there was too much to
    /// compare.
    pub(crate) attackers: Option<u64>,
    /// Highest danger level of them; 0 for none.
    pub(crate) danger_level: u8,
}

/// A socket to or from an attacker.
#[derive(Debug)]
pub(crate) struct Contact {
    pub(crate) ip: IpAddr,
    pub(crate) danger_level: u8,
    pub(crate) socket: Socket,
    /// The attacker came to a port that is listened on; `None` when that is not known.
    pub(crate) inbound: Option<bool>,
    owners: Vec<usize>,
}

/// What listens in a range of scanned ports.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct InRange {
    pub(crate) listening: Listening,
    /// Ports with a listener, ascending; the first of them.
    pub(crate) ports: Vec<u16>,
}

/// The join of one snapshot.
#[derive(Debug, Default)]
pub(crate) struct Exposure {
    /// The namespace of pid 1, else of the kernel's threads; `None` when neither was listed.
    host_netns: Option<u64>,
    missing: Missing,
    owners: Vec<Owner>,
    listeners: Vec<Listener>,
    /// Places of the listeners of a port.
    by_port: BTreeMap<(Transport, u16), Vec<usize>>,
    exposed: Vec<Exposed>,
    contacts: Vec<Contact>,
    contacts_of: HashMap<IpAddr, u64>,
}

impl Exposure {
    /// Joins psad's part of a snapshot with its sockets and their owners.
    pub(crate) fn of(view: &SnapshotView) -> Self {
        let psad = view.psad().unwrap_or_default();
        let mut join = Self { missing: Missing::of(view), ..Self::default() };
        let attackers = attackers(&psad);
        join.take_sockets(view, &attackers);
        join.take_owners(view);
        for contact in &mut join.contacts {
            let port = (Transport::of(&contact.socket.protocol), u16::try_from(contact.socket.local_port));
            let (Some(transport), Ok(port)) = (port.0, port.1) else { continue };
            let listeners = join.by_port.get(&(transport, port)).into_iter().flatten();
            let listens = listeners.map(|&at| &join.listeners[at]).any(|other| other.netns == contact.socket.netns);
            // What came in has the port it came to; a port that nobody listens on was chosen for going out.
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
        // Worst first, then as they come.
        self.contacts.sort_by_key(|contact| (std::cmp::Reverse(contact.danger_level), contact.ip));
    }

    /// Finds the processes that hold the sockets in question, and the host's namespace.
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

    /// Finds the listeners of scanned ports.
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
            self.exposed.push(Exposed {
                listener: at,
                listening: self.seen_from_outside(listener),
                packets,
                attackers: probes.whole.then(|| probed.map_or(0, |probed| probed.sources)),
                danger_level: probed.map_or(0, |probed| probed.danger_level),
            });
        }
        let order = |row: &Exposed| {
            let listener = &self.listeners[row.listener];
            let rank = (row.listening, std::cmp::Reverse(row.danger_level), std::cmp::Reverse(row.packets));
            (rank, listener.transport, listener.port, listener.netns)
        };
        let mut exposed = std::mem::take(&mut self.exposed);
        exposed.sort_by_key(order);
        self.exposed = exposed;
    }

    /// Which listeners the sources' ranges reach. A port with a signature match is a scanned one, too.
    fn probes(&self, psad: &Psad, scanned: &mut HashMap<(Transport, u16), Option<u64>>) -> Probes {
        let mut probes = Probes { of: HashMap::new(), whole: true };
        let mut steps = 0;
        for (number, source) in psad.sources.iter().enumerate() {
            for target in &source.targets {
                let to = address(&target.ip);
                let ranges = target.packets.iter().filter_map(|row| {
                    let (low, high) = (row.port_low?, row.port_high.or(row.port_low)?);
                    Some((Transport::of(&row.protocol)?, low, high, Chain::of(&row.chain)))
                });
                let matches =
                    target.signatures.iter().filter(|row| row.port != 0).filter_map(|row| {
                        Some((Transport::of(&row.protocol)?, row.port, row.port, Chain::of(&row.chain)))
                    });
                for (transport, low, high, chain) in ranges.chain(matches.clone()) {
                    if low > high {
                        continue;
                    }
                    for &at in self.by_port.range((transport, low)..=(transport, high)).flat_map(|(_, all)| all) {
                        steps += 1;
                        if steps > STEPS_MAX {
                            probes.whole = false;
                            return probes;
                        }
                        if self.reach(&self.listeners[at], to, chain) == Reach::Yes {
                            probes.add(at, number, source.danger_level);
                        }
                    }
                }
                for (transport, port, ..) in matches {
                    scanned.entry((transport, port)).or_insert(None);
                }
            }
        }
        probes
    }

    fn reach(&self, listener: &Listener, to: Option<IpAddr>, chain: Chain) -> Reach {
        listener.reached_by(to, chain, self.host_netns)
    }

    /// How a listener stands to the network, when it is not known to which address the packets went.
    fn seen_from_outside(&self, listener: &Listener) -> Listening {
        if listener.is_loopback() {
            Listening::Loopback
        } else if self.host_netns.is_some_and(|host| host != listener.netns) {
            Listening::OtherNamespace
        } else {
            Listening::Yes
        }
    }

    /// Whether something listens on a port of any address, and what does.
    pub(crate) fn on_port(&self, transport: Transport, port: u16) -> (Listening, Vec<&Listener>) {
        let places = self.by_port.get(&(transport, port));
        let found: Vec<&Listener> = places.into_iter().flatten().map(|&at| &self.listeners[at]).collect();
        let best = found.iter().map(|listener| self.seen_from_outside(listener)).min().unwrap_or(Listening::No);
        // Whatever is less than "yes" might be more, had everything been listed.
        let known = best == Listening::Yes || self.missing.any().is_none();
        (if known { best } else { Listening::Unknown }, found)
    }

    /// What listens at the ports `low` to `high` of the address the packets went to. `None` for what this host sent.
    pub(crate) fn in_range(
        &self,
        transport: Transport,
        (low, high): (u16, u16),
        to: &str,
        chain: Chain,
    ) -> Option<InRange> {
        if chain == Chain::Output {
            return None;
        }
        let to = address(to);
        let mut answer = InRange { listening: Listening::No, ports: Vec::new() };
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

    /// The listeners of scanned ports, those that can be reached from outside first.
    pub(crate) fn exposed(&self) -> &[Exposed] {
        &self.exposed
    }

    /// The listener of a row of [`Self::exposed`].
    pub(crate) fn listener(&self, row: &Exposed) -> &Listener {
        &self.listeners[row.listener]
    }

    /// The names of what listens on a port and is reached from outside, each once.
    pub(crate) fn names_on(&self, transport: Transport, port: u16) -> Vec<&Bytes> {
        let places = self.by_port.get(&(transport, port)).into_iter().flatten();
        let mut names: Vec<&Bytes> = Vec::new();
        for owner in places.flat_map(|&at| self.owners_of(&self.listeners[at])) {
            if names.len() < 3 && !names.contains(&&owner.comm) {
                names.push(&owner.comm);
            }
        }
        names
    }

    /// The sockets to and from attackers, those of the worst first.
    pub(crate) fn contacts(&self) -> &[Contact] {
        &self.contacts
    }

    /// How many sockets there are to an address; `None` when there might be one that was not listed.
    pub(crate) fn contacts_of(&self, ip: &str) -> Option<u64> {
        let listed = address(ip).and_then(|ip| self.contacts_of.get(&ip).copied()).unwrap_or(0);
        (listed > 0 || self.missing.any().is_none()).then_some(listed)
    }

    /// The processes that hold a listener.
    pub(crate) fn owners_of(&self, listener: &Listener) -> impl Iterator<Item = &Owner> {
        listener.owners.iter().map(|&at| &self.owners[at])
    }

    /// The processes that hold a contact.
    pub(crate) fn holders_of(&self, contact: &Contact) -> impl Iterator<Item = &Owner> {
        contact.owners.iter().map(|&at| &self.owners[at])
    }

    /// The network namespace whose packets psad sees, when it is known.
    pub(crate) fn host_netns(&self) -> Option<u64> {
        self.host_netns
    }

    /// Why an absent socket is no proof of absence.
    pub(crate) fn missing(&self) -> Option<&str> {
        self.missing.any()
    }
}

/// How the sources reach one listener.
#[derive(Debug, Default)]
struct Probed {
    sources: u64,
    last: Option<usize>,
    danger_level: u8,
}

#[derive(Debug)]
struct Probes {
    of: HashMap<usize, Probed>,
    /// False when there was too much to compare.
    whole: bool,
}

impl Probes {
    /// A source counts once.
    fn add(&mut self, listener: usize, source: usize, danger_level: u8) {
        let probed = self.of.entry(listener).or_default();
        if probed.last.replace(source) != Some(source) {
            probed.sources += 1;
        }
        probed.danger_level = probed.danger_level.max(danger_level);
    }
}

/// psad's attackers and the highest danger level of each.
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
