//! The identity of this host, its properties and its time.
//!
//! The identity (machine id, boot) is read once; without an identity there is nothing to send. Properties are read at
//! every tick; an unreadable property is a gap.

mod clock;
mod identity;
mod synchronised;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use edr_wire::HostId;
use edr_wire::snapshot::{Host, Namespaces, Time};
use procfs::{FromBufReadSI, FromRead, KernelStats, LoadAverage, ProcError, Uptime};
use sysinfo::{MemoryRefreshKind, System};

pub use self::clock::{ClockState, clock_state};
use self::synchronised::{TimeDaemons, synchronised};
use crate::common::errno::reason;
use crate::common::{GapCollector, proc_files};
use crate::tick::{RowCount, Source, Tick};

/// The source's name in gaps.
const SOURCE: &str = "host";
const MACHINE_ID: &str = "/etc/machine-id";
const BOOT_ID: &str = "sys/kernel/random/boot_id";
/// `btime` is computed anew at each read and can alternate between two seconds. A larger change means that the clock
/// was set.
const BOOT_TIME_JITTER_S: u64 = 1;

/// Reads facts about the host.
#[derive(Debug)]
pub struct HostReader {
    proc_root: OwnedFd,
    time_daemons: TimeDaemons,
    system: System,
    boot_time_s: Option<u64>,
    text: Vec<u8>,
    /// Facts that stay the same while the host runs.
    fixed: Host,
}

/// What tells this host in this boot from all others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostIdentity {
    /// Derived from the machine id.
    pub host_id: HostId,
    /// The boot id.
    pub boot_id: String,
}

impl HostIdentity {
    /// Reads the machine id, and the boot id below `proc_root`.
    ///
    /// # Errors
    /// Without a machine id or a boot id, since the host then has no identity.
    pub fn read(proc_root: &Path) -> io::Result<Self> {
        Self::read_at(&open_root(proc_root)?, proc_root)
    }

    fn read_at(root: &OwnedFd, proc_root: &Path) -> io::Result<Self> {
        let machine_id = std::fs::read(MACHINE_ID).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("read machine id {MACHINE_ID:?}: {error}: run systemd-machine-id-setup(1)"),
            )
        })?;
        let machine_id = identity::machine_id(&machine_id).map_err(|problem| {
            io::Error::new(io::ErrorKind::InvalidData, format!("machine id {MACHINE_ID:?}: {problem}"))
        })?;
        let mut text = Vec::new();
        let path = proc_root.join(BOOT_ID);
        proc_files::read(root, BOOT_ID, &mut text)
            .map_err(|error| io::Error::new(error.kind(), format!("read boot id {path:?}: {error}")))?;
        let boot_id = identity::boot_id(&text)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("boot id {path:?}: not a UUID")))?;
        Ok(Self { host_id: identity::host_id(&machine_id), boot_id })
    }
}

fn open_root(proc_root: &Path) -> io::Result<OwnedFd> {
    proc_files::open_dir(rustix::fs::CWD, proc_root)
        .map_err(|errno| io::Error::new(errno.kind(), format!("open {proc_root:?}: {errno}")))
}

impl HostReader {
    /// Reads the constant facts of the running host. The kernel's facts come from `proc_root`; names, memory and the
    /// namespaces of the agent come from the running system.
    ///
    /// # Errors
    /// Without a machine id or a boot id, since the host then has no identity.
    pub fn open(proc_root: &Path, labels: BTreeMap<String, String>) -> io::Result<Self> {
        let root = open_root(proc_root)?;
        let HostIdentity { host_id, boot_id } = HostIdentity::read_at(&root, proc_root)?;
        let fixed = Host {
            host_id,
            os: os_name(),
            kernel: System::kernel_version().unwrap_or_default(),
            arch: System::cpu_arch(),
            boot_id,
            ticks_per_second: procfs::ticks_per_second(),
            page_bytes: procfs::page_size(),
            labels,
            ..Host::default()
        };
        let system = System::new().map_err(io::Error::other)?;
        let time_daemons = TimeDaemons::default();
        Ok(Self { proc_root: root, time_daemons, system, boot_time_s: None, text: Vec::new(), fixed })
    }

    /// Returns the facts of this moment.
    fn facts(&mut self, gaps: &mut GapCollector) -> Host {
        let mut host = self.fixed.clone();
        // The host name can change at any time.
        host.hostname = String::from_utf8_lossy(rustix::system::uname().nodename().to_bytes()).into_owned();
        host.namespaces = own_namespaces(gaps);
        self.system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
        host.memory_bytes = self.system.total_memory();
        host.memory_available_bytes = self.system.available_memory();
        let system_info = procfs::current_system_info();
        if let Some(stat) = self.parse("stat", gaps, |text| KernelStats::from_buf_read(text, system_info)) {
            host.forks = stat.processes;
            host.cpus = u32::try_from(stat.cpu_time.len()).unwrap_or(u32::MAX);
            let known = *self.boot_time_s.get_or_insert(stat.btime);
            if known.abs_diff(stat.btime) > BOOT_TIME_JITTER_S {
                self.boot_time_s = Some(stat.btime);
            }
        }
        host.boot_time_ns = self.boot_time_s.map_or(0, |seconds| seconds.cast_signed().saturating_mul(1_000_000_000));
        if let Some(load) = self.parse("loadavg", gaps, |text| LoadAverage::from_read(text)) {
            // The kernel gives two decimals.
            host.load_hundredths = [load.one, load.five, load.fifteen].map(|load| (load * 100.0).round() as u32);
        }
        if let Some(uptime) = self.parse("uptime", gaps, |text| Uptime::from_read(text)) {
            host.uptime_ticks = (uptime.uptime * host.ticks_per_second as f64).round() as u64;
        }
        host
    }

    /// Returns the present time.
    pub fn time(&self, gaps: &mut GapCollector) -> Time {
        let mut time = clock::now();
        time.synchronised = synchronised(&self.time_daemons, gaps);
        time
    }

    fn parse<T>(
        &mut self,
        name: &str,
        gaps: &mut GapCollector,
        parse: impl FnOnce(&[u8]) -> Result<T, ProcError>,
    ) -> Option<T> {
        let parsed = proc_files::read(&self.proc_root, name, &mut self.text).and_then(|_| {
            parse(&self.text).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))
        });
        parsed.map_err(|error| gaps.add(SOURCE, None, name.as_bytes(), reason(&error), &error.to_string())).ok()
    }
}

impl Source for HostReader {
    fn name(&self) -> &'static str {
        SOURCE
    }

    fn read(&mut self, tick: &mut Tick) -> RowCount {
        tick.host = self.facts(&mut tick.gaps);
        RowCount { rows: 1, carried: 0 }
    }
}

/// `PRETTY_NAME` of os-release(5), missing in sysinfo; otherwise name and version from sysinfo.
fn os_name() -> String {
    let file = std::fs::read("/etc/os-release").or_else(|_| std::fs::read("/usr/lib/os-release")).unwrap_or_default();
    pretty_name(&String::from_utf8_lossy(&file)).or_else(|| System::long_os_version().ok()).unwrap_or_default()
}

/// Parses os-release(5): shell assignments, with quotes around values with spaces.
fn pretty_name(os_release: &str) -> Option<String> {
    let value = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?.trim();
    let inside = ['"', '\''].iter().find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
    let mut name = String::new();
    let mut characters = inside.unwrap_or(value).chars();
    while let Some(character) = characters.next() {
        // A backslash in quotes escapes the next character.
        name.extend(if character == '\\' { characters.next() } else { Some(character) });
    }
    (!name.is_empty()).then_some(name)
}

/// The namespaces of the agent itself, even when another proc tree is read.
fn own_namespaces(gaps: &mut GapCollector) -> Namespaces {
    let mut inode = |name: &str| match proc_files::namespace(rustix::fs::CWD, &format!("/proc/self/ns/{name}")) {
        Ok(inode) => inode,
        // Older kernels have no cgroup or time namespaces.
        Err(rustix::io::Errno::NOENT) => 0,
        Err(errno) => {
            gaps.add(SOURCE, None, format!("ns/{name}").as_bytes(), reason(&errno.into()), &errno.to_string());
            0
        }
    };
    Namespaces {
        mnt: inode("mnt"),
        pid: inode("pid"),
        net: inode("net"),
        user: inode("user"),
        uts: inode("uts"),
        ipc: inode("ipc"),
        cgroup: inode("cgroup"),
        time: inode("time"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_facts_of_this_machine() {
        let Ok(mut reader) = HostReader::open(Path::new("/proc"), BTreeMap::from([("site".into(), "x".into())])) else {
            println!("skipped: this machine has no usable {MACHINE_ID}");
            return;
        };
        let mut gaps = GapCollector::default();
        let (first, second) = (reader.facts(&mut gaps), reader.facts(&mut gaps));
        assert_eq!(gaps.take(), []);
        let uname = rustix::system::uname();
        assert_eq!(first.hostname.as_bytes(), uname.nodename().to_bytes());
        assert_eq!(first.kernel.as_bytes(), uname.release().to_bytes());
        assert_eq!(first.arch.as_bytes(), uname.machine().to_bytes());
        assert_eq!(first.cpus as usize, nproc_online());
        assert!(first.memory_available_bytes <= first.memory_bytes && first.memory_bytes > 0);
        assert!(second.forks >= first.forks && second.uptime_ticks >= first.uptime_ticks && first.uptime_ticks > 0);
        assert_eq!((first.boot_time_ns, first.labels.len()), (second.boot_time_ns, 1));
        let boot = clock::now().wall_ns - clock::now().boottime_ns.cast_signed();
        assert!((first.boot_time_ns - boot).abs() < 2_000_000_000, "{} {boot}", first.boot_time_ns);
        assert_eq!(first.namespaces.net, proc_files::namespace(rustix::fs::CWD, "/proc/self/ns/net").unwrap());
        assert!(!first.os.is_empty() && first.host_id.0 != [0; 16]);
    }

    fn nproc_online() -> usize {
        nix::unistd::sysconf(nix::unistd::SysconfVar::_NPROCESSORS_ONLN).unwrap().unwrap() as usize
    }

    #[test]
    fn facts_come_from_the_given_tree_and_missing_files_are_gaps() {
        if std::fs::read(MACHINE_ID).is_err() {
            println!("skipped: this machine has no {MACHINE_ID}");
            return;
        }
        let root = tempfile::tempdir().unwrap();
        assert!(HostReader::open(root.path(), BTreeMap::new()).unwrap_err().to_string().contains("boot id"));
        std::fs::create_dir_all(root.path().join("sys/kernel/random")).unwrap();
        std::fs::write(root.path().join(BOOT_ID), "6f3a4f54-9d2b-4a52-8b1e-0c1f6f2d7a10\n").unwrap();
        std::fs::write(
            root.path().join("stat"),
            "cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 1 2 3 4 5 6 7 8 9 10\nintr 0\nctxt 1\nbtime 1700000000\nprocesses 4711\n",
        )
        .unwrap();
        std::fs::write(root.path().join("loadavg"), "0.29 12.05 1.15 1/99 4711\n").unwrap();
        std::fs::write(root.path().join("uptime"), "not a number\n").unwrap();
        let mut reader = HostReader::open(root.path(), BTreeMap::new()).unwrap();
        let mut gaps = GapCollector::default();
        let host = reader.facts(&mut gaps);
        assert_eq!((host.forks, host.cpus, host.load_hundredths), (4_711, 1, [29, 1_205, 115]));
        assert_eq!(host.boot_time_ns, 1_700_000_000_000_000_000);
        let gaps = gaps.take();
        assert_eq!((gaps.len(), gaps[0].field.as_ref()), (1, b"uptime".as_slice()));

        // One second is the kernel's rounding; more means that the clock was set.
        for (btime, shown) in [(1_700_000_001_u64, 1_700_000_000), (1_700_003_600, 1_700_003_600)] {
            let stat = format!("cpu  1 2 3 4 5 6 7 8 9 10\nctxt 1\nbtime {btime}\nprocesses 4711\n");
            std::fs::write(root.path().join("stat"), stat).unwrap();
            assert_eq!(reader.facts(&mut GapCollector::default()).boot_time_ns, shown * 1_000_000_000);
        }
    }

    #[test]
    fn the_name_of_the_system_as_os_release_quotes_it() {
        assert_eq!(
            pretty_name("NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n").as_deref(),
            Some("Debian GNU/Linux 12 (bookworm)")
        );
        assert_eq!(pretty_name("PRETTY_NAME=Void\n").as_deref(), Some("Void"));
        assert_eq!(pretty_name("PRETTY_NAME='a \\\"b\\\" \\$'\n").as_deref(), Some("a \"b\" $"));
        assert_eq!(pretty_name("PRETTY_NAME=\"\"\n"), None);
        assert_eq!(pretty_name("NAME=x"), None);
    }
}
