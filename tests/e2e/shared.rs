//! What all tests share: one broker, and the machine.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use anyhow::{Context as _, Result, anyhow};
use edr_tests::kafka::Broker;
use edr_tests::scene::Scene;

/// Started by the main thread, which outlives every test: a child ends with the thread that started it.
#[derive(Debug)]
pub(crate) struct Shared {
    broker: Result<Broker, String>,
    // Behind the broker, so that the folder goes when nobody writes to it any more.
    _scene: Scene,
    topics: AtomicU32,
    machine: RwLock<()>,
}

impl Shared {
    /// Starts the broker.
    ///
    /// # Errors
    /// When there is no folder for it. A broker that does not start is the error of every test that needs it.
    pub(crate) fn start() -> Result<Self> {
        let scene = Scene::new("broker")?;
        let broker = Broker::start(scene.path()).map_err(|error| format!("{error:#}"));
        Ok(Self { broker, _scene: scene, topics: AtomicU32::new(0), machine: RwLock::default() })
    }

    /// The broker.
    ///
    /// # Errors
    /// When it did not start.
    pub(crate) fn broker(&self) -> Result<&Broker> {
        self.broker.as_ref().map_err(|error| anyhow!(error.clone()))
    }

    /// A new topic with the broker's defaults.
    ///
    /// # Errors
    /// When the broker did not start or does not make it.
    pub(crate) fn topic(&self) -> Result<String> {
        let name = format!("edr.snapshots.{}", self.topics.fetch_add(1, Ordering::Relaxed));
        self.broker()?.create_topic(&name, 2).context("make a topic for a test")?;
        Ok(name)
    }

    /// Held by a test that bears other tests' processes in its snapshots.
    pub(crate) fn beside_others(&self) -> RwLockReadGuard<'_, ()> {
        self.machine.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Held by a test that fills the machine, so that every agent's snapshot would be large.
    pub(crate) fn alone(&self) -> RwLockWriteGuard<'_, ()> {
        self.machine.write().unwrap_or_else(PoisonError::into_inner)
    }
}
