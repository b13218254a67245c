//! The log: the journal when standard error is connected to it, standard error otherwise; and the limiter for
//! everything that a host or a peer can cause as often as it likes.

use std::io::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use log::kv::{Key, Value, VisitSource};
use log::{LevelFilter, Log, Metadata, Record};

/// How often a limited message appears at most.
pub const PERIOD: Duration = Duration::from_secs(60);

/// Installs the logger of this process, which calls itself `identifier` in the journal. `key = value` pairs of a
/// message become journal fields, upper case.
///
/// # Errors
/// When a logger is installed already, or the journal's socket cannot be opened.
pub fn install(identifier: &str, level: LevelFilter) -> anyhow::Result<()> {
    if systemd_journal_logger::connected_to_journal() {
        let version = env!("CARGO_PKG_VERSION");
        systemd_journal_logger::JournalLog::new()?
            .with_extra_fields([("EDR_VERSION", version)])
            .with_syslog_identifier(identifier.to_owned())
            .install()?;
    } else {
        log::set_logger(&StandardError)?;
    }
    log::set_max_level(level);
    Ok(())
}

/// `level message key=value …`, one line a record. The kind of an event is for the journal alone.
struct StandardError;

impl Log for StandardError {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let mut line = format!("{:<5} {}", record.level().as_str().to_lowercase(), record.args());
        // The visitor never fails.
        let _ = record.key_values().visit(&mut Fields(&mut line));
        line = edr_wire::visible(line.as_bytes());
        // A log that cannot be written has nowhere to say so.
        let _ = writeln!(std::io::stderr().lock(), "{line}");
    }

    fn flush(&self) {}
}

struct Fields<'a>(&'a mut String);

impl<'kvs> VisitSource<'kvs> for Fields<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), log::kv::Error> {
        if key.as_str() != "MESSAGE_ID" {
            self.0.push_str(&format!(" {}={value}", key.as_str().to_lowercase()));
        }
        Ok(())
    }
}

/// Lets one message through in [`PERIOD`] and counts the others. One for each call site: see [`crate::limited!`].
#[derive(Debug)]
pub struct Limiter {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// When the last message went through.
    last: Option<Instant>,
    suppressed: u64,
}

impl Limiter {
    /// A limiter that lets its first message through.
    #[must_use]
    pub const fn new() -> Self {
        Self { state: Mutex::new(State { last: None, suppressed: 0 }) }
    }

    /// `Some(messages held back since the last one)` when a message at `now` may go through.
    pub fn admit(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.last.is_some_and(|last| now.saturating_duration_since(last) < PERIOD) {
            state.suppressed += 1;
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.suppressed))
    }
}

impl Default for Limiter {
    fn default() -> Self {
        Self::new()
    }
}

/// Declares the kinds of events that a daemon tells the journal: an enum `Event`, each with its message id, by which
/// `journalctl -x` finds what the catalogue says about it (journalctl(1)).
///
/// An id is never used for another kind; a new kind gets a new one (`systemd-id128 new`).
#[macro_export]
macro_rules! events {
    ($($(#[$doc:meta])+ $name:ident = $id:literal,)+) => {
        /// Kinds of events. Each has its entry in the catalogue that is shipped beside the unit.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Event {
            $($(#[$doc])+ $name,)+
        }

        impl Event {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// `MESSAGE_ID=`: 32 hex digits.
            pub const fn id(self) -> &'static str {
                match self {
                    $(Self::$name => $id,)+
                }
            }
        }
    };
}

/// Logs an event of a kind: `event!(Level::Info, Event::Ready, EDR_SEQ = 1; "ready")`.
#[macro_export]
macro_rules! event {
    ($level:expr, $event:expr $(, $key:ident = $value:expr)* ; $($message:tt)+) => {
        ::log::log!($level, MESSAGE_ID = $event.id() $(, $key = $value)*; $($message)+)
    };
}

/// Logs at most once a minute from this place; what was held back is counted: `… (suppressed 7)`.
///
/// `limited!(Level::Warn, "broker {name} is away")`, or with a kind of event
/// `limited!(Level::Warn, Event::KafkaAway; "broker {name} is away")`.
#[macro_export]
macro_rules! limited {
    ($level:expr, $event:expr $(, $key:ident = $value:expr)* ; $($message:tt)+) => {{
        static LIMITER: $crate::journal::Limiter = $crate::journal::Limiter::new();
        match LIMITER.admit(::std::time::Instant::now()) {
            None => {}
            Some(0) => $crate::event!($level, $event $(, $key = $value)*; $($message)+),
            Some(suppressed) => $crate::event!(
                $level, $event $(, $key = $value)*;
                "{} (suppressed {suppressed})", ::std::format!($($message)+)
            ),
        }
    }};
    ($level:expr, $($message:tt)+) => {{
        static LIMITER: $crate::journal::Limiter = $crate::journal::Limiter::new();
        match LIMITER.admit(::std::time::Instant::now()) {
            None => {}
            Some(0) => ::log::log!($level, $($message)+),
            Some(suppressed) => ::log::log!($level, "{} (suppressed {suppressed})", ::std::format!($($message)+)),
        }
    }};
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_message_a_period_and_the_rest_is_counted() {
        let limiter = Limiter::new();
        let start = Instant::now();
        assert_eq!(limiter.admit(start), Some(0));
        for second in 0..59 {
            assert_eq!(limiter.admit(start + Duration::from_secs(second)), None);
        }
        assert_eq!(limiter.admit(start + PERIOD), Some(59));
        assert_eq!(limiter.admit(start + PERIOD), None);
        assert_eq!(limiter.admit(start + 2 * PERIOD), Some(1));
    }
}
