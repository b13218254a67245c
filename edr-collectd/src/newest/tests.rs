use edr_archive::testing::{delta, header, noise, part, partition, records};

use super::host::HostState;
use super::state::FEW_ENTRIES;
use super::*;
use edr_wire::frame::{FrameHeader, PreviousEpoch};

/// Offers a frame in the form that comes from Kafka, received `received_ns` after the capture.
fn offer(newest: &Newest, header: &FrameHeader, raw: &[u8], key_raw: Option<&[u8]>, received_ns: i64) {
    for bytes in records(header, raw, key_raw, 64) {
        let at_ns = header.captured_ns + received_ns;
        let place = RecordPosition { received_ns: at_ns, partition: 0, offset: received_ns };
        newest.offer(&partition(0), place, Record::decode(&bytes).unwrap());
    }
}

fn seq(newest: &Newest) -> (u64, Option<u64>) {
    let current = newest.current(HostId([1; 16])).unwrap();
    (current.newest.saved.frame.key.seq, current.key.map(|key| key.saved.frame.key.seq))
}

#[test]
fn a_key_and_its_deltas_are_the_newest_in_the_order_of_their_numbers() {
    let newest = Newest::default();
    offer(&newest, &header(1, 1), b"one", None, 1);
    offer(&newest, &delta(1, 3, 1), b"three", Some(b"one"), 2);
    offer(&newest, &delta(1, 2, 1), b"two", Some(b"one"), 3);
    offer(&newest, &delta(1, 3, 1), b"three", Some(b"one"), 4);
    assert_eq!(seq(&newest), (3, Some(1)));
    offer(&newest, &header(1, 4), b"four", None, 5);
    assert_eq!(seq(&newest), (4, Some(4)));
    assert_eq!(newest.rows()[0].alarms, Vec::<String>::new());
}

#[test]
fn a_delta_without_its_key_counts_and_takes_the_key_when_it_comes() {
    let newest = Newest::default();
    offer(&newest, &delta(1, 3, 1), b"three", Some(b"one"), 1);
    assert_eq!(seq(&newest), (3, None));
    offer(&newest, &header(1, 1), b"one", None, 2);
    assert_eq!(seq(&newest), (3, Some(1)));
}

#[test]
fn one_place_with_two_contents_is_a_conflict_and_the_first_stays() {
    let newest = Newest::default();
    offer(&newest, &header(1, 1), b"one", None, 1);
    offer(&newest, &header(1, 1), b"another", None, 2);
    let current = newest.current(HostId([1; 16])).unwrap();
    assert_eq!(current.newest.loaded.as_ref().unwrap().open(None).unwrap(), b"one");
    assert!(current.conflict);
    let alarm = ["frames that came again with another content: 1; the first one is shown"];
    assert_eq!(newest.rows()[0].alarms, alarm);
    // The same content, sent again or read again by a start, is the same conflict.
    offer(&newest, &header(1, 1), b"another", None, 3);
    let after = Newest::default();
    after.restore(newest.save(|_| true));
    for (raw, at) in [(b"one".as_slice(), 1), (b"another", 2)] {
        offer(&after, &header(1, 1), raw, None, at);
    }
    for newest in [newest, after] {
        assert_eq!(newest.rows()[0].alarms, alarm);
        assert!(newest.current(HostId([1; 16])).unwrap().conflict);
    }
}

#[test]
fn late_frames_from_a_spool_do_not_replace_newer_frames() {
    let newest = Newest::default();
    let epoch = |n: u8, seq, captured_ns, previous: Option<u8>| FrameHeader {
        epoch: Epoch([n; 8]),
        captured_ns,
        previous_epoch: previous.map(|n| PreviousEpoch { id: Epoch([n; 8]), last_seq: 9 }),
        ..header(1, seq)
    };
    let newest_epoch = || newest.current(HostId([1; 16])).unwrap().newest.saved.frame.key.epoch.0[0];
    offer(&newest, &epoch(1, 5, 500, None), b"a", None, 1);
    offer(&newest, &epoch(2, 1, 600, Some(1)), b"b", None, 2);
    assert_eq!(newest_epoch(), 2);
    // The rest of the first epoch arrives late.
    offer(&newest, &epoch(1, 6, 510, None), b"c", None, 3);
    assert_eq!(newest_epoch(), 2);
    // After a boot, a host with a slow clock names the previous epoch.
    offer(&newest, &epoch(3, 1, 100, Some(2)), b"d", None, 4);
    assert_eq!(newest_epoch(), 3);
    // A replay of an earlier epoch.
    offer(&newest, &epoch(2, 1, 900, Some(3)), b"b", None, 5);
    assert_eq!(newest_epoch(), 3);
    // Without a predecessor and with a slow clock, an epoch counts only after a silence.
    offer(&newest, &epoch(4, 1, 50, None), b"e", None, 6);
    assert_eq!(newest_epoch(), 3);
    offer(&newest, &epoch(4, 2, 60, None), b"f", None, 700_000_000_000);
    assert_eq!(newest_epoch(), 4);
}

#[test]
fn saved_state_and_later_records_give_the_same_as_all_records() {
    let (all, saved, since) = (Newest::default(), Newest::default(), Newest::default());
    for newest in [&all, &saved] {
        offer(newest, &header(1, 1), b"one", None, 1);
        offer(newest, &delta(1, 2, 1), b"two", Some(b"one"), 2);
    }
    offer(&all, &delta(1, 3, 1), b"three", Some(b"one"), 3);
    let rows = saved.save(|name| *name == partition(0));
    assert_eq!(saved.save(|name| *name == partition(1)), SavedHosts::default());
    since.restore(rows);
    for bytes in records(&delta(1, 3, 1), b"three", Some(b"one"), 64) {
        let record = Record::decode(&bytes).unwrap();
        let mut part = part(&record, 0, 3);
        part.place.received_ns += record.header.captured_ns;
        let content = Some((part.clone(), Declarations::of(&record.header)));
        since.note(&ArchivedRow { partition: part.partition, place: part.place, content });
    }
    assert_eq!(since.save(|_| true), all.save(|_| true));
    assert!(since.current(HostId([1; 16])).unwrap().newest.loaded.is_none());
}

#[test]
fn held_frames_count_against_the_budget_and_are_dropped_to_the_archive() {
    let newest = Newest::default();
    newest.state().frame_bytes_max = 200_000;
    let raw = edr_archive::testing::noise(500, 1);
    for n in 1..=40 {
        for bytes in records(&header(n, 1), &raw, None, 1) {
            let place = RecordPosition { received_ns: i64::from(n), partition: 0, offset: 1 };
            newest.offer(&partition(0), place, Record::decode(&bytes).unwrap());
        }
        let state = newest.state();
        let known = |host: &HostState| [Some(host.newest.clone()), host.key.clone()];
        let places =
            state.hosts.values().flat_map(known).flatten().map(|known| known.saved.places.len()).sum::<usize>();
        assert!(
            places * size_of::<RecordPosition>() <= state.frame_bytes,
            "{places} places, {} bytes",
            state.frame_bytes
        );
        assert!(state.frame_bytes <= state.frame_bytes_max, "{} bytes", state.frame_bytes);
        assert_eq!(state.frame_bytes, state.hosts.values().map(HostState::byte_len).sum::<usize>());
    }
    assert!(newest.current(HostId([40; 16])).unwrap().newest.loaded.is_some());
    assert!(newest.current(HostId([1; 16])).unwrap().newest.loaded.is_none());
}

/// Names a host by the facts of its newest frame.
fn name(newest: &Newest, host_id: HostId, hostname: &str) {
    let current = newest.current(host_id).unwrap();
    newest.set_facts(&current, SavedFacts { hostname: hostname.to_owned(), ..SavedFacts::default() });
}

#[test]
fn a_name_stays_with_the_host_that_had_it_first() {
    let newest = Newest::default();
    let [first, second, third, other] = [7, 2, 3, 1].map(|n| HostId([n; 16]));
    for (at, host) in (1..).zip([first, second, third, other]) {
        offer(&newest, &FrameHeader { host_id: host, ..header(1, 1) }, b"one", None, at);
    }
    // The first host is opened last.
    for (host, hostname) in [(third, "web"), (second, "web"), (other, "db"), (first, "web")] {
        name(&newest, host, hostname);
    }
    let marks = |newest: &Newest| -> Vec<(HostId, Option<HostId>)> {
        newest.rows().into_iter().map(|row| (row.host_id, row.name_of)).collect()
    };
    let expected = [(other, None), (second, Some(first)), (third, Some(first)), (first, None)];
    assert_eq!((newest.resolve("web").unwrap(), marks(&newest)), (first, expected.to_vec()));
    assert_eq!(newest.row(first).unwrap().alarms, ["2 other hosts claim its name"]);
    assert!(newest.row(second).unwrap().alarms[0].contains(&first.to_string()));
    assert_eq!(newest.resolve(&second.to_string()).unwrap(), second);
    // Later frames, a start, and claims of many more hosts change nothing.
    let after = Newest::default();
    after.restore(newest.save(|_| true));
    for newest in [&newest, &after] {
        for n in 100..200 {
            offer(newest, &header(n, 1), b"one", None, 20);
            name(newest, HostId([n; 16]), "web");
        }
        offer(newest, &FrameHeader { host_id: second, ..header(1, 2) }, b"two", None, 30);
        name(newest, second, "web");
        assert_eq!((newest.resolve("web").unwrap(), newest.resolve("db").unwrap()), (first, other));
    }
    // A host that is renamed gives its name to the next one, and has the new name last.
    offer(&newest, &FrameHeader { host_id: first, ..header(1, 2) }, b"two", None, 40);
    name(&newest, first, "db");
    assert_eq!((newest.resolve("web").unwrap(), newest.resolve("db").unwrap()), (second, other));
    let unknown = newest.resolve("nobody\u{1b}[2J").unwrap_err().to_string();
    assert!(unknown.starts_with("no host \"nobody\\u{1b}[2J\""), "{unknown}");
}

/// Adds an archived frame without its bytes.
fn note(newest: &Newest, host_id: HostId, seq: u64, received_ns: i64) {
    let bytes = &records(&header(1, 1), b"one", None, 1 << 20)[0];
    let mut part = part(&Record::decode(bytes).unwrap(), 0, 0);
    part.place.received_ns = received_ns;
    part.frame.captured_ns = received_ns;
    (part.frame.key.host_id, part.frame.key.seq) = (host_id, seq);
    let content = Some((part.clone(), Declarations::default()));
    newest.note(&ArchivedRow { partition: part.partition, place: part.place, content });
}

const MINUTE_NS: i64 = 60_000_000_000;
const DAY_NS: i64 = 86_400_000_000_000;

#[test]
fn a_flood_of_invented_hosts_keeps_no_new_host_out() {
    let newest = Newest::default();
    let begin_ns = 20_000 * DAY_NS;
    let invented = |n: u32| {
        let mut id = [0xee; 16];
        id[..4].copy_from_slice(&n.to_be_bytes());
        HostId(id)
    };
    let known = HostId([1; 16]);
    note(&newest, known, 1, begin_ns);
    for n in 0..12_000 {
        note(&newest, invented(n), 1, begin_ns);
    }
    let listed = newest.len();
    assert!(listed <= 10_000, "{listed}");
    assert_eq!(newest.omitted().refused_frames, 12_001 - listed as u64);
    // A host that is listed is not affected; a new one is listed with its second frame.
    let honest = HostId([2; 16]);
    for (seq, expected) in [(1, None), (2, Some(2))] {
        let at_ns = begin_ns + i64::try_from(10 * seq).unwrap() * 1_000_000_000;
        for n in 0..20 {
            note(&newest, invented(20_000 + 20 * seq as u32 + n), 1, at_ns);
        }
        note(&newest, known, 1 + seq, at_ns);
        note(&newest, honest, seq, at_ns);
        assert_eq!(newest.row(known).unwrap().seq, 1 + seq);
        assert_eq!(newest.row(honest).map(|row| row.seq), expected);
    }
    let sentences = newest.omitted().sentences();
    assert!(sentences[0].ends_with("frames of new hosts beyond the limit of new hosts a minute"), "{sentences:?}");
}

#[test]
fn hosts_seen_for_a_short_time_leave_the_list_after_a_day_of_silence() {
    let newest = Newest::default();
    let begin_ns = 20_000 * DAY_NS;
    let [once, often, long, live] = [1, 2, 3, 4].map(|n| HostId([n; 16]));
    note(&newest, once, 1, begin_ns);
    for seq in 1..=100 {
        let minutes = i64::try_from(seq).unwrap();
        note(&newest, long, seq, begin_ns + minutes * MINUTE_NS);
        if seq <= 50 {
            note(&newest, often, seq, begin_ns + minutes * MINUTE_NS);
        }
    }
    name(&newest, once, "web");
    let listed = |newest: &Newest| {
        newest.age();
        let state = newest.state();
        let ids = [once, often, long, live].into_iter().filter(|id| state.hosts.contains_key(id)).count();
        assert_eq!(state.frame_bytes, state.hosts.values().map(HostState::byte_len).sum::<usize>());
        assert_eq!(state.account_entries, state.hosts.values().map(|host| host.account.entries()).sum::<usize>());
        ids
    };
    // Without any record nobody is silent.
    assert_eq!(listed(&newest), 3);
    note(&newest, live, 1, begin_ns + DAY_NS - MINUTE_NS);
    assert_eq!(listed(&newest), 4);
    note(&newest, live, 2, begin_ns + DAY_NS + 30 * MINUTE_NS);
    assert_eq!((listed(&newest), newest.current(once).is_none()), (3, true));
    assert!(newest.resolve("web").is_err());
    note(&newest, live, 3, begin_ns + 400 * DAY_NS);
    assert_eq!((listed(&newest), newest.current(long).is_some()), (2, true));
    assert_eq!(newest.omitted().aged_hosts, 2);
    // After a start, too.
    let after = Newest::default();
    after.restore(newest.save(|_| true));
    note(&after, live, 4, begin_ns + 401 * DAY_NS);
    assert_eq!(listed(&after), 2);
}

#[tokio::test]
async fn a_change_is_announced_with_its_facts() {
    let newest = Newest::default();
    let mut changes = newest.changes();
    offer(&newest, &header(1, 1), b"one", None, 1);
    newest.stale().await;
    let stale = newest.next_stale().unwrap();
    assert!(newest.next_stale().is_none());
    newest.set_unreadable(&stale.newest.saved.frame.key, "snapshot: damaged".into(), None);
    assert_eq!(changes.recv().await.unwrap(), HostId([1; 16]));
    assert_eq!(newest.rows()[0].alarms, ["its newest snapshot (seq 1) cannot be read: snapshot: damaged"]);
}

#[test]
fn a_frame_counts_when_all_parts_are_archived() {
    let newest = Newest::default();
    offer(&newest, &header(1, 1), b"one", None, 1);
    let parts = records(&header(1, 2), &noise(3_000, 1), None, 512);
    let add = |newest: &Newest, bytes: &[u8], offset| {
        newest.offer(
            &partition(0),
            RecordPosition { received_ns: 2, partition: 0, offset },
            Record::decode(bytes).unwrap(),
        );
    };
    add(&newest, &parts[0], 2);
    let account = newest.account(HostId([1; 16]));
    assert_eq!((account.archived, account.incomplete, account.brief().as_str()), (1, 1, "1 incomplete"));
    for (bytes, offset) in parts.iter().zip(2..) {
        add(&newest, bytes, offset);
    }
    let account = newest.account(HostId([1; 16]));
    assert!(account.is_complete() && account.archived == 2, "{account:?}");
    // A part that comes again changes nothing.
    add(&newest, &parts[0], 90);
    assert_eq!(newest.account(HostId([1; 16])), account);
    assert_eq!(newest.omitted(), OmittedFrames::default());
}

/// Offers frames with a hole after each, which costs an account one entry for each frame.
fn offer_holes(newest: &Newest, n: u8, seqs: std::ops::Range<u64>) {
    for seq in seqs {
        offer(newest, &header(n, 2 * seq), b"one", None, 1);
    }
}

fn entries(newest: &Newest, n: u8) -> usize {
    newest.state().hosts[&HostId([n; 16])].account.entries()
}

#[test]
fn only_an_account_that_grows_is_cut_when_all_accounts_are_full() {
    let newest = Newest::default();
    newest.state().account_entries_max = 200;
    offer_holes(&newest, 1, 1..101);
    offer_holes(&newest, 2, 1..301);
    let is_cut = |newest: &Newest, n| newest.account(HostId([n; 16])).is_cut;
    assert!(entries(&newest, 1) == 100 && entries(&newest, 2) <= 101, "{} entries", entries(&newest, 2));
    assert_eq!((is_cut(&newest, 1), is_cut(&newest, 2)), (false, true));
    // A frame in sequence extends the last entry, and costs the account nothing while the others are full.
    newest.state().account_entries_max = 50;
    offer(&newest, &header(1, 201), b"one", None, 1);
    assert_eq!((entries(&newest, 1), is_cut(&newest, 1)), (100, false));
    offer(&newest, &header(1, 203), b"one", None, 1);
    assert_eq!((entries(&newest, 1), is_cut(&newest, 1)), (FEW_ENTRIES, true));
}

#[test]
fn times_of_boots_count_as_entries_of_all_accounts() {
    let newest = Newest::default();
    // The counted entries, and the entries that all accounts have.
    let entries = |newest: &Newest| {
        let state = newest.state();
        (state.account_entries, state.hosts.values().map(|host| host.account.entries()).sum::<usize>())
    };
    for n in [1, 2] {
        offer(&newest, &header(n, 1), b"one", None, 1);
        let opened = newest.current(HostId([n; 16])).unwrap();
        let of_boot = |booted_ns| SavedFacts { boot_id: "boot".into(), booted_ns, ..SavedFacts::default() };
        newest.set_facts(&opened, of_boot(None));
        let (before, _) = entries(&newest);
        assert_eq!(entries(&newest), (before, before));
        newest.set_facts(&opened, of_boot(Some(5)));
        assert_eq!(entries(&newest), (before + 1, before + 1));
    }
    let before = entries(&newest);
    newest.state().set_boot(HostId([1; 16]), "unknown", 5);
    assert_eq!(entries(&newest), before);
}

#[test]
fn frames_of_other_epochs_between_two_deltas_do_not_part_the_second_from_its_key() {
    let of_epoch = |n, captured_ns| FrameHeader { epoch: Epoch([n; 8]), captured_ns, ..header(1, 1) };
    let key_of_newest = |newest: &Newest| newest.current(HostId([1; 16])).unwrap().key.map(|key| key.saved.frame.key);
    let newest = Newest::default();
    offer(&newest, &header(1, 1), b"one", None, 1);
    let key = key_of_newest(&newest);
    offer(&newest, &of_epoch(9, 10_000_000_001), b"key of another epoch", None, 2);
    offer(&newest, &delta(1, 2, 1), b"two", Some(b"one"), 3);
    assert_eq!(seq(&newest), (2, Some(1)));
    assert_eq!(key_of_newest(&newest), key);
    // The key of the newest readable frame stays at hand, whatever comes meanwhile.
    newest.set_facts(&newest.current(HostId([1; 16])).unwrap(), SavedFacts::default());
    for n in 10..60 {
        offer(&newest, &of_epoch(n, 20_000_000_000 + i64::from(n)), b"key of another epoch", None, i64::from(n));
    }
    offer(&newest, &delta(1, 3, 1), b"three", Some(b"one"), 61);
    assert_eq!((seq(&newest), key_of_newest(&newest)), ((3, Some(1)), key));
    // After a start, too.
    let after = Newest::default();
    offer(&newest, &of_epoch(61, 30_000_000_001), b"key of another epoch", None, 62);
    after.restore(newest.save(|_| true));
    offer(&after, &delta(1, 4, 1), b"four", Some(b"one"), 63);
    assert_eq!(key_of_newest(&after), key);
    let state = newest.state();
    assert_eq!(state.frame_bytes, state.hosts.values().map(HostState::byte_len).sum::<usize>());
}

#[test]
fn large_snapshots_do_not_delay_the_facts_of_usual_hosts() {
    let newest = Newest::default();
    let large = vec![0; 9 << 20];
    for n in 1..=40 {
        offer(&newest, &header(n, 1), &large, None, 1);
    }
    for n in 41..=80 {
        offer(&newest, &header(n, 1), b"small", None, 2);
    }
    let order: Vec<u8> = std::iter::from_fn(|| newest.next_stale()).map(|current| current.host_id.0[0]).collect();
    assert_eq!(order.len(), 80);
    let position = |n| order.iter().position(|host| *host == n).unwrap();
    assert!(position(41) <= 1 && position(80) <= 44, "{order:?}");
    assert!(position(1) <= 17 && position(2) <= 34, "large snapshots have their turns: {order:?}");
}
