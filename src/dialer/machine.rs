//! A machine has answered one of our calls.

use jiff::Timestamp;

use crate::clients::twilio::{RestError, Twilio, Update, short_document};
use crate::ids::CallSid;
use crate::lifecycle::{self, CallEvent, CallRef};
use crate::outreach::retry::VoicemailPolicy;
use crate::store::Store;
use crate::store::dialing::attempts::Attempt;
use crate::wire::twiml::say_and_hang_up;

/// Who has answered, as far as it changes anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answerer {
    /// A person, or nobody knows: then it is taken for a person, who would be cut off otherwise.
    Person,
    /// A machine that is still speaking.
    MachineSpeaking,
    /// A machine that listens now.
    MachineListening,
    /// Nothing that can be spoken to.
    Fax,
}

impl Answerer {
    /// Reads the carrier's word.
    // Twilio dossier, 3.4.
    #[must_use]
    pub fn from_word(word: &str) -> Self {
        match word {
            "fax" => Self::Fax,
            "machine_start" => Self::MachineSpeaking,
            word if word.starts_with("machine_end") => Self::MachineListening,
            _ => Self::Person,
        }
    }
}

/// What is done with a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It goes on.
    GoOn,
    /// It is ended.
    HangUp,
    /// This document is followed instead: it says something and ends the call.
    Say(String),
}

/// What the policy of a try says to whoever has answered.
#[must_use]
pub fn answer(attempt: &Attempt, answerer: Answerer) -> Answer {
    match (answerer, attempt.voicemail, &attempt.voicemail_message) {
        // Of a machine that is still speaking the verdict comes again when it listens.
        (Answerer::Person, ..) | (Answerer::MachineSpeaking, VoicemailPolicy::LeaveMessage, Some(_)) => {
            Answer::GoOn
        }
        (Answerer::MachineListening, VoicemailPolicy::LeaveMessage, Some(message)) => {
            Answer::Say(short_document(message, say_and_hang_up))
        }
        (Answerer::Fax | Answerer::MachineSpeaking | Answerer::MachineListening, ..) => Answer::HangUp,
    }
}

/// Puts it on record that a machine answered, before the call ends for that reason.
pub async fn note(
    store: &Store,
    attempt: &Attempt,
    call_sid: &CallSid,
    answered_by: &str,
    now: Timestamp,
) -> sqlx::Result<()> {
    let is_machine =
        matches!(Answerer::from_word(answered_by), Answerer::MachineSpeaking | Answerer::MachineListening);
    if is_machine {
        let call =
            CallRef { call_sid: call_sid.clone(), organization: attempt.organization, agent: attempt.agent };
        let detected = CallEvent::VoicemailDetected { answered_by: answered_by.to_owned() };
        lifecycle::record(store, &call, now, &detected).await?;
    }
    Ok(())
}

/// Has the carrier do it. A call that is over already needs nothing.
pub async fn act(carrier: &Twilio, call_sid: &CallSid, answer: &Answer) -> Result<(), RestError> {
    let update = match answer {
        Answer::GoOn => return Ok(()),
        Answer::HangUp => Update::HangUp,
        Answer::Say(document) => Update::Twiml(document),
    };
    match carrier.update(call_sid, update).await {
        Err(error) if error.is_call_over() => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{AgentId, OrganizationId};
    use uuid::Uuid;

    fn attempt(voicemail: VoicemailPolicy, message: Option<&str>) -> Attempt {
        Attempt {
            id: Uuid::nil(),
            queue: Uuid::nil(),
            organization: OrganizationId(Uuid::nil()),
            agent: AgentId(Uuid::nil()),
            interaction: None,
            from: "+14155550100".to_owned(),
            to: "+14155550123".to_owned(),
            requested_at: Timestamp::UNIX_EPOCH,
            call_sid: None,
            voicemail,
            voicemail_message: message.map(str::to_owned),
        }
    }

    #[test]
    fn a_machine_is_treated_as_the_policy_says_and_a_person_never_as_a_machine() {
        use VoicemailPolicy::{HangUp, LeaveMessage, Retry};
        let say = || Answer::Say(say_and_hang_up("Call us."));
        for (policy, word, expected) in [
            (HangUp, "human", Answer::GoOn),
            (HangUp, "unknown", Answer::GoOn),
            (HangUp, "", Answer::GoOn),
            (HangUp, "machine_start", Answer::HangUp),
            (Retry, "machine_start", Answer::HangUp),
            (Retry, "human", Answer::GoOn),
            (LeaveMessage, "machine_start", Answer::GoOn),
            (LeaveMessage, "machine_end_beep", say()),
            (LeaveMessage, "machine_end_silence", say()),
            (LeaveMessage, "machine_end_other", say()),
            (LeaveMessage, "fax", Answer::HangUp),
            (LeaveMessage, "human", Answer::GoOn),
        ] {
            let found = answer(&attempt(policy, Some("Call us.")), Answerer::from_word(word));
            assert_eq!(found, expected, "{policy:?} {word}");
        }
        let speechless = answer(&attempt(LeaveMessage, None), Answerer::MachineListening);
        assert_eq!(speechless, Answer::HangUp, "there is nothing to say");
    }
}
