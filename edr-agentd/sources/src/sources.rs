//! The list of all sources: opened once, read at every tick.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use edr_wire::snapshot::Position;

use crate::common::cost::CallCounter;
use crate::common::errno::reason;
use crate::common::heartbeat::Heartbeat;
use crate::host::HostReader;
use crate::process::{ProcessReader, ProcessSettings, degraded};
use crate::psad::{PsadReader, PsadSettings};
use crate::socket::SocketReader;
use crate::tick::{RowCount, Source, Tick};

/// Readings between two checks of this process's access: rights and mounts seldom change.
const DEGRADED_HOLDS: u32 = 30;

/// Settings of all sources.
#[derive(Debug, Clone, Default)]
pub struct SourceSettings {
    /// The folder that is read as `/proc`.
    pub proc_root: PathBuf,
    /// Labels of the host, from the configuration.
    pub labels: BTreeMap<String, String>,
    /// Processes and their open files.
    pub processes: ProcessSettings,
    /// psad and the packet log.
    pub psad: PsadSettings,
    /// Beats after each source.
    pub heartbeat: Arc<Heartbeat>,
}

/// The sources of a snapshot.
#[derive(Debug)]
pub struct Sources {
    proc_root: PathBuf,
    heartbeat: Arc<Heartbeat>,
    host: HostReader,
    /// In the order of reading: the sockets of other namespaces are read through processes.
    others: Vec<Box<dyn Source>>,
    /// Reasons for limited visibility, and the number of readings until the next check.
    degraded: Vec<String>,
    degraded_holds: u32,
}

impl Sources {
    /// Opens the mandatory source, the host's identity. Processes and sockets are opened by the first reading; log
    /// files are read from `positions` on.
    ///
    /// # Errors
    /// When the host has no identity.
    pub fn open(settings: SourceSettings, positions: &[Position]) -> io::Result<Self> {
        let SourceSettings { proc_root, labels, processes, psad, heartbeat } = settings;
        let processes = ProcessSettings { heartbeat: Arc::clone(&heartbeat), ..processes };
        let psad = PsadSettings { proc_root: proc_root.clone(), ..psad };
        let (for_processes, for_sockets) = (proc_root.clone(), proc_root.clone());
        Ok(Self {
            host: HostReader::open(&proc_root, labels)?,
            others: vec![
                Box::new(ReopeningSource::new("processes", move || {
                    ProcessReader::open(&for_processes, processes.clone())
                })),
                Box::new(ReopeningSource::new("sockets", move || SocketReader::open(&for_sockets))),
                Box::new(PsadReader::open(psad, positions)),
            ],
            proc_root,
            heartbeat,
            degraded: Vec::new(),
            degraded_holds: 0,
        })
    }

    /// Reads every source once.
    pub fn read(&mut self, tick: &mut Tick) {
        tick.clear();
        tick.time = self.host.time(&mut tick.gaps);
        tick.read(&mut self.host);
        for source in &mut self.others {
            tick.read(source.as_mut());
            self.heartbeat.beat();
        }
        self.degraded_holds = match self.degraded_holds.checked_sub(1) {
            Some(left) => left,
            None => {
                self.degraded = degraded(&self.proc_root, &tick.access);
                DEGRADED_HOLDS
            }
        };
        tick.degraded.clone_from(&self.degraded);
    }
}

/// A source that may be missing. Opened again at each tick until successful, with a gap for each tick without the
/// source.
struct ReopeningSource<S> {
    name: &'static str,
    open: Box<dyn Fn() -> io::Result<S> + Send>,
    source: Option<S>,
}

impl<S> ReopeningSource<S> {
    fn new(name: &'static str, open: impl Fn() -> io::Result<S> + Send + 'static) -> Self {
        Self { name, open: Box::new(open), source: None }
    }
}

impl<S: std::fmt::Debug> std::fmt::Debug for ReopeningSource<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reopened").field("name", &self.name).field("source", &self.source).finish_non_exhaustive()
    }
}

impl<S: Source> Source for ReopeningSource<S> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn call_counter(&self) -> CallCounter {
        CallCounter::Source
    }

    fn read(&mut self, tick: &mut Tick) -> RowCount {
        if self.source.is_none() {
            match (self.open)() {
                Ok(source) => self.source = Some(source),
                Err(error) => tick.gaps.add(self.name, None, b"", reason(&error), &format!("open: {error}")),
            }
        }
        self.source.as_mut().map(|source| source.read(tick)).unwrap_or_default()
    }
}
