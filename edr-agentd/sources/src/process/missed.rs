//! Facts of a process that could not be read, with reasons.

use edr_wire::snapshot::GapReason;
use rustix::io::Errno;

use super::MalformedFile;
use crate::common::errno::reason;

/// All facts of a process that could not be read.
#[derive(Debug, Default)]
pub(super) struct MissedFacts(pub(super) Vec<MissedFact>);

/// A fact that could not be read.
#[derive(Debug, Clone)]
pub(super) struct MissedFact {
    pub(super) field: &'static str,
    pub(super) reason: GapReason,
    pub(super) detail: String,
}

impl MissedFacts {
    pub(super) fn add(&mut self, field: &'static str, errno: Errno) {
        let error = errno.into();
        // A field and reason are listed once: a process may have 100,000 refused descriptors.
        let reason = reason(&error);
        if !self.0.iter().any(|miss| miss.field == field && miss.reason == reason) {
            self.0.push(MissedFact { field, reason, detail: error.to_string() });
        }
    }

    pub(super) fn malformed(&mut self, field: &'static str, malformed: MalformedFile) {
        self.0.push(MissedFact { field, reason: GapReason::Malformed, detail: malformed.to_string() });
    }

    pub(super) fn because(&mut self, field: &'static str, reason: GapReason, detail: &str) {
        self.0.push(MissedFact { field, reason, detail: detail.to_owned() });
    }

    pub(super) fn drain(&mut self) -> std::vec::Drain<'_, MissedFact> {
        self.0.drain(..)
    }
}
