//! The commands and sections for the tables of the catalogue.

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{ArgMatches, Args as _, Command, Error, FromArgMatches, Subcommand};
use edr_model::SnapshotTable;
use edr_model::catalogue::{Group, find};
use edr_model::tables::TABLES;

use super::ViewArgs;

/// A command that prints a table: `processes`, `files` and so on. Each table with a page has a command.
#[derive(Debug)]
pub(super) struct TableCommand {
    pub(super) table: &'static SnapshotTable,
    pub(super) args: ViewArgs,
}

fn commands() -> impl Iterator<Item = &'static SnapshotTable> {
    TABLES.iter().filter(|table| table.about.group == Group::Own)
}

/// Returns the tables of the command `psad`.
pub(super) fn sections() -> impl Iterator<Item = &'static SnapshotTable> {
    TABLES.iter().filter(|table| table.about.group == Group::Psad)
}

/// Returns the parser of `--section`.
pub(super) fn section() -> impl TypedValueParser<Value = &'static SnapshotTable> {
    let names = sections().map(|table| PossibleValue::new(table.about.slug).help(table.about.summary));
    PossibleValuesParser::new(names).try_map(|slug| find(&TABLES, &slug).ok_or("no such section"))
}

impl FromArgMatches for TableCommand {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let (name, matches) = matches.subcommand().ok_or_else(|| Error::new(ErrorKind::MissingSubcommand))?;
        let table = commands().find(|table| table.about.slug == name);
        let table = table.ok_or_else(|| Error::new(ErrorKind::InvalidSubcommand))?;
        Ok(Self { table, args: ViewArgs::from_arg_matches(matches)? })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Subcommand for TableCommand {
    fn augment_subcommands(command: Command) -> Command {
        commands().fold(command, |command, table| {
            // The arguments set a description of their own.
            let arguments = ViewArgs::augment_args(Command::default().name(table.about.slug));
            command.subcommand(arguments.about(table.about.summary).long_about(None))
        })
    }

    fn augment_subcommands_for_update(command: Command) -> Command {
        Self::augment_subcommands(command)
    }

    fn has_subcommand(name: &str) -> bool {
        commands().any(|table| table.about.slug == name)
    }
}
