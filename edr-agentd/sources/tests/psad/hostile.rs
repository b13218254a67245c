//! Hostile content in psad's folder.

use std::fs;
use std::os::unix::fs::symlink;

use edr_wire::snapshot::GapReason;

use super::world::{PsadWorld, read};

#[test]
fn links_fifos_and_strange_names_are_not_read() {
    let world = PsadWorld::of("small-scan/t1");
    let (before, _) = world.read_once();
    let secret = world.log_dir().join("secret");
    world.write(&secret, "6.6.6.6 5 1 1 1 0\n");
    fs::create_dir(world.log_dir().join("elsewhere")).unwrap();
    world.write(&world.log_dir().join("elsewhere/danger_level"), "5\n");

    fs::remove_file(world.psad("top_attackers")).unwrap();
    symlink(&secret, world.psad("top_attackers")).unwrap();
    fs::remove_file(world.psad("top_ports")).unwrap();
    fs::hard_link(&secret, world.psad("top_ports")).unwrap();
    fs::remove_file(world.psad("packet_ctr")).unwrap();
    nix::unistd::mkfifo(&world.psad("packet_ctr"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    symlink(world.log_dir().join("elsewhere"), world.psad("6.6.6.6")).unwrap();
    nix::unistd::mkfifo(&world.psad("192.168.10.55/os_guess"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    for name in ["..6", "0x7f000001", "192.168.010.056", "::1", "192.168.10.57 "] {
        fs::create_dir(world.psad(name)).unwrap();
        world.write(&world.psad(name).join("danger_level"), "5\n");
    }

    let (reading, gaps) = world.read_once();
    let sources: Vec<&str> = reading.psad.sources.iter().map(|source| source.ip.as_str()).collect();
    assert_eq!(sources, ["192.168.10.55"]);
    assert!(reading.psad.top_attackers.is_empty() && reading.psad.top_ports.is_empty());
    assert_eq!(reading.psad.top_signatures, before.psad.top_signatures);
    let fields: Vec<String> = gaps.iter().map(|gap| format!("{}: {}", gap.field, gap.detail)).collect();
    assert_eq!(
        fields,
        [
            "192.168.10.55/os_guess: not a regular file",
            "packet_ctr: not a regular file",
            "top_attackers: a symbolic link",
            "top_ports: a file with several names (hard links)",
        ]
    );
}

#[test]
fn garbage_of_any_size_is_counted_and_stops_nothing() {
    let world = PsadWorld::of("small-scan/t1");
    let mut garbage = vec![0_u8; 200_000];
    garbage.extend_from_slice(b"\n\xff\xfe 5 1 1 1 0\n6.6.6.6 5 1 1 1 0\n");
    world.write(&world.psad("top_attackers"), &garbage);
    let (reading, _) = world.read_once();
    assert_eq!(reading.psad.top_attackers.len(), 1);
    let unparsed = reading.psad.unparsed.unwrap();
    assert_eq!((unparsed.lines, unparsed.first.0.len()), (2, 256));

    // A line of a gigabyte, as a hole in the file: nothing of the line is read.
    let huge = fs::File::create(world.psad("top_sigs")).unwrap();
    huge.set_len(1 << 30).unwrap();
    let (reading, gaps) = world.read_once();
    assert!(reading.psad.top_signatures.is_empty());
    assert!(gaps.iter().any(|gap| gap.reason == GapReason::TooLong), "{gaps:?}");
}

#[test]
fn a_log_line_of_any_length_costs_one_gap() {
    let world = PsadWorld::of("small-scan/t1");
    let log = world.log_dir().join("kern.log");
    let line = fs::read(&log).unwrap();
    let line = &line[..=line.iter().position(|&byte| byte == b'\n').unwrap()];
    let monster = [vec![b'x'; 3 << 20], b" kernel: IN=eth0 OUT= \n".to_vec()].concat();
    world.write(&log, [line, &monster, line].concat());
    let (reading, gaps) = world.read_once();
    assert_eq!(reading.packets.len(), 2);
    assert_eq!(
        gaps.iter().map(|gap| (gap.count, gap.field.to_string())).collect::<Vec<_>>(),
        [(1, "line too long".into())]
    );

    // The long line is still being written when the agent stops, and its end looks like a line.
    world.write(&log, [line, &monster[..1 << 20]].concat());
    let (first, _) = world.read_once();
    world.write(&log, [line, &monster[..1 << 20], line, line].concat());
    let (second, _) = read(&mut world.reader(&first.positions));
    assert_eq!((first.packets.len(), second.packets.len()), (1, 1));
}

#[test]
fn a_flood_of_sources_is_the_worst_in_detail_and_totals() {
    let world = PsadWorld::of("small-scan/t1");
    for n in 0..300_u32 {
        let name = format!("10.9.{}.{}", n / 256, n % 256);
        world.write(&world.psad(&name).join("danger_level"), format!("{}\n", 1 + n % 3));
        world.write(&world.psad(&name).join("192.0.2.1_packet_ctr"), format!("INPUT_eth0_tcp:  {} [1-9]\n", 1000 + n));
    }
    let settings = edr_sources::psad::PsadSettings { sources_max: 20, ..world.settings() };
    let mut reader = edr_sources::psad::PsadReader::open(settings, &[]);
    for _ in 0..3 {
        let (reading, gaps) = read(&mut reader);
        assert!(gaps.is_empty(), "{gaps:?}");
        assert_eq!(reading.psad.sources.len(), 20);
        // Level 3: 100 sources of the flood, and the fixture's own source, which is among the less busy sources with
        // 1,002 packets.
        assert!(reading.psad.sources.iter().all(|source| source.danger_level == 3));
        let left_out = reading.psad.sources_left_out.unwrap();
        assert_eq!((left_out.sources, left_out.by_danger_level), (281, [100, 100, 81, 0, 0]));
        let all: u64 = (0..300).map(|n| 1000 + n).sum::<u64>() + 1002;
        let shown: u64 = reading.psad.sources.iter().map(|source| source.targets[0].packets[0].packets).sum();
        assert_eq!(left_out.packets + shown, all);
    }
    // A source that was left out becomes the worst of all.
    fs::write(world.psad("10.9.0.0").join("danger_level"), "5\n").unwrap();
    let (reading, _) = read(&mut reader);
    assert_eq!(reading.psad.sources[0].ip, "10.9.0.0");
    assert_eq!(reading.psad.sources.len(), 20);
}

#[test]
fn fifty_thousand_sources_cost_bounded_memory_and_their_totals_are_exact() {
    const SOURCES: u64 = 50_000;
    let world = PsadWorld::empty_in_memory();
    world.write(&world.psad("packet_ctr"), "tcp: 1\n");
    let mut all = 0;
    for n in 0..SOURCES {
        let folder = world.psad(&format!("10.{}.{}.{}", n / 65_536, n / 256 % 256, n % 256));
        fs::create_dir(&folder).unwrap();
        // One source in a hundred is worse than the rest.
        fs::write(folder.join("danger_level"), if n % 100 == 0 { "4\n" } else { "1\n" }).unwrap();
        fs::write(folder.join("192.0.2.1_packet_ctr"), format!("INPUT_eth0_tcp:  {n} [1-9]\n")).unwrap();
        all += n;
    }
    let rss = resident_bytes();
    let mut reader = world.reader(&[]);
    let mut ticks = 0;
    let (reading, looked) = loop {
        ticks += 1;
        let (reading, gaps) = read(&mut reader);
        let left_out = reading.psad.sources_left_out.unwrap();
        assert_eq!(reading.psad.sources.len() as u64 + left_out.sources, SOURCES);
        if gaps.is_empty() {
            break (reading, left_out);
        }
        assert!(gaps[0].reason == GapReason::Budget && gaps[0].detail.contains("not read yet"), "{gaps:?}");
        assert!(ticks < 10);
    };
    assert!(ticks > 2, "the work of a tick is bounded: {ticks}");
    let grown = resident_bytes().saturating_sub(rss);
    assert!(grown < 100 << 20, "{grown} bytes");
    let sources = &reading.psad.sources;
    assert_eq!((sources.len(), looked.by_danger_level), (2_000, [48_000, 0, 0, 0, 0]));
    assert_eq!(sources.iter().filter(|source| source.danger_level == 4).count(), 500);
    let shown: u64 = sources.iter().map(|source| source.targets[0].packets[0].packets).sum();
    assert_eq!(shown + looked.packets, all);
    assert!(edr_wire::snapshot::encode_row(&reading.psad).len() < 2 << 20);
}

/// A reader refuses a whole snapshot, processes included, when a field has more elements than the wire format allows.
#[test]
fn the_largest_psad_state_fits_a_snapshot() {
    let world = PsadWorld::empty_in_memory();
    let lines = |count: u32, line: fn(u32) -> String| (0..count).map(line).collect::<String>();
    let address = |n: u32| format!("10.{}.{}.{}", n >> 16 & 255, n >> 8 & 255, n & 255);
    let many = 30_000;
    world.write(&world.psad("top_attackers"), lines(many, |n| format!("10.{}.{}.9 5 9 9 9 1\n", n >> 8, n & 255)));
    world.write(&world.psad("top_sigs"), lines(many, |n| format!("{n} \"MISC scan\" 9 9 tcp\n")));
    world.write(&world.psad("top_ports"), lines(many, |n| format!("tcp {n} 9\n")));
    world.write(&world.psad("packet_ctr"), lines(many, |n| format!("     p{n}: 9\n")));
    world.write(&world.psad("ipt_prefix_ctr"), lines(many, |n| format!("[LOG {n}]: 9\n")));
    world.write(&world.psad("auto_blocked_iptables"), lines(many, |n| format!("10.{}.{}.9 9\n", n >> 8, n & 255)));
    let signatures = lines(20, |n| format!("1795492660 {n} 1 \"MISC attempt\" INPUT tcp 3389 \"SYN\" 0 1\n"));
    for n in 0..1_500 {
        let folder = world.psad(&address(n));
        // The worst source has the highest address.
        world.write(&folder.join("danger_level"), if n == 1_499 { "5\n" } else { "3\n" });
        world.write(&folder.join("192.0.2.1_packet_ctr"), "INPUT_eth0_tcp:  9 [1-9]\n");
        world.write(&folder.join("192.0.2.1_signatures"), &signatures);
    }
    let (reading, gaps) = world.read_once();
    assert_eq!(gaps.iter().filter(|gap| gap.detail.contains("30000 rows")).count(), 6, "{gaps:?}");
    let (shown, left_out) = (reading.psad.sources.len(), reading.psad.sources_left_out.unwrap());
    assert!(shown > 500 && left_out.sources == 1_500 - shown as u64, "{shown} {left_out:?}");
    assert!(reading.psad.sources.iter().any(|source| source.danger_level == 5));
    let events = vec![edr_wire::snapshot::PsadEvent { time: Some(1), ..Default::default() }; 2_000];
    let psad = edr_wire::snapshot::Psad { events, ..reading.psad };
    let snapshot = edr_wire::snapshot::Snapshot { psad: psad.clone(), ..Default::default() };
    let view = edr_wire::snapshot::SnapshotView::parse(edr_wire::snapshot::encode_row(&snapshot)).unwrap();
    assert!(view.psad().unwrap() == psad);
}

fn resident_bytes() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4_096
}
