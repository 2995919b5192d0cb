//! What became of each sound over the agent, as the two far ends saw it. The bridge is not asked.

use std::collections::BTreeSet;

use serde::Serialize;

use super::plan::{Exchange, Meaning};
use crate::simulate::caller::{CallReport, StreamReport, UtteranceReport};
use crate::simulate::model::SessionReport;

/// Less of an answer than this may be missing at its end without anybody's noticing.
const HEARD_OUT_MS: f64 = 100.0;
/// Silence that the model waits for before it calls a turn over, and the time its transcription takes then.
pub(super) const WORDS_AFTER_MS: f64 = (500 + TRANSCRIBED_AFTER_MS) as f64;
/// From the end of a turn to its words.
pub(super) const TRANSCRIBED_AFTER_MS: u64 = 500;

/// One sound over the agent.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Judged {
    pub(super) meaning: Meaning,
    /// What was said.
    pub(super) what: String,
    pub(super) length_ms: f64,
    /// The answer was not heard to its end.
    pub(super) stopped: bool,
    /// From the first sound of the caller to the first moment without the agent's voice.
    pub(super) quiet_after_ms: Option<f64>,
    /// From the moment it could be known to be an interruption to the last of the answer that was heard.
    pub(super) silent_after_ms: f64,
    /// How long the agent was held up in all.
    pub(super) held_up_ms: f64,
    /// How much of the answer was lost or heard twice.
    pub(super) slip_ms: f64,
}

/// Sound of one answer at the caller's ear.
struct Heard {
    from_ms: f64,
    to_ms: f64,
}

/// Judges all exchanges of one call. An error says why that cannot be done.
pub(super) fn judge(
    exchanges: &[Exchange],
    call: &CallReport,
    session: &SessionReport,
    long_answers: &[&str],
) -> Result<Vec<Judged>, String> {
    let complaints = [&call.violations, &call.missed, &session.violations];
    if let Some(complaint) = complaints.into_iter().flatten().next() {
        return Err(complaint.clone());
    }
    let [stream] = &call.streams[..] else { return Err(format!("{} media streams", call.streams.len())) };
    let is_long = |response: &str| {
        let first = session.items.iter().find(|item| item.response.as_deref() == Some(response));
        // One that was cancelled may be incomplete.
        let known = |text: &str| !text.is_empty() && long_answers.iter().any(|long| long.starts_with(text));
        first.is_some_and(|item| known(&item.text))
    };
    let answers: Vec<_> = session.responses.iter().filter(|response| is_long(&response.id)).collect();
    if answers.len() != exchanges.len() || call.utterances.len() != 2 * exchanges.len() {
        let (answers, said) = (answers.len(), call.utterances.len());
        return Err(format!("{answers} long answers to {} questions, {said} utterances", exchanges.len()));
    }
    let said = call.utterances.iter().skip(1).step_by(2);
    exchanges
        .iter()
        .zip(answers)
        .zip(said)
        .map(|((exchange, answer), said)| {
            if !said.over_agent {
                return Err(format!("{} came when the agent was silent", said.what));
            }
            let items: BTreeSet<&str> = session
                .items
                .iter()
                .filter(|item| item.response.as_deref() == Some(answer.id.as_str()))
                .map(|item| item.id.as_str())
                .collect();
            let truncated = session
                .items
                .iter()
                .any(|item| items.contains(item.id.as_str()) && item.truncated_ms.is_some());
            let heard = heard(stream, &items);
            let taken_back = truncated || answer.status != "completed";
            Ok(judge_one(exchange, said, &heard, taken_back, answer.generated_ms))
        })
        .collect()
}

fn judge_one(
    exchange: &Exchange,
    said: &UtteranceReport,
    heard: &[Heard],
    taken_back: bool,
    generated_ms: f64,
) -> Judged {
    let heard_ms: f64 = heard.iter().map(|stretch| stretch.to_ms - stretch.from_ms).sum();
    let after = |stretch: &&Heard| stretch.to_ms > said.from_ms;
    let last = heard.iter().rfind(after).map_or(said.from_ms, |stretch| stretch.to_ms);
    let by_words = said.to_ms + WORDS_AFTER_MS;
    let possible = exchange.long_after_ms.map_or(by_words, |long| by_words.min(said.from_ms + long as f64));
    let gaps = heard.windows(2).filter(|pair| pair[1].from_ms > said.from_ms);
    Judged {
        meaning: exchange.meaning,
        what: said.what.clone(),
        length_ms: said.to_ms - said.from_ms,
        stopped: taken_back || heard_ms < generated_ms - HEARD_OUT_MS,
        quiet_after_ms: heard.iter().find(after).map(|stretch| stretch.to_ms - said.from_ms),
        silent_after_ms: (last - possible).max(0.0),
        held_up_ms: gaps.map(|pair| pair[1].from_ms - pair[0].to_ms).sum(),
        slip_ms: (heard_ms - generated_ms).abs(),
    }
}

/// When the ear had these items. Marks say which item a stretch of sound belongs to.
fn heard(stream: &StreamReport, items: &BTreeSet<&str>) -> Vec<Heard> {
    let belongs = |from_byte: u64| {
        let mark =
            stream.marks.iter().find(|mark| mark.at_byte > from_byte && !mark.name.contains(":probe:"));
        mark.and_then(|mark| mark.name.split(':').nth(1)).is_some_and(|item| items.contains(item))
    };
    let stretches =
        stream.stretches.iter().filter(|stretch| stretch.heard_bytes > 0 && belongs(stretch.from_byte));
    stretches
        .map(|stretch| Heard {
            from_ms: stretch.since_ms,
            to_ms: stretch.since_ms + stretch.heard_bytes as f64 / 8.0,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::scenario::Utterance;

    fn utterance(from_ms: f64, to_ms: f64) -> UtteranceReport {
        let (answered_ms, latency_ms) = (None, None);
        UtteranceReport { what: "x".into(), from_ms, to_ms, answered_ms, latency_ms, over_agent: true }
    }

    fn judged(long_after_ms: Option<u64>, heard: &[(f64, f64)], taken_back: bool) -> Judged {
        let utterance_said = Utterance::Phrase("x".into());
        let exchange =
            Exchange { meaning: Meaning::Stop, utterance: utterance_said, heard_ms: 0, long_after_ms };
        let heard: Vec<_> = heard.iter().map(|&(from_ms, to_ms)| Heard { from_ms, to_ms }).collect();
        judge_one(&exchange, &utterance(2_000.0, 3_500.0), &heard, taken_back, 5_000.0)
    }

    #[test]
    fn an_answer_that_goes_on_after_a_pause_was_not_stopped() {
        let found = judged(None, &[(0.0, 2_150.0), (2_900.0, 5_760.0)], false);
        assert!(!found.stopped);
        assert_eq!((found.quiet_after_ms, found.held_up_ms, found.slip_ms), (Some(150.0), 750.0, 10.0));
    }

    #[test]
    fn an_answer_that_is_cut_off_was_stopped_whether_or_not_the_model_was_told() {
        assert!(judged(None, &[(0.0, 2_150.0)], false).stopped);
        assert!(judged(None, &[(0.0, 5_000.0)], true).stopped);
    }

    #[test]
    fn silence_is_timed_from_where_an_interruption_could_be_known() {
        assert!(judged(Some(900), &[(0.0, 2_150.0)], true).silent_after_ms.abs() < 0.1);
        let late = judged(Some(900), &[(0.0, 2_150.0), (2_900.0, 3_200.0)], true);
        assert!((late.silent_after_ms - 300.0).abs() < 0.1);
        // Its words come a second after its end.
        let brief = judged(None, &[(0.0, 2_150.0), (2_900.0, 4_700.0)], true);
        assert!((brief.silent_after_ms - 200.0).abs() < 0.1);
    }
}
