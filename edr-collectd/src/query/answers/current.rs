//! Opens the newest snapshot of a host, or the newest readable one.
//!
//! For the list of hosts only frames at hand are opened: in memory, or at a known location of the archive. A search of
//! the archive takes seconds, so a few unreadable hosts would delay the facts of all others. Questions may search, and
//! the result is remembered in both cases, so that no request repeats a failed attempt.

use std::sync::Arc;
use std::time::Duration;

use edr_archive::SavedFrame;
use edr_wire::frame::{Frame, FrameKey, FrameKind};
use edr_wire::snapshot::SnapshotView;

use super::back::SearchBack;
use super::{Contents, HostAnswers, Opening, Purpose, absent, archive, other_host};
use crate::newest::{Current, LatestFrame, OpenableFrame, facts};
use crate::query::{HostSnapshot, QueryError};

/// Time after which a question tries again to open a frame whose records could not be read or found.
const RETRY: Duration = Duration::from_secs(60);

/// Why a frame at hand was not opened.
enum NotOpened {
    /// The content is unreadable. Another attempt has the same result.
    Content(String),
    /// The records could not be read, or the key is not at hand. A question may search for them.
    Records(String),
}

impl HostAnswers {
    /// Computes facts for the next host with stale facts. Returns false when there is none.
    pub async fn refresh_next(&self) -> bool {
        let Some(current) = self.newest.next_stale() else { return false };
        let frame = current.newest.saved.frame.key;
        match self.open_at_hand(&current).await {
            Ok(snapshot) => self.note_opened(&current, &snapshot),
            Err(NotOpened::Content(reason)) => self.newest.set_unreadable(&frame, reason, None),
            Err(NotOpened::Records(reason)) => self.newest.set_unreadable(&frame, reason, Some(Duration::ZERO)),
        }
        true
    }

    /// Remembers the facts of an opened newest snapshot.
    fn note_opened(&self, current: &Current, snapshot: &HostSnapshot) {
        let frame = current.newest.saved.frame.key;
        let facts = match other_host(current.host_id, &snapshot.view) {
            Some(alarm) => Err(alarm),
            None => facts(&snapshot.view).map_err(|error| error.to_string()),
        };
        match facts {
            Ok(facts) => self.newest.set_facts(current, facts),
            Err(reason) => self.newest.set_unreadable(&frame, reason, None),
        }
    }

    /// Opens a host's newest snapshot without a search of the archive.
    async fn open_at_hand(&self, current: &Current) -> Result<Arc<HostSnapshot>, NotOpened> {
        let saved = &current.newest.saved;
        let (frame, conflict) = (saved.frame.key, current.conflict);
        if let Some(snapshot) = self.cache.get(&(frame, conflict)) {
            return Ok(snapshot);
        }
        let opening = Opening { frame, conflict, received_ns: saved.received_ns, purpose: Purpose::List };
        let key = match (saved.frame.kind, &current.key) {
            (FrameKind::Key, _) => None,
            (FrameKind::Delta, Some(key)) => Some(self.body_at_hand(key).await?),
            (FrameKind::Delta, None) => {
                let missing = absent(frame.host_id, frame.epoch, saved.frame.base_seq);
                return Err(NotOpened::Records(format!("its key frame is missing: {missing}")));
            }
        };
        let newest = self.body_at_hand(&current.newest).await?;
        self.open(&newest, key, opening).await.map_err(|error| NotOpened::Content(error.to_string()))
    }

    /// Returns a frame from memory, or from a known location of the archive.
    async fn body_at_hand(&self, known: &LatestFrame) -> Result<Arc<Frame>, NotOpened> {
        if let Some(frame) = &known.loaded {
            return Ok(Arc::clone(frame));
        }
        let FrameKey { host_id, epoch, seq, .. } = known.saved.frame.key;
        if known.saved.places.is_empty() {
            // A frame with many parts.
            return Err(NotOpened::Records(format!("the location of frame {seq} of epoch {epoch} is not in memory")));
        }
        let frame = self.reader.frame(&known.saved.places).await;
        let frame = frame.map_err(|error| NotOpened::Records(error.to_string()))?;
        if frame.key == known.saved.frame.key {
            Ok(Arc::new(frame))
        } else {
            Err(NotOpened::Records(absent(host_id, epoch, seq).to_string()))
        }
    }

    /// Opens a host's newest snapshot. When the newest frame is unreadable, opens the newest readable snapshot before,
    /// with an alarm.
    ///
    /// # Errors
    /// When no snapshot of the host can be read.
    pub(super) async fn newest_readable(&self, current: Current) -> Result<Arc<HostSnapshot>, QueryError> {
        let newest = current.newest.saved.frame.key;
        let reason = match current.unreadable.clone() {
            Some(reason) => reason,
            None => match self.open_searching(&current, self.current_opening(&current)).await {
                Ok(snapshot) => {
                    let is_known = current.readable.as_ref().is_some_and(|known| known.frame.saved.frame.key == newest);
                    if !is_known {
                        self.note_opened(&current, &snapshot);
                    }
                    return Ok(snapshot);
                }
                Err(error) => {
                    let retry = matches!(error, QueryError::Archive(_)).then_some(RETRY);
                    self.newest.set_unreadable(&newest, error.to_string(), retry);
                    error.to_string()
                }
            },
        };
        let readable = match &current.readable {
            Some(readable) if readable.frame.saved.frame.key != newest => self.open_readable(&current, readable).await,
            _ => None,
        };
        match readable {
            Some(snapshot) => Ok(snapshot),
            None => self.search_readable(&current, &reason).await,
        }
    }

    fn current_opening(&self, current: &Current) -> Opening {
        let saved = &current.newest.saved;
        Opening {
            frame: saved.frame.key,
            conflict: current.conflict,
            received_ns: saved.received_ns,
            purpose: Purpose::Question,
        }
    }

    /// Opens the newest readable snapshot at hand.
    async fn open_readable(&self, current: &Current, readable: &OpenableFrame) -> Option<Arc<HostSnapshot>> {
        let OpenableFrame { frame, key } = readable;
        let opening = Opening {
            frame: frame.saved.frame.key,
            conflict: current.is_readable_conflict,
            received_ns: frame.saved.received_ns,
            purpose: Purpose::Question,
        };
        let before = Current { newest: frame.clone(), key: key.clone(), ..current.clone() };
        self.open_searching(&before, opening).await.ok()
    }

    /// Searches the archive for the newest readable snapshot, and remembers the frame. A failed search is not repeated
    /// for a while.
    async fn search_readable(&self, current: &Current, reason: &str) -> Result<Arc<HostSnapshot>, QueryError> {
        let host_id = current.host_id;
        if let Some(failure) = self.failed_searches.get(&host_id) {
            return Err(QueryError::Unreadable(failure));
        }
        let before = SearchBack::new(self, host_id, current.newest.saved.frame.captured_ns).without_doubts();
        match before.run().await {
            Ok((snapshot, found)) => {
                self.newest.set_readable(host_id, found);
                Ok(snapshot)
            }
            Err(QueryError::Archive(error)) => Err(QueryError::Archive(error)),
            Err(error) => {
                let failure = format!(
                    "the newest snapshot of host {host_id} (seq {}) cannot be read: {reason}; no readable one was \
                     found before: {error}",
                    current.newest.saved.frame.key.seq
                );
                self.failed_searches.put(host_id, failure.clone(), RETRY);
                Err(QueryError::Unreadable(failure))
            }
        }
    }

    /// Opens a frame of a host; searches the archive for what is not at hand.
    async fn open_searching(&self, current: &Current, opening: Opening) -> Result<Arc<HostSnapshot>, QueryError> {
        if let Some(snapshot) = self.cache.get(&(opening.frame, opening.conflict)) {
            return Ok(snapshot);
        }
        let newest = self.body(&current.newest).await?;
        match (newest.header.kind, &current.key) {
            (FrameKind::Key, _) => self.open(&newest, None, opening).await,
            (FrameKind::Delta, Some(key)) => {
                let key = self.body(key).await?;
                self.open(&newest, Some(key), opening).await
            }
            (FrameKind::Delta, None) => self.open_with_keys(&newest, &mut Contents::new(), opening).await,
        }
    }

    /// Returns the frame, from memory or from the archive.
    async fn body(&self, known: &LatestFrame) -> Result<Arc<Frame>, QueryError> {
        if let Ok(frame) = self.body_at_hand(known).await {
            return Ok(frame);
        }
        // The location is unusable, for example because another collector archived the frame with another time of
        // receipt.
        let SavedFrame { frame, .. } = &known.saved;
        let FrameKey { host_id, epoch, seq, .. } = frame.key;
        let found = self.reader.frame_of(host_id, epoch, seq, frame.captured_ns).await.map_err(archive)?;
        let found = found.iter().find(|found| found.frame.key == frame.key);
        let found = found.ok_or_else(|| absent(host_id, epoch, seq))?;
        Ok(Arc::new(self.read(found).await?))
    }
}

/// Checks that everything in a snapshot that a page shows can be decoded.
///
/// # Errors
/// The first field with an unexpected shape.
pub(super) fn check(view: &SnapshotView) -> Result<(), String> {
    let checks = [
        view.host().err(),
        view.agent().err(),
        view.time().err(),
        view.psad().err(),
        view.reread().err(),
        view.packets().err(),
        view.gaps().err(),
        view.positions().err(),
    ];
    checks.into_iter().flatten().next().map_or(Ok(()), |error| Err(error.to_string()))
}
