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

/// Checks a time limit of the product. On a machine with more work than processors the limit grows: by the factor that
/// a computing thread takes longer there than its own CPU time.
///
/// # Errors
/// When `took` is longer; the error contains `what`.
pub fn within(what: &str, limit: Duration, took: Duration) -> Result<()> {
    if took > limit {
        let factor = slowness()?;
        if took > limit.mul_f64(factor) {
            bail!(
                "{what} took {took:?}; the limit is {limit:?}, on a machine that is {factor:.1} times as slow as alone"
            );
        }
    }
    Ok(())
}

/// Time that 300 ms of computing take here now, divided by these 300 ms: 1 on an idle machine.
fn slowness() -> Result<f64> {
    const WORK: Duration = Duration::from_millis(300);
    let computed = || -> Result<Duration> {
        let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID)?;
        Ok(Duration::new(u64::try_from(time.tv_sec())?, u32::try_from(time.tv_nsec())?))
    };
    let (start, before) = (Instant::now(), computed()?);
    while computed()?.saturating_sub(before) < WORK {
        std::hint::spin_loop();
    }
    Ok(start.elapsed().div_duration_f64(WORK).max(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_holds_and_grows_at_most_with_the_load() {
        let limit = Duration::from_millis(10);
        within("a short thing", limit, limit).unwrap();
        let error = within("a long thing", limit, Duration::from_secs(3600)).unwrap_err().to_string();
        assert!(error.contains("a long thing took 3600s; the limit is 10ms"), "{error}");
    }
}
