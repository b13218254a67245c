//! Limits the work for all requests together: finding a snapshot, opening the snapshot, and making a page.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::parts::problem::Problem;

/// Places for requests being worked on.
#[derive(Debug)]
pub(crate) struct Work {
    places: Arc<Semaphore>,
    wait: Duration,
}

/// A place, held by a request from before the search for a snapshot until the page is made.
#[derive(Debug)]
pub(crate) struct Place(
    #[expect(dead_code, reason = "it is held, and free again when it is dropped")] OwnedSemaphorePermit,
);

impl Work {
    pub(crate) fn new(places: usize, wait: Duration) -> Self {
        Self { places: Arc::new(Semaphore::new(places)), wait }
    }

    /// Returns a place; waiting requests are served in order.
    ///
    /// # Errors
    /// When no place becomes free in time.
    pub(crate) async fn place(&self) -> Result<Place, Problem> {
        match tokio::time::timeout(self.wait, Arc::clone(&self.places).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(Place(permit)),
            Ok(Err(closed)) => Err(Problem::internal(closed)),
            Err(_) => Err(Problem::at_work()),
        }
    }
}
