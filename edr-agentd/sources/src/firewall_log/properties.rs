//! Properties of the parsers of packet lines: any input is handled without a panic, and a kernel's line is parsed back
//! to the same values.

use edr_wire::Bytes;
use edr_wire::snapshot::{Packet, PacketRow, encode_row};
use jiff::tz::TimeZone;
use proptest::prelude::*;

use super::head::{Resolver, glued_heads, parse_head, parse_message};
use super::record::{RecordEnd, parse_record};

/// Words of packet lines in any order, and arbitrary bytes.
fn text() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        "(IN|OUT|PHYSIN|MAC|SRC|DST|LEN|TTL|PROTO|SPT|DPT|TYPE|CODE|UID)=[a-z0-9.:]{0,9}",
        "(SYN|ACK|DF|MF|INCOMPLETE|OPT|FRAG:3|\\[|\\]|\\(|\\)|\\[2 bytes\\]|\\[SRC=1.2.3.4|URGP=0 \\])",
        "(<6>)?(Nov 24 03:57:33|2026-11-24T03:57:33.1Z) fw01 kernel: ",
        "message repeated [0-9]{1,12} times: \\[",
        "\\[ *[0-9]{1,6}\\.[0-9]{0,7}\\]",
    ];
    let words = proptest::collection::vec(word, 0..30).prop_map(|words| words.join(" ").into_bytes());
    prop_oneof![4 => words, 1 => proptest::collection::vec(any::<u8>(), 0..200)]
}

/// The row as decoded by a reader of the snapshot.
fn owned(row: &PacketRow<'_>) -> Packet {
    rmp_serde::from_slice(&encode_row(row)).unwrap()
}

proptest! {
    #[test]
    fn any_bytes_are_survived(text in text(), now_ns in any::<i64>()) {
        let mut resolver = Resolver::new(now_ns, TimeZone::UTC);
        let mut last = 0;
        for start in glued_heads(&text) {
            prop_assert!(start > last && start < text.len(), "{} after {}", start, last);
            let time = parse_head(&text[start..]).time;
            prop_assert!(time.is_some());
            resolver.resolve(time.unwrap());
            last = start;
        }
        let head = parse_head(&text);
        if let Some(time) = head.time {
            resolver.resolve(time);
        }
        let message = parse_message(head.rest);
        prop_assert!(message.repeated > 0);
        for end in [RecordEnd::Whole, RecordEnd::Blank, RecordEnd::Cut] {
            for text in [message.text, &text] {
                if let Some(record) = parse_record(text, end) {
                    let packet = owned(&record.packet);
                    prop_assert!(packet.src.is_empty() || packet.src.parse::<std::net::IpAddr>().is_ok());
                }
            }
        }
    }

    #[test]
    fn packets_in_the_kernels_format_are_read_back(
        prefix in "[a-zA-Z0-9:#_-][ -~]{0,27}",
        (interface_in, interface_out) in ("[a-z][a-z0-9.@-]{0,14}", proptest::option::of("[a-z][a-z0-9.@-]{0,14}")),
        (src, dst) in (any::<[u8; 4]>(), any::<[u8; 16]>()),
        (length, ttl, id, ports) in (any::<u16>(), any::<u8>(), any::<u16>(), any::<(u16, u16)>()),
        flags in proptest::sample::subsequence(vec!["CWR", "ECE", "URG", "ACK", "PSH", "RST", "SYN", "FIN"], 0..=8),
        (seq, mark, inner) in (
            proptest::option::of(any::<(u32, u32)>()),
            proptest::option::of(any::<u32>()),
            any::<bool>(),
        ),
    ) {
        prop_assume!(!prefix.contains("IN=") && !prefix.contains("OUT="));
        let (src, dst) = (std::net::Ipv4Addr::from(src), std::net::Ipv6Addr::from(dst));
        let out = interface_out.clone().unwrap_or_default();
        let full: Vec<String> = dst.segments().iter().map(|group| format!("{group:04x}")).collect();
        let full = full.join(":");
        let head = format!("{prefix} IN={interface_in} OUT={out} MAC=46:12 SRC={src} DST={full} LEN={length} ");
        let mark = mark.map_or(String::new(), |mark| format!("MARK=0x{mark:x} "));
        let (line, is_tcp) = if inner {
            let inner = format!("[SRC=9.9.9.9 DST=8.8.8.8 LEN=1 TTL=1 ID={id} PROTO=TCP SPT=1 DPT=2 SYN URGP=0 ] ");
            (format!("{head}TTL={ttl} ID={id} PROTO=ICMP TYPE={ttl} CODE=4 {inner}MTU=1400 {mark}"), false)
        } else {
            let seq = seq.map_or(String::new(), |(seq, ack)| format!("SEQ={seq} ACK={ack} "));
            let bits: String = flags.iter().map(|flag| format!("{flag} ")).collect();
            let rest = format!("SPT={} DPT={} {seq}WINDOW=1 RES=0x00 {bits}URGP=0 OPT (0204) {mark}", ports.0, ports.1);
            (format!("{head}TTL={ttl} ID={id} DF PROTO=TCP {rest}"), true)
        };
        for end in [RecordEnd::Whole, RecordEnd::Blank] {
            let record = parse_record(line.as_bytes(), end).unwrap();
            let packet = owned(&record.packet);
            prop_assert!(!record.bad && !packet.cut && record.second.is_none(), "{}", line);
            prop_assert_eq!(&packet.prefix, &Bytes::from(prefix.trim_end()));
            prop_assert_eq!((packet.src.clone(), packet.dst.clone()), (src.to_string(), dst.to_string()));
            prop_assert_eq!((packet.length, packet.ttl), (Some(u32::from(length)), Some(ttl)));
            prop_assert_eq!(packet.interface_in.to_string(), interface_in.clone());
            prop_assert_eq!(packet.interface_out.to_string(), out.clone());
            prop_assert_eq!(packet.chain.as_str(), if out.is_empty() { "INPUT" } else { "FORWARD" });
            let (ports, flags) = if is_tcp {
                ((Some(ports.0), Some(ports.1)), flags.join(" "))
            } else {
                ((None, None), String::new())
            };
            prop_assert_eq!((packet.src_port, packet.dst_port), ports);
            prop_assert_eq!(packet.flags, flags);
            prop_assert_eq!(packet.icmp_type, (!is_tcp).then_some(ttl));
        }
    }
}
