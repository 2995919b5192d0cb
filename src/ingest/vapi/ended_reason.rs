//! VAPI's word for why a call ended, as one of ours.

use crate::call::end::EndReason;

/// Words that begin or go on so, in the order they are looked for: what is more particular comes first.
// docs.vapi.ai, "Call ended reasons". There are hundreds, built from a stem and what or who was at fault.
const STEMS: [(&str, EndReason); 27] = [
    ("customer-ended-call", EndReason::CallerHungUp),
    ("customer-busy", EndReason::CarrierBusy),
    ("customer-did-not-answer", EndReason::CarrierNoAnswer),
    ("customer-did-not-give-microphone-permission", EndReason::CarrierFailed),
    ("assistant-ended-call", EndReason::AgentEnded),
    ("assistant-said-", EndReason::AgentEnded),
    ("assistant-forwarded-call", EndReason::Transferred),
    ("hook-executed-transfer", EndReason::Transferred),
    ("exceeded-max-duration", EndReason::MaxDuration),
    ("silence-timed-out", EndReason::Silence),
    ("manually-canceled", EndReason::Operator),
    ("sip-480", EndReason::CarrierNoAnswer),
    ("temporarily-unavailable", EndReason::CarrierNoAnswer),
    ("sip-486", EndReason::CarrierBusy),
    ("failed-to-connect-call", EndReason::CarrierFailed),
    ("vonage-rejected", EndReason::CarrierFailed),
    ("vonage-disconnected", EndReason::CallerHungUp),
    ("vonage-completed", EndReason::CallerHungUp),
    ("sip-", EndReason::CarrierFailed),
    ("call.start.error", EndReason::ModelUnavailable),
    ("assistant-not-", EndReason::ModelUnavailable),
    ("assistant-request-", EndReason::ModelUnavailable),
    ("assistant-join-timed-out", EndReason::ModelUnavailable),
    ("transport-never-connected", EndReason::StreamLost),
    ("closed-websocket", EndReason::StreamLost),
    ("worker-", EndReason::StreamLost),
    ("llm", EndReason::ModelFailed),
];

/// `None`: a word that we do not know. Such a call is over, and nothing is said of why.
pub(super) fn read(word: &str) -> Option<EndReason> {
    // The machine's greeting may also be what a failed transfer is about; alone it is the reason.
    if word == "voicemail" {
        return Some(EndReason::Voicemail);
    }
    let stem = STEMS.iter().find(|(stem, _)| word.contains(stem)).map(|(_, reason)| *reason);
    let is_failure = || ["error", "fault", "failed"].iter().any(|part| word.contains(part));
    stem.or_else(|| is_failure().then_some(EndReason::ModelFailed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_of_vapi_is_a_reason_of_ours_or_none() {
        for (word, reason) in [
            ("customer-ended-call", Some(EndReason::CallerHungUp)),
            ("assistant-ended-call-after-message-spoken", Some(EndReason::AgentEnded)),
            ("assistant-said-end-call-phrase", Some(EndReason::AgentEnded)),
            ("assistant-forwarded-call", Some(EndReason::Transferred)),
            ("exceeded-max-duration", Some(EndReason::MaxDuration)),
            ("silence-timed-out", Some(EndReason::Silence)),
            ("voicemail", Some(EndReason::Voicemail)),
            ("customer-busy", Some(EndReason::CarrierBusy)),
            ("customer-did-not-answer", Some(EndReason::CarrierNoAnswer)),
            ("twilio-failed-to-connect-call", Some(EndReason::CarrierFailed)),
            (
                "call.in-progress.error-sip-telephony-provider-failed-to-connect-call",
                Some(EndReason::CarrierFailed),
            ),
            ("assistant-not-found", Some(EndReason::ModelUnavailable)),
            ("call.start.error-get-assistant", Some(EndReason::ModelUnavailable)),
            ("call.in-progress.error-providerfault-transport-never-connected", Some(EndReason::StreamLost)),
            ("phone-call-provider-closed-websocket", Some(EndReason::StreamLost)),
            ("pipeline-error-openai-llm-failed", Some(EndReason::ModelFailed)),
            ("call.in-progress.error-vapifault-deepgram-voice-failed", Some(EndReason::ModelFailed)),
            ("assistant-error", Some(EndReason::ModelFailed)),
            ("something-new", None),
            ("", None),
        ] {
            assert_eq!(read(word), reason, "{word}");
        }
    }
}
