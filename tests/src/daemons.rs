//! The two daemons, each with a separate configuration and state folder.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::binaries::binaries;
use crate::http::{self, HttpResponse};
use crate::kafka::free_port;
use crate::running::{Program, Running};
use crate::wait;

/// Time limit from start to ready, for either daemon on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(60);

/// The settings of an agent. Most fields are keys of the configuration.
#[derive(Debug, Clone)]
pub struct AgentPlan {
    /// The agent's folder: configuration, state, log.
    pub dir: PathBuf,
    /// `kafka.brokers`.
    pub broker: String,
    /// `kafka.topic`.
    pub topic: String,
    /// `interval`.
    pub interval: String,
    /// `psad.dir`; the folder need not exist.
    pub psad_dir: PathBuf,
    /// `psad.packet-log`.
    pub packet_log: Option<PathBuf>,
    /// Further keys of `[kafka]`.
    pub kafka: String,
    /// A wrapper that runs the agent (`strace …`, `setpriv …`).
    pub behind: Vec<OsString>,
    /// The program, if not built by [`binaries`].
    pub program: Option<PathBuf>,
    /// The socket for the readiness message (`NOTIFY_SOCKET`).
    pub notify: Option<PathBuf>,
}

impl AgentPlan {
    /// An agent in `dir` with an interval of one second and without psad.
    pub fn new(dir: &Path, broker: &str, topic: &str) -> Self {
        Self {
            dir: dir.to_owned(),
            broker: broker.to_owned(),
            topic: topic.to_owned(),
            interval: "1s".to_owned(),
            psad_dir: dir.join("no-psad"),
            packet_log: None,
            kafka: String::new(),
            behind: Vec::new(),
            program: None,
            notify: None,
        }
    }

    /// Writes the configuration and returns its path.
    ///
    /// # Errors
    /// When the configuration cannot be written.
    pub fn write_config(&self) -> Result<PathBuf> {
        std::fs::create_dir_all(&self.dir).with_context(|| format!("make {}", self.dir.display()))?;
        let mut text = format!(
            "interval = {:?}\nstate-dir = {:?}\n\n[kafka]\nbrokers = [{:?}]\ntopic = {:?}\n{}\n[psad]\ndir = {:?}\n",
            self.interval,
            self.state_dir(),
            self.broker,
            self.topic,
            self.kafka,
            self.psad_dir
        );
        if let Some(packet_log) = &self.packet_log {
            text.push_str(&format!("packet-log = {packet_log:?}\n"));
        }
        let path = self.dir.join("agent.toml");
        std::fs::write(&path, text).context("write agent.toml")?;
        Ok(path)
    }

    /// The folder of the spool.
    pub fn state_dir(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// Starts the agent, without waiting until it is ready.
    ///
    /// # Errors
    /// When the agent cannot be started.
    pub fn start(&self) -> Result<AgentDaemon> {
        let mut program = Program::new("agent", &self.dir, self.program()?).arg("run").arg("--config");
        program = program.arg(self.write_config()?);
        if let Some(notify) = &self.notify {
            program = program.env("NOTIFY_SOCKET", notify);
        }
        Ok(AgentDaemon { process: program.behind(self.behind.iter().cloned()).start()?, plan: self.clone() })
    }

    fn program(&self) -> Result<PathBuf> {
        self.program.clone().map_or_else(|| Ok(binaries()?.agent.clone()), Ok)
    }

    /// One snapshot, printed by `edr-agentd snapshot --format json`.
    ///
    /// # Errors
    /// When the command fails.
    pub fn snapshot(&self) -> Result<Value> {
        let config = self.write_config()?;
        let output = Program::new("snapshot", &self.dir, self.program()?)
            .args(["snapshot", "--format", "json", "--config"])
            .arg(config)
            .behind(self.behind.iter().cloned())
            .output()?;
        ensure!(output.status.success(), "edr-agentd snapshot: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).context("read the snapshot's JSON")
    }
}

/// A started agent.
#[derive(Debug)]
pub struct AgentDaemon {
    /// The process.
    pub process: Running,
    /// The settings of the agent.
    pub plan: AgentPlan,
}

impl AgentDaemon {
    /// The frame files in the spool, by epoch and seq.
    ///
    /// # Errors
    /// When the spool's folder cannot be read.
    pub fn spooled(&self) -> Result<Vec<PathBuf>> {
        spooled(&self.plan.state_dir())
    }

    /// Waits until the spool has at least `count` frames.
    ///
    /// # Errors
    /// When the frames are not there within `limit`, or when the agent ends.
    pub fn has_spooled(&mut self, count: usize, limit: Duration) -> Result<Vec<PathBuf>> {
        wait::until(&format!("{count} frames in the spool"), limit, || {
            ensure!(self.process.is_running()?, "the agent ended; its log:\n{}", self.process.log_tail());
            let frames = spooled(&self.plan.state_dir())?;
            Ok((frames.len() >= count).then_some(frames))
        })
    }
}

/// The frame files below a state folder, in the order of epoch and seq; empty without a spool.
///
/// # Errors
/// When a folder cannot be read.
pub fn spooled(state_dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![state_dir.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            // The agent may remove a folder at any time.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).with_context(|| format!("read {}", folder.display())),
        };
        for entry in entries {
            let path = entry.with_context(|| format!("read {}", folder.display()))?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "frame") {
                found.push(path);
            }
        }
    }
    let seq =
        |path: &PathBuf| path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<u64>().ok());
    found.sort_by_key(|path| (path.parent().map(Path::to_owned), seq(path), path.clone()));
    Ok(found)
}

/// The settings of a collector. Most fields are keys of the configuration.
#[derive(Debug, Clone)]
pub struct CollectorPlan {
    /// The collector's folder: configuration, state, archive, log.
    pub dir: PathBuf,
    /// `kafka.brokers`.
    pub broker: String,
    /// `kafka.topic`.
    pub topic: String,
    /// Port of `web.listen`.
    pub port: u16,
    /// `kafka.group`. Each collector has a separate group, because members of a group wait for each other, even for
    /// killed members.
    pub group: String,
    /// Further keys of `[kafka]`.
    pub kafka: String,
    /// `archive.commit-interval`.
    pub commit_interval: String,
    /// A wrapper that runs the collector (`strace …`).
    pub behind: Vec<OsString>,
}

impl CollectorPlan {
    /// A collector in `dir` on a free port, with a commit interval of one second.
    ///
    /// # Errors
    /// When there is no free port.
    pub fn new(dir: &Path, broker: &str, topic: &str) -> Result<Self> {
        Ok(Self {
            dir: dir.to_owned(),
            broker: broker.to_owned(),
            topic: topic.to_owned(),
            port: free_port()?,
            group: format!("edr-collectd-{topic}"),
            kafka: String::new(),
            commit_interval: "1s".to_owned(),
            behind: Vec::new(),
        })
    }

    /// Writes the configuration and returns its path.
    ///
    /// # Errors
    /// When the configuration cannot be written.
    pub fn write_config(&self) -> Result<PathBuf> {
        std::fs::create_dir_all(&self.dir).with_context(|| format!("make {}", self.dir.display()))?;
        let text = format!(
            "state-dir = {:?}\n\n[kafka]\nbrokers = [{:?}]\ntopic = {:?}\ngroup = {:?}\n{}\n[archive]\n\
             dir = {:?}\ncommit-interval = {:?}\n\n[web]\nlisten = \"127.0.0.1:{}\"\n",
            self.dir.join("state"),
            self.broker,
            self.topic,
            self.group,
            self.kafka,
            self.archive_dir(),
            self.commit_interval,
            self.port
        );
        let path = self.dir.join("collector.toml");
        std::fs::write(&path, text).context("write collector.toml")?;
        Ok(path)
    }

    /// Waits until the archive has a host, and returns the list of hosts. The page shows snapshots from memory, so it
    /// may be a commit ahead of the archive.
    ///
    /// # Errors
    /// When there is no host within `limit`.
    pub fn archived_hosts(&self, limit: Duration) -> Result<Value> {
        wait::until("a host in the archive", limit, || {
            let hosts = self.view(&["hosts"])?;
            Ok(hosts.as_array().is_some_and(|hosts| !hosts.is_empty()).then_some(hosts))
        })
    }

    /// The folder of the tables.
    pub fn archive_dir(&self) -> PathBuf {
        self.dir.join("archive")
    }

    /// Address of a page.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Makes the topic as an operator would: `edr-collectd check --online --create-topic`.
    ///
    /// # Errors
    /// When the command fails; the error has the command's output.
    pub fn create_topic(&self) -> Result<()> {
        self.command(&["check", "--online", "--create-topic"]).map(drop)
    }

    /// Starts the collector, without waiting until the page answers.
    ///
    /// # Errors
    /// When the collector cannot be started.
    pub fn start(&self) -> Result<CollectorDaemon> {
        let config = self.write_config()?;
        let program =
            Program::new("collector", &self.dir, &binaries()?.collector).arg("run").arg("--config").arg(config);
        Ok(CollectorDaemon { process: program.behind(self.behind.iter().cloned()).start()?, plan: self.clone() })
    }

    /// Runs a command with this configuration and returns its output.
    ///
    /// # Errors
    /// When the command fails; the error has the command's output.
    pub fn command(&self, args: &[&str]) -> Result<Vec<u8>> {
        let output = self.command_output(args)?;
        if !output.status.success() {
            bail!(
                "edr-collectd {}: {}\n{}{}",
                args.join(" "),
                output.status,
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(output.stdout)
    }

    /// Output and exit code of a command with this configuration, also of a command that fails.
    ///
    /// # Errors
    /// When the command cannot be run.
    pub fn command_output(&self, args: &[&str]) -> Result<Output> {
        let config = self.write_config()?;
        Program::new("command", &self.dir, &binaries()?.collector).args(args).arg("--config").arg(config).output()
    }

    /// The JSON output of a view.
    ///
    /// # Errors
    /// When the command fails.
    pub fn view(&self, args: &[&str]) -> Result<Value> {
        let text = self.command(&[args, &["--format", "json"]].concat())?;
        serde_json::from_slice(&text).with_context(|| format!("read the JSON of edr-collectd {}", args.join(" ")))
    }
}

/// The first link to a host in a page.
fn host_link(page: &str) -> Option<String> {
    let at = page.find("\"/hosts/")? + 1;
    let link: String = page[at..].chars().take_while(|c| !matches!(c, '"' | '?' | '#')).collect();
    // The link to a view of a host begins with the address of the host.
    Some(link.split('/').take(3).collect::<Vec<_>>().join("/"))
}

/// A started collector.
#[derive(Debug)]
pub struct CollectorDaemon {
    /// The process.
    pub process: Running,
    /// The settings of the collector.
    pub plan: CollectorPlan,
}

impl CollectorDaemon {
    /// Requests a page.
    ///
    /// # Errors
    /// When the collector does not answer.
    pub fn get(&self, path: &str) -> Result<HttpResponse> {
        http::get(&self.plan.url(path))
    }

    /// Waits until a page answers with status 200 and a body accepted by `fits`, and returns the body.
    ///
    /// # Errors
    /// When there is no such answer within `limit`, or when the collector ends. The last body is kept beside the log.
    pub fn page(&mut self, path: &str, what: &str, limit: Duration, fits: impl Fn(&str) -> bool) -> Result<String> {
        let mut last = String::from("no answer at all");
        let found = wait::until(&format!("{path} to show {what}"), limit, || {
            ensure!(self.process.is_running()?, "the collector ended; its log:\n{}", self.process.log_tail());
            Ok(match http::get(&self.plan.url(path)) {
                Ok(answer) if answer.status == 200 && fits(&answer.body) => Some(answer.body),
                Ok(answer) => {
                    last = format!("{}\n{}", answer.status, answer.body);
                    None
                }
                Err(error) => {
                    last = format!("{error:#}");
                    None
                }
            })
        });
        found.inspect_err(|_| {
            let _ = std::fs::write(self.plan.dir.join("last-page.html"), &last);
        })
    }

    /// Waits until the list of hosts is not empty, and returns the address of the first host's page, `/hosts/…`.
    ///
    /// # Errors
    /// When there is no host within `limit`, or when the collector ends.
    pub fn host_path(&mut self, limit: Duration) -> Result<String> {
        let page = self.page("/", "a host", limit, |body| host_link(body).is_some())?;
        host_link(&page).context("a host was there a moment ago")
    }

    /// Waits until the page answers.
    ///
    /// # Errors
    /// When there is no answer, or when the collector ends.
    pub fn is_up(&mut self) -> Result<()> {
        self.page("/", "anything", START_LIMIT, |_| true).map(drop)
    }
}
