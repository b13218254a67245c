//! Resources shared by all tests: a broker, and the machine.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use anyhow::{Context as _, Result, anyhow};
use edr_tests::kafka::Broker;
use edr_tests::scene::Scene;

/// The shared resources. The main thread must start the broker, because a child ends together with the starting thread,
/// and the main thread outlives every test.
#[derive(Debug)]
pub(crate) struct TestBed {
    broker: Result<Broker, String>,
    // Declared after the broker, so that the folder is removed only when the broker has ended.
    _scene: Scene,
    topics: AtomicU32,
    machine: RwLock<()>,
}

impl TestBed {
    /// Starts the broker.
    ///
    /// # Errors
    /// When the broker's folder cannot be made. When the broker does not start, every test that needs the broker fails.
    pub(crate) fn start() -> Result<Self> {
        let scene = Scene::new("broker")?;
        let broker = Broker::start(scene.path()).map_err(|error| format!("{error:#}"));
        Ok(Self { broker, _scene: scene, topics: AtomicU32::new(0), machine: RwLock::default() })
    }

    /// The broker.
    ///
    /// # Errors
    /// When the broker did not start.
    pub(crate) fn broker(&self) -> Result<&Broker> {
        self.broker.as_ref().map_err(|error| anyhow!(error.clone()))
    }

    /// A new topic with the broker's defaults.
    ///
    /// # Errors
    /// When the broker did not start, or does not make the topic.
    pub(crate) fn topic(&self) -> Result<String> {
        let name = format!("edr.snapshots.{}", self.topics.fetch_add(1, Ordering::Relaxed));
        self.broker()?.create_topic(&name, 2).context("make a topic for a test")?;
        Ok(name)
    }

    /// A lock for tests that may run in parallel: foreign processes then appear in the snapshots.
    pub(crate) fn beside_others(&self) -> RwLockReadGuard<'_, ()> {
        self.machine.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// A lock for tests that must run alone, because their processes would make every agent's snapshot large.
    pub(crate) fn alone(&self) -> RwLockWriteGuard<'_, ()> {
        self.machine.write().unwrap_or_else(PoisonError::into_inner)
    }
}
