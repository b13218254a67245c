use super::*;
use proptest::prelude::*;

const TCP: &[u8] = b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:0016 00000000:0000 0A 00000000:00000003 00:00000000 00000000     0        \
0 1608 1 000000005ccea593 100 0 0 10 0
   1: 0100007F:0016 0200000A:D431 01 00000024:00000000 02:0007C0FA 00000000  1000        \
0 20251 4 0000000000000000 20 4 29 10 -1
  12: 0100007F:0016 0200000A:D432 06 00000000:00000000 03:00000F71 00000000     0        0 0 3 0000000000000000
";
const TCP6: &[u8] = b"  sl  local_address                         remote_address                        st tx_queue \
rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: B80D0120000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A \
00000000:00000000 00:00000000 00000000   101        0 31337 1 0000000000000000 100 0 0 10 0
";
const UNIX: &[u8] = b"Num       RefCount Protocol Flags    Type St Inode Path
0000000014cbf45e: 00000003 00000000 00000000 0001 03  1605
00000000d7345328: 00000002 00000000 00010000 0005 01 123456 /run/udev/control
00000000d7345329: 00000002 00000000 00000000 0002 01    77 @a@b
00000000d734532a: 00000002 00000000 00010000 0001 01    78 /tmp/two
lines
00000000d734532b: 00000002 00000000 00000000 0001 01 2147483648
";
const PACKET: &[u8] = b"sk               RefCnt Type Proto  Iface R Rmem   User   Inode
00000000aabbccdd 3      3    0003   2     1 512    1000   8899
";
const NETLINK: &[u8] = b"sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode
0000000045eb6bd0 0   4163       80000001 16       8        0     2        0        4
0000000045eb6bd1 15  -4163      00000000 0        0        0     2        0        5
";
const PROTOCOLS: &[u8] = b"protocol  size sockets  memory press maxhdr  slab module     cl co
UNIX-STREAM 1152      6      -1   NI       0   yes  kernel      y  n
PACKET    1600     -1      -1   NI       0   no   kernel      n  n
";
const SOCKSTAT: &[u8] = b"sockets: used 9\nTCP: inuse 1 orphan 0 tw 17 alloc 3 mem 0\nUDP: inuse 0 mem 0\n";

#[test]
fn tcp_rows() {
    let all: Vec<SocketEntry> = inet(TCP, Family::Inet, "tcp").collect::<Result<_, _>>().unwrap();
    assert_eq!(all.len(), 3);
    assert_eq!((all[0].state, all[0].receive_queue, all[0].uid, all[0].inode), ("listen", 3, Some(0), 1_608));
    assert_eq!((all[1].state, all[1].send_queue, all[1].uid, all[1].inode), ("established", 0x24, Some(1_000), 20_251));
    assert_eq!((all[2].state, all[2].uid, all[2].inode), ("time-wait", None, 0));
    if cfg!(target_endian = "little") {
        assert_eq!((all[1].local, all[1].local_port), (SocketAddress::V4(Ipv4Addr::LOCALHOST), 22));
        assert_eq!((all[1].remote, all[1].remote_port), (SocketAddress::V4(Ipv4Addr::new(10, 0, 0, 2)), 0xd431));
    }
}

#[test]
fn tcp6_rows() {
    let all: Vec<SocketEntry> = inet(TCP6, Family::Inet6, "tcp").collect::<Result<_, _>>().unwrap();
    assert_eq!((all[0].local_port, all[0].uid, all[0].inode), (8_080, Some(101), 31_337));
    if cfg!(target_endian = "little") {
        assert_eq!(all[0].local, SocketAddress::V6("2001:db8::1".parse().unwrap()));
    }
    assert!(inet(TCP6, Family::Inet, "tcp").all(|row| row.is_err()), "an address of the other family's length");
}

#[test]
fn unix_rows() {
    let all: Vec<SocketEntry> = unix(UNIX).into_iter().collect::<Result<_, _>>().unwrap();
    let facts: Vec<(u64, &str, &[u8])> = all.iter().map(|found| (found.inode, found.state, &*found.path)).collect();
    assert_eq!(
        facts,
        [
            (1_605, "established", b"".as_slice()),
            (123_456, "listen", b"/run/udev/control"),
            (77, "unconnected", b"\0a@b"),
            (78, "listen", b"/tmp/two\nlines"),
            (2_147_483_648, "unconnected", b""),
        ]
    );
    assert_eq!(all[1].protocol, SocketProtocol::Named("seqpacket"));
}

#[test]
fn packet_and_netlink_rows() {
    let all: Vec<SocketEntry> = packet(PACKET).collect::<Result<_, _>>().unwrap();
    assert_eq!((all[0].protocol, all[0].local_port, all[0].interface), (SocketProtocol::Named("raw"), 3, 2));
    assert_eq!((all[0].receive_queue, all[0].uid, all[0].inode), (512, Some(1_000), 8_899));
    let all: Vec<SocketEntry> = netlink(NETLINK).collect::<Result<_, _>>().unwrap();
    assert_eq!((all[0].protocol, all[0].local_port, all[0].inode), (SocketProtocol::Named("route"), 4_163, 4));
    assert_eq!((&*all[0].groups, all[0].receive_queue, all[0].send_queue), ([1, 32].as_slice(), 16, 8));
    assert_eq!(
        (all[1].protocol, all[1].local_port),
        (SocketProtocol::Named("kobject_uevent"), 4_163_u32.wrapping_neg())
    );
}

#[test]
fn counts_of_a_namespace() {
    assert_eq!(in_use(PROTOCOLS).collect::<Vec<_>>(), [(b"UNIX-STREAM".as_slice(), 6), (b"PACKET", 0)]);
    assert_eq!(time_wait(SOCKSTAT), Some(17));
    assert_eq!(time_wait(b"TCP: inuse 1"), None);
}

#[test]
fn a_number_is_digits_that_fit() {
    assert_eq!(decimal(b"18446744073709551615"), Some(u64::MAX));
    for text in ["", "+1", "-1", " 1", "1x", "18446744073709551616"] {
        assert_eq!(decimal(text.as_bytes()), None, "{text:?}");
    }
}

/// Runs all parsers on a file: no content may cause a panic.
fn parse_all(file: &[u8]) -> usize {
    inet(file, Family::Inet, "tcp").count()
        + inet(file, Family::Inet6, "tcp").count()
        + unix(file).len()
        + packet(file).count()
        + netlink(file).count()
        + in_use(file).count()
        + usize::from(time_wait(file).is_some())
}

#[test]
fn every_truncation_gives_only_rows_that_were_whole_or_an_error() {
    for file in [TCP, TCP6, UNIX, PACKET, NETLINK, PROTOCOLS, SOCKSTAT] {
        for cut in 0..file.len() {
            parse_all(&file[..cut]);
        }
    }
    for cut in 0..TCP.len() {
        let rows = inet(&TCP[..cut], Family::Inet, "tcp").flatten().count();
        assert!(rows <= TCP[..cut].iter().filter(|&&byte| byte == b'\n').count(), "{cut}");
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        parse_all(&bytes);
    }

    #[test]
    fn a_flipped_byte_never_panics(at in 0..1_000_usize, byte: u8) {
        for file in [TCP, TCP6, UNIX, PACKET, NETLINK, PROTOCOLS, SOCKSTAT] {
            let mut file = file.to_vec();
            let at = at % file.len();
            file[at] = byte;
            parse_all(&file);
        }
    }

    #[test]
    fn a_name_of_any_bytes_is_read_unchanged(name in proptest::collection::vec(1_u8.., 1..50)) {
        let head = b"heading\n0000000014cbf45e: 00000003 00000000 00000000 0001 03  1605 ".as_slice();
        let line = [head, &name, b"\n"].concat();
        let all = unix(&line);
        // Fifty bytes cannot contain a row, whose length is 57.
        prop_assert_eq!(all.len(), 1);
        let path = all[0].as_ref().unwrap().path.clone();
        let want = if name[0] == b'@' { [b"\0", &name[1..]].concat() } else { name };
        prop_assert_eq!(&*path, &*want);
    }
}
