//! A test machine with a separate systemd, in which units run as on a host where they are installed:
//! `tests/systemd/machine.sh`.
//!
//! The file system of the test machine is the host's file system, overlaid with the files placed by a test. Written
//! files survive a reboot of the test machine and are removed with the machine. A scenario runs inside as a unit: any
//! command whose exit code reports success or failure. The folder `/out` is shared with the test.
//!
//! Inside there is no network except a separate loopback, and neither `/dev/kmsg` nor `/dev/fuse`. The product's
//! packages, settings, state and users on the host are hidden.

use std::ffi::OsString;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::binaries::binaries;
use crate::cache::checkout;
use crate::wait;

/// The end of a boot, after the scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootEnd {
    /// Immediate, like a power cut, except that written data in the page cache is not lost.
    Cut,
    /// Orderly: systemd stops every unit first.
    Shutdown,
}

/// A command to run in a boot of the test machine.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// The command with the arguments. Standard output and standard error are the scenario's log.
    pub command: Vec<OsString>,
    /// Environment variables of the command, in addition to `EDR_BUILT` and `EDR_CACHE_DIR`.
    pub environment: Vec<(String, String)>,
    /// Boot id of this boot; `None` for the boot id of the host. A unit with `ProtectKernelTunables=` always sees the
    /// boot id of the host, unless a drop-in binds another file over it.
    pub boot_id: Option<String>,
    /// The end of the boot.
    pub end: BootEnd,
}

impl Scenario {
    /// A scenario whose boot ends with [`BootEnd::Cut`].
    pub fn new<A: Into<OsString>>(command: impl IntoIterator<Item = A>) -> Self {
        let command = command.into_iter().map(Into::into).collect();
        Self { command, environment: Vec::new(), boot_id: None, end: BootEnd::Cut }
    }
}

/// A test machine, switched off until [`Machine::boot`]. Dropping the value removes the machine.
#[derive(Debug)]
pub struct Machine {
    process: Child,
    orders: ChildStdin,
    /// The folder with `in`, `out` and the log.
    dir: PathBuf,
    boots: usize,
}

impl Machine {
    /// Returns the reason when this host cannot run a test machine, otherwise `None`.
    pub fn impossible() -> Option<String> {
        if !nix::unistd::geteuid().is_root() {
            return Some("a private systemd needs root".to_owned());
        }
        if !Path::new("/lib/systemd/systemd").exists() || !Path::new("/bin/journalctl").exists() {
            return Some("systemd is not installed".to_owned());
        }
        let groups = ["cgroup.procs", "systemd/cgroup.procs"].map(|file| Path::new("/sys/fs/cgroup").join(file));
        if !groups.iter().any(|file| file.exists()) {
            return Some("no control groups are mounted".to_owned());
        }
        let program = "d=$(mktemp -d) && mount -t tmpfs tmpfs $d && mkdir $d/u $d/w $d/r && \
                       mount -t overlay overlay -o lowerdir=/,upperdir=$d/u,workdir=$d/w $d/r; s=$?; umount -R $d; \
                       rmdir $d; exit $s";
        let unshare = ["--mount", "--propagation", "private", "--pid", "--fork", "--cgroup", "--uts", "--net", "--ipc"];
        match Command::new("unshare").args(unshare).args(["sh", "-c", program]).output() {
            Ok(output) if output.status.success() => None,
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr);
                Some(format!("no namespaces or no overlay: {}", said.lines().next().unwrap_or_default()))
            }
            Err(error) => Some(format!("unshare: {error}")),
        }
    }

    /// Returns a machine whose files are in `dir`.
    ///
    /// # Errors
    /// When the machine cannot be made.
    pub fn new(dir: &Path) -> Result<Self> {
        static MACHINES: AtomicU32 = AtomicU32::new(0);
        let [stage, in_, out, outside] = ["stage", "in", "out", "outside"].map(|name| dir.join(name));
        for folder in [&stage, &in_, &out, &outside] {
            std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        }
        // The daemons run as separate users, and use this folder.
        std::fs::set_permissions(&out, PermissionsExt::from_mode(0o1777)).context("open /out for everyone")?;
        let log = |name: &str| std::fs::File::create(dir.join(name)).with_context(|| format!("make {name}"));
        let name = format!("edr-test-{}-{}", std::process::id(), MACHINES.fetch_add(1, Ordering::Relaxed));
        let mut process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", "unshare", "--mount", "--propagation", "private", "bash"])
            .arg(checkout().join("tests/systemd/machine.sh"))
            .args([OsString::from(name), stage.into(), in_.into(), out.into(), outside.into()])
            .args(visible()?)
            .stdin(Stdio::piped())
            .stdout(log("replies")?)
            .stderr(log("machine.log")?)
            .spawn()
            .context("start machine.sh")?;
        let orders = process.stdin.take().context("a pipe was asked for")?;
        let machine = Self { process, orders, dir: dir.to_owned(), boots: 0 };
        // Without this file a scenario would make cargo build inside the test machine.
        machine.write("/usr/share/edr-test/built", &built()?)?;
        Ok(machine)
    }

    /// The folder visible as `/out` inside.
    pub fn out(&self) -> PathBuf {
        self.dir.join("out")
    }

    /// Copies a file, or a folder with all files, to the path `to` of the test machine, visible from the next boot on.
    ///
    /// # Errors
    /// When the copy fails.
    pub fn place(&self, from: &Path, to: &str) -> Result<()> {
        let target = self.target(to)?;
        let output = Command::new("cp").args(["-rT", "--preserve=mode"]).args([from, &target]).output();
        let output = output.context("run cp")?;
        ensure!(output.status.success(), "place {to}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// Writes a file to the path `to` of the test machine, visible from the next boot on.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, to: &str, text: &str) -> Result<()> {
        std::fs::write(self.target(to)?, text).with_context(|| format!("place {to}"))
    }

    /// Writes a file that appears at `to` like a file of the host: the file is below the overlay.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_outside(&self, to: &str, text: &str) -> Result<()> {
        std::fs::write(self.file("outside", to)?, text).with_context(|| format!("place {to} outside"))
    }

    fn target(&self, to: &str) -> Result<PathBuf> {
        self.file("in", to)
    }

    fn file(&self, folder: &str, to: &str) -> Result<PathBuf> {
        let target = self.dir.join(folder).join(to.trim_start_matches('/'));
        let parent = target.parent().context("a file has a folder")?;
        std::fs::create_dir_all(parent).with_context(|| format!("make the folder of {to}"))?;
        Ok(target)
    }

    /// Boots the machine, runs the scenario, and waits until the machine is off. Returns the output of the scenario.
    ///
    /// After the boot, `/out` has the journal of the boot as `journal-N` and the scenario's log as `scenario-N`; N
    /// counts from 1.
    ///
    /// # Errors
    /// When the scenario fails, or when the machine still runs after `limit`.
    pub fn boot(&mut self, scenario: &Scenario, limit: Duration) -> Result<String> {
        self.boots += 1;
        let (number, result) = (self.boots, self.out().join("result"));
        let _ = std::fs::remove_file(&result);
        self.write("/etc/systemd/system/edr-scenario.service", &unit(scenario, number))?;
        // A drop-in takes the place of the link that `systemctl enable` would make.
        self.write(
            "/etc/systemd/system/multi-user.target.d/edr-scenario.conf",
            "[Unit]\nWants=edr-scenario.service\n",
        )?;
        let boot_id = match &scenario.boot_id {
            None => "-".to_owned(),
            Some(id) => {
                let path = self.dir.join(format!("boot-id-{number}"));
                std::fs::write(&path, format!("{id}\n")).context("write the boot's id")?;
                path.display().to_string()
            }
        };
        writeln!(self.orders, "{boot_id}").context("order a boot")?;
        let replies = self.dir.join("replies");
        let ended = wait::until("the machine to be off", limit, || {
            if let Some(status) = self.process.try_wait().context("ask for machine.sh")? {
                bail!("machine.sh ended: {status}");
            }
            let text = std::fs::read_to_string(&replies).unwrap_or_default();
            Ok(text.lines().filter_map(|line| line.strip_prefix("ended ")).nth(number - 1).map(str::to_owned))
        });
        let log = |name: String| {
            String::from_utf8_lossy(&std::fs::read(self.out().join(name)).unwrap_or_default()).into_owned()
        };
        let said = log(format!("scenario-{number}"));
        let verdict = ended.and_then(|status| {
            let result = std::fs::read_to_string(&result).unwrap_or_else(|_| "nothing".to_owned());
            ensure!(result.trim() == "success", "the scenario came to {} (the machine to {status})", result.trim());
            Ok(())
        });
        verdict.with_context(|| {
            let machine = std::fs::read_to_string(self.dir.join("machine.log")).unwrap_or_default();
            format!(
                "{machine}the scenario said:\n{said}\nthe end of the journal:\n{}",
                tail(&log(format!("journal-{number}")))
            )
        })?;
        Ok(said)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The end of this process removes its mount namespace, and `unshare --kill-child` ends a running machine.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

/// The unit that runs a scenario and then ends the machine.
fn unit(scenario: &Scenario, number: usize) -> String {
    let quote = |text: &str| {
        format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$"))
    };
    let command: Vec<String> = scenario.command.iter().map(|part| quote(&part.to_string_lossy())).collect();
    let cache = crate::cache::dir().display().to_string();
    let fixed = [("EDR_BUILT", "/usr/share/edr-test/built"), ("EDR_CACHE_DIR", &cache), ("HOME", "/root")];
    let own = scenario.environment.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let environment: String = fixed
        .into_iter()
        .chain(own)
        .map(|(name, value)| format!("Environment={}\n", quote(&format!("{name}={value}"))))
        .collect();
    let action = match scenario.end {
        BootEnd::Cut => "poweroff-force",
        BootEnd::Shutdown => "poweroff",
    };
    format!(
        "[Unit]\nDescription=Scenario of a test\nSuccessAction={action}\nFailureAction={action}\n\n\
         [Service]\nType=exec\nExecStart={}\n{environment}\
         StandardOutput=file:/out/scenario-{number}\nStandardError=inherit\n\
         ExecStopPost=/bin/sh -c 'journalctl -b -o short-precise >/out/journal-{number} 2>&1; \
         echo \"$$SERVICE_RESULT\" >/out/result'\n",
        command.join(" ")
    )
}

/// The host's folders needed by scenarios: the checkout, the caches, the programs.
fn visible() -> Result<Vec<PathBuf>> {
    let programs = binaries()?;
    let own = std::env::current_exe().context("find the running program")?;
    let programs = [&own, &programs.agent, &programs.collector, &programs.load, &programs.hostile];
    let folders = programs.into_iter().filter_map(|program| program.parent());
    Ok(folders.chain([checkout(), &crate::cache::dir()]).map(Path::to_owned).collect())
}

/// The input of [`binaries`] inside the test machine: the paths of the host's programs.
fn built() -> Result<String> {
    let programs = binaries()?;
    let named = [
        ("edr-agentd", &programs.agent),
        ("edr-collectd", &programs.collector),
        ("edr-load", &programs.load),
        ("edr-hostile", &programs.hostile),
    ];
    let line = |(name, path): (&str, &PathBuf)| serde_json::json!({"target": {"name": name}, "executable": path});
    Ok(named.into_iter().map(|program| format!("{}\n", line(program))).collect())
}
