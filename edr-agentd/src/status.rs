//! Status of the agent: for clients of the status socket (`edr-agentd status`), for the service manager and, once an
//! hour, for the log.
//!
//! The socket answers every connection with one JSON object and closes the connection. The agent reads nothing from the
//! socket, so no client can influence the agent. The socket belongs to the agent's user and group. A client that does
//! not read costs nothing: the part of an answer beyond the kernel's buffer is not sent.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Maximum number of connections answered before the agent goes on with the main loop.
const ANSWERS_MAX: usize = 8;
/// Maximum size of an answer, with any last error of Kafka.
const ANSWER_BYTES_MAX: u64 = 64 << 10;
/// How long an agent may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Maximum length of a text in an answer.
const TEXT_CHARS_MAX: usize = 1_000;

/// How the agent is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Version of `edr-agentd`.
    pub version: String,
    /// Process id of the agent.
    pub pid: u32,
    /// Time since the start of the agent, ms.
    pub up_ms: u64,
    /// Time between two snapshots, ms.
    pub interval_ms: u64,
    /// Hash of the effective configuration, as printed by `edr-agentd check`.
    pub config_hash: String,
    /// Faults of the configuration refused at the last SIGHUP; `null` after an accepted configuration.
    pub refused: Option<String>,
    /// The last snapshot; none yet when `null`.
    pub snapshot: Option<SnapshotStatus>,
    /// Backlog.
    pub spool: SpoolStatus,
    /// Destination of frames.
    pub kafka: KafkaStatus,
    /// Reasons for incomplete snapshots, each with its remedy.
    pub degraded: Vec<String>,
}

/// The last snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SnapshotStatus {
    /// Epoch of the snapshot's frame.
    pub epoch: String,
    /// Sequence number of the snapshot's frame.
    pub seq: u64,
    /// Time since the frame's arrival in the spool, ms.
    pub age_ms: u64,
    /// Duration from the first source to the spool, ms.
    pub wall_ms: u64,
    /// CPU time of the snapshot, ms.
    pub cpu_ms: u64,
    /// Bytes of the snapshot, uncompressed.
    pub raw_bytes: u64,
    /// Bytes of the snapshot's frame.
    pub frame_bytes: u64,
}

/// Frames that wait on the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SpoolStatus {
    /// Frames not yet acknowledged by Kafka.
    pub unsent_frames: u64,
    /// Their bytes.
    pub unsent_bytes: u64,
    /// Frames dropped since the start for lack of room, or damaged; each is declared lost.
    pub dropped_frames: u64,
    /// The disk cannot be used: frames wait in memory.
    pub memory_only: bool,
    /// Fault of the disk in words, with its remedy; `null` while frames go to the disk.
    pub disk_fault: Option<String>,
    /// Frames not yet acknowledged by Kafka and only in memory.
    pub memory_frames: u64,
    /// Their bytes.
    pub memory_bytes: u64,
    /// Unreadable frames that are retried, in words; `null` without an unreadable frame.
    pub trouble: Option<String>,
}

/// How shipping goes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KafkaStatus {
    /// Brokers of the configuration.
    pub brokers: Vec<String>,
    /// The topic.
    pub topic: String,
    /// Security of the connections, in words.
    pub security: String,
    /// Since Kafka acknowledged a frame, ms; `null` when none since the start.
    pub last_ack_age_ms: Option<u64>,
    /// Duration of the present trouble with deliveries, ms; `null` without trouble.
    pub trouble_for_ms: Option<u64>,
    /// The last error in words with its remedy, even when over.
    pub last_error: Option<String>,
    /// Time since the last error, ms.
    pub last_error_age_ms: Option<u64>,
}

impl Status {
    /// The status in one line.
    pub fn in_words(&self) -> String {
        let mut words = match &self.snapshot {
            None => "no snapshot yet".to_owned(),
            Some(last) => format!(
                "seq {}, last snapshot {} s ago ({} ms, {} ms CPU)",
                last.seq,
                last.age_ms / 1_000,
                last.wall_ms,
                last.cpu_ms
            ),
        };
        words += &format!(", unsent {} frames ({})", self.spool.unsent_frames, about(self.spool.unsent_bytes));
        if let Some(trouble) = &self.spool.trouble {
            words += &format!(", {trouble}");
        }
        words += &match self.kafka.last_ack_age_ms {
            Some(age_ms) => format!(", last ack {} s ago", age_ms / 1_000),
            None => ", nothing acknowledged yet".to_owned(),
        };
        words.extend(self.spool.in_memory().map(|fault| format!("; {fault}")));
        if let (Some(since_ms), Some(error)) = (self.kafka.trouble_for_ms, &self.kafka.last_error) {
            words += &format!("; Kafka for {} s: {error}", since_ms / 1_000);
        }
        if let Some(refused) = &self.refused {
            words += &format!("; the old configuration stays: {refused}");
        }
        if !self.degraded.is_empty() {
            words += &format!("; {}", self.degraded.join("; "));
        }
        words
    }

    /// A line a fact, for people.
    pub fn lines(&self) -> Vec<(&'static str, String)> {
        let seconds = |ms: u64| format!("{}.{:03} s", ms / 1_000, ms % 1_000);
        let mut lines = vec![
            ("version", format!("{}, pid {}, up {} s", self.version, self.pid, self.up_ms / 1_000)),
            ("configuration", format!("{}, a snapshot every {}", self.config_hash, seconds(self.interval_ms))),
        ];
        lines.extend(self.refused.as_ref().map(|refused| ("refused", refused.clone())));
        match &self.snapshot {
            None => lines.push(("snapshot", "none yet".to_owned())),
            Some(last) => {
                lines.push(("frame", format!("seq {} of epoch {}", last.seq, last.epoch)));
                lines.push((
                    "snapshot",
                    format!(
                        "{} ago, took {} ms, {} ms CPU; {} as {}",
                        seconds(last.age_ms),
                        last.wall_ms,
                        last.cpu_ms,
                        about(last.raw_bytes),
                        about(last.frame_bytes)
                    ),
                ));
            }
        }
        lines.push((
            "spool",
            format!(
                "{} frames unsent, {}; {} dropped since the start",
                self.spool.unsent_frames,
                about(self.spool.unsent_bytes),
                self.spool.dropped_frames
            ),
        ));
        lines.extend(self.spool.in_memory().map(|fault| ("disk", fault)));
        lines.extend(self.spool.trouble.as_ref().map(|trouble| ("unreadable", trouble.clone())));
        let kafka = &self.kafka;
        lines.push(("kafka", format!("topic {} at {}, {}", kafka.topic, kafka.brokers.join(", "), kafka.security)));
        lines.push((
            "last ack",
            kafka
                .last_ack_age_ms
                .map_or_else(|| "none since the start".to_owned(), |age| format!("{} ago", seconds(age))),
        ));
        if let Some(error) = &kafka.last_error {
            let age = seconds(kafka.last_error_age_ms.unwrap_or_default());
            let state = kafka.trouble_for_ms.map_or_else(|| "over".to_owned(), |ms| format!("for {}", seconds(ms)));
            lines.push(("last error", format!("{age} ago, {state}: {error}")));
        }
        lines.extend(
            self.degraded.iter().map(|reason| ("degraded", reason.trim_start_matches("degraded: ").to_owned())),
        );
        lines
    }
}

impl SpoolStatus {
    /// The fault of the disk, and the number of frames in memory.
    fn in_memory(&self) -> Option<String> {
        let fault = self.disk_fault.as_ref()?;
        let (frames, bytes) = (self.memory_frames, about(self.memory_bytes));
        Some(format!("{fault}; sampling continues in memory ({frames} frames, {bytes})"))
    }
}

/// A size in a readable unit.
fn about(bytes: u64) -> String {
    match bytes {
        0..1_024 => format!("{bytes} B"),
        1_024..1_048_576 => format!("{} KiB", bytes >> 10),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

/// The socket.
#[derive(Debug)]
pub struct StatusListener {
    listener: UnixListener,
    path: PathBuf,
}

impl StatusListener {
    /// Listens. A socket left by a killed agent is replaced; a socket that answers is left unchanged.
    ///
    /// # Errors
    /// When the folder is missing or not writable, or another agent answers.
    pub fn bind(path: &Path) -> io::Result<Self> {
        if UnixStream::connect(path).is_ok() {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another edr-agentd answers there"));
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o660))?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Answers the waiting clients, up to [`ANSWERS_MAX`].
    ///
    /// # Errors
    /// When the socket takes no connections any more.
    pub fn answer(&self, status: &Status) -> io::Result<()> {
        let mut status = status.clone();
        let cut = |text: &mut String| *text = text.chars().take(TEXT_CHARS_MAX).collect();
        status.kafka.last_error.iter_mut().chain(&mut status.spool.trouble).chain(&mut status.degraded).for_each(cut);
        let answer = serde_json::to_vec(&status)?;
        for _ in 0..ANSWERS_MAX {
            match self.listener.accept() {
                Ok((mut stream, _)) => {
                    // A client without an answer asks again.
                    let _ = stream.set_nonblocking(true).and_then(|()| stream.write_all(&answer));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // The client is gone.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl AsFd for StatusListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Drop for StatusListener {
    fn drop(&mut self) {
        // A leftover socket would be removed by the next start.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Asks the agent that listens on `path`.
///
/// # Errors
/// When no agent answers, in words.
pub fn ask(path: &Path) -> Result<Status, String> {
    let shown = path.display();
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => format!(
            "no edr-agentd answers on {shown}: it does not run, or has another runtime-dir; look with: systemctl \
            status \
             edr-agentd"
        ),
        io::ErrorKind::PermissionDenied => {
            format!(
                "{shown} is accessible for root and the group of the agent: run the command as root, or join the group \
                edr-agentd"
            )
        }
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            format!(
                "edr-agentd does not answer on {shown} within {} s: the agent is busy or stopped",
                ANSWER_MAX.as_secs()
            )
        }
        _ => format!("ask {shown}: {error}"),
    };
    let stream = UnixStream::connect(path).map_err(failed)?;
    stream.set_read_timeout(Some(ANSWER_MAX)).map_err(failed)?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).map_err(failed)?;
    serde_json::from_slice(&answer).map_err(|error| format!("the program on {shown} is no edr-agentd: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Status {
        Status {
            snapshot: Some(SnapshotStatus {
                seq: 1842,
                age_ms: 4_200,
                wall_ms: 31,
                cpu_ms: 9,
                ..SnapshotStatus::default()
            }),
            spool: SpoolStatus { unsent_frames: 3, unsent_bytes: 42_000, ..SpoolStatus::default() },
            kafka: KafkaStatus { last_ack_age_ms: Some(2_900), ..KafkaStatus::default() },
            ..Status::default()
        }
    }

    #[test]
    fn the_status_line_names_state_and_faults() {
        let mut status = status();
        let well = "seq 1842, last snapshot 4 s ago (31 ms, 9 ms CPU), unsent 3 frames (41 KiB), last ack 2 s ago";
        assert_eq!(status.in_words(), well);
        (status.kafka.trouble_for_ms, status.kafka.last_error) = (Some(65_000), Some("no broker of b:1".to_owned()));
        status.spool = SpoolStatus {
            memory_only: true,
            disk_fault: Some("no space left on /s: free space there".to_owned()),
            memory_frames: 2,
            memory_bytes: 31_000,
            trouble: Some("for 9 s: spool frame 1: read: EIO; retrying".to_owned()),
            ..status.spool
        };
        let unsent = "unsent 3 frames (41 KiB)";
        let well = well.replace(unsent, &format!("{unsent}, for 9 s: spool frame 1: read: EIO; retrying"));
        let ill = format!(
            "{well}; no space left on /s: free space there; sampling continues in memory (2 frames, 30 KiB); Kafka for \
            65 s: \
             no broker of b:1"
        );
        assert_eq!(status.in_words(), ill);
        let disk = status.lines().into_iter().find(|(name, _)| *name == "disk").unwrap().1;
        assert_eq!(disk, "no space left on /s: free space there; sampling continues in memory (2 frames, 30 KiB)");
    }

    #[test]
    fn every_client_is_answered_and_a_second_listener_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("status.sock");
        assert!(ask(&path).unwrap_err().starts_with("no edr-agentd answers on "));
        // A killed agent leaves its socket file.
        drop(UnixListener::bind(&path).unwrap());
        assert!(ask(&path).unwrap_err().starts_with("no edr-agentd answers on "));
        let listener = StatusListener::bind(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o660);
        assert_eq!(StatusListener::bind(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let mut wanted = status();
        wanted.kafka.last_error = Some("x".repeat(1 << 20));
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| ask(&path));
            while !asked.is_finished() {
                listener.answer(&wanted).unwrap();
            }
            let got = asked.join().unwrap().unwrap();
            assert_eq!(got.kafka.last_error.unwrap().len(), TEXT_CHARS_MAX);
            assert_eq!(got.snapshot, wanted.snapshot);
        });
        drop(listener);
        assert!(!path.exists());
    }
}
