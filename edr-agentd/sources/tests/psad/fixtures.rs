//! Compares every fixture tree with its golden snapshot, and with copies cut at every byte.
//!
//! `EDR_GOLDEN=write cargo test -p edr-sources --test psad` rewrites the golden files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use edr_tests::golden::check;
use edr_wire::snapshot::{GapReason, Packet, PsadMode, PsadRunState};
use serde_json::{Value, json};

use super::world::{PsadWorld, fixtures, read};

const TREES: [&str; 16] = [
    "analysis-mode/psad-2.2",
    "analysis-mode/psad-2.4.3",
    "analysis-mode/psad-2.4.6",
    "autoblock/t1",
    "autoblock/t2-after-restart-import",
    "autoblock/t3-manual-block",
    "fresh-install",
    "icmp-udp-proto",
    "ipv6",
    "kmsgsd-fwdata/t1",
    "kmsgsd-fwdata/t2-after-rotation",
    "small-scan/t1",
    "small-scan/t2",
    "small-scan/t3-after-restart",
    "log-lines/kern",
    "log-lines/ulogd",
];

/// A fixture as a `/var/log`.
pub(crate) fn world(case: &str) -> PsadWorld {
    if case.starts_with("analysis-mode") {
        // `psad -A` writes the same files into a separate folder.
        let world = PsadWorld::of(case);
        fs::rename(world.psad("ipt_analysis"), world.log_dir().join("analysis")).unwrap();
        fs::remove_dir_all(world.log_dir().join("psad")).unwrap();
        fs::rename(world.log_dir().join("analysis"), world.log_dir().join("psad")).unwrap();
        return world;
    }
    let lines = |name: &str| fs::read(fixtures().join("log-lines").join(name)).unwrap();
    match case {
        "log-lines/kern" => {
            let world = PsadWorld::empty();
            world.write(&world.psad("packet_ctr"), "");
            world.write(&world.log_dir().join("kern.log"), lines("kern.log"));
            world
        }
        "log-lines/ulogd" => {
            let world = PsadWorld::empty();
            world.write(&world.psad("packet_ctr"), "");
            world.write(&world.psad("ulogd.log"), lines("ulogd.log"));
            world
        }
        _ => PsadWorld::of(case),
    }
}

#[test]
fn every_tree_has_its_golden_snapshot() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/psad");
    let mut wrong = Vec::new();
    for case in TREES {
        let world = world(case);
        let (reading, gaps) = world.read_once();
        let mut psad = serde_json::to_value(&reading.psad).unwrap();
        psad["status_text"] = json!({ "bytes": reading.psad.status_text.0.len() });
        let packets: Vec<Value> = reading.packets.iter().map(without_guessed_year).collect();
        let shown = if case.starts_with("log-lines") { packets.clone() } else { ends(&packets) };
        let root = world.log_dir().display().to_string();
        let gaps: Vec<String> = gaps.iter().map(|gap| format!("{gap:?}").replace(&root, "/var/log")).collect();
        let snapshot = json!({
            "psad": psad,
            "packets": { "count": packets.len(), "kinds": kinds(&reading.packets), "shown": shown },
            "gaps": gaps,
        });
        let text = serde_json::to_string_pretty(&snapshot).unwrap() + "\n";
        let path = golden.join(format!("{}.json", case.replace('/', "-")));
        wrong.extend(check(&path, &text).err().map(|error| format!("{error:#}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The year of a line without a year depends on the day of the test, so the time is left out.
fn without_guessed_year(packet: &Packet) -> Value {
    let mut value = serde_json::to_value(packet).unwrap();
    if !packet.raw.0.first().is_some_and(u8::is_ascii_digit) {
        assert!(value.as_object_mut().unwrap().remove("time").is_some());
    }
    value
}

fn ends(packets: &[Value]) -> Vec<Value> {
    let skip = packets.len().saturating_sub(4);
    packets[..skip].iter().take(3).chain(&packets[skip..]).cloned().collect()
}

fn kinds(packets: &[Packet]) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for packet in packets {
        let Packet { chain, protocol, flags, .. } = packet;
        let cut = if packet.cut { " cut" } else { "" };
        *kinds.entry(format!("{chain} {protocol} {flags}{cut}").trim_end().to_owned()).or_default() += 1;
    }
    kinds
}

#[test]
fn an_unchanged_tree_reads_the_same_twice_and_its_packets_once() {
    for case in TREES {
        let world = world(case);
        let mut reader = world.reader(&[]);
        let (first, _) = read(&mut reader);
        let (second, _) = read(&mut reader);
        assert_eq!(first.psad.events.len(), second.psad.events.len(), "{case}");
        assert_eq!(serde_json::to_value(&first.psad).unwrap(), serde_json::to_value(&second.psad).unwrap(), "{case}");
        assert!(second.packets.is_empty(), "{case}");
        assert_eq!(first.positions, second.positions, "{case}");
        let (third, _) = read(&mut world.reader(&first.positions));
        assert!(third.packets.is_empty(), "{case}: a new reader goes on where the one before stopped");
    }
}

#[test]
fn no_psad_is_absent_until_it_appears() {
    let world = PsadWorld::empty();
    let mut reader = world.reader(&[]);
    let (reading, gaps) = read(&mut reader);
    assert_eq!((reading.psad.mode, reading.psad.state), (PsadMode::Absent, PsadRunState::Absent));
    assert!(gaps.is_empty(), "{gaps:?}");
    let fixture = PsadWorld::of("small-scan/t1");
    fs::rename(fixture.log_dir().join("psad"), world.log_dir().join("psad")).unwrap();
    let (reading, _) = read(&mut reader);
    assert_eq!((reading.psad.mode, reading.psad.state), (PsadMode::File, PsadRunState::Dead));
    assert_eq!(reading.psad.top_attackers[0].ip, "192.168.10.55");
    fs::remove_dir_all(world.log_dir().join("psad")).unwrap();
    let (reading, _) = read(&mut reader);
    assert_eq!((reading.psad.state, reading.psad.sources.len()), (PsadRunState::Absent, 0));
}

#[test]
fn ipv6_attackers_that_psads_own_status_hides_are_there() {
    let (reading, _) = PsadWorld::of("ipv6").read_once();
    let addresses: Vec<&str> = reading.psad.sources.iter().map(|source| source.ip.as_str()).collect();
    assert_eq!(addresses, ["2001:db8:0:f101::2", "2012:1234:1234::1", "fe80::213:46ff:fe3a:4136"]);
    assert_eq!(reading.psad.top_attackers.len(), 3);
    assert!(String::from_utf8_lossy(&reading.psad.status_text.0).contains("[NONE]"));
}

#[test]
fn counters_that_fall_are_a_new_start_and_an_older_status_is_stale() {
    let world = PsadWorld::of("small-scan/t2");
    let mut reader = world.reader(&[]);
    let (before, _) = read(&mut reader);
    assert!(!before.psad.status_stale);
    // psad was restarted: its folders are removed, its counters are 0, status.out is unchanged.
    fs::remove_dir_all(world.psad("192.168.10.55")).unwrap();
    let later = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_704_067_260);
    let after = fixtures().join("small-scan/t3-after-restart/var/log/psad");
    for name in ["top_attackers", "top_ports", "top_sigs", "packet_ctr", "ipt_prefix_ctr", "dshield_ctr"] {
        fs::copy(after.join(name), world.psad(name)).unwrap();
        fs::File::open(world.psad(name)).unwrap().set_modified(later).unwrap();
    }
    let (reading, gaps) = read(&mut reader);
    assert!(gaps.is_empty(), "{gaps:?}");
    let psad = reading.psad;
    assert!(psad.top_attackers.is_empty() && psad.sources.is_empty() && psad.protocol_counters.is_empty());
    assert_eq!((psad.counters_since, psad.status_stale), (Some(1_704_067_260_000_000_000), true));
    assert!(!psad.status_text.is_empty());
}

/// psad keeps only the matches since its last alert. The snapshot of a tick must contain the version of the file at
/// that tick, so that the archive keeps matches deleted by psad.
#[test]
fn every_version_of_a_signatures_file_is_in_the_snapshot_of_its_tick() {
    let world = PsadWorld::of("small-scan/t1");
    let mut reader = world.reader(&[]);
    let file = world.psad("192.168.10.55/192.168.10.1_signatures");
    let sids = |reading: &crate::world::PsadReading| -> Vec<u64> {
        reading.psad.sources[0].targets[0].signatures.iter().map(|row| row.sid).collect()
    };
    let mut last = sids(&read(&mut reader).0);
    assert!(!last.is_empty());
    for sid in 700_001..700_006 {
        // As in psad: written to a temporary file, then renamed.
        let part = file.with_extension("tmp");
        world.write(&part, format!("# Format\n1795491627 {sid} 2 \"MISC attempt\" INPUT tcp 80 \"SYN\" 0 1\n"));
        fs::rename(&part, &file).unwrap();
        // The kernel reports the change at once, but the receiving thread may be late.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        loop {
            let now = sids(&read(&mut reader).0);
            if now == [sid] {
                break;
            }
            assert!(now == last && std::time::Instant::now() < deadline, "{sid} did not come: {now:?}");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        last = vec![sid];
    }
}

/// Each file of a tree, cut at each byte as by a writer in progress: the last good value must stay, and without a good
/// value every row must be in the whole file.
#[test]
fn a_file_cut_at_any_byte_makes_no_false_row() {
    for case in ["small-scan/t2", "ipv6", "autoblock/t3-manual-block"] {
        let world = PsadWorld::of(case);
        fs::remove_file(world.log_dir().join("kern.log")).unwrap();
        let (whole, _) = world.read_once();
        let mut files = Vec::new();
        for entry in walk(&world.log_dir().join("psad")) {
            let name = entry.file_name().unwrap().to_string_lossy().into_owned();
            let read_by_us =
                !name.ends_with("_alert") && !["fw_check", "status.out", "fwerrorlog"].contains(&name.as_str());
            if read_by_us && fs::metadata(&entry).unwrap().len() > 0 {
                files.push(entry);
            }
        }
        assert!(files.len() > 10, "{case}");
        for path in files {
            let text = fs::read(&path).unwrap();
            // For long files: every byte of the start and of the end, and every 61st byte between.
            let cuts = (0..text.len()).filter(|&at| at < 120 || at + 120 > text.len() || at % 61 == 0);
            for cut in cuts {
                fs::write(&path, &text[..cut]).unwrap();
                let (torn, gaps) = world.read_once();
                rows_of(&torn, &whole, &format!("{} cut at {cut}", path.display()));
                assert!(gaps.iter().any(|gap| gap.reason == GapReason::Malformed) || text[..cut].ends_with(b"\n"));
            }
            let mut reader = world.reader(&[]);
            fs::write(&path, &text).unwrap();
            super::world::age(&path);
            let (good, _) = read(&mut reader);
            fs::write(&path, &text[..text.len() - 1]).unwrap();
            let (torn, gaps) = read(&mut reader);
            assert_eq!(
                serde_json::to_value(&torn.psad.sources).unwrap(),
                serde_json::to_value(&good.psad.sources).unwrap()
            );
            assert_eq!(torn.psad.top_attackers, good.psad.top_attackers);
            assert!(gaps.iter().any(|gap| gap.detail.contains("is kept")), "{}: {gaps:?}", path.display());
            fs::write(&path, &text).unwrap();
            super::world::age(&path);
        }
    }
}

fn rows_of(torn: &crate::world::PsadReading, whole: &crate::world::PsadReading, what: &str) {
    fn subset<T: PartialEq + std::fmt::Debug>(part: &[T], whole: &[T], what: &str) {
        for row in part {
            assert!(whole.contains(row), "{what}: {row:?}");
        }
    }
    let (torn, whole) = (&torn.psad, &whole.psad);
    subset(&torn.top_attackers, &whole.top_attackers, what);
    subset(&torn.top_signatures, &whole.top_signatures, what);
    subset(&torn.top_ports, &whole.top_ports, what);
    subset(&torn.protocol_counters, &whole.protocol_counters, what);
    subset(&torn.prefix_counters, &whole.prefix_counters, what);
    subset(&torn.blocked, &whole.blocked, what);
    for source in &torn.sources {
        let same = whole.sources.iter().find(|other| other.ip == source.ip).unwrap();
        assert!(source.danger_level == 0 || source.danger_level == same.danger_level, "{what}");
        for target in &source.targets {
            let same = same.targets.iter().find(|other| other.ip == target.ip).unwrap();
            assert!(target.start_time == 0 || target.start_time == same.start_time, "{what}");
            subset(&target.packets, &same.packets, what);
            subset(&target.signatures, &same.signatures, what);
        }
    }
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}
