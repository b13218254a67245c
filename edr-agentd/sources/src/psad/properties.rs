//! Properties of all parsers: any input is handled without a panic, every line is a row or counted, and psad's output
//! is parsed back to the same values.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::net::IpAddr;

use edr_wire::Bytes;
use edr_wire::snapshot::{Attacker, ScannedPort, SignatureMatch, TargetPackets, TopSignature};
use proptest::prelude::*;

use super::blocked::parse_blocked;
use super::config::{Arguments, Conf, parse_daemon_args};
use super::counters::{parse_dshield, parse_prefix_counters, parse_protocol_counters};
use super::rankings::{parse_top_attackers, parse_top_ports, parse_top_signatures};
use super::signatures::parse_signatures;
use super::sources::{
    SourceFile, parse_danger_level, parse_number, parse_os_guess, parse_p0f_guesses, parse_target_packets,
};
use crate::common::lines::{BadLines, lines};
use crate::firewall_log::parse_event;

/// Text similar to psad's, and arbitrary bytes.
fn text() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        "[0-9]{1,4}",
        "[0-9]{1,3}\\.[0-9]{1,3}\\.[0-9]{1,3}\\.[0-9]{1,3}",
        "[A-Z]{1,5}_[a-z0-9_.-]{0,9}:",
        "\"[a-z\" ]{0,9}\"",
        "(tcp|udp|icmp|ip)",
        "\\[[0-9]{1,5}(-[0-9]{1,5})?\\]",
        "(#|\\$[A-Z]{1,3}|;|=|total emails:| |  )",
    ];
    let line = proptest::collection::vec(word, 0..10).prop_map(|words| words.join(" ").into_bytes());
    let line = prop_oneof![4 => line, 1 => proptest::collection::vec(any::<u8>(), 0..40)];
    proptest::collection::vec(line, 0..12).prop_map(|lines| lines.join(&b'\n'))
}

/// A message in psad's form, with any content of a rule file.
fn message() -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(any::<u8>().prop_filter("a line", |byte| *byte != b'\n'), 0..30).prop_map(Bytes::from)
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)]
}

/// An address in psad's form.
fn padded(address: &str) -> String {
    match address.parse().unwrap() {
        IpAddr::V4(address) => format!("{address:<15}"),
        IpAddr::V6(address) => address.segments().map(|group| format!("{group:04x}")).join(":"),
    }
}

/// Parses rows written in reverse after a header, and compares the rows as sets.
fn reads_back<T: Clone + Debug + PartialEq>(
    rows: &[T],
    write: impl Fn(&T) -> Vec<u8>,
    parse: impl Fn(&[u8], &mut BadLines) -> Vec<T>,
) -> Result<(), TestCaseError> {
    let mut text = b"#\n# Format: <x>\n#\n\n".to_vec();
    for row in rows.iter().rev() {
        text.extend(write(row));
        text.push(b'\n');
    }
    let mut bad = BadLines::default();
    let parsed = parse(&text, &mut bad);
    prop_assert_eq!(&bad, &BadLines::default());
    prop_assert_eq!(parsed.len(), rows.len());
    for row in rows {
        prop_assert!(parsed.contains(row), "{:?} is not in {:?}", row, parsed);
    }
    // The order of the rows depends on their content, not on the file.
    let again =
        parse(&rows.iter().flat_map(|row| [write(row), b"\n".to_vec()].concat()).collect::<Vec<u8>>(), &mut bad);
    prop_assert_eq!(again, parsed);
    Ok(())
}

fn rows<T: Debug>(row: impl Strategy<Value = T>) -> impl Strategy<Value = Vec<T>> {
    proptest::collection::vec(row, 0..8)
}

proptest! {
    #[test]
    fn any_bytes_are_rows_or_counted(text in text()) {
        let shown = |line: &&[u8]| !line.starts_with(b"#") && !line.iter().all(u8::is_ascii_whitespace);
        let all = lines(&text).filter(shown).count() as u64;
        let mut bad = BadLines::default();
        let rows = parse_top_attackers(&text, &mut bad).len()
            + parse_top_ports(&text, &mut bad).len()
            + parse_top_signatures(&text, &mut bad).len()
            + parse_protocol_counters(&text, &mut bad).len()
            + parse_signatures(&text, &mut bad).len()
            + parse_target_packets(&text, &mut bad).len();
        prop_assert_eq!(rows as u64 + bad.lines, 6 * all);

        let mut bad = BadLines::default();
        let prefixes = parse_prefix_counters(&text, &mut bad).len() as u64;
        prop_assert_eq!(prefixes + bad.lines, lines(&text).filter(|line| !line.is_empty()).count() as u64);
        parse_dshield(&text, &mut bad);
        parse_blocked(&text, &mut bad);
        parse_danger_level(&text, &mut bad);
        parse_number(&text, &mut bad);
        parse_os_guess(&text);
        parse_p0f_guesses(&text);
        prop_assert_eq!(parse_event(&text).text.0, text.clone());
        SourceFile::of(&text);
        Arguments::parse(&parse_daemon_args(&text));
        let mut conf = Conf::default();
        conf.add(&text);
        conf.get("A");
    }

    #[test]
    fn rankings_are_read_back(
        attackers in rows((address(), 1_u8..=5, any::<[u32; 3]>(), any::<bool>())),
        ports in rows((any::<bool>(), any::<u16>(), any::<u64>())),
        signatures in rows((any::<u32>(), message(), any::<u64>(), any::<u32>())),
    ) {
        let attackers: Vec<_> = attackers.into_iter().map(|(ip, danger_level, numbers, is_local)| {
            let [packets, unique_signatures, signature_matches] = numbers.map(u64::from);
            Attacker { ip: ip.to_string(), danger_level, packets, unique_signatures, signature_matches, is_local }
        }).collect();
        reads_back(&attackers, |a| format!(
            "{} {} {} {} {} {}", padded(&a.ip), a.danger_level, a.packets, a.unique_signatures, a.signature_matches,
            u8::from(a.is_local),
        ).into_bytes(), parse_top_attackers)?;
        let ports: Vec<_> = ports.into_iter().map(|(tcp, port, packets)| ScannedPort {
            protocol: if tcp { "tcp" } else { "udp" }.to_owned(), port, packets,
        }).collect();
        reads_back(&ports, |p| format!("{} {:<5} {}", p.protocol, p.port, p.packets).into_bytes(), parse_top_ports)?;
        let signatures: Vec<_> = signatures.into_iter().map(|(sid, msg, matches, sources)| TopSignature {
            sid: sid.into(), msg, matches, sources: sources.into(), protocol: "icmp".to_owned(),
        }).collect();
        reads_back(&signatures, |s| [
            format!("{} \"", s.sid).as_bytes(), &s.msg.0,
            format!("\" {} {} {}", s.matches, s.sources, s.protocol).as_bytes(),
        ].concat(), parse_top_signatures)?;
    }

    #[test]
    fn files_of_a_source_are_read_back(
        packets in rows((
            0_usize..3,
            "[a-z][a-z0-9_.:@-]{0,14}",
            "(tcp|udp|icmp6|47)",
            any::<u64>(),
            proptest::option::of(any::<(u16, u16)>()),
        )),
        matches in rows((
            any::<[u32; 3]>(),
            message(),
            any::<u16>(),
            "(NA|SYN|URG PSH FIN|NULL)",
            any::<(bool, bool)>(),
        )),
        target in address(),
    ) {
        let mut seen = BTreeSet::new();
        let packets: Vec<_> = packets.into_iter().map(|(chain, interface, protocol, packets, ports)| TargetPackets {
            chain: ["INPUT", "FORWARD", "OUTPUT"][chain].to_owned(),
            interface: Bytes::from(&interface), protocol, packets,
            port_low: ports.map(|(a, b)| a.min(b)), port_high: ports.map(|(a, b)| a.max(b)),
        }).filter(|row| seen.insert((row.chain.clone(), row.interface.clone(), row.protocol.clone()))).collect();
        reads_back(&packets, |p| {
            let ports = match p.port_low.zip(p.port_high) {
                Some((low, high)) if low == high => format!(" [{low}]"),
                Some((low, high)) => format!(" [{low}-{high}]"),
                None => String::new(),
            };
            format!("{}_{}_{}:  {}{ports}", p.chain, p.interface, p.protocol, p.packets).into_bytes()
        }, parse_target_packets)?;
        let matches: Vec<_> = matches.into_iter().map(|(numbers, msg, port, flags, (is_fwsnort, is_psad))| {
            let [time, sid, matches] = numbers.map(u64::from);
            SignatureMatch {
                time, sid, matches, msg, chain: "INPUT".to_owned(),
                protocol: "tcp".to_owned(), port, flags, is_fwsnort, is_psad,
            }
        }).collect();
        reads_back(&matches, |m| [
            format!("{} {} {} \"", m.time, m.sid, m.matches).as_bytes(), &m.msg.0,
            format!("\" {} {} {} \"{}\" ", m.chain, m.protocol, m.port, m.flags).as_bytes(),
            format!("{} {}", u8::from(m.is_fwsnort), u8::from(m.is_psad)).as_bytes(),
        ].concat(), parse_signatures)?;
        let name = format!("{}_packet_ctr", padded(&target.to_string()).trim_end());
        prop_assert_eq!(SourceFile::of(name.as_bytes()), Some(SourceFile::TargetPackets(target)));
    }
}
