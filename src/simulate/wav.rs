//! WAV files of speech: 16-bit PCM or mu-law, mono.

use std::ops::RangeInclusive;

use rubato::audioadapter_buffers::direct::SequentialSlice;
use rubato::{Fft, FixedSync, Resampler};

use crate::audio::{PHONE_HZ, g711};

/// Rates that can be converted.
const RATES_HZ: RangeInclusive<u32> = 1_000..=384_000;
/// Samples the converter takes at a time, or somewhat more.
const BLOCK: usize = 1_024;

/// What a WAV file sounds like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wav {
    /// Samples per second.
    pub rate_hz: u32,
    /// Full-scale 16-bit samples.
    pub samples: Vec<i16>,
}

/// A WAV file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WavError {
    /// Neither RIFF nor WAVE.
    #[error("not a WAV file: it does not begin with a RIFF/WAVE header")]
    NotWav,
    /// A chunk is missing or cut off.
    #[error("the WAV file has no complete `{0}` chunk")]
    Missing(&'static str),
    /// Stereo and more.
    #[error("the WAV file has {0} channels, one is needed (sox in.wav -c 1 out.wav)")]
    Channels(u16),
    /// Some other coding.
    #[error("the WAV file has format {tag} with {bits} bits, 16-bit PCM (1) or 8-bit mu-law (7) is needed")]
    Format {
        /// The number of the coding.
        tag: u16,
        /// Bits per sample.
        bits: u16,
    },
    /// A rate that no recorder uses.
    #[error("the WAV file says {0} samples per second; 1000 to 384000 can be converted")]
    Rate(u32),
}

impl Wav {
    /// Reads a file held in memory.
    pub fn parse(file: &[u8]) -> Result<Self, WavError> {
        let (format, data) = chunks(file)?;
        let u16_at = |at: usize| u16::from_le_bytes([format[at], format[at + 1]]);
        let (tag, channels, bits) = (u16_at(0), u16_at(2), u16_at(14));
        // WAVE_FORMAT_EXTENSIBLE hides the coding in the first two bytes of its sub-format.
        let tag = if tag == 0xFFFE && format.len() >= 26 { u16_at(24) } else { tag };
        if channels != 1 {
            return Err(WavError::Channels(channels));
        }
        let samples = match (tag, bits) {
            (1, 16) => data.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect(),
            (7, 8) => {
                let mut samples = vec![0; data.len()];
                g711::decode_ulaw(data, &mut samples);
                samples
            }
            _ => return Err(WavError::Format { tag, bits }),
        };
        Ok(Self { rate_hz: u32::from_le_bytes([format[4], format[5], format[6], format[7]]), samples })
    }

    /// As the mu-law bytes a telephone call carries, converted to 8 kHz where the file is not.
    pub fn into_ulaw(self) -> Result<Vec<u8>, WavError> {
        let samples = if self.rate_hz == PHONE_HZ { self.samples } else { self.at_phone_rate()? };
        let mut ulaw = vec![0; samples.len()];
        g711::encode_ulaw(&samples, &mut ulaw);
        Ok(ulaw)
    }

    fn at_phone_rate(&self) -> Result<Vec<i16>, WavError> {
        let refused = || WavError::Rate(self.rate_hz);
        if !RATES_HZ.contains(&self.rate_hz) {
            return Err(refused());
        }
        let (from, to) = (self.rate_hz as usize, PHONE_HZ as usize);
        let mut resampler = Fft::<f32>::new(from, to, BLOCK, 1, FixedSync::Both).map_err(|_| refused())?;
        let input: Vec<f32> = self.samples.iter().map(|&sample| sample.into()).collect();
        let source = SequentialSlice::new(&input, 1, input.len()).map_err(|_| refused())?;
        let output = resampler.process_all(&source, input.len(), None).map_err(|_| refused())?;
        Ok(output.take_data().into_iter().map(|sample| sample.round() as i16).collect())
    }
}

/// A WAV file around mu-law bytes at 8 kHz.
#[must_use]
pub fn from_ulaw(ulaw: &[u8]) -> Vec<u8> {
    let length = ulaw.len() as u32;
    let padding = length % 2;
    let mut file = Vec::with_capacity(ulaw.len() + 59);
    file.extend_from_slice(b"RIFF");
    file.extend_from_slice(&(50 + length + padding).to_le_bytes());
    file.extend_from_slice(b"WAVEfmt ");
    file.extend_from_slice(&18_u32.to_le_bytes());
    for word in [7_u16, 1, 0x1F40, 0, 0x1F40, 0, 1, 8, 0] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    file.extend_from_slice(b"fact");
    file.extend_from_slice(&4_u32.to_le_bytes());
    file.extend_from_slice(&length.to_le_bytes());
    file.extend_from_slice(b"data");
    file.extend_from_slice(&length.to_le_bytes());
    file.extend_from_slice(ulaw);
    file.extend(std::iter::repeat_n(0, padding as usize));
    file
}

/// The `fmt ` and `data` chunks. The first is at least 16 bytes long.
fn chunks(file: &[u8]) -> Result<(&[u8], &[u8]), WavError> {
    if file.len() < 12 || &file[..4] != b"RIFF" || &file[8..12] != b"WAVE" {
        return Err(WavError::NotWav);
    }
    let (mut format, mut data) = (None, None);
    let mut rest = &file[12..];
    while let Some((header, after)) = rest.split_at_checked(8) {
        let length = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
        let body = &after[..length.min(after.len())];
        match &header[..4] {
            b"fmt " if body.len() >= 16 => format = Some(body),
            // Recorders that were stopped, and pipes, leave a length beyond the end: what is there counts.
            b"data" => data = Some(body),
            _ => {}
        }
        // Chunks start at even offsets.
        rest = after.get(length.saturating_add(length % 2)..).unwrap_or_default();
    }
    Ok((format.ok_or(WavError::Missing("fmt "))?, data.ok_or(WavError::Missing("data"))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pcm(rate: u32, channels: u16, bits: u16, tag: u16, data: &[u8]) -> Vec<u8> {
        let mut file = b"RIFF\0\0\0\0WAVELIST\x03\0\0\0abc\0fmt \x10\0\0\0".to_vec();
        file.extend_from_slice(&tag.to_le_bytes());
        file.extend_from_slice(&channels.to_le_bytes());
        file.extend_from_slice(&rate.to_le_bytes());
        file.extend_from_slice(&[0; 6]);
        file.extend_from_slice(&bits.to_le_bytes());
        file.extend_from_slice(b"data");
        file.extend_from_slice(&(data.len() as u32).to_le_bytes());
        file.extend_from_slice(data);
        file
    }

    #[test]
    fn linear_samples_are_read_past_other_chunks() {
        let wav = Wav::parse(&pcm(8000, 1, 16, 1, &[1, 0, 0xFF, 0xFF])).unwrap();
        assert_eq!(wav, Wav { rate_hz: 8000, samples: vec![1, -1] });
    }

    #[test]
    fn mu_law_survives_a_round_trip() {
        let ulaw: Vec<u8> = (0..=254).collect();
        let expected: Vec<u8> = ulaw.iter().map(|&byte| if byte == 0x7F { 0xFF } else { byte }).collect();
        assert_eq!(Wav::parse(&from_ulaw(&ulaw)).unwrap().into_ulaw().unwrap(), expected);
    }

    #[test]
    fn unusable_files_say_what_is_needed() {
        assert_eq!(Wav::parse(b"ID3"), Err(WavError::NotWav));
        assert_eq!(Wav::parse(&pcm(8000, 1, 16, 1, &[])[..30]), Err(WavError::Missing("fmt ")));
        assert_eq!(Wav::parse(&pcm(8000, 2, 16, 1, &[0; 8])), Err(WavError::Channels(2)));
        assert_eq!(Wav::parse(&pcm(8000, 1, 24, 1, &[0; 8])), Err(WavError::Format { tag: 1, bits: 24 }));
        let error = Wav::parse(&pcm(999, 1, 16, 1, &[0; 8])).unwrap().into_ulaw().unwrap_err();
        assert_eq!(error, WavError::Rate(999));
    }

    #[test]
    fn a_recording_of_any_rate_is_converted_to_that_of_the_telephone() {
        let angle = |n: usize, rate_hz: u32| std::f64::consts::TAU * 440.0 * n as f64 / f64::from(rate_hz);
        for rate_hz in [11_025, 16_000, 22_050, 44_100, 48_000] {
            let samples =
                (0..rate_hz as usize).map(|n| (8_000.0 * angle(n, rate_hz).sin()).round() as i16).collect();
            let ulaw = Wav { rate_hz, samples }.into_ulaw().unwrap();
            assert_eq!(ulaw.len(), 8_000, "a second stays a second at {rate_hz}");
            let (mut sine, mut cosine, mut power) = (0.0, 0.0, 0.0);
            for (n, &code) in ulaw.iter().enumerate().skip(400).take(7_200) {
                let (sample, angle) = (f64::from(g711::decode(code)), angle(n, 8_000));
                sine += sample * angle.sin() / 3_600.0;
                cosine += sample * angle.cos() / 3_600.0;
                power += sample * sample / 3_600.0;
            }
            let loudness = sine.hypot(cosine);
            assert!((loudness - 8_000.0).abs() < 200.0, "{loudness} from {rate_hz}");
            assert!(power < 1.01 * loudness * loudness, "there is more than the tone, from {rate_hz}");
        }
    }
}
