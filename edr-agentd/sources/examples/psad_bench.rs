//! Cost of reading psad, each figure against a baseline on the same files in the same run, in CPU time (user and
//! system), so that other load on the machine matters little.
//!
//! `psad_bench [--lines N] [--attackers N] [--folders N] [--psad-lib DIR]` prints one line per figure: `name value
//! unit`. Packet lines are compared with `wc -l` and, when `--psad-lib` names an unpacked psad package, with `psad -A`;
//! a state of many sources with `cat` of the same files, and its second reading with the first.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a bench that cannot run should stop")]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use edr_sources::psad::{PsadReader, PsadSettings};
use edr_sources::{Source as _, Tick};
use nix::sys::resource::{UsageWho, getrusage};

struct BenchOptions {
    lines: usize,
    attackers: usize,
    folders: usize,
    psad: Option<PathBuf>,
}

fn main() {
    let mut options = BenchOptions { lines: 200_000, attackers: 500, folders: 2_000, psad: None };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().unwrap_or_else(|| panic!("{name} needs a value"));
        match name.as_str() {
            "--lines" => options.lines = value.parse().unwrap(),
            "--attackers" => options.attackers = value.parse().unwrap(),
            "--folders" => options.folders = value.parse().unwrap(),
            "--psad-lib" => options.psad = Some(value.into()),
            other => panic!("{other}: not an option"),
        }
    }
    let folder = tempfile::tempdir().unwrap();
    packets(folder.path(), &options);
    state(folder.path(), &options);
}

fn print(name: &str, value: f64, unit: &str) {
    println!("{name} {value:.3} {unit}");
}

fn read(reader: &mut PsadReader) -> (Tick, Duration) {
    let mut tick = Tick::default();
    let start = own_cpu();
    reader.read(&mut tick);
    let elapsed = own_cpu() - start;
    let gaps = tick.gaps.take();
    assert!(gaps.is_empty(), "{gaps:?}");
    (tick, elapsed)
}

fn best_of(runs: usize, mut run: impl FnMut() -> Duration) -> Duration {
    (0..runs).map(|_| run()).min().unwrap()
}

/// CPU time of this process, all threads.
fn own_cpu() -> Duration {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID).unwrap();
    Duration::from(now)
}

/// CPU time of all ended child processes.
fn children_cpu() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
    let time = |value: nix::sys::time::TimeVal| {
        Duration::from_secs(value.tv_sec() as u64) + Duration::from_micros(value.tv_usec() as u64)
    };
    time(usage.user_time()) + time(usage.system_time())
}

fn command(program: &str, arguments: &[&str]) -> Duration {
    let start = children_cpu();
    let status = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    assert!(status.success(), "{program} {arguments:?}: {status}");
    children_cpu() - start
}

fn packets(folder: &Path, options: &BenchOptions) {
    let log = folder.join("kern.log");
    let mut text = Vec::new();
    for n in 0..options.lines {
        writeln!(
            text,
            "Nov 24 03:{:02}:{:02} fw01 kernel: [{}.{:06}] DROP IN=eth0 OUT= \
            MAC=46:12:cc:02:4e:94:86:c3:46:95:d1:af:08:00 \
             SRC=198.51.100.{} DST=192.0.2.1 LEN=44 TOS=0x00 PREC=0x00 TTL=51 ID={} PROTO=TCP SPT={} DPT={} \
             WINDOW=1024 \
             RES=0x00 SYN URGP=0 OPT (020405B4) ",
            n / 60_000 % 60,
            n / 1_000 % 60,
            n / 1_000,
            n % 1_000_000,
            n % 254 + 1,
            n % 65_536,
            40_000 + n % 20_000,
            n % 1_024 + 1,
        )
        .unwrap();
    }
    fs::write(&log, &text).unwrap();
    print("packet_log_bytes", text.len() as f64, "B");
    let path = log.to_str().unwrap();
    let wc = best_of(5, || command("wc", &["-l", path]));
    let ours = |log: &Path, lines: usize| {
        let settings = PsadSettings {
            psad_dir: Some(folder.join("none")),
            packet_log: Some(log.to_owned()),
            packets_max: usize::MAX,
            ..PsadSettings::default()
        };
        best_of(5, || {
            let mut reader = PsadReader::open(settings.clone(), &[]);
            let (mut packets, mut elapsed) = (0, Duration::ZERO);
            while packets < lines {
                let (reading, tick) = read(&mut reader);
                assert!(!reading.rows.packets.is_empty());
                packets += reading.rows.packets.len();
                let start = own_cpu();
                drop(reading);
                elapsed += tick + (own_cpu() - start);
            }
            assert_eq!(packets, lines);
            elapsed
        })
    };
    let all = ours(&log, options.lines);
    print("packet_lines", options.lines as f64 / all.as_secs_f64(), "lines/s");
    print("packet_lines_vs_wc", all.as_secs_f64() / wc.as_secs_f64(), "times wc -l");
    let Some(psad) = &options.psad else { return };
    // psad needs minutes for a log that takes the agent parts of a second: both read a tenth of the lines.
    let part: Vec<&[u8]> = text.split_inclusive(|&byte| byte == b'\n').take(options.lines / 10).collect();
    let log = folder.join("part.log");
    fs::write(&log, part.concat()).unwrap();
    let (theirs, all) = (psad_analysis(psad, folder, &log), ours(&log, part.len()));
    print("psad_analysis", part.len() as f64 / theirs.as_secs_f64(), "lines/s");
    print("packet_lines_vs_psad", theirs.as_secs_f64() / all.as_secs_f64(), "times psad -A");
}

/// `psad -A` of an unpacked Debian package in temporary folders. The cost of its start is left out.
fn psad_analysis(psad: &Path, folder: &Path, log: &Path) -> Duration {
    let root = folder.join("psad-root");
    let etc = root.join("etc/psad");
    for dir in ["etc", "var/log/psad", "var/run/psad", "var/lib/psad"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    let source = psad.join("etc/psad");
    assert!(
        Command::new("cp").args(["-r", source.to_str().unwrap(), etc.to_str().unwrap()]).status().unwrap().success()
    );
    let conf = fs::read_to_string(etc.join("psad.conf")).unwrap();
    let conf = conf
        .replace("_CHANGEME_", "fw01")
        .replace("/etc/psad", etc.to_str().unwrap())
        .replace("$INSTALL_ROOT/var", root.join("var").to_str().unwrap())
        .replace("$INSTALL_ROOT/etc/psad", etc.to_str().unwrap());
    // Programs outside of the folders are replaced by `true`, and may be missing here.
    const OUTSIDE: [&str; 7] =
        ["mailCmd", "sendmailCmd", "whoisCmd", "wgetCmd", "killallCmd", "iptablesCmd", "ip6tablesCmd"];
    // psad runs the firewall program by this name, for its version and rules.
    let firewall = root.join("iptables");
    std::os::unix::fs::symlink("/bin/true", &firewall).unwrap();
    let mut settings = String::new();
    for line in conf.lines() {
        let key = line.split_whitespace().next().unwrap_or_default();
        match key {
            "ALERTING_METHODS" => settings.push_str("ALERTING_METHODS noemail;\n"),
            "ENABLE_OVERRIDE_FW_CMD" => settings.push_str("ENABLE_OVERRIDE_FW_CMD Y;\n"),
            "FW_CMD" => settings.push_str(&format!("FW_CMD {};\n", firewall.display())),
            "IFCFGTYPE" => settings.push_str("IFCFGTYPE iproute2;\n"),
            "kmsgsdCmd" | "psadwatchdCmd" | "fwcheck_psadCmd" | "psadCmd" => {
                let program = psad.join("usr/sbin").join(key.trim_end_matches("Cmd"));
                settings.push_str(&format!("{key} {};\n", program.display()));
            }
            _ if OUTSIDE.contains(&key) => settings.push_str(&format!("{key} /bin/true;\n")),
            _ => settings.push_str(&format!("{line}\n")),
        }
    }
    fs::write(etc.join("psad.conf"), settings).unwrap();
    fs::write(folder.join("empty.log"), "").unwrap();
    // Perl modules of psad's package and of its dependencies.
    let lib = psad.join("usr/lib").join(format!("{}-linux-gnu", std::env::consts::ARCH));
    let versions = fs::read_dir(lib.join("perl5")).into_iter().flatten().flatten().map(|entry| entry.path());
    let modules: Vec<PathBuf> = [psad.join("usr/share/perl5")].into_iter().chain(versions).collect();
    let modules = std::env::join_paths(modules).unwrap();
    let run = |log: &Path| {
        let start = children_cpu();
        let status = Command::new("perl")
            .env("PERL5LIB", &modules)
            .env("LD_LIBRARY_PATH", &lib)
            .args([psad.join("usr/sbin/psad").to_str().unwrap(), "-A", "--no-whois", "--no-rdns", "--no-netstat"])
            .args(["-c", etc.join("psad.conf").to_str().unwrap(), "-m", log.to_str().unwrap()])
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success(), "psad -A: {status}");
        children_cpu() - start
    };
    let start_up = run(&folder.join("empty.log"));
    run(log).saturating_sub(start_up)
}

fn state(folder: &Path, options: &BenchOptions) {
    let psad = folder.join("var/log/psad");
    fs::create_dir_all(&psad).unwrap();
    let address = |n: usize| format!("10.{}.{}.{}", n / 65_536, n / 256 % 256, n % 256);
    let mut files = Vec::new();
    let then = SystemTime::now() - Duration::from_secs(3_600);
    let mut write = |path: PathBuf, text: String| {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::File::open(&path).unwrap().set_modified(then).unwrap();
        files.push(path);
    };
    let attackers = (0..options.attackers).map(|n| format!("{:<15} {} {} 1 1 0\n", address(n), 1 + n % 5, 1_000 + n));
    write(psad.join("top_attackers"), format!("# Format\n\n{}", attackers.collect::<String>()));
    let ports = (0..500).map(|n| format!("tcp {n:<5} {}\n", 5_000 - n));
    write(psad.join("top_ports"), format!("# Format\n\n{}", ports.collect::<String>()));
    let signatures = (0..500).map(|n| format!("{n} \"MISC communication attempt {n}\" {} 3 tcp\n", 900 - n));
    write(psad.join("top_sigs"), format!("# Format\n\n{}", signatures.collect::<String>()));
    write(psad.join("packet_ctr"), "     tcp: 100000\n     udp: 2000\n".to_owned());
    write(psad.join("ipt_prefix_ctr"), "DROP: 102000\n".to_owned());
    for n in 0..options.folders {
        let source = psad.join(address(n));
        write(source.join("danger_level"), format!("{}\n", 1 + n % 5));
        write(source.join("email_ctr"), "3\n".to_owned());
        write(source.join("os_guess"), "Linux (2.4.x kernel)\n".to_owned());
        write(source.join("192.0.2.1_start_time"), "1795491627\n".to_owned());
        write(source.join("192.0.2.1_packet_ctr"), format!("INPUT_eth0_tcp:  {} [1-1024]\n", 1_000 + n));
        let rows = (0..4).map(|s| format!("1795491627 {s} 2 \"MISC attempt {s}\" INPUT tcp 80 \"SYN\" 0 1\n"));
        write(source.join("192.0.2.1_signatures"), format!("# Format\n{}", rows.collect::<String>()));
        fs::File::open(&source).unwrap().set_modified(then).unwrap();
    }
    fs::File::open(&psad).unwrap().set_modified(then).unwrap();
    let paths: Vec<&str> = files.iter().map(|path| path.to_str().unwrap()).collect();
    let cat = best_of(5, || command("cat", &paths));
    let settings = PsadSettings {
        psad_dir: Some(psad),
        packet_log: Some(folder.join("none.log")),
        sources_max: options.folders,
        ..PsadSettings::default()
    };
    let mut later = Duration::MAX;
    let first = best_of(3, || {
        let mut reader = PsadReader::open(settings.clone(), &[]);
        let (reading, first) = read(&mut reader);
        assert_eq!(reading.psad.sources.len(), options.folders);
        assert_eq!(reading.psad.top_attackers.len(), options.attackers);
        // The second reading checks again the paths watched since the first.
        read(&mut reader);
        for _ in 0..10 {
            later = later.min(read(&mut reader).1);
        }
        first
    });
    print("state_files", files.len() as f64, "files");
    print("state_cat", cat.as_secs_f64() * 1e3, "ms");
    print("state_first", first.as_secs_f64() * 1e3, "ms");
    print("state_first_vs_cat", first.as_secs_f64() / cat.as_secs_f64(), "times cat");
    print("state_later", later.as_secs_f64() * 1e3, "ms");
    print("state_later_vs_first", later.as_secs_f64() / first.as_secs_f64(), "times the first");
}
