use super::*;

/// Tag, rest, and whether there is a time.
fn head(line: &str) -> (Tag<'_>, &str, bool) {
    let head = parse_head(line.as_bytes());
    (head.tag, std::str::from_utf8(head.rest).unwrap(), head.time.is_some())
}

#[test]
fn a_head_of_the_kernel_in_every_form() {
    let times = [
        "Nov 24 03:42:03",
        "Nov  4 03:42:03.313386",
        "Nov 24 2026 03:42:03",
        "2026-11-24T03:42:03.313386+00:00",
        "2026-11-24 03:42:03,313",
        "2026-11-24 03:42:03 +0000",
        "Tue Nov 24 03:42:03 2026",
        "Tue 2026-11-24 03:42:03 UTC",
        "1795491723.313386",
    ];
    let tags = [
        "kernel:",
        "kernel[0]:",
        "kernel[]:",
        "kern.warn kernel:",
        "<kern.crit> kernel:",
        "[kernel]",
        "kernel - - -",
        "kernel 0 - [meta sequenceId=\"1] \\\" 2\"][x@1 y=\"z\"]",
    ];
    for time in times {
        for host in ["fw ", "192.0.2.1 ", "fe80::1 ", "src@fw ", ""] {
            for tag in tags {
                for priority in ["", "<4>"] {
                    let line = format!("{priority}{time} {host}{tag} [UFW BLOCK] IN=");
                    assert_eq!(head(&line), (Tag::Kernel, "[UFW BLOCK] IN=", true), "{line}");
                }
            }
        }
    }
    for line in [
        "<4>1 2026-11-24T03:42:03Z fw kernel - - - [UFW BLOCK] IN=",
        "<4>1 2026-11-24T03:42:03Z - kernel - ID47 - [UFW BLOCK] IN=",
        "Nov 24 03:42:03 relay Nov 24 03:42:02 fw kernel: [UFW BLOCK] IN=",
        "Nov 24 03:42:03 relay <4>Nov 24 03:42:02 fw kernel: [UFW BLOCK] IN=",
        "2026-11-24_03:42:03.31338 kern.warn: [UFW BLOCK] IN=",
    ] {
        assert_eq!(head(line).1, "[UFW BLOCK] IN=", "{line}");
        assert!(head(line).2, "{line}");
    }
    for line in [
        "kernel: [UFW BLOCK] IN=",
        "fw kernel: [UFW BLOCK] IN=",
        "03:42:03 fw kernel: [UFW BLOCK] IN=",
        "<4>1 - fw kernel - - - [UFW BLOCK] IN=",
        "kern  :warn  : [UFW BLOCK] IN=",
        "@400000006a1b2c3d00000000 fw kernel: [UFW BLOCK] IN=",
    ] {
        assert_eq!(head(line), (Tag::Kernel, "[UFW BLOCK] IN=", false), "{line}");
    }
    assert_eq!(parse_head(b"[  511.815368] fw kernel: x").kernel_us, Some(511_815_368));
}

#[test]
fn the_tag_of_another_program_claims_a_line_and_a_prefix_does_not() {
    for line in [
        "Nov 24 03:42:03 fw sshd[7]: IN=eth0",
        "Nov 24 03:42:03 sshd[7]: IN=eth0",
        "2026-11-24 03:42:03 fw auth.info sshd[7]: kernel: IN=eth0",
        "Nov 24 03:42:03 fw /usr/bin/x[7]: IN=eth0",
        "<4>1 2026-11-24T03:42:03Z fw sshd 7 - - IN=eth0",
        "2026-11-24T03:42:03Z fw sshd 7 - - IN=eth0",
        "Nov 24 03:42:03 relay Nov 24 03:42:02 fw sshd[7]: kernel: IN=eth0",
        "2:03 fw sshd[7]: IN=eth0",
    ] {
        assert!(matches!(head(line).0, Tag::Program(_)), "{line}");
    }
    for line in ["Nov 24 03:42:03 fw app: kernel: IN=eth0", "2:03 fw app: IN=eth0"] {
        assert_eq!(head(line).0, Tag::Name(b"app"), "{line}");
    }
    for (line, rest) in [
        ("Nov 24 04:11:13 fw DROP  IN=eth0 OUT= ", "DROP  IN=eth0 OUT= "),
        ("Nov 24 04:11:13 fw DROP: IN=eth0", "DROP: IN=eth0"),
        ("Nov 24 04:11:13 fw IN=eth0", "IN=eth0"),
        ("Nov 24 04:11:13 fw [UFW BLOCK] IN=eth0", "[UFW BLOCK] IN=eth0"),
        ("2026-11-24T03:42:03,313386+00:00 [UFW BLOCK] IN=eth0", "[UFW BLOCK] IN=eth0"),
        ("2026-11-24T03:42:03Z fw Shorewall:net2fw:DROP:IN=eth0", "Shorewall:net2fw:DROP:IN=eth0"),
        ("[  511.815368] [UFW BLOCK] IN=eth0", "[UFW BLOCK] IN=eth0"),
        ("drop: IN=eth0", "drop: IN=eth0"),
    ] {
        assert_eq!((head(line).0, head(line).1), (Tag::None, rest), "{line}");
    }
    let proxmox = "100 6 tap100i0-IN 24/Nov/2026:03:42:03 +0000 policy DROP: IN=eth0";
    assert_eq!(head(proxmox), (Tag::None, proxmox, true));
    for tag in ["ulogd[812]:", "ulogd:", "/usr/sbin/ulogd[1]:", "ulogd2:", "ulogd 812 - -"] {
        let line = format!("2026-11-24T03:42:03Z fw {tag} DROP: IN=eth0");
        assert_eq!(head(&line), (Tag::Ulogd, "DROP: IN=eth0", true), "{line}");
    }
    for line in [
        "2026-11-24T03:42:03Z fw psad[12]: scan detected",
        "Nov 24 03:42:03 psad: scan detected",
        "<4>1 2026-11-24T03:42:03Z fw psad 12 - - scan detected",
        "Tue Nov 24 03:42:03 2026 local7.info psad[12]: scan detected",
    ] {
        assert_eq!(head(line), (Tag::Psad, "scan detected", true), "{line}");
    }
}

#[test]
fn a_message_of_the_kernel_loses_its_head_and_keeps_its_prefix() {
    let message = |text: &str| {
        let message = parse_message(text.as_bytes());
        (message.kernel_us, message.repeated, String::from_utf8(message.text.to_vec()).unwrap())
    };
    let us = Some(511_815_368);
    for (text, expected) in [
        ("[UFW BLOCK] IN=", (None, 1, "[UFW BLOCK] IN=")),
        ("  [  511.815368] [UFW BLOCK] IN=", (us, 1, "[UFW BLOCK] IN=")),
        ("<4>[  511.815368] [UFW BLOCK] IN=", (us, 1, "[UFW BLOCK] IN=")),
        ("[  511.815368] <4>DROP IN=", (us, 1, "DROP IN=")),
        ("[511.815368][    C0] DROP IN=", (us, 1, "DROP IN=")),
        ("[  511.815368][ T1234] [1] REJ", (us, 1, "[1] REJ")),
        ("[  511.815368] [T1] [UFW", (us, 1, "[UFW")),
        ("[  511.815368 <    0.000001 >] DROP", (us, 1, "DROP")),
        ("kernel: [  511.815368] DROP", (us, 1, "DROP")),
        ("message repeated 3 times: [ [  511.815368] DROP IN=x ]", (us, 3, "DROP IN=x ")),
        ("[  511.815368] message repeated 3 times: [[UFW BLOCK] IN=x]", (us, 3, "[UFW BLOCK] IN=x")),
        ("message repeated 3 times: [ DROP IN=x OU", (None, 3, "DROP IN=x OU")),
        ("message repeated 0 times: [ DROP ]", (None, 1, "message repeated 0 times: [ DROP ]")),
    ] {
        let (us, repeated, rest) = message(text);
        assert_eq!((us, repeated, rest.as_str()), expected, "{text}");
    }
    for text in ["[1] REJ SID2003068 ESTAB IN=", "[1.5] IN=", "[", "[ 12.3", "[12.345678", "[T1] IN=", "<x> IN="] {
        assert_eq!(message(text), (None, 1, text.to_owned()));
    }
    assert_eq!(message("[    0.000001] [1] REJ"), (Some(1), 1, "[1] REJ".to_owned()));
}

#[test]
fn glued_heads_are_found_wherever_the_line_was_cut() {
    let packet = "[UFW BLOCK] IN=eth0 OUT= MAC=46:12 SRC=198.51.100.7 DST=192.0.2.1 LEN=44 ";
    for head in [
        "2026-11-24T03:57:33.497355+00:00 fw01 kernel: [ 2846.502240] ",
        "Nov 24 03:57:33 fw01 kernel: ",
        "<6>Nov 24 03:57:33 fw01 kernel: ",
        "Nov 24 03:57:33 fw01 kernel[0]: ",
        "2026-11-24 03:57:33 fw01 kernel - - - ",
    ] {
        let line = format!("{head}{packet}");
        assert_eq!(glued_heads(line.as_bytes()), Vec::<usize>::new());
        for cut in head.len()..line.len() {
            let glued = format!("{}{line}", &line[..cut]);
            assert_eq!(glued_heads(glued.as_bytes()), [cut], "{glued}");
        }
    }
}
