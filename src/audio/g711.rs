//! G.711 mu-law to linear PCM and back.

/// The mu-law code of digital silence, as idle lines and Twilio send it (`0x7F` is silence too).
pub const SILENCE: u8 = 0xFF;

/// Difference between the decision values of mu-law and powers of two, in units of 14-bit samples.
// ITU-T G.711, tables 2a and 2b.
const BIAS: u16 = 33;
/// Largest biased 14-bit magnitude; anything louder gets the loudest code.
const CLIP: u16 = 0x1FFF;

/// Linear value of each code.
static DECODED: [i16; 256] = decode_table();
/// Code of each 14-bit sample, indexed by its two's complement bits. 16 KiB, of which speech touches little.
static ENCODED: [u8; 1 << 14] = encode_table();

/// Decodes mu-law to linear PCM.
///
/// `ulaw` holds one sample per byte at 8 kHz; `pcm` receives one full-scale `i16` per byte (at most ±32124).
/// Allocates nothing.
///
/// # Panics
///
/// If the lengths differ.
// ITU-T G.711, table 2a; bits are inverted on the wire.
pub fn decode_ulaw(ulaw: &[u8], pcm: &mut [i16]) {
    assert_eq!(ulaw.len(), pcm.len(), "one sample per byte");
    for (sample, &code) in pcm.iter_mut().zip(ulaw) {
        *sample = decode(code);
    }
}

/// Encodes linear PCM as mu-law.
///
/// `pcm` holds full-scale samples at 8 kHz; `ulaw` receives one byte per sample. Allocates nothing.
///
/// # Panics
///
/// If the lengths differ.
pub fn encode_ulaw(pcm: &[i16], ulaw: &mut [u8]) {
    assert_eq!(pcm.len(), ulaw.len(), "one byte per sample");
    for (code, &sample) in ulaw.iter_mut().zip(pcm) {
        *code = encode(sample);
    }
}

/// Linear value of one code.
#[inline]
#[must_use]
pub fn decode(code: u8) -> i16 {
    DECODED[usize::from(code)]
}

/// Code of one linear sample.
#[inline]
#[must_use]
pub fn encode(sample: i16) -> u8 {
    ENCODED[usize::from(sample.cast_unsigned() >> 2)]
}

const fn decode_table() -> [i16; 256] {
    let mut table = [0; 256];
    let mut code = 0;
    while code < table.len() {
        let bits = !(code as u8);
        let segment = (bits >> 4) & 0x7;
        let step = (bits & 0xF) as i16;
        // The middle of the interval, in 16-bit units.
        let magnitude = ((2 * step + BIAS as i16) << (segment + 2)) - 4 * BIAS as i16;
        table[code] = if bits & 0x80 == 0 { magnitude } else { -magnitude };
        code += 1;
    }
    table
}

// Negative samples are folded by one's complement, as in ITU-T G.191 `ulaw_compress`: an interval owns its lower bound
// and not its upper one on the whole axis. (Encoders that negate instead, Python's audioop among them, differ for
// negative samples next to a decision value.)
const fn encode_table() -> [u8; 1 << 14] {
    let mut table = [0; 1 << 14];
    let mut index = 0;
    while index < table.len() {
        let negative = index >= 1 << 13;
        let magnitude = if negative { (1 << 14) - 1 - index } else { index } as u16;
        let biased = if magnitude + BIAS > CLIP { CLIP } else { magnitude + BIAS };
        // The highest bit set is bit 5 in the first segment, bit 12 in the last.
        let segment = biased.ilog2() - 5;
        let bits = (segment << 4) as u8 | ((biased >> (segment + 1)) & 0xF) as u8;
        table[index] = if negative { !(bits | 0x80) } else { !bits };
        index += 1;
    }
    table
}
