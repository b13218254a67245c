//! Facts recorded between two ticks.

use std::mem;
use std::sync::Arc;

use parking_lot::Mutex;

/// A record written by the thread that receives the kernel's events, and drained by the tick. Clones share the record.
///
/// The record `R` limits its own size: a full record notes that something is missing.
#[derive(Debug, Default)]
pub struct Recorder<R>(Arc<Mutex<R>>);

impl<R> Clone for Recorder<R> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<R: Default> Recorder<R> {
    /// Changes the record.
    pub fn record(&self, change: impl FnOnce(&mut R)) {
        change(&mut self.0.lock());
    }

    /// Returns the record since the last call, and begins an empty record.
    pub fn drain(&self) -> R {
        mem::take(&mut self.0.lock())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_record_of_another_thread_is_drained_once() {
        let recorder = Recorder::<Vec<u32>>::default();
        let writer = recorder.clone();
        let thread = std::thread::spawn(move || (0..1_000).for_each(|n| writer.record(|all| all.push(n))));
        let mut drained = Vec::new();
        while drained.len() < 1_000 {
            drained.extend(recorder.drain());
        }
        thread.join().unwrap();
        assert!(drained.into_iter().eq(0..1_000) && recorder.drain().is_empty());
    }
}
