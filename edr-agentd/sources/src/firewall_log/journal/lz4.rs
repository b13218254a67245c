//! journald's LZ4 fields: eight bytes of length, then one LZ4 block
//! (<https://github.com/lz4/lz4/blob/dev/doc/lz4_Block_format.md>). Since version 246 journald uses zstd.
//!
//! Own code in place of the crate `lz4_flex`: the block comes from a file that a host can damage, and that crate
//! decodes without `unsafe` only with its feature `safe-decode`, which cargo would unify into the archive's Parquet and
//! Arrow.

/// Returns the decompressed bytes; `None` when the data is damaged or larger than `bytes_max`.
pub(super) fn unpack(packed: &[u8], bytes_max: usize) -> Option<Vec<u8>> {
    let (length, mut rest) = packed.split_at_checked(8)?;
    let length = length.iter().rev().fold(0_u64, |number, &byte| number << 8 | u64::from(byte));
    let length = usize::try_from(length).ok().filter(|&length| length <= bytes_max)?;
    let mut out = Vec::with_capacity(length);
    loop {
        let token = take(&mut rest, 1)?[0];
        let literals = long(usize::from(token >> 4), &mut rest)?;
        out.extend_from_slice(take(&mut rest, literals)?);
        if rest.is_empty() {
            return (out.len() == length).then_some(out);
        }
        let offset = take(&mut rest, 2)?;
        let offset = usize::from(offset[0]) | usize::from(offset[1]) << 8;
        let copied = long(usize::from(token & 0x0f), &mut rest)?.checked_add(4)?;
        let start = out.len().checked_sub(offset).filter(|_| offset > 0)?;
        if out.len() + copied > length {
            return None;
        }
        // The copied range may overlap the output.
        for at in start..start + copied {
            out.push(out[at]);
        }
    }
}

/// Reads a length. `first` is the first part; 15 means that more parts follow.
fn long(first: usize, rest: &mut &[u8]) -> Option<usize> {
    let mut length = first;
    if first == 15 {
        loop {
            let more = take(rest, 1)?[0];
            length = length.checked_add(usize::from(more))?;
            if more != 255 {
                break;
            }
        }
    }
    Some(length)
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, after) = rest.split_at_checked(len)?;
    *rest = after;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(length: u64, bytes: &[u8]) -> Vec<u8> {
        [&length.to_le_bytes(), bytes].concat()
    }

    #[test]
    fn literals_and_copies_that_overlap() {
        // "ab", then 9 bytes from 2 back, then "xyz".
        let packed = block(14, &[0x25, b'a', b'b', 2, 0, 0x30, b'x', b'y', b'z']);
        assert_eq!(unpack(&packed, 64).unwrap(), b"abababababaxyz");
        let long = block(300, &[&[0xf0, 255, 30][..], &[b'q'; 300]].concat());
        assert_eq!(unpack(&long, 300).unwrap(), [b'q'; 300]);
        assert_eq!(unpack(&long, 299), None);
    }

    #[test]
    fn damage_is_no_text() {
        let packed = block(14, &[0x25, b'a', b'b', 2, 0, 0x30, b'x', b'y', b'z']);
        for end in 0..packed.len() {
            assert_eq!(unpack(&packed[..end], 64), None, "cut at {end}");
        }
        assert_eq!(unpack(&block(14, &[0x25, b'a', b'b', 3, 0, 0x30, b'x', b'y', b'z']), 64), None, "before the start");
        assert_eq!(unpack(&block(14, &[0x25, b'a', b'b', 0, 0, 0x30, b'x', b'y', b'z']), 64), None, "from nowhere");
        assert_eq!(unpack(&block(u64::MAX, &[0]), 64), None);
    }
}
