//! Heads, bodies and cuts of packet lines, in every combination: no packet is lost.

use edr_wire::snapshot::{Packet, encode_row};
use jiff::tz::TimeZone;
use proptest::prelude::*;

use super::*;

/// 2026-11-24T12:00:00Z.
const NOW_NS: i64 = 1_795_521_600_000_000_000;
/// 2026-11-24T03:42:03Z.
const TIME_NS: i64 = 1_795_491_723_000_000_000;

/// The rows, the events, and the number of packets counted in gaps.
struct Sorted {
    packets: Vec<Packet>,
    events: Vec<PsadEvent>,
    faults: BTreeMap<LineFault, (u64, Bytes)>,
}

impl Sorted {
    fn counted(&self) -> u64 {
        let rows: u64 = self.packets.iter().map(|packet| u64::from(packet.repeated)).sum();
        // A packet with an invalid value is a row.
        let faults = self.faults.iter().filter(|(fault, _)| **fault != LineFault::BadValue);
        rows + faults.map(|(_, (count, _))| count).sum::<u64>()
    }
}

fn sort(log: &[u8], format: LogFormat) -> Sorted {
    let mut found = LogRows::default();
    let mut resolver = Resolver::new(NOW_NS, TimeZone::UTC);
    let mut previous = PreviousLine::default();
    let mut sorter = Sorter::new(&mut found, (format, LogContent::Packets), &mut resolver, &mut previous);
    for line in log.split(|&byte| byte == b'\n') {
        sorter.take(Piece::Line(line));
    }
    let faults = std::mem::take(&mut sorter.faults);
    let mut bytes = found.packets.bytes();
    let packets = (0..found.packets.len()).map(|_| rmp_serde::from_read(&mut bytes).unwrap()).collect();
    Sorted { packets, events: found.events, faults }
}

/// The only packet of a line.
fn packet(line: &str) -> Packet {
    let mut sorted = sort(line.as_bytes(), LogFormat::Syslog);
    assert_eq!((sorted.packets.len(), &sorted.faults), (1, &BTreeMap::new()), "{line}");
    sorted.packets.remove(0)
}

/// Heads with the tag of the kernel and a time, which are found inside of lines, too.
const KERNEL_HEADS: [&str; 14] = [
    "Nov 24 03:42:03 fw kernel: ",
    "Nov 24 03:42:03.000000 fw kernel: [  511.815368] ",
    "<4>Nov 24 03:42:03 kernel: ",
    "Nov 24 2026 03:42:03 fw kernel: <4>",
    "2026-11-24T03:42:03.000000+00:00 fw kernel: [  511.815368][    C0] ",
    "2026-11-24T03:42:03 fw kernel[0]: ",
    "2026-11-24T04:42:03+0100 fw kernel[]:  ",
    "2026-11-24 03:42:03,000 fw kernel:",
    "2026-11-24T03:42:03Z fw kern.warn kernel: [  511.815368][ T1234] ",
    "<4>1 2026-11-24T03:42:03Z fw kernel - - - ",
    "2026-11-24T03:42:03Z fw kernel - - [meta sequenceId=\"1\"] [  511.815368] ",
    "Tue Nov 24 03:42:03 2026 kern.warn kernel: [  511.815368] ",
    "Tue 2026-11-24 03:42:03 UTC fw kernel: ",
    "1795491723.000000 fw kernel: ",
];

const OTHER_HEADS: [&str; 4] = [
    "Nov 24 03:42:03 fw ulogd[812]: ",
    "2026-11-24T03:42:03Z fw ulogd: ",
    "Nov 24 03:42:03 fw ",
    "[Tue Nov 24 03:42:03 2026] ",
];

const ADDRESSES: &str = "SRC=198.51.100.7 DST=192.0.2.1 LEN=60 TOS=0x00 PREC=0x00 TTL=52 ID=1 DF PROTO=TCP SPT=39158 \
     DPT=3389 WINDOW=64240 RES=0x00 SYN URGP=0 ";

/// Prefix, then the interfaces and the link.
const BODIES: [(&str, &str); 10] = [
    ("[UFW BLOCK]", " IN=eth0 OUT= MAC=02:00:00:00:00:01:02:00:00:00:00:02:08:00 "),
    ("DROP", " IN=eth0 OUT=eth1 "),
    ("", "IN= OUT=eth0 "),
    ("Shorewall:net2fw:DROP:", "IN=eth0 OUT= MAC= "),
    ("DROP", " IN=br0 PHYSIN=eth0 OUT=br0 PHYSOUT=eth1 "),
    ("0 6 PVEFW-HOST-IN policy DROP:", " IN=vmbr0 MAC=02:00:00:00:00:01:02:00:00:00:00:02:08:00 "),
    ("0 6 PVEFW-HOST-OUT policy DROP:", " OUT=vmbr0 "),
    ("zone IN=wan OUT=any:", " IN=eth0 OUT= MAC=02:00:00:00:00:01:02:00:00:00:00:02:08:00 "),
    ("LOGIN= OUT=x", " IN=eth0 OUT= "),
    ("DROP", "IN=eth0 OUT= MAC=02:00:00:00:00:01:02:00:00:00:00:02:08:00 <4>"),
];

#[test]
fn every_body_under_every_head_is_one_whole_packet() {
    for head in KERNEL_HEADS.iter().chain(&OTHER_HEADS) {
        for (prefix, link) in BODIES {
            let line = format!("{head}{prefix}{link}{ADDRESSES}");
            let packet = packet(&line);
            assert_eq!(packet.prefix.to_string(), prefix, "{line}");
            let addresses = (packet.src.as_str(), packet.dst.as_str(), packet.src_port, packet.dst_port);
            assert_eq!(addresses, ("198.51.100.7", "192.0.2.1", Some(39_158), Some(3_389)), "{line}");
            assert_eq!(
                (packet.protocol.as_str(), packet.flags.as_str(), packet.ttl),
                ("tcp", "SYN", Some(52)),
                "{line}"
            );
            assert_eq!(packet.time, Some(TIME_NS), "{line}");
            assert_eq!(packet.kernel_us, head.contains("[  511").then_some(511_815_368), "{line}");
            let outside = (link.contains("IN=eth0"), link.contains("OUT=eth"));
            let chain = match outside {
                _ if link.contains("IN=vmbr0") => "INPUT",
                _ if link.contains("OUT=vmbr0") => "OUTPUT",
                _ if link.contains("PHYS") => "FORWARD",
                (true, false) => "INPUT",
                (true, true) => "FORWARD",
                _ => "OUTPUT",
            };
            assert_eq!(packet.chain, chain, "{line}");
            assert!(!packet.cut && packet.repeated == 1, "{line}");
        }
    }
}

#[test]
fn a_packet_without_a_known_head_is_a_packet_without_a_time() {
    for head in ["", "fw kernel: ", "kernel: ", "24.11.2026 03:42 fw kernel: ", "@400000006a1b2c3d00000000 "] {
        let line = format!("{head}[UFW BLOCK] IN=eth0 OUT= {ADDRESSES}");
        let packet = packet(&line);
        assert_eq!((packet.time, packet.src.as_str()), (None, "198.51.100.7"), "{line}");
    }
}

#[test]
fn another_program_is_refused_and_a_bare_name_is_counted() {
    let body = format!("IN=eth0 OUT= {ADDRESSES}");
    for line in [
        format!("Nov 24 03:42:03 fw sshd[7]: {body}"),
        format!("Nov 24 03:42:03 fw sshd[7]: x Nov 24 03:42:03 fw kernel: {body}"),
        format!("<4>1 2026-11-24T03:42:03Z fw sshd 7 - - {body}"),
    ] {
        let sorted = sort(line.as_bytes(), LogFormat::Syslog);
        assert_eq!((sorted.packets.len(), sorted.counted()), (0, 0), "{line}");
    }
    let sorted = sort(format!("Nov 24 03:42:03 fw app: {body}").as_bytes(), LogFormat::Syslog);
    assert_eq!(sorted.packets.len(), 0);
    assert_eq!(sorted.faults, BTreeMap::from([(LineFault::OtherName, (1, Bytes::default()))]));
    // In a file of ulogd a name is the prefix of a rule.
    let sorted = sort(format!("Nov 24 03:42:03 fw app: {body}").as_bytes(), LogFormat::Ulogd);
    assert_eq!(sorted.packets[0].prefix.to_string(), "app:");
}

#[test]
fn repeated_lost_and_cut_packets_are_counted() {
    let line = format!("Nov 24 03:42:03 fw kernel: DROP IN=eth0 OUT= {ADDRESSES}");
    let counted = |log: &str| sort(log.as_bytes(), LogFormat::Syslog).counted();
    for (next, more) in [
        ("Nov 24 03:42:09 fw last message repeated 3 times", 3),
        ("Nov 24 03:42:09 last message repeated 3 times", 3),
        ("Nov 24 03:42:09 fw kern.warn kernel: last message repeated 3 times", 3),
        (
            "Nov 24 03:42:09 fw kernel: Last message 'DROP IN=eth0 OUT= SRC' repeated 3 times, suppressed by syslog-ng",
            3,
        ),
        ("Nov 24 03:42:09 fw syslog-ng[7]: Last message 'DROP IN=' repeated 3 times, suppressed by syslog-ng on fw", 3),
        ("Nov 24 03:42:09 fw kernel: usb 1-1: x\nNov 24 03:42:09 fw last message repeated 3 times", 0),
        ("Nov 24 03:42:09 fw sshd[7]: x\nNov 24 03:42:09 fw last message repeated 3 times", 0),
        ("Nov 24 03:42:09 fw kernel: DROP IN=eth0\nNov 24 03:42:09 fw last message repeated 3 times", 4),
        ("Nov 24 03:42:09 fw systemd-journald[312]: Missed 12 kernel messages", 12),
        ("Nov 24 03:42:09 fw kernel: TTL=126 ID=15317 DF PROTO=TCP", 1),
        ("126 ID=15317 DF PROTO=TCP", 1),
        ("Nov 24 03:42:09 fw kernel: usb 1-1: new device", 0),
    ] {
        assert_eq!(counted(&format!("{line}\n{next}")), 1 + more, "{next}");
    }
    assert_eq!(counted("Nov 24 03:42:09 fw last message repeated 3 times"), 3, "of a line that was not read");
    let sorted =
        sort(format!("{line}\nNov 24 03:42:09 fw last message repeated 3 times").as_bytes(), LogFormat::Syslog);
    let repeated = &sorted.packets[1];
    assert_eq!((repeated.repeated, repeated.src.as_str()), (3, "198.51.100.7"));
    assert_eq!(repeated.time, Some(TIME_NS + 6_000_000_000));
}

#[test]
fn psads_events_have_the_same_heads() {
    for head in KERNEL_HEADS {
        let head = head.split_once("kernel").unwrap().0;
        for tag in ["psad: ", "psad[7]: ", "psad 7 - - "] {
            if tag.ends_with("- ") && head.contains("kern") {
                continue;
            }
            let line = format!("{head}{tag}scan detected: 198.51.100.7 -> 192.0.2.1 DL: 2");
            let sorted = sort(line.as_bytes(), LogFormat::Syslog);
            let [event] = &sorted.events[..] else { panic!("{line}: {:?}", sorted.events) };
            assert_eq!((event.kind.as_str(), event.time), ("scan", Some(TIME_NS)), "{line}");
        }
    }
}

/// How a packet came into the log.
#[derive(Debug, Clone)]
enum Form {
    Whole,
    /// `message repeated N times: [ … ]`.
    Repeated(u32),
    /// `last message repeated N times` in the next line.
    Again(u32),
    /// The line ends early.
    CutEnd(usize),
    /// The line ends early, and the next line follows without a line end.
    Glued(usize),
    /// The line lost its start.
    CutStart(usize),
    /// A block of NUL stands before the line, perhaps behind a cut line.
    Nul(usize, Option<usize>),
}

fn form() -> impl Strategy<Value = Form> {
    prop_oneof![
        Just(Form::Whole),
        (1_u32..99).prop_map(Form::Repeated),
        (1_u32..99).prop_map(Form::Again),
        any::<usize>().prop_map(Form::CutEnd),
        any::<usize>().prop_map(Form::Glued),
        any::<usize>().prop_map(Form::CutStart),
        (1_usize..5_000, proptest::option::of(any::<usize>())).prop_map(|(nul, cut)| Form::Nul(nul, cut)),
    ]
}

proptest! {
    #[test]
    fn the_sum_of_rows_repeats_and_gaps_is_the_number_of_packets(
        lines in proptest::collection::vec((0..KERNEL_HEADS.len(), 0..BODIES.len(), form()), 1..12),
    ) {
        let mut log = Vec::new();
        let mut written = 0;
        let mut is_cut_in_head = false;
        for (head, body, form) in &lines {
            let (head, (prefix, link)) = (KERNEL_HEADS[*head], BODIES[*body]);
            let line = format!("{head}{prefix}{link}{ADDRESSES}");
            // Before the packet's first word nothing tells of a packet; `DROPIN=` could be any word.
            let known = if prefix == "DROP" && link.starts_with("IN=") { "OUT=" } else { "=" };
            let first = head.len() + prefix.len() + link.find(known).unwrap() + known.len();
            let cut_end = |at: usize| &line[..first + at % (line.len() - first)];
            written += 1;
            match form {
                Form::Whole => log.extend_from_slice(line.as_bytes()),
                Form::Repeated(times) => {
                    written += u64::from(*times) - 1;
                    let text = format!("{head}message repeated {times} times: [ {prefix}{link}{ADDRESSES}]");
                    log.extend_from_slice(text.as_bytes());
                }
                Form::Again(times) => {
                    written += u64::from(*times);
                    let text = format!("{line}\nNov 24 03:42:03 fw last message repeated {times} times");
                    log.extend_from_slice(text.as_bytes());
                }
                Form::CutEnd(at) => log.extend_from_slice(cut_end(*at).as_bytes()),
                Form::Glued(at) => {
                    written += 1;
                    log.extend_from_slice(cut_end(*at).as_bytes());
                    log.extend_from_slice(line.as_bytes());
                }
                Form::CutStart(at) => {
                    let start = at % (line.len() - 6);
                    is_cut_in_head |= start < head.len();
                    log.extend_from_slice(&line.as_bytes()[start..]);
                }
                Form::Nul(nul, cut) => {
                    if let Some(at) = cut {
                        written += 1;
                        log.extend_from_slice(cut_end(*at).as_bytes());
                    }
                    log.extend_from_slice(&vec![0; *nul]);
                    log.extend_from_slice(line.as_bytes());
                }
            }
            log.push(b'\n');
        }
        for format in [LogFormat::Syslog, LogFormat::Fwdata] {
            // kmsgsd cuts blocks: the rest of a head could be the start of another packet's line.
            if format == LogFormat::Fwdata && is_cut_in_head {
                continue;
            }
            let sorted = sort(&log[..log.len() - 1], format);
            let text = String::from_utf8_lossy(&log);
            prop_assert_eq!(sorted.counted(), written, "{:?}: {:?}\n{}", format, sorted.faults, text);
        }
    }

    #[test]
    fn any_line_is_survived(
        text in "(kernel: |Nov 24 03:42:03 |fw |IN=a OUT= |SRC=1.2.3.4 |MAC=1:2 |\\[|x|=|\u{0}|<4>|: ){0,40}",
    ) {
        for format in [LogFormat::Syslog, LogFormat::Fwdata, LogFormat::Ulogd] {
            for packet in sort(text.as_bytes(), format).packets {
                prop_assert!(packet.repeated > 0 && packet.raw.0.len() <= text.len());
                prop_assert!(!encode_row(&packet).is_empty());
            }
        }
    }
}
