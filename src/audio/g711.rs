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
pub const fn decode(code: u8) -> i16 {
    DECODED[code as usize]
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
        let step = (bits & 0xF) as u16;
        // The middle of the interval, in 16-bit units.
        let magnitude = ((2 * step + BIAS) << (segment + 2)) - 4 * BIAS;
        let magnitude = magnitude.cast_signed();
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
        // One's complement of a negative sample.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_decodes_to_the_value_of_the_standard() {
        let quantiser = Quantiser::of_the_standard();
        let codes: Vec<u8> = (0..=255).collect();
        let mut pcm = vec![0; 256];
        decode_ulaw(&codes, &mut pcm);
        for (&code, &sample) in codes.iter().zip(&pcm) {
            let interval = usize::from(!code & 0x7F);
            let magnitude = quantiser.values[interval];
            assert_eq!(
                i32::from(sample),
                if code & 0x80 == 0 { -magnitude } else { magnitude },
                "code {code:#04x}"
            );
        }
        assert_eq!([0x00, 0x80, 0x7F, 0xFF, 0xF0, 0x8F].map(decode), [-32_124, 32_124, 0, 0, 120, 16_764]);
    }

    #[test]
    fn every_sample_encodes_to_the_interval_of_the_standard() {
        let quantiser = Quantiser::of_the_standard();
        let pcm: Vec<i16> = (i16::MIN..=i16::MAX).collect();
        let mut ulaw = vec![0; pcm.len()];
        encode_ulaw(&pcm, &mut ulaw);
        for (&sample, &code) in pcm.iter().zip(&ulaw) {
            assert_eq!(code, quantiser.code(sample.into()), "sample {sample}");
        }
    }

    #[test]
    fn a_decoded_code_encodes_to_itself() {
        for code in 0..=255 {
            // Both codes of zero decode to the same 0.
            let expected = if code == 0x7F { 0xFF } else { code };
            assert_eq!(encode(decode(code)), expected, "code {code:#04x}");
        }
        assert_eq!(decode(SILENCE), 0);
        assert_eq!(encode(0), SILENCE);
    }

    // The folding of negative samples is the one thing encoders disagree about.
    #[test]
    fn encoders_that_negate_negative_samples_differ_at_508_inputs() {
        let differing = (i16::MIN..=i16::MAX).filter(|&sample| {
            let fourteen_bits = sample >> 2;
            let (sign, magnitude) =
                if fourteen_bits < 0 { (0x80, -fourteen_bits) } else { (0, fourteen_bits) };
            let biased = magnitude.min(8_158) + 33;
            let segment = biased.ilog2() as i16 - 5;
            let code = !(sign | (segment << 4) as u8 | ((biased >> (segment + 1)) & 0xF) as u8);
            code != encode(sample)
        });
        assert_eq!(differing.count(), 508);
    }

    #[test]
    #[should_panic(expected = "one sample per byte")]
    fn lengths_must_agree() {
        decode_ulaw(&[SILENCE; 160], &mut [0; 80]);
    }

    /// ITU-T G.711, tables 2a and 2b, as lists of numbers in 16-bit units.
    struct Quantiser {
        /// Lower decision value of each interval of magnitudes.
        bounds: Vec<i32>,
        /// Value at the output of each interval.
        values: Vec<i32>,
    }

    impl Quantiser {
        /// Columns 1 and 2 of the tables: how many intervals of which size, on the scale of ±8159.
        fn of_the_standard() -> Self {
            let segments =
                [(1, 1), (15, 2), (16, 4), (16, 8), (16, 16), (16, 32), (16, 64), (16, 128), (16, 256)];
            let (mut bounds, mut values, mut lower) = (Vec::new(), Vec::new(), 0);
            for (count, size) in segments {
                for _ in 0..count {
                    bounds.push(4 * lower);
                    // The middle, but nothing for the interval that holds zero.
                    values.push(if lower == 0 { 0 } else { 4 * lower + 2 * size });
                    lower += size;
                }
            }
            assert_eq!((bounds.len(), lower), (128, 8_159));
            Self { bounds, values }
        }

        /// Intervals own their lower bound on the whole axis: 4 is in the second positive one, -4 in the first negative.
        fn code(&self, sample: i32) -> u8 {
            let reached = |&&bound: &&i32| if sample < 0 { -sample > bound } else { sample >= bound };
            let interval = self.bounds.iter().take_while(reached).count() - 1;
            (if sample < 0 { 0x7F } else { 0xFF }) - interval as u8
        }
    }
}
