//! Commands.

pub mod output;
mod show;
mod tables;
mod topic;

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use edr_daemon::config::Report;
use edr_daemon::exit;
use edr_model::{FilterError, SelectError, SnapshotTable};

use self::output::Print;
use self::tables::TableCommand;
use crate::config::{Config, DEFAULT_PATH};
use crate::event::Event;
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
    /// The tables with a command of their own
    #[command(flatten)]
    Table(TableCommand),
    /// State of psad on a host
    Psad {
        /// Print only this part; all parts otherwise
        #[arg(long, value_parser = tables::section())]
        section: Option<&'static SnapshotTable>,
        #[command(flatten)]
        view: ViewArgs,
    },
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
    #[arg(
        long,
        value_name = "N",
        default_value_t = crate::consume::PARTITIONS,
        value_parser = clap::value_parser!(i32).range(1..=10_000)
    )]
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
        Command::Table(command) => show::table(&config, command.table, &command.args),
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
        edr_daemon::event!(log::Level::Error, Event::CannotStart, "{words}");
    }
    if error.downcast_ref::<Report>().is_some() {
        ExitCode::from(exit::CONFIG)
    } else if error.downcast_ref::<Usage>().is_some()
        || error.downcast_ref::<FilterError>().is_some()
        || matches!(error.downcast_ref(), Some(SelectError::UnknownColumn { .. }))
    {
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
    use edr_model::catalogue::Group;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn each_table_is_a_command_or_a_section_of_psad() {
        for table in &edr_model::tables::TABLES {
            let slug = table.about.slug;
            let parsed = match table.about.group {
                Group::Own => Cli::try_parse_from(["edr-collectd", slug, "--host", "web-01"]),
                Group::Psad => Cli::try_parse_from(["edr-collectd", "psad", "--section", slug]),
            };
            let found = match parsed.unwrap().command {
                Command::Table(TableCommand { table, args }) => {
                    assert_eq!(args.host.as_deref(), Some("web-01"));
                    table
                }
                Command::Psad { section, .. } => section.unwrap(),
                other => panic!("{slug} is {other:?}"),
            };
            assert_eq!(found.about, table.about);
            if let Some(command) = Cli::command().find_subcommand(slug) {
                assert_eq!(command.get_about().map(ToString::to_string).as_deref(), Some(table.about.summary));
                assert!(command.get_long_about().is_none());
            }
        }
        assert!(Cli::try_parse_from(["edr-collectd", "psad", "--section", "processes"]).is_err());
        assert!(Cli::try_parse_from(["edr-collectd", "ports"]).is_err());
    }
}
