//! What is claimed of a call that was broken twice, and whether it is true.

use super::super::checks::{Check, words};
use super::super::client::{Lead, Row};
use super::streams;
use crate::ids::CallSid;
use crate::simulate::caller::{CallReport, EndedBy, StreamEnd};
use crate::simulate::model::{ModelReport, SessionReport};
use crate::store::leases::AfterStream;

/// The longest silence a caller may hear when the model's session is lost.
const WITHOUT_MODEL_MS: f64 = 1_000.0;
/// Until the agent speaks again after its server was killed.
const WITHOUT_SERVER_MS: f64 = 3_000.0;

/// Everything that is known after the call, from all sides.
pub(super) struct Truth {
    pub(super) call_sid: CallSid,
    pub(super) rows: Vec<Row>,
    pub(super) lead: Lead,
    pub(super) after: Option<AfterStream>,
    pub(super) caller: CallReport,
    pub(super) model: ModelReport,
}

pub(super) fn all(truth: &Truth) -> Vec<Check> {
    let check = |claim, holds, found: String| Check { claim, holds, found };
    let caller = &truth.caller;
    let said = truth.said();
    let hours = words("assistant", "hours-answer");
    let sessions = &truth.model.sessions;
    // The server that was asked for TwiML opened one in case the stream would come to it.
    let talks: Vec<_> = sessions.iter().filter(|session| !session.items.is_empty()).collect();
    let without_model = truth.without_model_ms();
    let without_server = truth.without_server_ms();
    let disconnect = truth.after.as_ref().and_then(|after| after.disconnect_reason.clone());
    vec![
        check(
            "the answer that the model's connection broke off was gone on with, word for word",
            truth.parts_of_hours().len() == 2 && truth.parts_of_hours().join(" ") == hours,
            format!("{:?}", truth.parts_of_hours()),
        ),
        check(
            "the caller heard at most a second of silence in the middle of it",
            without_model.is_some_and(|ms| ms <= WITHOUT_MODEL_MS),
            format!("{without_model:?} ms"),
        ),
        check(
            "the agent spoke again within three seconds after its server was killed",
            without_server.is_some_and(|ms| ms <= WITHOUT_SERVER_MS),
            format!("{without_server:?} ms, {}", streams(caller)),
        ),
        check(
            "it said so in one sentence and answered what had been asked",
            truth.came_back(),
            format!("{said:?}"),
        ),
        check(
            "nobody was greeted twice",
            said.iter().filter(|(_, text)| *text == words("assistant", "greeting")).count() == 1,
            format!("{said:?}"),
        ),
        check(
            "each session of the model was told all that was on record before it",
            talks.len() == 3 && talks[1..].iter().all(|session| truth.was_told(session)),
            format!("{:?}", sessions.iter().map(told).collect::<Vec<_>>()),
        ),
        check(
            "every question and answer is in the transcript once, in the order it was spoken",
            truth.is_complete(),
            format!("{said:?}"),
        ),
        check(
            "the caller's lead is linked to this call",
            truth.lead.call_sid.as_deref() == Some(truth.call_sid.as_str()),
            format!("{:?} is linked to {:?}", truth.lead.name, truth.lead.call_sid),
        ),
        check(
            "the agent ended the call after its last word, and Twilio was told to hang up",
            disconnect.as_deref() == Some("agent_ended") && caller.ended_by == EndedBy::Twiml,
            format!("{disconnect:?}, {:?} after {:?}", caller.ended_by, caller.followed),
        ),
        check(
            "neither Twilio nor the model had anything to complain about",
            caller.violations.is_empty() && sessions.iter().all(|session| session.violations.is_empty()),
            format!(
                "{:?} {:?}",
                caller.violations,
                sessions.iter().map(|session| &session.violations).collect::<Vec<_>>()
            ),
        ),
    ]
}

impl Truth {
    /// Who said what, functions left out.
    fn said(&self) -> Vec<(&str, &str)> {
        let said = self.rows.iter().filter(|row| row.role != "tool");
        said.map(|row| (row.role.as_str(), row.content.as_str())).collect()
    }

    /// The answer to the first question, by turns of the transcript.
    fn parts_of_hours(&self) -> Vec<&str> {
        let hours = self.said().into_iter().skip_while(|(role, _)| *role != "user").skip(1);
        hours.take_while(|(role, _)| *role == "assistant").map(|(_, text)| text).collect()
    }

    /// The longest silence between two stretches of sound in the answer that was broken into: the agent pauses nowhere
    /// else in it. None at all when the next session was there before the caller had heard all that had come.
    fn without_model_ms(&self) -> Option<f64> {
        let question = self.caller.utterances.first()?;
        let next = self.caller.utterances.get(1)?;
        let answer = self.caller.streams.first()?.stretches.iter();
        let answer: Vec<_> =
            answer.filter(|part| (question.to_ms..next.from_ms).contains(&part.since_ms)).collect();
        let end = |part: &crate::simulate::caller::Stretch| part.since_ms + part.heard_bytes as f64 / 8.0;
        let gaps = answer.windows(2).map(|pair| pair[1].since_ms - end(pair[0]));
        (!answer.is_empty()).then(|| gaps.fold(0.0, f64::max))
    }

    fn without_server_ms(&self) -> Option<f64> {
        let [lost, next] = &self.caller.streams[..] else { return None };
        (lost.ended_by == StreamEnd::Broken).then_some(next.first_audio_ms? - lost.ended_ms)
    }

    /// After the question that the killed server was answering.
    fn came_back(&self) -> bool {
        let after = self.said().into_iter().skip_while(|turn| *turn != question("address-question"));
        let answers: Vec<&str> =
            after.skip(1).take_while(|(role, _)| *role == "assistant").map(|(_, text)| text).collect();
        answers.ends_with(&[words("assistant", "line-broke"), words("assistant", "address-answer")])
    }

    /// What of the conversation had been put on record before the session began, as items of its own.
    fn was_told(&self, session: &SessionReport) -> bool {
        let first = session.items.iter().find(|item| !item.id.starts_with("seed-"));
        let own = first.and_then(|first| self.rows.iter().position(|row| row.item_id == first.id));
        let before: Vec<&str> =
            self.rows[..own.unwrap_or_default()].iter().map(|row| row.content.as_str()).collect();
        !before.is_empty() && told(session) == before
    }

    fn is_complete(&self) -> bool {
        let turns = [
            ("assistant", words("assistant", "greeting")),
            question("hours-question"),
            question("address-question"),
            ("assistant", words("assistant", "line-broke")),
            ("assistant", words("assistant", "address-answer")),
            question("goodbye"),
            ("assistant", words("assistant", "goodbye")),
        ];
        let said = self.said();
        let places: Vec<usize> =
            turns.iter().filter_map(|turn| said.iter().position(|said| said == turn)).collect();
        let once = turns.iter().all(|turn| said.iter().filter(|said| *said == turn).count() == 1);
        once && places.is_sorted() && self.rows.is_sorted_by(|one, next| one.sequence < next.sequence)
    }

    /// How long the caller had to wait each time.
    pub(super) fn show(&self) {
        println!("\nSilence:\n");
        if let Some(ms) = self.without_model_ms() {
            println!("  {ms:>6.0} ms  when the model's connection was cut");
        }
        if let Some(ms) = self.without_server_ms() {
            println!("  {ms:>6.0} ms  when the server was killed");
        }
    }
}

fn question(phrase: &'static str) -> (&'static str, &'static str) {
    ("user", words("user", phrase))
}

/// What a session was told of the conversation before it.
fn told(session: &SessionReport) -> Vec<&str> {
    session.items.iter().filter(|item| item.id.starts_with("seed-")).map(|item| item.text.as_str()).collect()
}
