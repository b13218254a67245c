//! Commands.

mod at;
mod output;
mod show;
mod topic;

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use edr_daemon::config::Report;
use edr_daemon::exit;

use self::output::Format;
use crate::config::{Config, DEFAULT_PATH};
use crate::event::Event;
use crate::query::table::View;
use crate::run::{AlreadyRunning, run};

/// Archives the snapshots of a fleet from Kafka, and shows the present and past state of each host.
#[derive(Debug, Parser)]
#[command(name = "edr-collectd", version, max_term_width = 100)]
struct Cli {
    /// Configuration file; conf.d/*.toml in the same folder are read, too
    #[arg(long, value_name = "FILE", default_value = DEFAULT_PATH, global = true)]
    config: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Archive snapshots and serve the page, until SIGTERM
    Run,
    /// Check the configuration and print the effective settings
    Check(Check),
    /// List the hosts
    Hosts {
        #[command(flatten)]
        print: Print,
    },
    /// Processes of a host
    Processes(ViewArgs),
    /// Open files of a host
    Files(ViewArgs),
    /// Sockets of a host with their owners
    Sockets(ViewArgs),
    /// State of psad on a host
    Psad {
        /// Print only this part; all parts otherwise
        #[arg(long, value_enum)]
        section: Option<Section>,
        #[command(flatten)]
        view: ViewArgs,
    },
    /// Firewall log lines of one snapshot of a host
    Packets(ViewArgs),
    /// Print the completion script for a shell; installed by the package
    #[command(hide = true)]
    Completions { shell: clap_complete::Shell },
}

#[derive(Debug, Args)]
struct Check {
    /// Also check everything needed for a start: room for the archive, certificates, Kafka, the topic and the right to
    /// read the topic; exit 1 after a failed check
    #[arg(long)]
    online: bool,
    /// Output format
    #[arg(long, value_enum, default_value_t = CheckFormat::Table)]
    format: CheckFormat,
    /// Make the topic if missing
    #[arg(long, requires = "online")]
    create_topic: bool,
    /// Partitions of the new topic: the maximum number of collectors that can share the work
    #[arg(long, value_name = "N", default_value_t = crate::consume::PARTITIONS, value_parser = clap::value_parser!(i32).range(1..=10_000))]
    partitions: i32,
    /// Copies of the new topic; with 1 the loss of a broker loses snapshots
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..=100))]
    replication: i32,
}

/// Output format of findings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CheckFormat {
    /// Lines of text
    Table,
    /// Names and values
    Json,
}

#[derive(Debug, Args)]
struct ViewArgs {
    /// Host id, or a unique name; not needed for a single host
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// The last snapshot at or before this moment; the newest otherwise. 2026-03-10T03:12:40Z,
    /// "2026-03-10 03:12", "today 03:12", "tuesday 03:12", -5m, "5m ago"; UTC without a zone
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    at: Option<String>,
    #[command(flatten)]
    print: Print,
}

#[derive(Debug, Args)]
struct Print {
    /// Rows with this text in any column; column:text searches one column, numbers are compared for equality
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Column to sort by
    #[arg(long, value_name = "COLUMN")]
    sort: Option<String>,
    /// Largest first
    #[arg(long, requires = "sort")]
    descending: bool,
    /// Columns to print, separated by commas; "all" prints all columns
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    columns: Vec<String>,
    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

/// A part of the psad data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Section {
    /// Listening sockets on scanned ports, with their processes
    Exposed,
    /// Sockets to and from attackers, with their processes
    Contacts,
    /// Top signature matches
    Signatures,
    /// Top attackers
    Attackers,
    /// Top scanned ports
    Ports,
    /// iptables log prefix counters
    Prefixes,
    /// Packets by protocol
    Protocols,
    /// Sources in detail
    Sources,
    /// Blocked addresses
    Blocked,
}

impl Section {
    const ALL: [Self; 9] = [
        Self::Exposed,
        Self::Contacts,
        Self::Signatures,
        Self::Attackers,
        Self::Ports,
        Self::Prefixes,
        Self::Protocols,
        Self::Sources,
        Self::Blocked,
    ];

    fn view(self) -> View {
        match self {
            Self::Exposed => View::Exposed,
            Self::Contacts => View::Contacts,
            Self::Signatures => View::TopSignatures,
            Self::Attackers => View::TopAttackers,
            Self::Ports => View::TopPorts,
            Self::Prefixes => View::PrefixCounters,
            Self::Protocols => View::ProtocolCounters,
            Self::Sources => View::Sources,
            Self::Blocked => View::Blocked,
        }
    }

    /// Returns true for sections joined with sockets.
    fn tells_of_sockets(self) -> bool {
        matches!(self, Self::Exposed | Self::Contacts | Self::Attackers | Self::Ports | Self::Sources)
    }

    /// Returns the heading; for a table that psad prints too, the words of `psad --Status`.
    fn heading(self) -> &'static str {
        match self {
            Self::Exposed => "Scanned ports that are open here",
            Self::Contacts => "Sockets to and from attackers",
            Self::Signatures => "Top 50 signature matches",
            Self::Attackers => "Top 25 attackers",
            Self::Ports => "Top 20 scanned ports",
            Self::Prefixes => "iptables log prefix counters",
            Self::Protocols => "Total protocol packet counters",
            Self::Sources => "IP status detail",
            Self::Blocked => "Auto-blocked addresses",
        }
    }

    /// Returns the name of the section in JSON.
    fn name(self) -> &'static str {
        match self {
            Self::Exposed => "exposed",
            Self::Contacts => "contacts",
            Self::Signatures => "top_signatures",
            Self::Attackers => "top_attackers",
            Self::Ports => "top_ports",
            Self::Prefixes => "prefix_counters",
            Self::Protocols => "protocol_counters",
            Self::Sources => "sources",
            Self::Blocked => "blocked",
        }
    }
}

/// An error in the command line that clap does not detect, such as an unknown column.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

/// Runs the command line of this process and returns its exit code.
pub fn main() -> ExitCode {
    // clap exits with 2 for a wrong command line, and 0 for --help.
    let Cli { config, command } = Cli::parse();
    let result = match command {
        Command::Run => run(&config).map(|()| ExitCode::SUCCESS),
        Command::Check(check) => topic::check(&config, &check),
        Command::Hosts { print } => show::hosts(&config, &print),
        Command::Processes(args) => show::view(&config, View::Processes, &args),
        Command::Files(args) => show::view(&config, View::Files, &args),
        Command::Sockets(args) => show::view(&config, View::Sockets, &args),
        Command::Packets(args) => show::view(&config, View::Packets, &args),
        Command::Psad { section, view } => show::psad(&config, section, &view),
        Command::Completions { shell } => completions(shell),
    };
    result.unwrap_or_else(|error| failed(&error))
}

/// Reports the error and returns the exit code for its kind.
fn failed(error: &anyhow::Error) -> ExitCode {
    if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
        // The reader of the output closed the pipe, as `head` does: no error.
        return ExitCode::SUCCESS;
    }
    let words = format!("{error:#}");
    if log::max_level() == log::LevelFilter::Off {
        // A command, or a daemon that has no log yet.
        let _ = writeln!(io::stderr().lock(), "edr-collectd: {words}");
    } else {
        edr_daemon::event!(log::Level::Error, Event::CannotStart; "{words}");
    }
    if error.downcast_ref::<Report>().is_some() {
        ExitCode::from(exit::CONFIG)
    } else if error.downcast_ref::<Usage>().is_some() {
        ExitCode::from(exit::USAGE)
    } else if error.downcast_ref::<AlreadyRunning>().is_some() {
        ExitCode::from(exit::ALREADY_RUNNING)
    } else {
        ExitCode::from(exit::FAILURE)
    }
}

fn completions(shell: clap_complete::Shell) -> anyhow::Result<ExitCode> {
    io::stdout().lock().write_all(&edr_daemon::completions(shell, Cli::command(), "edr-collectd"))?;
    Ok(ExitCode::SUCCESS)
}

fn load(path: &Path) -> anyhow::Result<Config> {
    Ok(Config::load(path)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
