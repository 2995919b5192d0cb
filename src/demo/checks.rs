//! What the demo claims, and whether it is true.

use super::PlacedCall;
use super::client::{Lead, Row};
use crate::simulate::caller::{EndedBy, StreamReport};
use crate::simulate::model::{ItemReport, ModelReport};
use crate::simulate::speech;
use crate::store::leases::AfterStream;

/// How far the cut may be from what the caller heard.
const CUT_TOLERANCE_MS: f64 = 20.0;

/// Everything that is known after the call, from all sides.
pub(super) struct Truth {
    pub(super) call: PlacedCall,
    pub(super) model: ModelReport,
    pub(super) rows: Vec<Row>,
    pub(super) lead: Lead,
    pub(super) after: Option<AfterStream>,
    pub(super) metrics: String,
}

/// One claim.
pub(super) struct Check {
    pub(super) claim: &'static str,
    pub(super) holds: bool,
    /// What was found instead.
    pub(super) found: String,
}

/// The conversation as it must stand in the transcript: who, and which recording.
const CONVERSATION: [(&str, &str); 9] = [
    ("assistant", "greeting"),
    ("user", "hours-question"),
    ("assistant", "hours-answer"),
    ("user", "sunday-question"),
    ("assistant", "sunday-answer"),
    ("user", "(The caller pressed 2 on the keypad.)"),
    ("assistant", "keypad-answer"),
    ("user", "goodbye"),
    ("assistant", "goodbye"),
];

pub(super) fn all(truth: &Truth) -> Vec<Check> {
    let check = |claim, holds, found: String| Check { claim, holds, found };
    let caller = &truth.call.caller;
    let said = truth.rows.iter().filter(|row| row.role != "tool");
    let said: Vec<(&str, &str)> = said.map(|row| (row.role.as_str(), whole(row))).collect();
    let expected: Vec<(&str, &str)> =
        CONVERSATION.iter().map(|(role, id)| (*role, words(role, id))).collect();
    let cut_error =
        truth.interrupted().and_then(|row| row.heard_until_ms).zip(truth.heard_of_interrupted_ms());
    let cut_error = cut_error.map(|(believed, heard)| (believed as f64 - heard).abs());
    let disconnect = truth.after.as_ref().and_then(|after| after.disconnect_reason.clone());
    let session = truth.model.sessions.first();
    vec![
        check(
            "every turn is in the transcript once, word for word, in the order it was spoken",
            said == expected,
            format!("{said:?}"),
        ),
        check(
            "turns were rows while the call was live",
            truth.call.rows_while_live + 2 >= truth.rows.len(),
            format!("{} of {} rows before the end", truth.call.rows_while_live, truth.rows.len()),
        ),
        check(
            "the interrupted turn holds what was heard, and all that was generated",
            truth.interrupted().is_some_and(is_cut),
            format!("{:?}", truth.interrupted()),
        ),
        check(
            "what the model was told the caller heard is what was played, within 20 ms",
            cut_error.is_some_and(|error| error <= CUT_TOLERANCE_MS),
            format!("off by {cut_error:?} ms"),
        ),
        check(
            "nothing of the interrupted answer was sent after it was cleared",
            truth.stream().is_some_and(nothing_after_clear),
            format!("{:?}", truth.stream().map(|stream| &stream.clears)),
        ),
        check(
            "the caller's lead is linked to this call",
            truth.lead.call_sid.as_deref() == Some(truth.call.call_sid.as_str()),
            format!("{:?} is linked to {:?}", truth.lead.name, truth.lead.call_sid),
        ),
        check(
            "the agent ended the call after its last word, and Twilio was told to hang up",
            disconnect.as_deref() == Some("agent_ended")
                && caller.ended_by == EndedBy::Twiml
                && said_goodbye(truth),
            format!("{disconnect:?}, {:?} after {:?}", caller.ended_by, caller.followed),
        ),
        check(
            "Twilio had nothing to complain about",
            caller.violations.is_empty() && caller.missed.is_empty(),
            format!("{:?} {:?}", caller.violations, caller.missed),
        ),
        check(
            "the model had nothing to complain about, in one session",
            truth.model.sessions.len() == 1 && session.is_some_and(|session| session.violations.is_empty()),
            format!(
                "{:?}",
                truth.model.sessions.iter().map(|session| &session.violations).collect::<Vec<_>>()
            ),
        ),
        check(
            "no frame of the caller was lost",
            session.is_some_and(|session| lost_ms(truth, session.received_audio_ms) < 100.0),
            format!(
                "{:.0} ms of the caller did not reach the model",
                lost_ms(truth, session.map_or(0.0, |session| session.received_audio_ms))
            ),
        ),
    ]
}

fn whole(row: &Row) -> &str {
    row.generated_content.as_deref().unwrap_or(&row.content)
}

/// The words of a recording; a text that is none stands for itself.
pub(super) fn words<'a>(role: &str, id: &'a str) -> &'a str {
    let phrase = if role == "user" { speech::caller_phrase(id, "") } else { speech::agent_phrase(id) };
    phrase.map_or(id, |phrase| phrase.text)
}

fn is_cut(row: &Row) -> bool {
    let all = row.generated_content.as_deref().unwrap_or_default();
    !row.content.is_empty() && row.content.len() < all.len() && all.starts_with(&row.content)
}

/// What arrived soon after a `clear` must belong to a newer generation: its mark says so.
fn nothing_after_clear(stream: &StreamReport) -> bool {
    stream.clears.len() == 1
        && stream.clears.iter().all(|clear| {
            clear.cleared_bytes > 0
                && clear
                    .followed_by
                    .iter()
                    .all(|audio| audio.mark.as_deref().is_none_or(|mark| !mark.starts_with("g0:")))
        })
}

fn said_goodbye(truth: &Truth) -> bool {
    truth.stream().is_some_and(|stream| stream.unheard_bytes == 0)
}

/// Caller audio that did not reach the model, of what was sent before the mark at the end of the goodbye: nobody listens to what
/// is said into the closing socket, however long it takes to close.
fn lost_ms(truth: &Truth, received_ms: f64) -> f64 {
    truth.stream().map_or(f64::INFINITY, |stream| stream.frames_before_last_event as f64 * 20.0 - received_ms)
}

impl Truth {
    pub(super) fn stream(&self) -> Option<&StreamReport> {
        self.call.caller.streams.first()
    }

    /// The turn that was spoken over.
    pub(super) fn interrupted(&self) -> Option<&Row> {
        self.rows.iter().find(|row| row.interrupted)
    }

    /// How much of the interrupted answer the caller's telephone had really played.
    pub(super) fn heard_of_interrupted_ms(&self) -> Option<f64> {
        let heard_ms = self.stream()?.clears.first()?.heard_bytes as f64 / 8.0;
        let spoken = |item: &&ItemReport| item.generated_ms.is_some();
        let before = self
            .model
            .sessions
            .first()?
            .items
            .iter()
            .filter(spoken)
            .take_while(|item| item.truncated_ms.is_none());
        Some(heard_ms - before.filter_map(|item| item.generated_ms).sum::<f64>())
    }

    /// Messages measured in this direction, and the bound in seconds below which this share of them stayed.
    pub(super) fn added_latency(&self, direction: &str, share: f64) -> Option<(u64, f64)> {
        let buckets: Vec<(f64, u64)> =
            self.metrics.lines().filter_map(|line| bucket(line, direction)).collect();
        let count = buckets.iter().map(|(_, count)| *count).max().filter(|count| *count > 0)?;
        let enough = (count as f64 * share).ceil() as u64;
        buckets
            .into_iter()
            .find(|(bound, below)| *below >= enough && bound.is_finite())
            .map(|(bound, _)| (count, bound))
    }
}

fn bucket(line: &str, direction: &str) -> Option<(f64, u64)> {
    let labels = line.strip_prefix("voicebridge_added_latency_seconds_bucket{")?;
    let (labels, count) = labels.split_once("} ")?;
    let label = |name: &str| {
        labels
            .split(',')
            .find_map(|label| label.split_once('=').filter(|(key, _)| *key == name))
            .map(|(_, value)| value.trim_matches('"'))
    };
    let bound = label("le")?.replace("+Inf", "inf").parse::<f64>().ok()?;
    (label("direction")? == direction).then_some((bound, count.split(' ').next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::bucket;

    #[test]
    fn a_bucket_of_the_added_latency_is_read_from_the_metrics() {
        let line = r#"voicebridge_added_latency_seconds_bucket{le="0.0005",direction="caller"} 42"#;
        assert_eq!(bucket(line, "caller"), Some((0.0005, 42)));
        assert_eq!(bucket(line, "agent"), None);
        assert_eq!(bucket(&line.replace("0.0005", "+Inf"), "caller"), Some((f64::INFINITY, 42)));
    }
}
