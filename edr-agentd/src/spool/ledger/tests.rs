//! Plays every short sequence of events and checks the ledger against plain sets of frames by state.

use std::time::Duration;

use edr_wire::HostId;
use edr_wire::frame::FrameKind;

use super::*;

/// The header of a key frame without declarations.
pub(super) fn header(id: FrameId) -> FrameHeader {
    FrameHeader {
        host_id: HostId([1; 16]),
        epoch: id.epoch,
        seq: id.seq,
        kind: FrameKind::Key,
        base_seq: id.seq,
        boot_id: "boot".to_owned(),
        previous_epoch: None,
        captured_ns: 0,
        lost: Vec::new(),
        missed: Vec::new(),
        bye: false,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LedgerEvent {
    /// A new frame on the disk; then due files are removed.
    Put,
    /// A new frame in memory.
    PutInMemory,
    /// Kafka takes the oldest frame.
    Ship,
    /// Room runs out for all frames but the newest.
    Relieve,
    /// The oldest frame is damaged, and the next read fails.
    Damage,
    /// The folder of the oldest epoch goes away.
    Leave,
    /// All folders are back and listed.
    Return,
    /// The agent is killed and started again with a new epoch.
    Crash,
}

const EVENTS: [LedgerEvent; 8] = [
    LedgerEvent::Put,
    LedgerEvent::PutInMemory,
    LedgerEvent::Ship,
    LedgerEvent::Relieve,
    LedgerEvent::Damage,
    LedgerEvent::Leave,
    LedgerEvent::Return,
    LedgerEvent::Crash,
];

/// A simulated host: a disk of headers, Kafka, and a ledger in between.
struct SimulatedHost {
    ledger: Ledger,
    disk: BTreeMap<FrameId, FrameHeader>,
    away: BTreeMap<FrameId, FrameHeader>,
    memory: BTreeMap<FrameId, FrameHeader>,
    damaged: BTreeSet<FrameId>,
    delivered: BTreeSet<FrameId>,
    declared: Vec<LostRange>,
    /// All frames ever made, with the ranges declared lost by each.
    made: BTreeMap<FrameId, Vec<LostRange>>,
    /// Made in memory.
    volatile: BTreeSet<FrameId>,
    /// Made in memory before a crash.
    forgotten: BTreeSet<FrameId>,
    epoch: u8,
    seq: u64,
    is_on_disk: bool,
    now: Instant,
}

impl SimulatedHost {
    fn new() -> Self {
        Self {
            ledger: Ledger::default(),
            disk: BTreeMap::new(),
            away: BTreeMap::new(),
            memory: BTreeMap::new(),
            damaged: BTreeSet::new(),
            delivered: BTreeSet::new(),
            declared: Vec::new(),
            made: BTreeMap::new(),
            volatile: BTreeSet::new(),
            forgotten: BTreeSet::new(),
            epoch: 1,
            seq: 0,
            is_on_disk: true,
            now: Instant::now(),
        }
    }

    fn put(&mut self, store: Store) {
        let on_disk = store == Store::Disk;
        let current = Epoch([self.epoch; 8]);
        if on_disk != self.is_on_disk || self.away.keys().any(|id| id.epoch == current) {
            (self.epoch, self.seq, self.is_on_disk) = (self.epoch + 1, 0, on_disk);
        }
        self.seq += 1;
        let mut header = header(FrameId { epoch: Epoch([self.epoch; 8]), seq: self.seq });
        // Some frames are of the same minute, others of the same ten minutes.
        header.captured_ns = 25_000_000_000 * self.made.len() as i64;
        (header.lost, header.missed) = self.ledger.collect();
        let id = FrameId::of(&header);
        self.made.insert(id, header.lost.clone());
        self.ledger.accepted(&header, 10, store);
        if on_disk { &mut self.disk } else { &mut self.memory }.insert(id, header);
        self.volatile.extend((!on_disk).then_some(id));
        for (id, operation) in self.ledger.due() {
            if operation == Operation::SetAside && self.disk.contains_key(&id) && !self.damaged.contains(&id) {
                self.ledger.revived(&self.disk[&id], 10);
            } else {
                self.disk.remove(&id);
                self.ledger.done(id);
            }
        }
    }

    fn find(&mut self) {
        let on_disk: BTreeSet<Epoch> = self.disk.keys().map(|id| id.epoch).collect();
        for epoch in self.ledger.unlisted(&on_disk) {
            let file = |header: &FrameHeader| FrameFile { bytes: 10, written_ns: header.captured_ns };
            let files = self.disk.iter().filter(|(id, _)| id.epoch == epoch);
            let files = files.map(|(id, header)| (id.seq, file(header))).collect();
            let origin = Origin { epoch, previous: None, captured_ns: i64::from(epoch.0[0]) };
            self.ledger.found(origin, &files, self.ledger.removals());
        }
    }

    fn relieve(&mut self, bytes: u64) {
        let mut unreadable = BTreeSet::new();
        let room = Room { disk_bytes: bytes, memory_bytes: bytes };
        while let Some(&id) = self.ledger.relieve(room, &unreadable).first() {
            match self.disk.get(&id).filter(|_| !self.damaged.contains(&id)) {
                Some(header) => self.ledger.examined(header),
                None => {
                    unreadable.insert(id);
                    let fault = if self.away.contains_key(&id) { FrameFault::Away } else { FrameFault::Corrupt };
                    if fault.is_proof() {
                        self.ledger.give_up(id, fault, self.now);
                    }
                }
            }
        }
        let ledger = &self.ledger;
        self.memory.retain(|&id, _| ledger.books().is_in_memory(id));
    }

    fn ship(&mut self) {
        let Some(id) = self.ledger.books().oldest_unsent(self.now) else { return };
        let header = self.memory.get(&id).or_else(|| self.disk.get(&id)).filter(|_| !self.damaged.contains(&id));
        match header.cloned() {
            Some(header) => {
                self.ledger.was_read(id);
                self.memory.remove(&id);
                self.delivered.insert(id);
                self.declared.extend(header.lost.iter().cloned());
                if let Some(gone) = self.ledger.acknowledged(&header) {
                    self.disk.remove(&gone);
                    self.ledger.done(gone);
                }
            }
            None if self.away.contains_key(&id) => {
                self.now += Duration::from_secs(60);
                if self.ledger.failed(id, FrameFault::Away, String::new(), self.now) {
                    self.ledger.give_up(id, FrameFault::Away, self.now);
                }
            }
            None => drop(self.ledger.give_up(id, FrameFault::Corrupt, self.now)),
        }
    }

    fn crash(&mut self) {
        self.memory.clear();
        self.forgotten.append(&mut self.volatile);
        self.ledger = Ledger::default();
        (self.epoch, self.seq, self.is_on_disk) = (self.epoch + 1, 0, true);
        self.find();
        let newest = self.disk.iter().rfind(|(id, _)| !self.damaged.contains(id));
        if let Some((&id, header)) = newest {
            self.ledger.take_over(&header.lost, &[]);
            self.ledger.found_newest(id, header.base_seq);
        }
    }

    fn act(&mut self, event: LedgerEvent) {
        match event {
            LedgerEvent::Put => self.put(Store::Disk),
            LedgerEvent::PutInMemory => self.put(Store::Memory),
            LedgerEvent::Ship => self.ship(),
            LedgerEvent::Relieve => self.relieve(30),
            LedgerEvent::Damage => {
                let oldest = self.ledger.books().oldest_unsent(self.now).filter(|id| self.disk.contains_key(id));
                if oldest.is_some() {
                    self.damaged.extend(oldest);
                    self.ship();
                }
            }
            LedgerEvent::Leave => {
                if let Some(epoch) = self.disk.keys().next().map(|id| id.epoch) {
                    let (away, disk) =
                        std::mem::take(&mut self.disk).into_iter().partition(|(id, _)| id.epoch == epoch);
                    self.disk = disk;
                    self.away.extend::<BTreeMap<_, _>>(away);
                    self.find();
                }
            }
            LedgerEvent::Return => {
                self.disk.append(&mut self.away);
                self.find();
            }
            LedgerEvent::Crash => self.crash(),
        }
        self.check();
    }

    /// Checks that every frame is delivered, present, or declared by a delivered or present frame.
    fn check(&self) {
        let there = self.disk.iter().chain(&self.away).chain(&self.memory);
        let there: Vec<_> = there.filter(|(id, _)| !self.damaged.contains(id)).collect();
        for &id in self.made.keys() {
            let covers =
                |range: &LostRange| range.epoch == id.epoch && (range.first_seq..=range.last_seq).contains(&id.seq);
            let is_there = self.disk.contains_key(&id) || self.away.contains_key(&id) || self.memory.contains_key(&id);
            let is_declared =
                self.declared.iter().any(covers) || there.iter().any(|(_, header)| header.lost.iter().any(covers));
            // A frame in memory is dropped together with its declaration in memory.
            let pending = || self.ledger.declarations.for_a_frame().lost.iter().any(covers);
            let is_forgotten = self.forgotten.contains(&id) || (!self.disk.contains_key(&id) && pending());
            // Damage to two carriers is more than the ledger promises to survive.
            let damaged = self.damaged.iter().filter(|carrier| self.made[carrier].iter().any(covers));
            assert!(
                self.delivered.contains(&id) || is_there || is_declared || is_forgotten || damaged.count() >= 2,
                "{id} is missing without a declaration"
            );
        }
    }

    /// Brings all folders back and ships all frames: then every frame is delivered or declared, and the ledger is empty
    /// but for the newest frame.
    fn settle(&mut self) {
        self.act(LedgerEvent::Return);
        for _ in 0..4 {
            self.act(LedgerEvent::Put);
            while self.ledger.books().oldest_unsent(self.now).is_some() {
                self.act(LedgerEvent::Ship);
            }
        }
        assert_eq!(self.ledger.books().unsent(), (0, 0));
        assert!(self.ledger.declarations.for_a_frame().lost.is_empty());
        assert_eq!(self.disk.keys().copied().collect::<Vec<_>>(), [*self.made.last_key_value().unwrap().0]);
    }
}

/// Plays every sequence of `length` events with the given beginning.
fn play(events: &mut Vec<LedgerEvent>, length: usize, count: &mut u64) {
    if events.len() == length {
        let mut host = SimulatedHost::new();
        events.iter().for_each(|&event| host.act(event));
        host.settle();
        *count += 1;
        return;
    }
    for event in EVENTS {
        // Nothing happens before the first frame.
        if events.is_empty() && !matches!(event, LedgerEvent::Put | LedgerEvent::PutInMemory) {
            continue;
        }
        events.push(event);
        play(events, length, count);
        events.pop();
    }
}

#[test]
fn every_sequence_of_events_loses_nothing_without_a_declaration() {
    let mut count = 0;
    play(&mut Vec::new(), 5, &mut count);
    assert_eq!(count, 2 * 8_u64.pow(4));
}

#[test]
fn longer_sequences_lose_nothing_without_a_declaration() {
    let mut random = 1_u64;
    for _ in 0..5_000 {
        let mut host = SimulatedHost::new();
        for _ in 0..16 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            host.act(EVENTS[(random >> 61) as usize]);
        }
        host.act(LedgerEvent::Put);
        host.settle();
    }
}

/// Epochs are kept in the order of their making, for every order of discovery and after steps of the wall clock.
#[test]
fn epochs_are_ordered_by_their_previous_epochs_and_then_by_the_clock() {
    let origin = |epoch: u8, previous: Option<u8>, captured_ns| Origin {
        epoch: Epoch([epoch; 8]),
        previous: previous.map(|previous| Epoch([previous; 8])),
        captured_ns,
    };
    // The clock went back before epoch 2; epoch 3 was made while the folder of epoch 2 was away.
    let origins = [origin(1, None, 100), origin(2, Some(1), 50), origin(3, Some(1), 60), origin(4, Some(3), 70)];
    for found_last in 0..origins.len() {
        let mut ledger = Ledger::default();
        let mut found = origins.to_vec();
        let late = found.remove(found_last);
        found.sort_by_key(|origin| origin.captured_ns);
        for origin in found.into_iter().chain([late]) {
            ledger.found(origin, &BTreeMap::from([(1, FrameFile::default())]), 0);
        }
        let order: Vec<u8> = ledger.books().entries().map(|(id, _)| id.epoch.0[0]).collect();
        assert_eq!(order, [1, 2, 3, 4], "{found_last} was found last");
    }
}

#[test]
fn a_listing_that_is_older_than_a_removal_is_not_used() {
    let mut host = SimulatedHost::new();
    host.put(Store::Disk);
    let id = *host.made.first_key_value().unwrap().0;
    let (files, removals) = (BTreeMap::from([(1, FrameFile::default())]), host.ledger.removals());
    host.put(Store::Disk);
    host.ship();
    let origin = Origin { epoch: Epoch([9; 8]), previous: None, captured_ns: 0 };
    host.ledger.found(origin, &files, removals);
    assert!(!host.ledger.is_unsent(id) && host.ledger.books().unsent().0 == 1);
}
