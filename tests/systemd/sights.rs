//! Facts of a host that only root may see: made for the test, and then searched in the archive.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use edr_tests::psad::PsadTree;
use edr_tests::wait;

use crate::installed::{LIMIT, journal, run, status, view};

/// The port of the listener in the separate network namespace.
const PORT: u16 = 4711;

/// The processes and files to be seen. Dropping the value ends the processes.
pub(crate) struct Sights {
    started: Vec<Child>,
    /// An open file of this process, readable only for root.
    secret: File,
    other_mount: u32,
    deleted: u32,
    other_network: u32,
}

impl Sights {
    /// Makes the processes and files, among them psad's folder, readable only for root.
    pub(crate) fn new() -> Result<Self> {
        let psad = PsadTree::new(Path::new("/var/log"));
        psad.show("autoblock/t1")?;
        fs::set_permissions(&psad.dir, fs::Permissions::from_mode(0o700))?;
        let secret = "/root/edr-secret";
        fs::write(secret, "secret")?;
        fs::set_permissions(secret, fs::Permissions::from_mode(0o600))?;
        let gone = "/run/gone-sleep";
        fs::copy("/bin/sleep", gone)?;
        let deleted = Command::new(gone).arg("1000").spawn().context("start a program that will be deleted")?;
        fs::remove_file(gone)?;
        let script = "mkdir -p /run/other && mount -t tmpfs tmpfs /run/other && cp /bin/sleep /run/other/other-sleep \
        && \
                      exec /run/other/other-sleep 1000";
        let unshare = |args: &[&str]| Command::new("unshare").args(args).stdin(Stdio::null()).spawn();
        let other_mount = unshare(&["--mount", "--propagation", "private", "sh", "-c", script])?;
        let own = std::env::current_exe()?.display().to_string();
        let other_network = unshare(&["--net", &own, "--inside", "listen"])?;
        Ok(Self {
            secret: File::open(secret)?,
            other_mount: other_mount.id(),
            deleted: deleted.id(),
            other_network: other_network.id(),
            started: vec![other_mount, deleted, other_network],
        })
    }
}

impl Drop for Sights {
    fn drop(&mut self) {
        for child in &mut self.started {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Inside, in a separate network namespace.
pub(crate) fn listen() -> Result<()> {
    run("ip", &["link", "set", "lo", "up"])?;
    let listener = std::net::TcpListener::bind(("127.0.0.1", PORT)).context("listen")?;
    // Blocks until the process is killed.
    let _ = listener.accept();
    Ok(())
}

/// Checks that journal and status report a working agent, and that the archive has the facts visible only to root.
pub(crate) fn works(sights: &Sights) -> Result<()> {
    wait::until("the journal to say ready", LIMIT, || Ok(journal("edr-agentd")?.contains("ready: ").then_some(())))?;
    let line = status("edr-agentd", "that Kafka acknowledged", |text| {
        text.contains("last ack ") || text.contains("Kafka acknowledged ")
    })?;
    println!("status: {line}");
    wait::until("the journal to say how it is", LIMIT, || {
        let said = journal("edr-agentd")?;
        let health = said.lines().find(|line| line.starts_with("seq ") && line.contains(", last ack "));
        Ok(health.map(|line| println!("journal: {line}")))
    })?;
    let own = std::process::id();
    let (mount, deleted, network) = (sights.other_mount, sights.deleted, sights.other_network);
    wait::until_ok("the sights to be in the archive", LIMIT, || {
        let processes = view(&["processes"])?;
        let process = |pid: u32| {
            processes.iter().find(|row| row["pid"] == pid).with_context(|| format!("no process {pid} in the archive"))
        };
        let exe = |pid| process(pid).map(|row| row["path"].to_string());
        ensure!(exe(mount)?.contains("/run/other/other-sleep"), "exe in another mount namespace: {}", exe(mount)?);
        ensure!(exe(deleted)?.contains("/run/gone-sleep"), "deleted exe: {}", exe(deleted)?);
        let files = view(&["files"])?;
        let has = |pid: u32, path: &str| {
            files.iter().any(|row| row["pid"] == pid && row["path"].as_str().is_some_and(|own| own.contains(path)))
        };
        ensure!(has(own, "/root/edr-secret"), "no descriptor of root's process");
        let sockets = view(&["sockets"])?;
        let listens =
            sockets.iter().any(|row| row["local_port"] == PORT && row.to_string().contains(&network.to_string()));
        ensure!(listens, "no socket of process {network} in another network namespace");
        let mode = fs::metadata("/var/log/psad")?.permissions().mode() & 0o777;
        ensure!(mode == 0o700, "psad's folder has mode {mode:o}");
        let psad = run("/usr/sbin/edr-collectd", &["psad", "--format", "json"])?;
        ensure!(psad.contains("danger"), "psad's folder was not read: {psad}");
        Ok(())
    })?;
    // The file was open all the time.
    ensure!(sights.secret.metadata()?.len() == 6);
    Ok(())
}
