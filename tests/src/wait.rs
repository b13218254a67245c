//! Waiting for what happens in another process: asked for again and again, until it is there or its time is up.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// Between two questions. Short against everything that is waited for, long against the cost of asking.
const PAUSE: Duration = Duration::from_millis(50);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Ends every waiting, until [`resume`], with an error: someone pressed Ctrl-C.
pub fn interrupt() {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// Waiting is possible again: what was interrupted is over, and stopping in good order takes some waiting, too.
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

/// Asks until `question` has an answer, and returns it.
///
/// # Errors
/// When there is none after `limit`, or the question itself fails; `what` is named either way.
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

/// Like [`until`], where a question that fails is one that has no answer yet; the last failure is in the error.
///
/// # Errors
/// When there is no answer after `limit`.
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
