//! Numbers in the kernel's decimal form.

/// A whole field of decimal digits.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, digit| match digit {
        b'0'..=b'9' => number.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

/// A whole field of decimal digits with an optional minus sign.
pub(super) fn signed(digits: &[u8]) -> Option<i64> {
    match digits.strip_prefix(b"-") {
        Some(digits) => 0_i64.checked_sub_unsigned(decimal(digits)?),
        None => i64::try_from(decimal(digits)?).ok(),
    }
}

/// A whole field of hexadecimal digits.
pub(super) fn hex(digits: &[u8]) -> Option<u64> {
    radix(digits, 16)
}

/// A whole field of octal digits.
pub(super) fn octal(digits: &[u8]) -> Option<u64> {
    radix(digits, 8)
}

fn radix(digits: &[u8], radix: u32) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, &digit| {
        number.checked_mul(u64::from(radix))?.checked_add(u64::from(char::from(digit).to_digit(radix)?))
    })
}

/// The decimal digits of a number, a suffix, and a NUL: the name of a process, a thread or a descriptor.
#[derive(Debug, Clone, Copy)]
pub(super) struct Name {
    bytes: [u8; 24],
    start: usize,
    end: usize,
}

impl Name {
    pub(super) fn of(number: u32) -> Self {
        Self::with(number, b"")
    }

    /// `suffix` has at most 13 bytes.
    pub(super) fn with(mut number: u32, suffix: &[u8]) -> Self {
        const DIGITS: usize = 10;
        let mut name = Self { bytes: [0; 24], start: DIGITS, end: DIGITS + suffix.len() + 1 };
        name.bytes[DIGITS..name.end - 1].copy_from_slice(suffix);
        loop {
            name.start -= 1;
            name.bytes[name.start] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                return name;
            }
        }
    }

    pub(super) fn as_c_str(&self) -> &std::ffi::CStr {
        std::ffi::CStr::from_bytes_with_nul(&self.bytes[self.start..self.end]).unwrap_or(c"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_digits_are_a_number() {
        for field in [b"".as_slice(), b"-", b"+1", b" 1", b"1 ", b"1x", b"18446744073709551616"] {
            assert_eq!(decimal(field), None, "{field:?}");
        }
        assert_eq!(signed(b"-9223372036854775808"), Some(i64::MIN));
        assert_eq!(signed(b"9223372036854775808"), None);
        assert_eq!(hex(b"0000003fffffffff"), Some(0x3f_ffff_ffff));
        assert_eq!(octal(b"02100002"), Some(0o2_100_002));
        assert_eq!(octal(b"8"), None);
    }

    proptest! {
        #[test]
        fn numbers_come_back(number: u64, negative: i64, name: u32) {
            prop_assert_eq!(decimal(number.to_string().as_bytes()), Some(number));
            prop_assert_eq!(signed(negative.to_string().as_bytes()), Some(negative));
            prop_assert_eq!(hex(format!("{number:x}").as_bytes()), Some(number));
            prop_assert_eq!(octal(format!("{number:o}").as_bytes()), Some(number));
            let digits = Name::of(name);
            prop_assert_eq!(digits.as_c_str().to_str().unwrap(), name.to_string());
            let path = Name::with(name, b"/schedstat");
            prop_assert_eq!(path.as_c_str().to_str().unwrap(), format!("{name}/schedstat"));
        }
    }
}
