//! The two hash functions of a journal file's tables: SipHash-2-4 keyed with the file's id
//! (`HEADER_INCOMPATIBLE_KEYED_HASH`, systemd 246 and later), and Bob Jenkins' lookup3 for older versions. No crate of
//! the lock file has lookup3.

use siphasher::sip::SipHasher24;

/// SipHash-2-4 of `data` under a key of 16 bytes.
pub(super) fn siphash24(key: [u8; 16], data: &[u8]) -> u64 {
    SipHasher24::new_with_key(&key).hash(data)
}

/// lookup3's `hashlittle2` with both seeds 0; the first result is the high half of the returned number.
pub(super) fn jenkins64(data: &[u8]) -> u64 {
    let start = 0xdead_beef_u32.wrapping_add(data.len() as u32);
    let (mut a, mut b, mut c) = (start, start, start);
    let word = |bytes: &[u8]| bytes.iter().take(4).rev().fold(0_u32, |word, &byte| word << 8 | u32::from(byte));
    let mut rest = data;
    while rest.len() > 12 {
        a = a.wrapping_add(word(rest));
        b = b.wrapping_add(word(&rest[4..]));
        c = c.wrapping_add(word(&rest[8..]));
        for (rotation, turn) in [(4, 0), (6, 1), (8, 2), (16, 0), (19, 1), (4, 2)] {
            // x -= z; x ^= rot(z, k); z += y, with x, y, z in turn a, b, c.
            let (x, y, z) = match turn {
                0 => (&mut a, b, &mut c),
                1 => (&mut b, c, &mut a),
                _ => (&mut c, a, &mut b),
            };
            *x = x.wrapping_sub(*z) ^ z.rotate_left(rotation);
            *z = z.wrapping_add(y);
        }
        rest = &rest[12..];
    }
    if rest.is_empty() {
        return u64::from(c) << 32 | u64::from(b);
    }
    a = a.wrapping_add(word(rest));
    b = b.wrapping_add(word(rest.get(4..).unwrap_or_default()));
    c = c.wrapping_add(word(rest.get(8..).unwrap_or_default()));
    for (rotation, turn) in [(14, 0), (11, 1), (25, 2), (16, 0), (4, 1), (14, 2), (24, 0)] {
        // x ^= y; x -= rot(y, k).
        let (x, y) = match turn {
            0 => (&mut c, b),
            1 => (&mut a, c),
            _ => (&mut b, a),
        };
        *x = (*x ^ y).wrapping_sub(y.rotate_left(rotation));
    }
    u64::from(c) << 32 | u64::from(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn siphash_has_the_published_values() {
        // SipHash: a fast short-input PRF, appendix A: key 00..0f, message 00..0e.
        let bytes: Vec<u8> = (0..15).collect();
        let key = std::array::from_fn(|n| n as u8);
        assert_eq!(siphash24(key, &bytes), 0xa129_ca61_49be_45e5);
        assert_eq!(siphash24(key, b""), 0x726f_db47_dd0e_0e31);
    }

    #[test]
    fn lookup3_has_the_published_values() {
        // driver5 of lookup3.c: hashlittle2 with seeds 0; journald uses the first result as the high half.
        assert_eq!(jenkins64(b""), 0xdead_beef_dead_beef);
        assert_eq!(jenkins64(b"Four score and seven years ago"), 0x1777_0551_ce72_26e6);
    }
}
