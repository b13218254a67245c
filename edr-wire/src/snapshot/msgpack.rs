//! The parts of a msgpack row that is written by hand, each in its shortest form, as rmp-serde writes them
//! (<https://github.com/msgpack/msgpack/blob/master/spec.md>).

pub(super) const TRUE: u8 = 0xc3;

pub(super) fn map_len(out: &mut Vec<u8>, len: usize) {
    match len {
        0..16 => out.push(0x80 | len as u8),
        0x10..0x1_0000 => long(out, 0xde, (len as u16).to_be_bytes()),
        _ => long(out, 0xdf, (len as u32).to_be_bytes()),
    }
}

#[inline]
pub(super) fn uint(out: &mut Vec<u8>, number: u64) {
    match number {
        0..0x80 => out.push(number as u8),
        0x80..0x100 => long(out, 0xcc, [number as u8]),
        0x100..0x1_0000 => long(out, 0xcd, (number as u16).to_be_bytes()),
        0x1_0000..0x1_0000_0000 => long(out, 0xce, (number as u32).to_be_bytes()),
        _ => long(out, 0xcf, number.to_be_bytes()),
    }
}

pub(super) fn int(out: &mut Vec<u8>, number: i64) {
    match number {
        0.. => uint(out, number.unsigned_abs()),
        -0x20.. => out.push(number as u8),
        -0x80.. => long(out, 0xd0, (number as i8).to_be_bytes()),
        -0x8000.. => long(out, 0xd1, (number as i16).to_be_bytes()),
        -0x8000_0000.. => long(out, 0xd2, (number as i32).to_be_bytes()),
        _ => long(out, 0xd3, number.to_be_bytes()),
    }
}

#[inline]
pub(super) fn str(out: &mut Vec<u8>, text: &str) {
    match text.len() {
        len @ 0..32 => out.push(0xa0 | len as u8),
        len @ 32..0x100 => long(out, 0xd9, [len as u8]),
        len @ 0x100..0x1_0000 => long(out, 0xda, (len as u16).to_be_bytes()),
        len => long(out, 0xdb, (len as u32).to_be_bytes()),
    }
    out.extend_from_slice(text.as_bytes());
}

/// Appends a string of fewer than 32 bytes that are known to be UTF-8.
#[inline]
pub(super) fn short_str(out: &mut Vec<u8>, text: &[u8]) {
    out.push(0xa0 | text.len() as u8);
    out.extend_from_slice(text);
}

#[inline]
pub(super) fn bin(out: &mut Vec<u8>, bytes: &[u8]) {
    match bytes.len() {
        len @ 0..0x100 => long(out, 0xc4, [len as u8]),
        len @ 0x100..0x1_0000 => long(out, 0xc5, (len as u16).to_be_bytes()),
        len => long(out, 0xc6, (len as u32).to_be_bytes()),
    }
    out.extend_from_slice(bytes);
}

/// Appends a field of a map, unless the number is `None`. `key` is already encoded.
#[inline]
pub(super) fn uint_field<const N: usize>(out: &mut Vec<u8>, key: &[u8; N], number: Option<impl Into<u64>>) {
    if let Some(number) = number {
        out.extend_from_slice(key);
        uint(out, number.into());
    }
}

/// Appends a field of a map, unless the text is empty. `key` is already encoded.
#[inline]
pub(super) fn str_field<const N: usize>(out: &mut Vec<u8>, key: &[u8; N], text: &str) {
    if !text.is_empty() {
        out.extend_from_slice(key);
        str(out, text);
    }
}

/// Appends a field of a map, unless the bytes are empty. `key` is already encoded.
#[inline]
pub(super) fn bin_field<const N: usize>(out: &mut Vec<u8>, key: &[u8; N], bytes: &[u8]) {
    if !bytes.is_empty() {
        out.extend_from_slice(key);
        bin(out, bytes);
    }
}

#[inline]
fn long<const N: usize>(out: &mut Vec<u8>, marker: u8, number: [u8; N]) {
    out.push(marker);
    out.extend_from_slice(&number);
}
