//! The tables of the archive: `frames` with every record, and `hosts` with the location of each host's newest frame.

pub(super) mod frames;
pub(super) mod hosts;
#[cfg(test)]
mod tests;

use super::delta::TableStorage;

/// How each table is stored, for the upkeep of all tables.
pub(super) const ALL: [TableStorage; 2] = [frames::STORAGE, hosts::STORAGE];
