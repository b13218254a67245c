//! Commands.

mod cost;
mod redact;
mod show;
mod status;
mod table;

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use edr_daemon::config::Report;
use edr_daemon::exit;
use edr_daemon::preflight::{Findings, Level};
use edr_sources::process::{ProcessReader, ProcessSettings, degraded};
use edr_sources::{Source as _, Tick};

use crate::config::{Config, DEFAULT_PATH};
use crate::event::Event;
use crate::preflight::preflight;
use crate::run::{Overrides, run};
use crate::spool::SpoolError;

/// Takes snapshots of processes, open files, sockets and psad, and ships the snapshots to Kafka.
#[derive(Debug, Parser)]
#[command(name = "edr-agentd", version, max_term_width = 100)]
struct AgentCli {
    #[command(subcommand)]
    command: AgentCommand,
}

#[derive(Debug, Subcommand)]
enum AgentCommand {
    /// Take and ship a snapshot at every interval, until SIGTERM
    Run {
        #[command(flatten)]
        config: ConfigFile,
        #[command(flatten)]
        places: HostPaths,
    },
    /// Check the configuration and print the effective settings
    Check {
        /// Also check everything needed for a start: rights, psad, room for an outage, certificates, Kafka and the
        /// topic; exit 1 after a failed check
        #[arg(long)]
        online: bool,
        /// Output format
        #[arg(long, value_enum, default_value_t = TextFormat::Table)]
        format: TextFormat,
        #[command(flatten)]
        config: ConfigFile,
        #[command(flatten)]
        places: HostPaths,
    },
    /// Print one snapshot, without Kafka and the spool
    Snapshot {
        /// Output format
        #[arg(long, value_enum, default_value_t = SnapshotFormat::Table)]
        format: SnapshotFormat,
        #[command(flatten)]
        config: ConfigFile,
        #[command(flatten)]
        places: HostPaths,
    },
    /// Measure the cost of each source on this host (time, CPU, system calls, bytes), for full readings and for
    /// readings of changes only
    #[command(after_help = COST_HELP)]
    Cost {
        /// Readings of each kind
        #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        rounds: u32,
        /// Seconds between two readings
        #[arg(long, value_name = "S", default_value_t = 2.0, value_parser = seconds)]
        every: f64,
        /// Output format
        #[arg(long, value_enum, default_value_t = CostFormat::Table)]
        format: CostFormat,
        #[command(flatten)]
        config: ConfigFile,
        #[command(flatten)]
        places: HostPaths,
    },
    /// Print the status of the running agent
    Status {
        /// Output format
        #[arg(long, value_enum, default_value_t = TextFormat::Table)]
        format: TextFormat,
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Inspect the frames in the spool
    Spool {
        #[command(subcommand)]
        command: SpoolCommand,
    },
    /// Read command lines from standard input and print what the agent would send of them
    #[command(after_help = REDACT_HELP)]
    Redact {
        /// Also print which rule hid what
        #[arg(long)]
        explain: bool,
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Print the completion script for a shell; installed by the package
    #[command(hide = true)]
    Completions { shell: clap_complete::Shell },
}

#[derive(Debug, Subcommand)]
enum SpoolCommand {
    /// List the frames, one per line
    List {
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Verify every frame; exit 1 after a fault
    Verify {
        #[command(flatten)]
        config: ConfigFile,
    },
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// Configuration file; conf.d/*.toml in the same folder are read, too
    #[arg(long, value_name = "FILE", default_value = DEFAULT_PATH)]
    config: PathBuf,
}

#[derive(Debug, Args)]
struct HostPaths {
    /// Folder to read as /proc
    #[arg(long, value_name = "DIR")]
    proc_root: Option<PathBuf>,
    /// psad's folder
    #[arg(long, value_name = "DIR")]
    psad_dir: Option<PathBuf>,
    /// Log with the firewall's packets
    #[arg(long, value_name = "FILE")]
    packet_log: Option<PathBuf>,
}

/// How a snapshot is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SnapshotFormat {
    /// Names and values; in strings, bytes outside UTF-8 are \xNN and a backslash is \\
    Json,
    /// Columns of text
    Table,
    /// The bytes of the wire format, uncompressed
    Msgpack,
}

/// How costs are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CostFormat {
    /// The names of `agent.cost` in docs/schema.md
    Json,
    /// Columns of text
    Table,
}

const COST_HELP: &str = "\
Three kinds of readings are measured: full (every row is read), steady (processes that ran since the last reading, and \
a share of the rest as set by reread-interval: the daemon's usual tick) and between (only processes that ran). Before, \
executables are read until each has its hash. The daemon puts the same figures of its last tick into each snapshot \
(agent.cost).

The agent counts its own system calls; calls inside libraries are not counted (host, psad). Bytes are counted together \
with the calls, or else by the kernel (rchar of /proc/thread-self/io).";

const REDACT_HELP: &str = "\
One command line a line, as a shell takes it; a line with NUL bytes holds arguments that end with NUL, as in \
/proc/PID/cmdline. The rules are the built-in ones and redact.rules of the configuration.";

/// A time of up to an hour.
fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.0..=3_600.0).contains(seconds));
    seconds.ok_or_else(|| "is no number of seconds from 0 to 3600".to_owned())
}

/// How facts about the agent itself are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TextFormat {
    /// Lines of text
    Table,
    /// Names and values
    Json,
}

impl From<HostPaths> for Overrides {
    fn from(places: HostPaths) -> Self {
        Self { proc_root: places.proc_root, psad_dir: places.psad_dir, packet_log: places.packet_log }
    }
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    // clap exits with 2 for a wrong command line, and 0 for --help.
    let result = match AgentCli::parse().command {
        AgentCommand::Run { config, places } => run(&config.config, &places.into()).map(|()| ExitCode::SUCCESS),
        AgentCommand::Check { online, format, config, places } => check(&config.config, &places.into(), online, format),
        AgentCommand::Snapshot { format, config, places } => show::snapshot(format, &config.config, &places.into()),
        AgentCommand::Cost { rounds, every, format, config, places } => {
            let rounds = cost::Rounds { count: rounds, every: Duration::from_secs_f64(every), format };
            cost::cost(&config.config, &places.into(), rounds)
        }
        AgentCommand::Status { format, config } => status::status(&config.config, format),
        AgentCommand::Spool { command: SpoolCommand::List { config } } => show::spool_list(&config.config),
        AgentCommand::Spool { command: SpoolCommand::Verify { config } } => show::spool_verify(&config.config),
        AgentCommand::Redact { explain, config } => redact::redact(explain, &config.config),
        AgentCommand::Completions { shell } => completions(shell),
    };
    result.unwrap_or_else(|error| failed(&error))
}

/// Reports the error and returns its exit code.
fn failed(error: &anyhow::Error) -> ExitCode {
    if is_broken_pipe(error) {
        // The reader of the output has closed the pipe; this is no failure.
        return ExitCode::SUCCESS;
    }
    let words = format!("{error:#}");
    if log::max_level() == log::LevelFilter::Off {
        // For a command, or for a daemon without an installed log.
        let _ = writeln!(io::stderr().lock(), "edr-agentd: {words}");
    } else {
        edr_daemon::event!(log::Level::Error, Event::CannotStart, "{words}");
    }
    if error.downcast_ref::<Report>().is_some() {
        return ExitCode::from(exit::CONFIG);
    }
    match error.downcast_ref::<SpoolError>() {
        Some(SpoolError::Locked { .. }) => ExitCode::from(exit::ALREADY_RUNNING),
        _ => ExitCode::from(exit::FAILURE),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<io::Error>().map(io::Error::kind);
    let json = error.downcast_ref::<serde_json::Error>().and_then(serde_json::Error::io_error_kind);
    io.or(json) == Some(io::ErrorKind::BrokenPipe)
}

fn completions(shell: clap_complete::Shell) -> anyhow::Result<ExitCode> {
    io::stdout().lock().write_all(&edr_daemon::completions(shell, AgentCli::command(), "edr-agentd"))?;
    Ok(ExitCode::SUCCESS)
}

/// Reasons why this user's view is limited.
fn rights(proc_root: &Path) -> Vec<String> {
    let settings = ProcessSettings { mapped: false, hash: None, ..ProcessSettings::default() };
    let mut tick = Tick::default();
    // A failure to open the reader is among the reasons.
    if let Ok(mut reader) = ProcessReader::open(proc_root, settings) {
        reader.read(&mut tick);
    }
    degraded(proc_root, &tick.access)
}

fn check(path: &Path, overrides: &Overrides, online: bool, format: TextFormat) -> anyhow::Result<ExitCode> {
    let config = overrides.over(Config::load(path)?);
    let mut out = io::stdout().lock();
    if format == TextFormat::Table {
        writeln!(out, "# effective configuration, hash {}", config.hash())?;
        write!(out, "{}", config.to_toml())?;
    }
    let findings = if online {
        preflight(&config, overrides)
    } else {
        let mut findings = Findings::default();
        for reason in rights(overrides.proc_root()) {
            findings.warn("rights", reason, "");
        }
        findings
    };
    match format {
        TextFormat::Json => {
            let rows: Vec<_> = findings
                .iter()
                .map(|found| {
                    serde_json::json!({
                        "level": found.level.name(),
                        "subject": found.subject,
                        "text": found.text,
                        "remedy": found.remedy,
                    })
                })
                .collect();
            let answer = serde_json::json!({
                "config_hash": config.hash(),
                "configuration": config.to_toml(),
                "findings": rows,
            });
            serde_json::to_writer_pretty(&mut out, &answer)?;
            writeln!(out)?;
        }
        TextFormat::Table if online => {
            writeln!(out)?;
            findings.print(&mut out)?;
        }
        TextFormat::Table => findings.iter().try_for_each(|found| writeln!(out, "# as this user: {}", found.text))?,
    }
    Ok(if findings.worst() == Level::Fail { ExitCode::from(exit::FAILURE) } else { ExitCode::SUCCESS })
}
