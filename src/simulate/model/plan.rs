//! A response as a list of things to send, each at its time: text ahead of audio, audio much faster than it plays
//! and in uneven bursts.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::options::ModelOptions;
use super::script::Speech;
use super::session::Format;
use crate::audio::g711;
use crate::simulate::random::Random;
use crate::simulate::speech;

/// One item a response will have.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Part {
    /// Something said.
    Say { text: String, audio: Arc<[u8]> },
    /// A function asked for.
    Call { name: String, call_id: String, arguments: String },
}

/// How a response will end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    Completed,
    Failed(String),
    Incomplete(String),
}

/// One thing to send. The number is the item, counted from 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Begin(usize),
    Text(usize, String),
    Audio(usize, Range<usize>),
    Arguments(usize, String),
    Finish(usize),
    Done(End),
}

/// Between two pieces of a function's arguments: long enough to be interrupted.
const ARGUMENTS_EVERY: Duration = Duration::from_millis(30);

/// What a response will send, from `now` on.
pub(super) fn plan(
    options: &ModelOptions,
    random: &mut Random,
    format: Format,
    parts: &[Part],
    end: &End,
    now: Duration,
) -> VecDeque<(Duration, Step)> {
    let mut steps = VecDeque::new();
    let mut at = now + options.think();
    if let End::Failed(_) = end {
        steps.push_back((at, Step::Done(end.clone())));
        return steps;
    }
    for (number, part) in parts.iter().enumerate() {
        // Half of the last item is missing when a response stops early.
        let cut = matches!(end, End::Incomplete(_)) && number + 1 == parts.len();
        steps.push_back((at, Step::Begin(number)));
        match part {
            Part::Say { text, audio } => {
                let bytes = if cut { audio.len() / 4 * 2 } else { audio.len() };
                at = say(&mut steps, options, random, format, number, (text, bytes, cut), at);
            }
            Part::Call { arguments, .. } => {
                let middle = arguments.floor_char_boundary(arguments.len() / 2);
                let (first, second) = arguments.split_at(middle);
                for piece in [first, second].into_iter().filter(|piece| !piece.is_empty()) {
                    at += ARGUMENTS_EVERY;
                    steps.push_back((at, Step::Arguments(number, piece.into())));
                }
                at += ARGUMENTS_EVERY;
            }
        }
        if !cut {
            steps.push_back((at, Step::Finish(number)));
        }
    }
    steps.push_back((at, Step::Done(end.clone())));
    steps
}

/// Plans text and audio of one item; the time of its last delta comes back.
fn say(
    steps: &mut VecDeque<(Duration, Step)>,
    options: &ModelOptions,
    random: &mut Random,
    format: Format,
    number: usize,
    (text, bytes, cut): (&str, usize, bool),
    start: Duration,
) -> Duration {
    let pieces = audio_pieces(options, random, format, bytes);
    let words: Vec<&str> = text.split_inclusive(' ').collect();
    let words = if cut { &words[..words.len().div_ceil(2)] } else { &words[..] };
    let generated = |end: usize| {
        let played_ms = end as f64 / format.bytes_per_ms() as f64;
        start + Duration::from_secs_f64(played_ms / 1000.0 / options.speed.max(0.01))
    };
    // Text keeps well ahead: with each delta of audio twice its share of the words has been written.
    let mut written = 0;
    let mut from = 0;
    let mut at = start;
    while from < pieces.len() {
        let burst = random.between(1, options.burst.max(1)) as usize;
        for piece in &pieces[from..pieces.len().min(from + burst)] {
            let share = (words.len() * 2 * piece.end).div_ceil(bytes.max(1)).min(words.len());
            for word in &words[written.min(share)..share] {
                steps.push_back((at, Step::Text(number, (*word).into())));
            }
            written = written.max(share);
            steps.push_back((at, Step::Audio(number, piece.clone())));
        }
        from += burst;
        // The next burst is sent when this much has been generated.
        at = generated(pieces[from.min(pieces.len()) - 1].end);
    }
    for word in &words[written..] {
        steps.push_back((at, Step::Text(number, (*word).into())));
    }
    at
}

/// Cuts audio into deltas of uneven length.
fn audio_pieces(
    options: &ModelOptions,
    random: &mut Random,
    format: Format,
    bytes: usize,
) -> Vec<Range<usize>> {
    let per_ms = format.bytes_per_ms() as u64;
    let mut pieces = Vec::new();
    let mut from = 0;
    while from < bytes {
        let mut length = random.between(40 * per_ms, 400 * per_ms) as usize;
        if format == Format::Pcm && !options.split_samples {
            length &= !1;
        }
        let to = bytes.min(from + length);
        pieces.push(from..to);
        from = to;
    }
    pieces
}

/// The words and the sound of something said, in the session's format. `before`: what the agent said last.
pub(super) fn sound(speech: &Speech, before: &str, format: Format) -> Option<(String, Arc<[u8]>)> {
    match speech {
        Speech::Phrase(id) => match speech::agent_phrase(id) {
            Some(phrase) => Some((phrase.text.into(), recording(phrase, format))),
            None => Some((format!("(no recording `{id}`)"), tone(300, format))),
        },
        Speech::Tone { ms, text } => Some((text.clone(), tone(*ms, format))),
        Speech::Rest => rest_of(before, format),
        Speech::Answer => None,
    }
}

/// What follows these words in the recording that they begin, as if it were spoken evenly.
fn rest_of(before: &str, format: Format) -> Option<(String, Arc<[u8]>)> {
    let before = before.trim();
    let begins = |phrase: &&speech::Phrase| phrase.text.starts_with(before) && phrase.text != before;
    let phrase = speech::agent_phrases().filter(|_| !before.is_empty()).find(begins)?;
    let audio = recording(phrase, format);
    let from = (audio.len() * before.len() / phrase.text.len()) & !1; // At a whole sample.
    Some((phrase.text[before.len()..].trim().into(), audio[from..].into()))
}

fn recording(phrase: &speech::Phrase, format: Format) -> Arc<[u8]> {
    let audio = match format {
        Format::Ulaw => phrase.ulaw(),
        Format::Pcm => {
            phrase.samples_24k().map(|samples| samples.into_iter().flat_map(i16::to_le_bytes).collect())
        }
    };
    audio.expect("the recordings in the program are readable, a test reads each of them").into()
}

/// A tone of 440 Hz at -20 dBFS.
fn tone(ms: u64, format: Format) -> Arc<[u8]> {
    let rate = format.rate_hz();
    let step = 440.0 * std::f64::consts::TAU / rate as f64;
    let samples = (0..ms as usize * rate / 1000).map(|n| ((n as f64 * step).sin() * 4600.0) as i16);
    match format {
        Format::Pcm => samples.flat_map(i16::to_le_bytes).collect(),
        Format::Ulaw => samples.map(g711::encode).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "one two three four five six seven eight nine ten";

    fn planned(options: &ModelOptions, format: Format, end: &End) -> Vec<(Duration, Step)> {
        let part = Part::Say { text: TEXT.into(), audio: tone(6000, format) };
        plan(options, &mut Random::new(5), format, &[part], end, Duration::ZERO).into()
    }

    #[test]
    fn all_audio_is_sent_once_in_order_faster_than_it_plays() {
        for format in [Format::Pcm, Format::Ulaw] {
            let steps = planned(&ModelOptions::default(), format, &End::Completed);
            let mut position = 0;
            let mut last = Duration::ZERO;
            for (at, step) in &steps {
                assert!(*at >= last);
                last = *at;
                if let Step::Audio(0, range) = step {
                    assert_eq!(range.start, position);
                    assert!(format == Format::Ulaw || range.len() % 2 == 0);
                    position = range.end;
                }
            }
            assert_eq!(position, 6000 * format.bytes_per_ms());
            // 250 ms to think, then 6 s at six times real time.
            assert_eq!(last, Duration::from_millis(1250));
        }
    }

    #[test]
    fn text_is_complete_and_ahead_of_its_audio() {
        let steps = planned(&ModelOptions::default(), Format::Ulaw, &End::Completed);
        let mut text = String::new();
        for (_, step) in &steps {
            match step {
                Step::Text(0, word) => text.push_str(word),
                Step::Audio(0, range) => {
                    let written = text.len() as f64 / TEXT.len() as f64;
                    assert!(written >= range.end as f64 / 48_000.0 - 0.01, "{written} at {range:?}");
                }
                _ => {}
            }
        }
        assert_eq!(text, TEXT);
    }

    #[test]
    fn deltas_are_uneven_and_come_in_bursts() {
        let steps = planned(&ModelOptions::default(), Format::Pcm, &End::Completed);
        let deltas: Vec<_> = steps
            .iter()
            .filter_map(
                |(at, step)| if let Step::Audio(_, range) = step { Some((*at, range.len())) } else { None },
            )
            .collect();
        assert!(deltas.windows(2).any(|pair| pair[0].0 == pair[1].0), "no two deltas at once");
        assert!(deltas.windows(2).any(|pair| pair[0].1 != pair[1].1), "all deltas of one size");
        let split = ModelOptions { split_samples: true, ..ModelOptions::default() };
        let steps = planned(&split, Format::Pcm, &End::Completed);
        assert!(steps.iter().any(|(_, step)| matches!(step, Step::Audio(_, range) if range.end % 2 == 1)));
    }

    #[test]
    fn a_failed_response_says_nothing_and_an_incomplete_one_half() {
        let failed = planned(&ModelOptions::default(), Format::Ulaw, &End::Failed("server_error".into()));
        assert_eq!(failed.len(), 1);
        let steps =
            planned(&ModelOptions::default(), Format::Ulaw, &End::Incomplete("content_filter".into()));
        let audio: usize = steps
            .iter()
            .map(|(_, step)| if let Step::Audio(_, range) = step { range.len() } else { 0 })
            .sum();
        assert_eq!(audio, 24_000);
        assert!(!steps.iter().any(|(_, step)| matches!(step, Step::Finish(_))));
    }

    #[test]
    fn arguments_come_in_pieces_that_make_the_whole() {
        let call =
            Part::Call { name: "f".into(), call_id: "c".into(), arguments: r#"{"name":"Zoë"}"#.into() };
        let options = ModelOptions::default();
        let steps =
            plan(&options, &mut Random::new(5), Format::Ulaw, &[call], &End::Completed, Duration::ZERO);
        let pieces: Vec<_> = steps
            .iter()
            .filter_map(
                |(_, step)| if let Step::Arguments(0, piece) = step { Some(piece.as_str()) } else { None },
            )
            .collect();
        assert_eq!(pieces.len(), 2);
        assert_eq!(pieces.concat(), r#"{"name":"Zoë"}"#);
    }
}
