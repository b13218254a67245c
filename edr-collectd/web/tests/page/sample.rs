//! A realistic host, built with the real wire types.

use std::collections::BTreeMap;
use std::sync::Arc;

use edr_model::accounting::Summary;
use edr_model::{HostRow, HostSnapshot, Joined};
use edr_wire::snapshot::{
    Access, Agent, Attacker, Blocked, Exe, Family, Fd, FileKind, Gap, GapReason, Host, OpenFile, Packet, PrefixCounter,
    Process, ProtocolCounter, Psad, PsadEvent, PsadMode, PsadRunState, Reread, ScanSource, ScanTarget, ScannedPort,
    SignatureMatch, SnapshotParts, SnapshotView, Socket, SourceCost, TargetPackets, Time, TopSignature,
};
use edr_wire::{Bytes, Epoch, HostId};

pub(crate) const SECOND_NS: i64 = 1_000_000_000;

/// All parts of a snapshot, to be changed by a test before encoding.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sample {
    pub(crate) host: Host,
    pub(crate) agent: Agent,
    pub(crate) time: Time,
    pub(crate) processes: Vec<Process>,
    pub(crate) sockets: Vec<Socket>,
    pub(crate) psad: Psad,
    pub(crate) packets: Vec<Packet>,
    pub(crate) reread: Reread,
    pub(crate) gaps: Vec<Gap>,
    pub(crate) bye: bool,
    pub(crate) alarms: Vec<String>,
    /// Alarms of the snapshot.
    pub(crate) snapshot_alarms: Vec<String>,
    pub(crate) received_ns: i64,
    /// The host that had the name first.
    pub(crate) name_of: Option<HostId>,
    pub(crate) account: Arc<Summary>,
}

const PROGRAMS: [(&str, &str, &str, &str, usize); 12] = [
    ("systemd", "/usr/lib/systemd/systemd", "/sbin/init splash", "root", 80),
    ("systemd-journal", "/usr/lib/systemd/systemd-journald", "/usr/lib/systemd/systemd-journald", "root", 60),
    ("sshd", "/usr/sbin/sshd", "sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups", "root", 9),
    ("nginx", "/usr/sbin/nginx", "nginx: worker process", "www-data", 22),
    (
        "postgres",
        "/usr/lib/postgresql/15/bin/postgres",
        "/usr/lib/postgresql/15/bin/postgres -D /var/lib/postgresql/15/main -c \
        config_file=/etc/postgresql/15/main/postgresql.conf",
        "postgres",
        14,
    ),
    (
        "java",
        "/usr/lib/jvm/java-17-openjdk-amd64/bin/java",
        "/usr/lib/jvm/java-17-openjdk-amd64/bin/java -Xms2g -Xmx2g -XX:+UseG1GC -XX:MaxGCPauseMillis=20 \
        -XX:InitiatingHeapOccupancyPercent=35 -Djava.awt.headless=true -Dkafka.logs.dir=/var/log/kafka \
        -Dlog4j.configuration=file:/opt/kafka/config/log4j.properties -cp \
        /opt/kafka/libs/activation-1.1.1.jar:/opt/kafka/libs/aopalliance-repackaged-2.6.1.jar kafka.Kafka \
        /opt/kafka/config/server.properties",
        "kafka",
        180,
    ),
    ("psad", "/usr/bin/perl", "/usr/bin/perl -w /usr/sbin/psad", "root", 8),
    ("cron", "/usr/sbin/cron", "/usr/sbin/cron -f", "root", 6),
    ("bash", "/usr/bin/bash", "-bash", "deploy", 4),
    ("php-fpm8.2", "/usr/sbin/php-fpm8.2", "php-fpm: pool www", "www-data", 12),
    ("redis-server", "/usr/bin/redis-check-rdb", "/usr/bin/redis-server 127.0.0.1:6379", "redis", 11),
    ("edr-agentd", "/usr/sbin/edr-agentd", "/usr/sbin/edr-agentd run", "root", 19),
];

impl Sample {
    /// Returns a loaded server with 300 processes and about 5,000 open files. Only the times differ between calls.
    pub(crate) fn server(name: &str, now_ns: i64) -> Self {
        let account = Arc::new(edr_model::testing::summary());
        let mut sample = Self { received_ns: now_ns - SECOND_NS, account, ..Self::default() };
        let mut id = [0_u8; 16];
        let mut hash = 0x5a_u8;
        for (at, byte) in name.bytes().cycle().take(16 + name.len()).enumerate() {
            hash = hash.wrapping_mul(31).wrapping_add(byte);
            id[at % 16] ^= hash;
        }
        sample.host = Host {
            host_id: HostId(id),
            hostname: name.to_owned(),
            os: "Debian GNU/Linux 12 (bookworm)".to_owned(),
            kernel: "6.1.0-28-amd64".to_owned(),
            arch: "x86_64".to_owned(),
            boot_id: "7f2c1a64-0d35-4f5b-9d5e-4c1e2b6a9f10".to_owned(),
            boot_time_ns: now_ns - 9 * 86_400 * SECOND_NS,
            ticks_per_second: 100,
            page_bytes: 4_096,
            cpus: 8,
            memory_bytes: 33_424_556_032,
            memory_available_bytes: 12_884_901_888,
            load_hundredths: [142, 97, 61],
            forks: 1_284_331,
            uptime_ticks: 77_760_000,
            labels: BTreeMap::from([("site".to_owned(), "fra1".to_owned()), ("role".to_owned(), "web".to_owned())]),
            ..Host::default()
        };
        sample.agent = Agent {
            version: "0.1.0".to_owned(),
            pid: 812,
            epoch: Epoch([0x3b, 0x91, 0x0c, 0x77, 0x10, 0xaa, 0x4e, 0x02]),
            seq: 48_211,
            interval_ns: 10_000_000_000,
            config_hash: "c1d84b0a7e3f9926".to_owned(),
            cost: [
                ("processes", 19, 300),
                ("sockets", 3, 210),
                ("psad", 1, 12),
                ("packets", 1, 4),
                ("encode", 1, 755_912),
                ("frame", 2, 1_204),
            ]
            .map(|(source, ms, produced)| SourceCost {
                source: source.to_owned(),
                cpu_ns: ms * 1_013_000,
                wall_ns: ms * 1_220_000,
                produced,
                ..SourceCost::default()
            })
            .to_vec(),
            ..Agent::default()
        };
        sample.time = Time {
            wall_ns: now_ns - 4 * SECOND_NS,
            boottime_ns: 777_600_000_000_000,
            synchronised: Some(true),
            utc_offset_seconds: 3_600,
        };
        sample.reread = Reread { slice: 3, slices: 30, ..Reread::default() };
        sample.fill_processes(300, now_ns);
        sample.fill_psad(now_ns);
        sample.fill_exposed();
        sample.gaps = vec![
            Gap { source: "processes".to_owned(), reason: GapReason::Gone, count: 3, ..Gap::default() },
            Gap {
                source: "files".to_owned(),
                pid: Some(1_204),
                field: Bytes::from("maps"),
                reason: GapReason::Denied,
                count: 41,
                detail: "EACCES".to_owned(),
            },
        ];
        sample
    }

    /// Adds `count` processes with their files and sockets.
    pub(crate) fn fill_processes(&mut self, count: u32, now_ns: i64) {
        let mut socket_inode = 18_000;
        for n in 0..count {
            let kernel_thread = n > 0 && n % 5 == 0;
            let (comm, exe, line, user, files) = PROGRAMS[n as usize % PROGRAMS.len()];
            let pid = if n == 0 { 1 } else { 2 + n * 7 };
            let mut process = Process {
                pid,
                ppid: u32::from(n != 0),
                start_ticks: u64::from(n) * 4_711,
                comm: Bytes::from(if kernel_thread { "kworker/3:1H-kblockd" } else { comm }),
                uids: [if user == "root" { 0 } else { 33 }; 4],
                user: Some(user.to_owned()),
                state: if n % 37 == 3 { 'R' } else { 'S' },
                threads: 1 + n % 12,
                utime_ticks: u64::from(n) * 131,
                stime_ticks: u64::from(n) * 17,
                vsize_bytes: 180_000_000 + u64::from(n) * 1_048_576,
                rss_pages: 900 + u64::from(n) * 57,
                start_time_ns: now_ns - i64::from(count - n) * 611 * SECOND_NS,
                kernel_thread,
                ..Process::default()
            };
            if !kernel_thread {
                process.argv = line.split(' ').map(Bytes::from).collect();
                process.exe = Some(Exe {
                    path: Bytes::from(exe),
                    deleted: n % 41 == 8,
                    inode: 131_072 + u64::from(n),
                    size: 1_204_224,
                    ..Exe::default()
                });
                process.cwd = Some(Bytes::from("/"));
                process.unit = Some(format!("{comm}.service"));
                process.files_total = Some(files as u64);
                for fd in 0..files as u32 {
                    process.files.push(self.file(fd, pid, comm, &mut socket_inode));
                }
            }
            self.processes.push(process);
        }
        self.sockets.sort_by_key(|socket| socket.inode);
    }

    fn file(&mut self, fd: u32, pid: u32, comm: &str, socket_inode: &mut u64) -> OpenFile {
        let number = Fd::Number(fd);
        let plain = |kind, path: String, access| OpenFile {
            fd: number,
            access,
            kind,
            path: Bytes::from(&path),
            nlink: 1,
            dev: 65_025,
            inode: 400_000 + u64::from(pid * 31 + fd),
            size: u64::from(fd) * 40_961 * u64::from(pid % 50 + 1),
            offset: u64::from(fd) * 512,
            flags: vec!["cloexec".into()],
            ..OpenFile::default()
        };
        match fd % 6 {
            _ if fd < 3 => {
                plain(FileKind::Char, "/dev/null".to_owned(), if fd == 0 { Access::Read } else { Access::Write })
            }
            0 | 3 => {
                *socket_inode += 1;
                let listening = fd == 3;
                self.sockets.push(Socket {
                    inode: *socket_inode,
                    netns: 4_026_531_840,
                    family: if fd.is_multiple_of(2) { Family::Unix } else { Family::Inet },
                    protocol: if fd.is_multiple_of(2) { "stream" } else { "tcp" }.to_owned(),
                    state: if listening { "listen" } else { "established" }.to_owned(),
                    local: if fd.is_multiple_of(2) { String::new() } else { "192.0.2.10".to_owned() },
                    local_port: if fd.is_multiple_of(2) { 0 } else { 1_024 + pid },
                    remote: if listening || fd.is_multiple_of(2) { String::new() } else { "198.51.100.23".to_owned() },
                    remote_port: if listening || fd.is_multiple_of(2) { 0 } else { 443 },
                    path: if fd.is_multiple_of(2) {
                        Bytes::from("/run/systemd/journal/stdout")
                    } else {
                        Bytes::default()
                    },
                    ..Socket::default()
                });
                OpenFile {
                    fd: number,
                    access: Access::ReadWrite,
                    kind: FileKind::Socket,
                    dev: 8,
                    inode: *socket_inode,
                    nlink: 1,
                    flags: vec!["nonblock".into(), "cloexec".into()],
                    ..OpenFile::default()
                }
            }
            1 => OpenFile {
                deleted: pid.is_multiple_of(3),
                nlink: u32::from(!pid.is_multiple_of(3)),
                ..plain(FileKind::Regular, format!("/var/log/{comm}/{comm}-{pid}.log"), Access::Write)
            },
            2 => plain(
                FileKind::Regular,
                format!("/var/lib/{comm}/data/segment-{fd:05}/000000000000{pid:08}.index"),
                Access::ReadWrite,
            ),
            4 => plain(FileKind::AnonInode, "eventpoll".to_owned(), Access::ReadWrite),
            _ => plain(FileKind::Pipe, String::new(), Access::Read),
        }
    }

    /// Adds sockets on scanned ports, and two sockets of attackers.
    fn fill_exposed(&mut self) {
        const HOST_NETNS: u64 = 4_026_531_840;
        for process in &mut self.processes {
            process.namespaces.net = HOST_NETNS;
        }
        let socket = |inode, netns, protocol: &str, local: &str, port, state: &str, remote: &str, remote_port| Socket {
            inode,
            netns,
            family: if local.contains(':') { Family::Inet6 } else { Family::Inet },
            protocol: protocol.to_owned(),
            state: state.to_owned(),
            local: local.to_owned(),
            local_port: port,
            remote: remote.to_owned(),
            remote_port,
            ..Socket::default()
        };
        let sockets = [
            socket(90_001, HOST_NETNS, "tcp", "::", 22, "listen", "", 0),
            socket(90_002, HOST_NETNS, "tcp", "0.0.0.0", 443, "listen", "", 0),
            socket(90_003, HOST_NETNS, "udp", "192.0.2.10", 53, "unconnected", "", 0),
            socket(90_004, HOST_NETNS, "tcp", "127.0.0.1", 5_900, "listen", "", 0),
            socket(90_005, 4_026_532_917, "tcp", "0.0.0.0", 8_080, "listen", "", 0),
            socket(90_006, HOST_NETNS, "tcp", "::ffff:192.0.2.10", 22, "established", "::ffff:203.0.113.8", 51_514),
            socket(90_007, HOST_NETNS, "tcp", "192.0.2.10", 49_152, "syn-sent", "203.0.113.15", 443),
        ];
        for (at, inodes) in
            [(2, &[90_001, 90_006][..]), (3, &[90_002]), (27, &[90_002]), (9, &[90_004]), (8, &[90_007])]
        {
            let process = &mut self.processes[at];
            for (fd, &inode) in (900..).zip(inodes) {
                process.files.push(OpenFile {
                    fd: Fd::Number(fd),
                    kind: FileKind::Socket,
                    inode,
                    ..OpenFile::default()
                });
            }
        }
        self.sockets.extend(sockets);
        self.sockets.sort_by_key(|socket| socket.inode);
    }

    fn fill_psad(&mut self, now_ns: i64) {
        let second = (now_ns / SECOND_NS) as u64;
        let address = |n: u64| format!("203.0.113.{}", n % 250 + 1);
        self.psad = Psad {
            mode: PsadMode::Journal,
            state: PsadRunState::Running,
            pid: Some(44),
            fresh_as_of: Some(now_ns - 6 * SECOND_NS),
            counters_since: Some(now_ns - 93_000 * SECOND_NS),
            top_attackers: (0..60)
                .map(|n| Attacker {
                    ip: address(n * 7),
                    danger_level: 5 - (n / 13) as u8,
                    packets: 16_000 / (n + 1),
                    unique_signatures: n % 6,
                    signature_matches: 900 / (n + 1),
                    is_local: n == 17,
                })
                .collect(),
            top_signatures: (0..64)
                .map(|n| TopSignature {
                    sid: 100_070 + n,
                    msg: Bytes::from(
                        [
                            "MISC MS Terminal Server communication attempt",
                            "BACKDOOR DoomJuice file upload attempt",
                            "PSAD-CUSTOM Nachi worm reconnaissance",
                            "MISC VNC communication attempt",
                            "P2P Napster Client Data communication attempt",
                        ][n as usize % 5],
                    ),
                    matches: 4_200 / (n + 1),
                    sources: 44 % (n + 1) + 1,
                    protocol: "tcp".to_owned(),
                })
                .collect(),
            top_ports: (0..46)
                .map(|n| ScannedPort {
                    protocol: if n % 4 == 3 { "udp" } else { "tcp" }.to_owned(),
                    port: [23, 22, 3389, 1900, 445, 8080, 5900, 53, 80, 443][n as usize % 10] + (n as u16 / 10) * 1_000,
                    packets: 9_100 / (n + 1),
                })
                .collect(),
            protocol_counters: [("tcp", 81_402), ("udp", 12_221), ("icmp", 410), ("2", 12)]
                .map(|(protocol, packets)| ProtocolCounter { protocol: protocol.to_owned(), packets })
                .to_vec(),
            prefix_counters: [("[UFW BLOCK]", 93_011), ("Shorewall:net2fw:DROP:", 1_811), ("DROP INVALID", 6)]
                .map(|(prefix, packets)| PrefixCounter { prefix: Bytes::from(prefix), packets })
                .to_vec(),
            blocked: (0..3).map(|n| Blocked { address: address(n * 7), since: second - n * 700 }).collect(),
            sources: (0..30)
                .map(|n| ScanSource {
                    ip: address(n * 7),
                    danger_level: 5 - (n / 7) as u8,
                    os_guess: Bytes::from(if n % 3 == 0 { "Linux (2.4.x kernel)" } else { "" }),
                    emails: n,
                    targets: vec![ScanTarget {
                        ip: "192.0.2.10".to_owned(),
                        start_time: second - 88_000 + n * 60,
                        packets: vec![TargetPackets {
                            chain: "INPUT".to_owned(),
                            interface: Bytes::from("eth0"),
                            protocol: "tcp".to_owned(),
                            packets: 1_002 + n,
                            port_low: Some(1),
                            port_high: Some(1_500),
                        }],
                        signatures: vec![SignatureMatch {
                            time: second - 300,
                            sid: 100_077,
                            matches: 3,
                            msg: Bytes::from("MISC MS Terminal Server communication attempt"),
                            chain: "INPUT".to_owned(),
                            protocol: "tcp".to_owned(),
                            port: 3_389,
                            flags: "SYN".to_owned(),
                            is_fwsnort: false,
                            is_psad: true,
                        }],
                    }],
                    ..ScanSource::default()
                })
                .collect(),
            events: vec![PsadEvent {
                time: Some(now_ns - 9 * SECOND_NS),
                kind: "scan".to_owned(),
                text: Bytes::from(
                    "scan detected (Nmap -sT or -sS scan): 203.0.113.1 -> 192.0.2.10 tcp: [1-1500] flags: SYN tcp \
                    pkts: 30 DL: 4",
                ),
                ..PsadEvent::default()
            }],
            status_text: Bytes::from(
                "[+] Version: psad v2.4.6\n\n[+] Top 50 signature matches:\n      \"MISC VNC communication attempt\" \
                (tcp),  Count: 21,  Unique sources: 9,  Sid: 100202\n",
            ),
            ..Psad::default()
        };
        self.packets = (0..14)
            .map(|n| Packet {
                time: Some(now_ns - (14 - n) * SECOND_NS / 2),
                prefix: Bytes::from("[UFW BLOCK]"),
                chain: "INPUT".to_owned(),
                interface_in: Bytes::from("eth0"),
                src: address(n as u64 * 7),
                dst: "192.0.2.10".to_owned(),
                protocol: "tcp".to_owned(),
                src_port: Some(40_000 + n as u16),
                dst_port: Some(23),
                flags: "SYN".to_owned(),
                length: Some(60),
                ttl: Some(44),
                repeated: 1,
                raw: Bytes::from(
                    "2026-11-24T03:42:03.313386+00:00 web-01 kernel: [ 3337.368408] [UFW BLOCK] IN=eth0 OUT= \
            SRC=203.0.113.1 DST=192.0.2.10 LEN=60 TOS=0x00 PREC=0x00 TTL=44 ID=1 PROTO=TCP SPT=40000 DPT=23 \
            WINDOW=29200 RES=0x00 SYN URGP=0 ",
                ),
                ..Packet::default()
            })
            .collect();
    }

    pub(crate) fn host_id(&self) -> HostId {
        self.host.host_id
    }

    /// Encodes the snapshot like an agent, and reads it back.
    pub(crate) fn snapshot(&self) -> HostSnapshot {
        let raw = SnapshotParts {
            host: &self.host,
            agent: &self.agent,
            time: &self.time,
            positions: &[],
            processes: &self.processes.iter().collect(),
            sockets: &self.sockets.iter().collect(),
            psad: &self.psad,
            packets: &self.packets.iter().collect(),
            reread: self.reread.clone(),
            gaps: &self.gaps,
        }
        .encode();
        HostSnapshot {
            host_id: self.host.host_id,
            epoch: self.agent.epoch,
            seq: self.agent.seq,
            captured_ns: self.time.wall_ns,
            received_ns: self.received_ns,
            view: Arc::new(SnapshotView::parse(raw).unwrap()),
            joined: Arc::new(Joined::default()),
            account: Arc::clone(&self.account),
            alarms: self.snapshot_alarms.clone(),
        }
    }

    pub(crate) fn row(&self) -> HostRow {
        HostRow {
            host_id: self.host.host_id,
            hostname: self.host.hostname.clone(),
            name_of: self.name_of,
            os: self.host.os.clone(),
            captured_ns: self.time.wall_ns,
            received_ns: self.received_ns,
            interval_ns: self.agent.interval_ns,
            seq: self.agent.seq,
            processes: self.processes.len(),
            files: self.processes.iter().map(|process| process.files.len()).sum(),
            sockets: self.sockets.len(),
            danger_level: self.psad.top_attackers.iter().map(|attacker| attacker.danger_level).max().unwrap_or(0),
            psad: format!("{:?}/{:?}", self.psad.mode, self.psad.state).to_lowercase(),
            degraded: self.agent.degraded.clone(),
            alarms: self.alarms.clone(),
            bye: self.bye,
            account: Arc::clone(&self.account),
        }
    }
}
