//! A search back in time for the last snapshot of a host.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use edr_archive::{FirstSnapshot, FoundFrame, SavedFrame, SearchRank};
use edr_model::time_text;
use edr_wire::frame::{FrameKey, FrameKind};
use edr_wire::{Epoch, HostId};

use super::{Contents, HostAnswers, archive};
use crate::newest::{LatestFrame, OpenableFrame};
use crate::query::{HostSnapshot, QueryError};

/// Candidates with a common search for their contents.
const TOGETHER: usize = 32;

/// A search for the last snapshot of a host at or before a moment.
///
/// Several contents can be archived under one sequence number. The content that counts is the first one: complete
/// before all other readable contents. A later content never replaces the first, even with another claimed time.
pub(super) struct SearchBack<'a> {
    answers: &'a HostAnswers,
    host_id: HostId,
    at_ns: i64,
    deadline: Instant,
    /// True when frames whose number or time cannot be right are passed over.
    passes_doubts: bool,
    /// Complete frames at or before the moment, newest first.
    page: VecDeque<FoundFrame>,
    /// The next frames of the page, at most [`TOGETHER`].
    candidates: VecDeque<FoundFrame>,
    /// Where the archive's older frames begin.
    below: Option<SearchRank>,
    /// True when the archive has no older frames.
    is_at_end: bool,
    /// All contents at the places of `candidates`, and at the places of their key frames.
    contents: Contents,
    /// The content that counts at each place examined; `None` when no content is readable.
    counting: HashMap<(Epoch, u64), Option<FrameKey>>,
    unreadable: u64,
    first_error: Option<QueryError>,
}

impl<'a> SearchBack<'a> {
    pub(super) fn new(answers: &'a HostAnswers, host_id: HostId, at_ns: i64) -> Self {
        Self {
            answers,
            host_id,
            at_ns,
            deadline: Instant::now() + answers.search_max,
            passes_doubts: false,
            page: VecDeque::new(),
            candidates: VecDeque::new(),
            below: None,
            is_at_end: false,
            contents: Contents::new(),
            counting: HashMap::new(),
            unreadable: 0,
            first_error: None,
        }
    }

    /// Passes over frames whose number or time cannot be right.
    pub(super) fn without_doubts(self) -> Self {
        Self { passes_doubts: true, ..self }
    }

    /// Returns the snapshot and its frame.
    ///
    /// # Errors
    /// When there is no readable snapshot, the archive cannot be read, or the time for one question is used up.
    pub(super) async fn run(mut self) -> Result<(Arc<HostSnapshot>, OpenableFrame), QueryError> {
        while let Some(candidate) = self.next_candidate().await? {
            if self.is_late() {
                return Err(self.used_up(candidate.frame.captured_ns));
            }
            if let Some(snapshot) = self.open(&candidate).await {
                let frame = self.openable(&candidate);
                return Ok((snapshot, frame));
            }
        }
        match self.first_error.take() {
            Some(error) => Err(error),
            None => Err(self.nothing_then().await?),
        }
    }

    /// Takes the newest candidate, and asks the archive for older frames when none is left.
    async fn next_candidate(&mut self) -> Result<Option<FoundFrame>, QueryError> {
        while self.candidates.is_empty() {
            if self.page.is_empty() {
                if self.is_at_end {
                    return Ok(None);
                }
                self.turn_page().await?;
                continue;
            }
            let count = self.page.len().min(TOGETHER);
            self.candidates = self.page.drain(..count).collect();
            self.contents = self.answers.contents_near(self.host_id, &self.candidates).await?;
        }
        Ok(self.candidates.pop_front())
    }

    async fn turn_page(&mut self) -> Result<(), QueryError> {
        if let Some((captured_ns, _)) = self.below
            && self.is_late()
        {
            return Err(self.used_up(captured_ns));
        }
        let older = self.answers.reader.last_before(self.host_id, self.at_ns, self.below).await.map_err(archive)?;
        self.page = older.found.into();
        self.below = older.rest;
        self.is_at_end = older.rest.is_none();
        Ok(())
    }

    /// Opens a candidate. Returns `None` when the candidate is unreadable, or another content counts at its place.
    async fn open(&mut self, candidate: &FoundFrame) -> Option<Arc<HostSnapshot>> {
        let wanted = candidate.frame.key;
        if self.passes_doubts && self.answers.newest.doubt_of(self.host_id, wanted.place()).is_some() {
            return None;
        }
        if self.counting.get(&wanted.place()).is_some_and(|counting| *counting != Some(wanted)) {
            return None;
        }
        let (counting, snapshot) = self.open_first(wanted.place()).await.unzip();
        self.counting.insert(wanted.place(), counting);
        snapshot.filter(|_| counting == Some(wanted))
    }

    /// Returns the locations of an opened candidate and of its key frame.
    fn openable(&self, candidate: &FoundFrame) -> OpenableFrame {
        let located = |found: &FoundFrame| LatestFrame {
            saved: SavedFrame {
                frame: found.frame,
                received_ns: found.received_ns(),
                places: found.complete().into_iter().next().unwrap_or_default(),
            },
            loaded: None,
        };
        let frame = &candidate.frame;
        let keys = self.contents.get(&(frame.key.epoch, frame.base_seq)).filter(|_| frame.kind == FrameKind::Delta);
        // The hash in the delta decides between several keys, so only a single key is remembered.
        let mut keys = keys.into_iter().flatten().filter(|key| key.frame.kind == FrameKind::Key);
        let key = keys.next().filter(|_| keys.next().is_none());
        OpenableFrame { frame: located(candidate), key: key.map(located) }
    }

    /// Opens the first readable content at a place.
    async fn open_first(&mut self, place: (Epoch, u64)) -> Option<(FrameKey, Arc<HostSnapshot>)> {
        // In the order of completion.
        let contents = self.contents.get(&place).cloned().unwrap_or_default();
        let conflict = contents.len() > 1;
        for content in &contents {
            match self.answers.open_found(content, &mut self.contents, conflict).await {
                Ok(snapshot) => return Some((content.frame.key, snapshot)),
                Err(error) => {
                    self.unreadable += 1;
                    self.first_error.get_or_insert(error);
                }
            }
            if self.is_late() {
                break;
            }
        }
        None
    }

    fn is_late(&self) -> bool {
        Instant::now() >= self.deadline
    }

    fn used_up(&self, captured_ns: i64) -> QueryError {
        QueryError::Budget(format!(
            "{} frames of host {} cannot be read, and the {:?} for one question are used up; what lies before {} UTC \
             was not looked at: ask for that moment",
            self.unreadable,
            self.host_id,
            self.answers.search_max,
            time_text(captured_ns)
        ))
    }

    /// Names the first snapshot of the host.
    async fn nothing_then(&self) -> Result<QueryError, QueryError> {
        let first = self.answers.reader.first_after(self.host_id, self.at_ns).await.map_err(archive)?;
        let first = match first {
            FirstSnapshot::At(first_ns) => format!("of {} UTC", time_text(first_ns)),
            FirstSnapshot::NotBefore(later_ns) => format!("not before {} UTC", time_text(later_ns)),
            FirstSnapshot::Absent => "not archived yet".to_owned(),
        };
        let at = format!("{} UTC", time_text(self.at_ns));
        Ok(QueryError::NothingThen { host: self.host_id.to_string(), at, first })
    }
}
