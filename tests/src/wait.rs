//! Waiting for an event in another process: polls until the event has happened or the time is up.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// Pause between two polls: short compared with the awaited events, long compared with the cost of a poll.
const PAUSE: Duration = Duration::from_millis(50);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Ends all waiting with an error, until [`resume`]: used for Ctrl-C.
pub fn interrupt() {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// Allows waiting again after [`interrupt`], because an orderly stop also has to wait.
pub fn resume() {
    INTERRUPTED.store(false, Ordering::Relaxed);
}

fn pause() -> Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    sleep(PAUSE);
    Ok(())
}

/// Calls `question` until it returns an answer, and returns the answer.
///
/// # Errors
/// When there is no answer within `limit`, or when `question` fails. Both errors contain `what`.
pub fn until<T>(what: &str, limit: Duration, mut question: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(answer) = question().with_context(|| format!("waiting for {what}"))? {
            return Ok(answer);
        }
        if start.elapsed() > limit {
            bail!("waited {} s for {what}", limit.as_secs());
        }
        pause()?;
    }
}

/// Like [`until`], but an error of `question` counts as "no answer yet". The returned error contains the last error.
///
/// # Errors
/// When there is no answer within `limit`.
pub fn until_ok<T>(what: &str, limit: Duration, mut question: impl FnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        match question() {
            Ok(answer) => return Ok(answer),
            Err(error) if start.elapsed() > limit => {
                return Err(error.context(format!("waited {} s for {what}", limit.as_secs())));
            }
            Err(_) => pause()?,
        }
    }
}
