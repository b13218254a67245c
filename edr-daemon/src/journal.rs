//! The log. Messages go to the journal when standard error is connected to the journal, otherwise to standard error. A
//! [`Limiter`] bounds the messages that a host or a peer can trigger.

use std::io::Write as _;
use std::time::{Duration, Instant};

use log::kv::{Key, Value, VisitSource};
use log::{LevelFilter, Log, Metadata, Record};
use parking_lot::Mutex;

/// Shortest time between two messages of a limiter.
pub const PERIOD: Duration = Duration::from_secs(60);

/// Installs the logger of this process, under the name `identifier` in the journal. `key = value` pairs of a message
/// become journal fields with upper-case names.
///
/// # Errors
/// When a logger is already installed, or when the journal's socket cannot be opened.
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

/// A logger that writes each record as one line: `level message key=value …`. The message id of an event appears only
/// in the journal.
struct StandardError;

impl Log for StandardError {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let mut line = format!("{:<5} {}", record.level().as_str().to_lowercase(), record.args());
        // The visitor never fails.
        let _ = record.key_values().visit(&mut FieldText(&mut line));
        line = edr_wire::visible(line.as_bytes());
        // A failure to write the log is ignored: there is no other place to report it.
        let _ = writeln!(std::io::stderr().lock(), "{line}");
    }

    fn flush(&self) {}
}

/// Appends the fields of a log event to a line of text.
struct FieldText<'a>(&'a mut String);

impl<'kvs> VisitSource<'kvs> for FieldText<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), log::kv::Error> {
        if key.as_str() != "MESSAGE_ID" {
            self.0.push_str(&format!(" {}={value}", key.as_str().to_lowercase()));
        }
        Ok(())
    }
}

/// A limiter that admits one message per [`PERIOD`] and counts the suppressed messages. Each call site has its own
/// limiter: see [`crate::limited!`].
#[derive(Debug)]
pub struct Limiter {
    state: Mutex<LimiterState>,
}

/// The state behind the lock of a [`Limiter`].
#[derive(Debug)]
struct LimiterState {
    /// Time of the last admitted message.
    last: Option<Instant>,
    suppressed: u64,
}

impl Limiter {
    /// Returns a limiter that admits its first message.
    #[must_use]
    pub const fn new() -> Self {
        Self { state: Mutex::new(LimiterState { last: None, suppressed: 0 }) }
    }

    /// Returns the number of messages suppressed since the last admitted message, when a message at `now` is admitted;
    /// otherwise `None`.
    pub fn admit(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock();
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

/// Messages that a [`Few`] admits in one [`PERIOD`].
pub const FEW: u32 = 5;

/// A limiter for messages about the members of a list that others can make long, such as the files of a folder: admits
/// the first [`FEW`] messages of each [`PERIOD`] and counts the others.
#[derive(Debug, Default)]
pub struct Few {
    state: Mutex<FewState>,
}

/// The state behind the lock of a [`Few`].
#[derive(Debug, Default)]
struct FewState {
    /// Start of the present period.
    since: Option<Instant>,
    admitted: u32,
    left_out: u64,
}

impl FewState {
    fn is_over(&self, now: Instant) -> bool {
        self.since.is_none_or(|since| now.saturating_duration_since(since) >= PERIOD)
    }
}

impl Few {
    /// True when a message at `now` is to be logged. Otherwise the message is counted.
    pub fn admit(&self, now: Instant) -> bool {
        let mut state = self.state.lock();
        if state.is_over(now) {
            (state.since, state.admitted) = (Some(now), 0);
        }
        let is_admitted = state.admitted < FEW;
        if is_admitted {
            state.admitted += 1;
        } else {
            state.left_out += 1;
        }
        is_admitted
    }

    /// Returns the number of messages left out, once, after the end of their period; `None` without such messages. To
    /// be called from time to time, and to be logged.
    pub fn left_out(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock();
        (state.left_out > 0 && state.is_over(now)).then(|| std::mem::take(&mut state.left_out))
    }
}

/// Declares the kinds of events that a daemon logs: an enum `Event` with a message id per kind. By this id
/// `journalctl -x` finds the explanation in the message catalogue (journalctl(1)).
///
/// An id is never reused for another kind; a new kind gets a new id (`systemd-id128 new`).
#[macro_export]
macro_rules! events {
    ($($(#[$doc:meta])+ $name:ident = $id:literal,)+) => {
        /// Kinds of events. The catalogue shipped beside the unit explains each kind.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Event {
            $($(#[$doc])+ $name,)+
        }

        impl Event {
            /// All kinds.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The message id (`MESSAGE_ID=`): 32 hex digits.
            pub const fn id(self) -> &'static str {
                match self {
                    $(Self::$name => $id,)+
                }
            }
        }
    };
}

/// Logs an event of a kind: `event!(Level::Info, Event::Ready, EDR_SEQ = 1, "ready")`. Fields of the journal stand
/// before the message. Commas only, so that rustfmt formats the call.
#[macro_export]
macro_rules! event {
    ($level:expr, $event:expr $(, $key:ident = $value:expr)*, $format:literal $($arguments:tt)*) => {
        ::log::log!($level, MESSAGE_ID = $event.id() $(, $key = $value)*; $format $($arguments)*)
    };
}

/// Logs at most once a minute from this call site. Suppressed messages are counted: `… (suppressed 7)`.
///
/// `limited!(Level::Warn, "broker {name} is away")`, or with a kind of event
/// `limited!(Level::Warn, Event::KafkaAway, "broker {name} is away")`.
#[macro_export]
macro_rules! limited {
    ($level:expr, $format:literal $($arguments:tt)*) => {{
        static LIMITER: $crate::journal::Limiter = $crate::journal::Limiter::new();
        match LIMITER.admit(::std::time::Instant::now()) {
            None => {}
            Some(0) => ::log::log!($level, $format $($arguments)*),
            Some(suppressed) => {
                ::log::log!($level, "{} (suppressed {suppressed})", ::std::format!($format $($arguments)*))
            }
        }
    }};
    ($level:expr, $event:expr $(, $key:ident = $value:expr)*, $format:literal $($arguments:tt)*) => {{
        static LIMITER: $crate::journal::Limiter = $crate::journal::Limiter::new();
        match LIMITER.admit(::std::time::Instant::now()) {
            None => {}
            Some(0) => $crate::event!($level, $event $(, $key = $value)*, $format $($arguments)*),
            Some(suppressed) => $crate::event!(
                $level,
                $event $(, $key = $value)*,
                "{} (suppressed {suppressed})",
                ::std::format!($format $($arguments)*)
            ),
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

    #[test]
    fn few_messages_of_a_list_are_logged_and_the_rest_is_told_once() {
        let few = Few::default();
        let start = Instant::now();
        assert_eq!(few.left_out(start), None);
        assert_eq!((0..3_000).filter(|_| few.admit(start)).count(), FEW as usize);
        assert_eq!(few.left_out(start + PERIOD / 2), None);
        assert_eq!(few.left_out(start + PERIOD), Some(3_000 - u64::from(FEW)));
        assert_eq!(few.left_out(start + PERIOD), None);
        assert!(few.admit(start + PERIOD), "a new period");
        assert_eq!(few.left_out(start + 3 * PERIOD), None, "nothing was left out");
    }
}
