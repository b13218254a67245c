//! `edr-agentd`: what a host does, taken every ten seconds, on its way to Kafka.
//!
//! The way of the data, and the order of the modules:
//!
//! 1. [`collect`]: **sources** read what the host shows: processes with their open files, sockets, host facts, psad
//!    and the firewall's packets. Each returns what it got and records as gaps what it missed.
//! 2. [`sample`]: one **tick** reads all sources, encodes them as one **snapshot** (`edr_wire::snapshot`) and
//!    compresses it into one **frame** (`edr_wire::frame`): a key, or a delta against the latest key.
//! 3. [`spool`]: the frame is written to disk and fsynced. From then on it is accepted. The newest frame and its key
//!    stay there and are all the state there is: sequence number, log positions, losses still to be declared.
//! 4. [`ship`]: frames leave the spool oldest first, one at a time, and go only when Kafka has acknowledged them.
//!
//! Every arrow points one way: a source does not know the spool, shipping knows the spool and nothing behind it. What
//! cannot be seen, sent or kept is named in a later snapshot or frame; nothing is silently missing.
//!
//! Around it: [`config`] (files to exact types), [`run`] (threads and signals), [`cli`] (commands), [`stop`] and
//! [`heartbeat`] (how threads end, and how the watchdog sees that they move), [`abort`] (where they were when they did
//! not), [`clock`], [`errno`], [`status`] (how it is, for whoever asks), [`preflight`] (whether a start would go well)
//! and [`event`] (what the journal is told). Configuration files, log and service manager are in crate `edr-daemon`,
//! shared with the collector.

pub mod collect;

pub mod sample;

pub mod spool;

pub mod ship;

pub mod abort;
pub mod cli;
pub mod clock;
pub mod config;
pub mod errno;
pub mod event;
pub mod heartbeat;
pub mod preflight;
pub mod redact;
pub mod run;
pub mod status;
pub mod stop;
