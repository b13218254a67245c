//! Every line of every log of the corpus: compares the agent's packets with the result of a second, naive parser
//! without common code.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;

use edr_wire::snapshot::Packet;

use super::world::{PsadWorld, fixtures, read};

/// The naive parser's result for a line.
#[derive(Debug, Default, PartialEq)]
struct Naive {
    prefix: String,
    interface_in: String,
    interface_out: String,
    mac: String,
    src: String,
    dst: String,
    protocol: String,
    ports: (Option<u16>, Option<u16>),
    icmp: (Option<u8>, Option<u8>),
    flags: String,
    length: Option<u32>,
    ttl: Option<u8>,
}

/// Cuts out the quoted packet and the options, splits at blanks, and takes the first word of each key.
fn naive(line: &str) -> Naive {
    let start = line
        .match_indices("IN=")
        .map(|(at, _)| at)
        .find(|&at| line[at..].split(' ').nth(1).unwrap().starts_with("OUT="))
        .unwrap();
    let head = &line[..start];
    let head = head.split_once(" kernel: ").map_or_else(|| head.splitn(5, ' ').nth(4).unwrap(), |(_, rest)| rest);
    let head = match head.find("] ").filter(|&end| head[..end].contains('.') && head.starts_with('[')) {
        Some(end) => &head[end + 2..],
        None => head,
    };
    let mut body = line[start..].to_owned();
    while let (Some(open), Some(close)) = (body.find(['[', '(']), body.rfind([']', ')'])) {
        let close = body[open..].find([']', ')']).map_or(close, |at| open + at);
        body.replace_range(open..=close, "");
    }
    let words: Vec<&str> = body.split_whitespace().collect();
    let value = |key: &str| words.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('=')).unwrap_or_default();
    let number = |key: &str| value(key).parse().ok();
    let small = |key: &str| value(key).parse().ok();
    let address = |key: &str| value(key).parse::<IpAddr>().unwrap().to_string();
    let protocol = value("PROTO").to_ascii_lowercase();
    let after = words.iter().position(|word| word.starts_with("PROTO=")).map_or(&[][..], |at| &words[at..]);
    let flags: Vec<&str> = ["CWR", "ECE", "URG", "ACK", "PSH", "RST", "SYN", "FIN"]
        .into_iter()
        .filter(|flag| protocol == "tcp" && after.contains(flag))
        .collect();
    let icmp = |key: &str| if protocol.starts_with("icmp") { small(key) } else { None };
    Naive {
        prefix: head.trim_end().to_owned(),
        interface_in: value("IN").to_owned(),
        interface_out: value("OUT").to_owned(),
        mac: value("MAC").to_owned(),
        src: address("SRC"),
        dst: address("DST"),
        flags: flags.join(" "),
        ports: (value("SPT").parse().ok(), value("DPT").parse().ok()),
        icmp: (icmp("TYPE"), icmp("CODE")),
        length: number("LEN"),
        ttl: small("TTL").or_else(|| small("HOPLIMIT")),
        protocol,
    }
}

fn as_naive(packet: &Packet) -> Naive {
    Naive {
        prefix: packet.prefix.to_string(),
        interface_in: packet.interface_in.to_string(),
        interface_out: packet.interface_out.to_string(),
        mac: packet.mac.to_string(),
        src: packet.src.clone(),
        dst: packet.dst.clone(),
        protocol: packet.protocol.clone(),
        ports: (packet.src_port, packet.dst_port),
        icmp: (packet.icmp_type, packet.icmp_code),
        flags: packet.flags.clone(),
        length: packet.length,
        ttl: packet.ttl,
    }
}

fn logs() -> Vec<PathBuf> {
    let mut logs = vec![fixtures().join("log-lines/kern.log"), fixtures().join("log-lines/ulogd.log")];
    for case in
        ["autoblock/t3-manual-block", "icmp-udp-proto", "ipv6", "kmsgsd-fwdata/t2-after-rotation", "small-scan/t2"]
    {
        logs.push(fixtures().join(case).join("var/log/kern.log"));
    }
    logs
}

#[test]
fn whole_lines_are_packets_with_the_fields_a_naive_parser_finds() {
    let mut lines = 0;
    for log in logs() {
        let world = PsadWorld::empty();
        let settings = edr_sources::psad::PsadSettings { packet_log: Some(log.clone()), ..world.settings() };
        let (reading, gaps) = read(&mut edr_sources::psad::PsadReader::open(settings, &[]));
        assert!(gaps.is_empty(), "{}: {gaps:?}", log.display());
        let text = fs::read_to_string(&log).unwrap();
        assert_eq!(reading.packets.len(), text.lines().count(), "{}", log.display());
        for (packet, line) in reading.packets.iter().zip(text.lines()) {
            assert_eq!(packet.raw.to_string(), line);
            assert_eq!(as_naive(packet), naive(line), "{line}");
            assert!(!packet.cut && packet.repeated == 1 && packet.time.is_some(), "{line}");
        }
        lines += reading.packets.len();
    }
    assert!(lines > 7_000, "{lines}");
}

/// kmsgsd copied the same packets as syslog, in blocks: packets left whole by kmsgsd must be equal.
#[test]
fn fwdata_has_the_packets_of_the_syslog_file_and_marks_cut_packets() {
    let case = fixtures().join("kmsgsd-fwdata/t1/var/log");
    let of = |path: &str| {
        let settings =
            edr_sources::psad::PsadSettings { packet_log: Some(case.join(path)), ..PsadWorld::empty().settings() };
        read(&mut edr_sources::psad::PsadReader::open(settings, &[]))
    };
    let (syslog, _) = of("kern.log");
    let (fwdata, gaps) = of("psad/fwdata");
    let whole: Vec<_> = syslog.packets.iter().map(as_naive).collect();
    let (cut, intact): (Vec<_>, Vec<_>) = fwdata.packets.iter().partition(|packet| packet.cut);
    let unparsed: u64 = gaps.iter().map(|gap| gap.count).sum();
    assert_eq!((cut.len() as u64 + unparsed, intact.len()), (7, 1_030));
    for packet in &intact {
        assert!(whole.contains(&as_naive(packet)), "{packet:?}");
    }
    for packet in cut {
        let cut = as_naive(packet);
        let same = |all: &Naive| {
            (cut.src.is_empty() || cut.src == all.src)
                && (cut.dst.is_empty() || cut.dst == all.dst)
                && (cut.ttl.is_none() || cut.ttl == all.ttl)
                && (cut.ports.0.is_none() || cut.ports.0 == all.ports.0)
                && (cut.ports.1.is_none() || cut.ports.1 == all.ports.1)
                && (cut.mac.is_empty() || cut.mac == all.mac)
        };
        assert!(whole.iter().any(same), "{packet:?}");
    }
}

/// Each line of the corpus's hardest log, cut at every byte and followed by a whole line, as kmsgsd does.
#[test]
fn a_line_cut_at_any_byte_gives_no_false_packet_and_the_next_is_whole() {
    let text = fs::read_to_string(fixtures().join("log-lines/kern.log")).unwrap();
    let world = PsadWorld::empty();
    let path = world.psad("fwdata");
    let next = text.lines().next().unwrap();
    for line in text.lines() {
        let all = naive(line);
        let mut log = String::new();
        for cut in 1..line.len() {
            log.push_str(&line[..cut]);
            log.push_str(next);
            log.push('\n');
        }
        world.write(&path, &log);
        let (reading, gaps) = world.read_once();
        let (cut, whole): (Vec<_>, Vec<_>) = reading.packets.iter().partition(|packet| packet.cut);
        let unparsed: u64 = gaps.iter().map(|gap| gap.count).sum();
        assert_eq!(whole.len(), line.len() - 1, "{line}");
        assert!(whole.iter().all(|packet| packet.raw.to_string() == next), "{line}");
        assert_eq!(cut.len() as u64 + unparsed, (line.len() - 1) as u64, "{line}");
        for packet in cut {
            let part = as_naive(packet);
            let what = packet.raw.to_string();
            assert!(part.mac.is_empty() || part.mac == all.mac, "{what}");
            assert!(part.src.is_empty() || part.src == all.src, "{what}");
            assert!(part.dst.is_empty() || part.dst == all.dst, "{what}");
            assert!(part.protocol.is_empty() || part.protocol == all.protocol, "{what}");
            assert!(part.ports.0.is_none() || part.ports.0 == all.ports.0, "{what}");
            assert!(part.ports.1.is_none() || part.ports.1 == all.ports.1, "{what}");
            assert!(part.icmp.0.is_none() || part.icmp.0 == all.icmp.0, "{what}");
            assert!(part.icmp.1.is_none() || part.icmp.1 == all.icmp.1, "{what}");
            assert!(part.length.is_none() || part.length == all.length, "{what}");
            assert!(part.ttl.is_none() || part.ttl == all.ttl, "{what}");
            assert!(all.flags.starts_with(&part.flags), "{what}");
        }
    }
}

#[test]
fn forms_that_the_corpus_does_not_have() {
    let world = PsadWorld::empty();
    let packet = "SRC=192.0.2.9 DST=192.0.2.1 LEN=40 TOS=0x00 PREC=0x00 TTL=64 ID=1 PROTO=UDP SPT=1 DPT=2 LEN=20 ";
    let head = "2026-11-24T03:48:58.293268Z fw01 kernel:";
    let lines = [
        format!("{head} message repeated 28 times: [ [UFW BLOCK] IN=eth0 OUT= {packet}]"),
        format!("{head} IN=br0 PHYSIN=eth0 OUT=br0 PHYSOUT=eth1 {packet}"),
        format!("{head} IN=x IN=eth0 OUT= {packet}"),
        format!(
            "{head} IN=eth0 OUT= MAC= SRC=192.0.2.999 DST=192.0.2.1 LEN=40 TTL=300 PROTO=TCP SPT=70000 DPT=80 SYN \
            URGP=0 "
        ),
        format!("2026-11-24T03:48:58Z fw01 sshd[7]: IN=eth0 OUT= {packet}"),
        format!("2026-11-24T03:48:58Z fw01 sshd[7]: x {head} IN=eth0 OUT= {packet}"),
        format!("{head} usb 1-1: new device"),
        "2026-11-24T03:48:58Z fw01 psad: scan detected: 192.0.2.9 -> 192.0.2.1 DL: 2".to_owned(),
    ];
    world.write(&world.psad("packet_ctr"), "");
    world.write(&world.log_dir().join("messages"), lines.join("\n") + "\n");
    let (reading, gaps) = world.read_once();
    let shown: Vec<_> = reading
        .packets
        .iter()
        .map(|packet| {
            (packet.repeated, packet.prefix.to_string(), packet.interface_in.to_string(), packet.chain.as_str())
        })
        .collect();
    let expected = [(28, "[UFW BLOCK]", "eth0", "INPUT"), (1, "", "br0", "FORWARD"), (1, "IN=x", "eth0", "INPUT")];
    let expected = expected.map(|(n, prefix, interface, chain)| (n, prefix.to_owned(), interface.to_owned(), chain));
    assert_eq!(shown[..3], expected);
    let last = &reading.packets[3];
    assert_eq!((last.src.as_str(), last.src_port, last.dst_port, last.ttl), ("", None, Some(80), None));
    assert_eq!(reading.packets.len(), 4, "what another program writes is no packet");
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    assert_eq!((reading.psad.events.len(), reading.psad.events[0].danger_level), (1, Some(2)));
}
