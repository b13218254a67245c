//! The compressed body. zstd works on whole buffers, input and output, so the buffer sizes are the limits.

use zstd::zstd_safe::{CCtx, CParameter, DCtx, compress_bound, get_error_name};

use super::FrameError;
use crate::limits::{RAW_BYTES_MAX, WINDOW_LOG_MAX};

/// zstd level. Level 9 makes keys 11 % smaller but takes five times as long.
const LEVEL: i32 = 3;

/// Compresses a snapshot; for a delta, against the raw key snapshot.
///
/// The context exists only during this call: it borrows the key, and the agent needs no 2 to 20 MiB of zstd tables
/// between two ticks.
pub(super) fn compress(raw: &[u8], key_raw: Option<&[u8]>) -> Result<Vec<u8>, FrameError> {
    let mut context = CCtx::create();
    let set = |context: &mut CCtx<'_>, parameter| context.set_parameter(parameter).map(drop).map_err(body_error);
    set(&mut context, CParameter::CompressionLevel(LEVEL))?;
    if let Some(key_raw) = key_raw {
        // Without long-distance matching the match finder loses the prefix: 504 KB instead of 6 KB on a large host.
        set(&mut context, CParameter::EnableLongDistanceMatching(true))?;
        set(&mut context, CParameter::WindowLog(window_log(key_raw.len() + raw.len())))?;
        context.ref_prefix(key_raw).map_err(body_error)?;
    }
    let mut body = Vec::with_capacity(compress_bound(raw.len()));
    context.compress2(&mut body, raw).map_err(body_error)?;
    body.shrink_to_fit();
    Ok(body)
}

/// Decompresses a body into exactly `raw_len` bytes. The one-shot decoder writes into the given buffer and needs no
/// window of its own. So a body that claims 2^60 bytes, or holds 31,900 times its size in zeros, costs at most
/// `raw_len`.
pub(super) fn decompress(body: &[u8], raw_len: usize, key_raw: Option<&[u8]>) -> Result<Vec<u8>, FrameError> {
    if raw_len > RAW_BYTES_MAX {
        return Err(FrameError::Limit { what: "raw_len", value: raw_len as u64, max: RAW_BYTES_MAX as u64 });
    }
    let mut context = DCtx::create();
    if let Some(key_raw) = key_raw {
        context.ref_prefix(key_raw).map_err(body_error)?;
    }
    let mut raw = Vec::with_capacity(raw_len);
    context.decompress(&mut raw, body).map_err(body_error)?;
    if raw.len() != raw_len {
        return Err(FrameError::Body(format!("{} bytes, the header says {raw_len}", raw.len())));
    }
    Ok(raw)
}

/// The logarithm of the smallest window that holds `bytes`, within zstd's minimum and [`WINDOW_LOG_MAX`].
fn window_log(bytes: usize) -> u32 {
    let log = usize::BITS - bytes.saturating_sub(1).leading_zeros();
    log.clamp(10, WINDOW_LOG_MAX)
}

fn body_error(code: usize) -> FrameError {
    FrameError::Body(get_error_name(code).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_holds_both_buffers() {
        assert_eq!(window_log(0), 10);
        assert_eq!(window_log(1 << 20), 20);
        assert_eq!(window_log((1 << 20) + 1), 21);
        assert_eq!(window_log(2 * RAW_BYTES_MAX), WINDOW_LOG_MAX);
    }

    #[test]
    fn a_bomb_stops_at_the_length_in_its_header() {
        let zeros = vec![0; 64 << 20];
        let mut bomb = Vec::with_capacity(compress_bound(zeros.len()));
        CCtx::create().compress2(&mut bomb, &zeros).unwrap();
        assert!(bomb.len() < 10_000);
        let raw_len = 1 << 20;
        assert!(matches!(decompress(&bomb, raw_len, None), Err(FrameError::Body(_))));
        assert!(matches!(decompress(&bomb, 64 << 20, None), Err(FrameError::Limit { .. })));
    }

    /// Uses the largest snapshot that an agent makes, against the largest key: the window must hold every byte of both.
    #[test]
    fn a_snapshot_of_24_mib_that_hardly_changed_is_a_small_delta() {
        let mut state = 1_u64;
        let key: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        })
        .take(24 << 20)
        .collect();
        let mut raw = key.clone();
        for at in (0..raw.len()).step_by(1 << 20) {
            raw[at] ^= 0xff;
        }
        let body = compress(&raw, Some(&key)).unwrap();
        assert!(body.len() < 64 << 10, "{} bytes", body.len());
        assert!(decompress(&body, raw.len(), Some(&key)).unwrap() == raw);
    }
}
