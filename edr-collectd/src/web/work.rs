//! How much is done at a time for all who ask: finding a snapshot, opening it, and making a page of it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::problem::Problem;

/// The places for requests that are worked on.
#[derive(Debug)]
pub(super) struct Work {
    places: Arc<Semaphore>,
    wait: Duration,
}

/// One of them: a request has it from before it asks for a snapshot until its page is made.
#[derive(Debug)]
pub(super) struct Place(
    #[expect(dead_code, reason = "it is held, and free again when it is dropped")] OwnedSemaphorePermit,
);

impl Work {
    pub(super) fn new(places: usize, wait: Duration) -> Self {
        Self { places: Arc::new(Semaphore::new(places)), wait }
    }

    /// A place, in the order in which it was asked for.
    ///
    /// # Errors
    /// When none gets free in time.
    pub(super) async fn place(&self) -> Result<Place, Problem> {
        match tokio::time::timeout(self.wait, Arc::clone(&self.places).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(Place(permit)),
            Ok(Err(closed)) => Err(Problem::internal(closed)),
            Err(_) => Err(Problem::at_work()),
        }
    }
}
