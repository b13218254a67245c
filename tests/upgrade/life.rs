//! The test (outside, on the host) and its scenario (inside the test machine).

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use edr_tests::binaries::packages;
use edr_tests::cache::checkout;
use edr_tests::daemons::spooled;
use edr_tests::kafka::Broker;
use edr_tests::running::Program;
use edr_tests::scene::Scene;
use edr_tests::signing::SigningKey;
use edr_tests::systemd::Machine;
use edr_tests::topic;
use edr_tests::wait;
use edr_wire::frame::Record;

use crate::sights::{Sights, works};
use crate::{UpgradeResult, archive, scenario};

/// Time limit. Each round runs apt a dozen times; all rounds take eight minutes beside other tests.
const LIMIT: Duration = Duration::from_secs(1800);
/// Time limit of a single step on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// An older package: a lower version, and another comment in the configuration file.
const OLD: &str = "0.0.9-1";
const OLD_COMMENT: &str = "# This line is in the older package only.\n";

/// Every second round keeps an administrator's changes. A round takes half a minute, mostly for apt.
const ROUNDS: usize = 5;

const TOPIC: &str = "edr.snapshots";

/// An installed daemon; the package has the same name.
struct PackagedDaemon {
    name: &'static str,
    config: &'static str,
    /// Settings that cause more activity in a shorter time.
    load: &'static str,
}

const AGENT: PackagedDaemon =
    PackagedDaemon { name: "edr-agentd", config: "/etc/edr-agentd/agent.toml", load: "interval = \"1s\"\n" };
const COLLECTOR: PackagedDaemon = PackagedDaemon {
    name: "edr-collectd",
    config: "/etc/edr-collectd/collector.toml",
    load: "[archive]\ncommit-interval = \"1s\"\n",
};
const DAEMONS: [&PackagedDaemon; 2] = [&AGENT, &COLLECTOR];

// --- outside ---------------------------------------------------------------------------------------------------------

/// No frame is lost over several rounds of upgrade, downgrade, removal, purge and installation, and no file is left.
pub(crate) fn come_and_go_under_load() -> UpgradeResult {
    Scene::run("packages", |scene| {
        let mut machine = Machine::new(scene.path())?;
        let repository = machine.out().join("repository");
        std::fs::create_dir(&repository).context("make the repository")?;
        sh(&packages(scene.path())?, &format!("cp -r . {}", repository.display()))?;
        for daemon in DAEMONS {
            make_older(&repository, daemon, &scene.folder(daemon.name)?)?;
        }
        // Writes the index of the repository, including the older packages, and signs the repository.
        SigningKey::new()?.sign(&repository)?;
        println!("{}", machine.boot(&scenario()?, LIMIT)?);
        Ok(())
    })
}

/// Makes a package with the same program, an older version and another configuration file.
fn make_older(repository: &Path, daemon: &PackagedDaemon, folder: &Path) -> Result<()> {
    let script = format!(
        "dpkg-deb --raw-extract {repository}/{name}_*.deb root
         sed -i 's/^Version: .*/Version: {OLD}/' root/DEBIAN/control
         printf '%s' \"$COMMENT\" >>root{config}
         dpkg-deb --root-owner-group -Zgzip -z1 --build root {repository}",
        repository = repository.display(),
        name = daemon.name,
        config = daemon.config,
    );
    sh(folder, &script).map(drop)
}

// --- inside ----------------------------------------------------------------------------------------------------------

/// Frames by epoch.
type FramesByEpoch = BTreeMap<String, BTreeSet<u64>>;

/// The state of the scenario.
struct Life {
    broker: Broker,
    /// Frames removed by a purge together with the spool.
    purged: FramesByEpoch,
    installations: usize,
    /// Files of the host named like the product, for example a checkout, in place before the first installation.
    foreign: BTreeSet<String>,
}

/// Returns the files and folders with the names or the owners of an installation.
///
/// Left out are the index of apt, which keeps the names of removed packages like the list of users and the log of dpkg,
/// and `/var/tmp`, where other tests of this host make and remove files meanwhile.
fn named_like_the_product() -> Result<BTreeSet<String>> {
    let places = "/etc /usr /var /run /opt /srv /home";
    let named = "-name '*edr-agentd*' -o -name '*edr-collectd*' -o -name agent.toml -o -name collector.toml";
    // Before the first installation the users do not exist, and find refuses an unknown user.
    let owned: String = DAEMONS
        .iter()
        .filter(|daemon| nix::unistd::User::from_name(daemon.name).is_ok_and(|user| user.is_some()))
        .map(|daemon| format!(" -o -user {}", daemon.name))
        .collect();
    let pruned = "-path /var/lib/apt -o -path /var/tmp";
    let found =
        sh(Path::new("/"), &format!("find {places} -xdev \\( {pruned} \\) -prune -o \\( {named}{owned} \\) -print"))?;
    Ok(found.lines().map(str::to_owned).collect())
}

/// The scenario of [`come_and_go_under_load`].
pub(crate) fn life() -> UpgradeResult {
    // The host forbids maintainer scripts to start services; the test machine allows it, like a usual host.
    sh(Path::new("/"), "rm -f /usr/sbin/policy-rc.d; rm -f /etc/apt/sources.list /etc/apt/sources.list.d/*")?;
    let begin = Instant::now();
    // Without this line the index of all manual pages would be rebuilt after each of sixty runs of apt, in more time
    // than apt.
    sh(Path::new("/"), "rm -f /var/lib/man-db/auto-update")?;
    let broker = Broker::start(Path::new("/var/tmp/kafka"))?;
    let load = "while :; do /bin/true; sleep 0.02; done";
    let _load = Program::new("load", Path::new("/var/tmp"), "sh").args(["-c", load]).start()?;
    let mut life = Life { broker, purged: FramesByEpoch::new(), installations: 0, foreign: named_like_the_product()? };

    life.install_as_readme_says()?;
    ensure!(
        sh(Path::new("/"), "dpkg-query -W -f '${db:Status-Status}' psad")? == "installed",
        "psad was not recommended"
    );
    // psad's package has made psad's folder; the test fills the folder.
    let sights = Sights::new()?;
    println!("{:4} s: what the archive holds", begin.elapsed().as_secs());
    works(&sights)?;
    drop(sights);
    // The catalogue is compiled by a trigger of systemd's package.
    let explained = sh(Path::new("/"), "journalctl -u edr-agentd -x --no-pager")?;
    ensure!(explained.contains("Subject: edr-agentd takes snapshots of this host"), "no explanation in\n{explained}");
    for round in 0..ROUNDS {
        let step = |what: &str| println!("{:4} s, round {round}: {what}", begin.elapsed().as_secs());
        step("downgrade");
        life.change(&format!("edr-agentd={OLD} edr-collectd={OLD}"), true)?;
        if round % 2 == 1 {
            // A change by the administrator must stay until the purge.
            for daemon in DAEMONS {
                sh(Path::new("/"), &format!("echo '# mine' >>{}", daemon.config))?;
            }
        }
        step("upgrade");
        life.change("edr-agentd edr-collectd", round % 2 == 0)?;
        for daemon in DAEMONS {
            let text = std::fs::read_to_string(daemon.config)?;
            let mine = round % 2 == 1;
            ensure!(
                text.ends_with("# mine\n") == mine && text.contains(OLD_COMMENT) == mine,
                "{}: {text}",
                daemon.config
            );
        }
        step("upgrade of what is stopped");
        life.stays_stopped()?;
        step("removal");
        life.remove()?;
        step("purge");
        life.purge()?;
        step("installation");
        life.install_as_readme_says()?;
    }
    println!("{:4} s: the judgement", begin.elapsed().as_secs());
    life.judge()
}

impl Life {
    /// Runs the two shell blocks of README, with the addresses of this broker and this repository.
    fn install_as_readme_says(&mut self) -> Result<()> {
        self.installations += 1;
        for daemon in DAEMONS {
            for line in self.readme(daemon)? {
                if line.starts_with("systemctl enable") {
                    inert(daemon)?;
                }
                if line.contains("conf.d/kafka.toml") {
                    // Ten times as many snapshots as by default, and commits at the same rate.
                    let mut more = daemon.load.to_owned();
                    if daemon.name == COLLECTOR.name && self.installations > 2 {
                        // Kafka keeps the partitions of a purged collector for 30 s. The second installation shows this
                        // case; later installations use a new group and need not wait.
                        more += &format!("[kafka]\ngroup = \"edr-collectd-{}\"\n", self.installations);
                    }
                    std::fs::write(Path::new(daemon.config).with_file_name("conf.d/10-load.toml"), more)?;
                }
                sh(Path::new("/root"), &line).with_context(|| format!("README says: {line}"))?;
            }
        }
        self.both_work()
    }

    fn readme(&self, daemon: &PackagedDaemon) -> Result<Vec<String>> {
        let text = std::fs::read_to_string(checkout().join("README.md"))?;
        let install = format!("apt-get install -y {}\n", daemon.name);
        let block = text.split("```").find(|block| block.contains(&install)).context("README does not install it")?;
        let block = block.strip_prefix("sh\n").context("the block is no shell")?;
        let is_signed = block.contains("signed-by=") && block.contains("file:/srv/edr");
        ensure!(is_signed || daemon.name == COLLECTOR.name, "README names no signed repository");
        let mine =
            block.replace("/srv/edr", "/out/repository").replace("kafka-1.example.org:9092", &self.broker.address());
        ensure!(mine.contains(&self.broker.address()), "README names no broker");
        Ok(mine.lines().map(str::to_owned).collect())
    }

    /// Installs another version over the running version: the daemons are restarted, and continue their epochs.
    fn change(&mut self, packages: &str, replaces_config: bool) -> Result<()> {
        let before: Vec<String> = DAEMONS.iter().map(|daemon| main_pid(daemon)).collect::<Result<_>>()?;
        let epochs = epochs()?;
        apt(&format!("install -y --allow-downgrades {packages}"))?;
        for (daemon, before) in DAEMONS.iter().zip(before) {
            ensure!(active(daemon)?, "{} does not run after {packages}", daemon.name);
            ensure!(main_pid(daemon)? != before, "{} was not restarted", daemon.name);
            let old = packages.contains(OLD);
            if replaces_config {
                let text = std::fs::read_to_string(daemon.config)?;
                ensure!(text.contains(OLD_COMMENT) == old, "{} is not that of the package", daemon.config);
            }
        }
        self.both_work()?;
        ensure!(epochs == self::epochs()?, "the epoch of the spool changed: {epochs:?} → {:?}", self::epochs()?);
        Ok(())
    }

    /// An upgrade must not start a stopped daemon.
    fn stays_stopped(&mut self) -> Result<()> {
        let epochs = epochs()?;
        sh(Path::new("/"), "systemctl stop edr-agentd edr-collectd")?;
        apt(&format!("install -y --allow-downgrades edr-agentd={OLD} edr-collectd={OLD}"))?;
        apt("install -y edr-agentd edr-collectd")?;
        for daemon in DAEMONS {
            ensure!(!active(daemon)?, "{} was started by an upgrade", daemon.name);
        }
        sh(Path::new("/"), "systemctl start edr-agentd edr-collectd")?;
        self.both_work()?;
        ensure!(epochs == self::epochs()?, "the epoch of the spool changed");
        Ok(())
    }

    /// Removes the packages. Spool, archive and settings stay, and the next installation continues with them.
    fn remove(&mut self) -> Result<()> {
        let epochs = epochs()?;
        apt("remove -y edr-agentd edr-collectd")?;
        for daemon in DAEMONS {
            ensure!(!active(daemon)?, "{} runs after its removal", daemon.name);
            ensure!(!Path::new("/usr/sbin").join(daemon.name).exists(), "{} is still there", daemon.name);
            ensure!(Path::new(daemon.config).exists(), "{} is gone", daemon.config);
        }
        ensure!(epochs == self::epochs()?, "the spool is gone");
        ensure!(Path::new("/var/lib/edr-collectd/archive/frames/_delta_log").exists(), "the archive is gone");
        apt("install -y edr-agentd edr-collectd")?;
        sh(Path::new("/"), "systemctl enable --now edr-agentd edr-collectd")?;
        self.both_work()?;
        ensure!(epochs == self::epochs()?, "the epoch of the spool changed");
        Ok(())
    }

    /// Purges the packages, including the spool. Frames not sent before are noted in `purged`.
    fn purge(&mut self) -> Result<()> {
        sh(Path::new("/"), "systemctl stop edr-agentd")?;
        for (epoch, seqs) in waiting()? {
            self.purged.entry(epoch).or_default().extend(seqs);
        }
        sh(Path::new("/"), "systemctl start edr-agentd")?;
        apt("purge -y edr-agentd edr-collectd")?;
        let left: Vec<String> = named_like_the_product()?.difference(&self.foreign).cloned().collect();
        ensure!(left.is_empty(), "left after purge:\n{}", left.join("\n"));
        for daemon in DAEMONS {
            ensure!(!active(daemon)?, "{} runs after its purge", daemon.name);
            let status =
                sh(Path::new("/"), &format!("dpkg-query -W -f '${{db:Status-Status}}' {} 2>&1 || true", daemon.name))?;
            ensure!(!status.contains("config-files") && !status.starts_with("installed"), "{}: {status}", daemon.name);
        }
        Ok(())
    }

    /// Checks that a snapshot taken from now on arrives in the archive.
    fn both_work(&self) -> Result<()> {
        let known = topic::count(&self.broker, TOPIC)?;
        wait::until("a snapshot to be accepted", PATIENCE, || {
            Ok((topic::count(&self.broker, TOPIC)? > known).then_some(()))
        })?;
        archive::holds(Path::new("/var/lib/edr-collectd/archive"), known + 1, PATIENCE).map(drop)
    }

    /// Checks that every frame ever made is in the topic or was purged, and that every record of the topic is in the
    /// archive exactly once, verbatim.
    fn judge(&mut self) -> Result<()> {
        sh(Path::new("/"), "systemctl stop edr-agentd")?;
        let accepted = topic::records(&self.broker, TOPIC)?;
        let mut sent = FramesByEpoch::new();
        for record in &accepted {
            let record = Record::decode(&record.value).map_err(|error| anyhow::anyhow!("a record: {error}"))?;
            sent.entry(record.header.epoch.to_string()).or_default().insert(record.header.seq);
        }
        ensure!(sent.len() == ROUNDS + 1, "a purge ends an epoch and nothing else does: {:?}", sent.keys());
        let waiting = waiting()?;
        for (epoch, seqs) in &sent {
            let mut all = seqs.clone();
            for more in [self.purged.get(epoch), waiting.get(epoch)].into_iter().flatten() {
                all.extend(more);
            }
            let last = all.last().copied().unwrap_or_default();
            let missing: Vec<u64> = (1..=last).filter(|seq| !all.contains(seq)).collect();
            ensure!(missing.is_empty(), "epoch {epoch}: {missing:?} of 1 to {last} are nowhere");
        }
        let archived = archive::holds(Path::new("/var/lib/edr-collectd/archive"), accepted.len(), PATIENCE)?;
        ensure!(archived.len() == accepted.len(), "{} records, {} rows", accepted.len(), archived.len());
        for (record, row) in accepted.iter().zip(&archived) {
            ensure!((record.partition, record.offset) == (row.partition, row.offset), "another place: {row:?}");
            ensure!(record.value == row.record && row.fault.is_none(), "another record at {}", record.offset);
        }
        println!("{} records of {} epochs, all archived", accepted.len(), sent.len());
        Ok(())
    }
}

/// Checks that a newly installed daemon does not run, and that a start without a broker fails with an instruction.
fn inert(daemon: &PackagedDaemon) -> Result<()> {
    ensure!(!active(daemon)?, "{} was started by its installation", daemon.name);
    let drop_ins = Path::new(daemon.config).with_file_name("conf.d");
    let aside = PathBuf::from("/var/tmp").join(daemon.name);
    std::fs::rename(&drop_ins, &aside)?;
    let started = Command::new("systemctl").args(["start", daemon.name]).output()?;
    ensure!(!started.status.success(), "{} starts without a broker", daemon.name);
    let status = sh(Path::new("/"), &format!("systemctl status {} || true", daemon.name))?;
    let line = 1 + std::fs::read_to_string(daemon.config)?
        .lines()
        .position(|line| line.starts_with("# brokers = "))
        .context("no line for the brokers")?;
    let wanted = format!("Status: \"{}:{line}: kafka.brokers: is not set", daemon.config);
    ensure!(status.contains(&wanted), "{wanted}\nis not in\n{status}");
    let state = sh(Path::new("/"), &format!("systemctl show -p ActiveState -p NRestarts {}", daemon.name))?;
    let settled = state.contains("ActiveState=failed") && state.contains("NRestarts=0");
    ensure!(settled, "{} tries again: {state}", daemon.name);
    std::fs::rename(&aside, &drop_ins)?;
    sh(Path::new("/"), &format!("systemctl reset-failed {}", daemon.name)).map(drop)
}

fn active(daemon: &PackagedDaemon) -> Result<bool> {
    Ok(Command::new("systemctl").args(["is-active", "--quiet", daemon.name]).status()?.success())
}

fn main_pid(daemon: &PackagedDaemon) -> Result<String> {
    sh(Path::new("/"), &format!("systemctl show -P MainPID {}", daemon.name))
}

/// Epoch and seq of the frames in the agent's spool: the waiting frames, and the newest frame and key.
fn waiting() -> Result<FramesByEpoch> {
    let mut found = FramesByEpoch::new();
    for path in spooled(Path::new("/var/lib/edr-agentd"))? {
        let epoch = path.parent().and_then(Path::file_name).and_then(OsStr::to_str).context("a frame has an epoch")?;
        let seq = path.file_stem().and_then(OsStr::to_str).context("a frame has a number")?;
        found.entry(epoch.to_owned()).or_default().insert(seq.parse()?);
    }
    Ok(found)
}

fn epochs() -> Result<Vec<String>> {
    Ok(waiting()?.into_keys().collect())
}

/// Runs apt without questions. A changed configuration file is kept.
fn apt(words: &str) -> Result<String> {
    sh(Path::new("/"), &format!("apt-get -o Dpkg::Options::=--force-confold {words}"))
}

/// Runs a line of shell to a successful end, and returns the output without the final line break.
fn sh(folder: &Path, line: &str) -> Result<String> {
    let comment = OLD_COMMENT;
    let output = Command::new("bash")
        .args(["-eo", "pipefail", "-c", line])
        .current_dir(folder)
        .envs([
            ("DEBIAN_FRONTEND", "noninteractive"),
            ("COMMENT", comment),
            ("SYSTEMD_PAGER", ""),
            ("LC_ALL", "C.UTF-8"),
        ])
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .context("run bash")?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{line}: {}\n{said}{}", output.status, String::from_utf8_lossy(&output.stderr));
    Ok(said.trim_end().to_owned())
}
