//! The tables of the archive: `frames` with every record, and `hosts` with the location of each host's newest frame.

pub(crate) mod declared;
pub(crate) mod frames;
pub(crate) mod hosts;
pub(crate) mod record;
pub(crate) mod rows;
#[cfg(test)]
mod tests;

use crate::delta::TableStorage;

/// How each table is stored, for the upkeep of all tables.
pub(crate) const ALL: [TableStorage; 2] = [frames::STORAGE, hosts::STORAGE];
