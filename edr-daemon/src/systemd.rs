//! Messages to systemd: ready, status, alive, stopping (sd_notify(3)). Each message is one datagram to
//! `$NOTIFY_SOCKET`; no C library is needed.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The service manager. Without a service manager all messages are discarded.
#[derive(Debug)]
pub struct ServiceManager {
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// Reads the environment: `NOTIFY_SOCKET`, `WATCHDOG_USEC`, `WATCHDOG_PID`.
    pub fn from_env() -> Self {
        let socket = std::env::var_os("NOTIFY_SOCKET").and_then(|name| {
            let address = match name.as_bytes() {
                [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest),
                _ => SocketAddr::from_pathname(&name),
            };
            Some((UnixDatagram::unbound().ok()?, address.ok()?))
        });
        let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
        let mine = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|usec| mine && *usec > 0).map(Duration::from_micros);
        Self { socket, watchdog }
    }

    /// The time without a sign of life after which systemd considers the daemon hung (`WatchdogSec=`).
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Sends `READY=1`.
    pub fn ready(&self) {
        self.send("READY=1");
    }

    /// Sends `STATUS=`: one line of text.
    pub fn status(&self, text: &str) {
        self.send(&format!("STATUS={}", edr_wire::visible(text.as_bytes())));
    }

    /// Sends `WATCHDOG=1`.
    pub fn alive(&self) {
        self.send("WATCHDOG=1");
    }

    /// Sends `EXTEND_TIMEOUT_USEC=`: the start or stop in progress may take this much longer.
    pub fn extend(&self, time: Duration) {
        self.send(&format!("EXTEND_TIMEOUT_USEC={}", time.as_micros()));
    }

    /// Sends `STOPPING=1`.
    pub fn stopping(&self) {
        self.send("STOPPING=1");
    }

    fn send(&self, message: &str) {
        if let Some((socket, address)) = &self.socket
            && let Err(error) = socket.send_to_addr(message.as_bytes(), address)
        {
            crate::limited!(log::Level::Warn, "tell systemd {message:?}: {error}");
        }
    }
}
