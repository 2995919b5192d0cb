//! Base64 of audio payloads, into buffers that are used again.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::PAD_INDIFFERENT;

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
type Codec = base64::engine::simd::Simd;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
type Codec = base64::engine::general_purpose::GeneralPurpose;

/// Looks at the processor once. Padding is written, and not insisted on.
static CODEC: LazyLock<Codec> = LazyLock::new(|| {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    return Codec::standard(PAD_INDIFFERENT);
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return Codec::new(&base64::alphabet::STANDARD, PAD_INDIFFERENT);
});

/// A payload that is not base64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("payload is not base64")]
pub struct InvalidBase64;

/// Appends the decoded bytes to `out` and says how many. On error `out` is as it was.
///
/// Allocates only when `out` has no room left.
pub fn decode_into(base64: &str, out: &mut Vec<u8>) -> Result<usize, InvalidBase64> {
    let before = out.len();
    if CODEC.decode_vec(base64, out).is_err() {
        out.truncate(before);
        return Err(InvalidBase64);
    }
    Ok(out.len() - before)
}

/// Appends `bytes` as base64 to `out`.
///
/// Allocates only when `out` has no room left.
pub fn encode_into(bytes: &[u8], out: &mut String) {
    CODEC.encode_string(bytes, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_survive_the_way_there_and_back_at_every_length() {
        for length in 0..2_000 {
            let bytes: Vec<u8> = (0..length).map(|i| (i * 7 + length) as u8).collect();
            let mut text = String::from("kept");
            encode_into(&bytes, &mut text);
            assert_eq!(text.len(), 4 + bytes.len().div_ceil(3) * 4);
            let mut back = vec![1, 2];
            assert_eq!(decode_into(&text[4..], &mut back), Ok(bytes.len()));
            assert_eq!(back[..2], [1, 2]);
            assert_eq!(back[2..], bytes);
        }
    }

    #[test]
    fn text_is_spelled_as_the_standard_says() {
        let mut text = String::new();
        encode_into(b"\xFF\xFE\xFD\x00", &mut text);
        assert_eq!(text, "//79AA==");
    }

    #[test]
    fn padding_may_be_missing() {
        let mut out = Vec::new();
        assert_eq!(decode_into("//79AA", &mut out), Ok(4));
        assert_eq!(out, b"\xFF\xFE\xFD\x00");
    }

    #[test]
    fn a_payload_that_is_not_base64_leaves_the_buffer_as_it_was() {
        let long = format!("{}*", "A".repeat(215));
        for bad in ["A", "AB C", "AA\n==", "=", "ÄÖ", "-_-_", "AAAA=AAA", long.as_str()] {
            let mut out = vec![9; 3];
            assert_eq!(decode_into(bad, &mut out), Err(InvalidBase64), "{bad}");
            assert_eq!(out, [9; 3]);
        }
    }

    #[test]
    fn a_buffer_with_room_is_not_replaced() {
        let frame = [0x55; 160];
        let mut text = String::with_capacity(1024);
        let (start, room) = (text.as_ptr(), text.capacity());
        encode_into(&frame, &mut text);
        assert_eq!((text.as_ptr(), text.capacity()), (start, room));
        let mut bytes = Vec::with_capacity(1024);
        let (start, room) = (bytes.as_ptr(), bytes.capacity());
        decode_into(&text, &mut bytes).unwrap();
        assert_eq!((bytes.as_ptr(), bytes.capacity()), (start, room));
    }
}
