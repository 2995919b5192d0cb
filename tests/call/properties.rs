//! Anything may happen, in any order. The [`crate::rules::Rules`] watch every output; here is what they watch it on.

use proptest::collection::vec;
use proptest::prelude::*;
use voicebridge::audio::AudioFormat;
use voicebridge::audio::resample::Downlink;
use voicebridge::call::operator::Wish;
use voicebridge::call::tools::Transfer;
use voicebridge::call::{Input, Unavailable};
use voicebridge::clock::CallTime;
use voicebridge::wire::model::{ErrorClass, ItemKind, ModelEvent, ResponseStatus, TurnTaking};

use crate::support::*;

fn format() -> impl Strategy<Value = AudioFormat> {
    prop_oneof![Just(AudioFormat::Pcmu), Just(AudioFormat::Pcm24k)]
}

/// Mostly close together, as on the wire; sometimes long apart, so that every timer gets its turn.
fn delay() -> impl Strategy<Value = u64> {
    prop_oneof![4 => Just(0), 6 => 0..60_u64, 4 => 0..500_u64, 1 => 0..9_000_u64, 1 => 0..30_000_u64]
}

fn turn_taking() -> impl Strategy<Value = TurnTaking> {
    prop_oneof![Just(TurnTaking::ByModel), Just(TurnTaking::ByUs)]
}

fn response_id() -> impl Strategy<Value = String> {
    (0..6).prop_map(|n| format!("resp_{n}"))
}

fn item_id() -> impl Strategy<Value = String> {
    (0..6).prop_map(|n| format!("item_{n}"))
}

fn user_id() -> impl Strategy<Value = String> {
    (0..4).prop_map(|n| format!("user_{n}"))
}

fn any_item() -> impl Strategy<Value = String> {
    prop_oneof![item_id(), user_id()]
}

fn class() -> impl Strategy<Value = ErrorClass> {
    prop_oneof![
        4 => Just(ErrorClass::Benign),
        8 => Just(ErrorClass::ResponseBusy),
        4 => Just(ErrorClass::RetryResponse),
        4 => Just(ErrorClass::BadRequest),
        1 => Just(ErrorClass::SessionOver),
        1 => Just(ErrorClass::Fatal),
    ]
}

fn status() -> impl Strategy<Value = ResponseStatus> {
    prop_oneof![
        6 => Just(ResponseStatus::Completed),
        3 => Just(ResponseStatus::Cancelled),
        1 => Just(ResponseStatus::Incomplete { reason: "max_output_tokens".into() }),
        1 => class().prop_map(|class| ResponseStatus::Failed {
            code: "x".into(),
            message: String::new(),
            class,
        }),
    ]
}

fn agent() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (response_id(), item_id(), 0..9_000_usize)
            .prop_map(|(of, id, bytes)| audio_bytes(&of, &id, vec![sound(&of, &id); bytes])),
        1 => (response_id(), item_id(), 9_000..200_000_usize)
            .prop_map(|(of, id, bytes)| audio_bytes(&of, &id, vec![sound(&of, &id); bytes])),
        2 => (response_id(), item_id(), "[a-zä ]{0,20}")
            .prop_map(|(response, item, text)| Event::Text { response, item, text }),
        2 => (item_id(), "[a-zä ]{0,40}").prop_map(|(id, text)| text_done(&id, &text)),
        2 => (response_id(), item_id()).prop_map(|(of, id)| model(ModelEvent::AudioDone {
            response: response(&of),
            item: item(&id),
        })),
        4 => response_id().prop_map(|id| response_started(&id)),
        4 => (response_id(), status()).prop_map(|(id, status)| done_with(&id, status)),
        2 => (response_id(), 0..5, prop_oneof!["look_up", "book", GOODBYE, HUMAN, "do_not_call_again", "launch"], "\\{\\}|[{x]")
            .prop_map(|(of, n, name, arguments)| tool_call_of(&of, &format!("call_{n}"), &name, &arguments)),
        2 => (0..5).prop_map(|n| tool_finished(&format!("call_{n}"), "done")),
        2 => (class(), prop_oneof![
            Just(None),
            Just(Some(String::new())),
            (prop_oneof!["greeting", "turn", "tool", "keypad", "nudge", "retry"], 1..12)
                .prop_map(|(purpose, n)| Some(format!("resp-{purpose}-{n}"))),
            (1..12).prop_map(|n| Some(format!("commit-{n}"))),
        ])
            .prop_map(|(class, about)| error(class, about.as_deref())),
    ]
}

fn caller() -> impl Strategy<Value = Event> {
    prop_oneof![
        5 => (user_id(), 0..20_000_u64).prop_map(|(id, ms)| speech_starts(&id, ms)),
        5 => (user_id(), 0..20_000_u64).prop_map(|(id, ms)| speech_stops(&id, ms)),
        2 => (any_item(), proptest::option::of(any_item()))
            .prop_map(|(id, previous)| committed(&id, previous.as_deref())),
        2 => (any_item(), proptest::option::of(any_item()))
            .prop_map(|(id, previous)| placed(&id, ItemKind::Assistant, previous.as_deref())),
        2 => (any_item(), prop_oneof!["[a-z ]{0,20}", Just("mm hm".to_owned())])
            .prop_map(|(id, text)| user_said(&id, &text)),
        1 => (user_id(), prop_oneof!["[a-z ]{0,9}", Just("yes ".to_owned())])
            .prop_map(|(id, text)| user_writes(&id, &text)),
        1 => any_item().prop_map(|id| model(ModelEvent::UserTranscriptFailed {
            item: item(&id),
            code: "x".into(),
        })),
        // A voice, something as quiet as an echo, nothing: from a frame to half a second of it.
        8 => (0..60_000_u64, 0..4_000_usize, prop_oneof![Just(0x55_u8), Just(0x65), Just(0xFF)])
            .prop_map(|(timestamp_ms, bytes, code)| Event::CallerAudio {
                timestamp_ms,
                ulaw: vec![code; bytes],
            }),
        1 => any::<u64>().prop_map(caller_frame),
        2 => prop_oneof![6 => Just('1'), 3 => Just('#'), 1 => Just('9')].prop_map(key),
        5 => Just(Event::AllMarks),
        3 => (0..40_usize).prop_map(mark_played),
    ]
}

fn wish() -> impl Strategy<Value = Wish> {
    let transfer = Transfer { to: None, reason: "x".into(), summary: String::new() };
    prop_oneof![
        1 => any::<bool>().prop_map(|now| Wish::HangUp { now }),
        1 => Just(Wish::Transfer(transfer)),
        4 => Just(Wish::Say("Hello.".into())),
        4 => Just(Wish::Inject("It rains.".into())),
    ]
}

fn rare() -> impl Strategy<Value = Event> {
    prop_oneof![
        2 => Just(model_ready()),
        2 => Just(model_closed()),
        1 => (1_000..60_000_u64).prop_map(|ms| model_ready_until(CallTime::from_millis(ms))),
        2 => (1_000..60_000_u64).prop_map(|ms| next_model_ready_until(CallTime::from_millis(ms))),
        1 => Just(next_model_gone()),
        1 => Just(next_model_alive()),
        1 => prop_oneof![
            Just(Unavailable::Failed),
            Just(Unavailable::Refused),
            Just(Unavailable::NotTried),
        ]
        .prop_map(no_model),
        1 => Just(Event::Plain(Input::StreamClosed)),
        2 => Just(Event::Plain(Input::OversizeMessage)),
        2 => Just(Event::Plain(Input::UnreadableMessage)),
        1 => Just(stop()),
        1 => Just(hang_up(EndReason::Drained)),
        2 => Just(Event::Plain(Input::Timeout)),
        3 => wish().prop_map(command),
    ]
}

fn events() -> impl Strategy<Value = Vec<(u64, Event)>> {
    vec((delay(), prop_oneof![12 => agent(), 10 => caller(), 1 => rare()]), 0..90)
}

/// Plays the list, hangs up, and waits for the end.
fn play(
    format: AudioFormat,
    turn_taking: TurnTaking,
    ready: bool,
    greets: bool,
    events: &[(u64, Event)],
) -> TestCall {
    let mut settings = settings(format);
    settings.session.turn_taking = turn_taking;
    settings.greeting = greets.then(|| "Greet.".into());
    (settings.can_opt_out, settings.opt_out_digit) = (true, Some('9'));
    let mut call = TestCall::new(settings, ABLE);
    let mut now = 0;
    if ready {
        call.at(0, model_ready());
    }
    for (delay, event) in events {
        now += delay;
        call.at(now, event.clone());
    }
    call.at(now, hang_up(EndReason::Operator));
    call.run_out();
    call
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_rules_hold_and_the_call_ends(
        format in format(), turn_taking in turn_taking(), ready in prop::bool::weighted(0.95), greets: bool,
        events in events(),
    ) {
        let call = play(format, turn_taking, ready, greets, &events);
        prop_assert_eq!(call.count("ended "), 1);
        prop_assert!(call.lines.last().unwrap().text.starts_with("ended "));
        let conversation = call.conversation();
        let mut numbers: Vec<u32> = conversation.iter().map(|entry| entry.sequence).collect();
        numbers.dedup();
        prop_assert_eq!(numbers.len(), conversation.len(), "two turns in one place");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_same_inputs_have_the_same_outputs(
        format in format(), turn_taking in turn_taking(), events in events(),
    ) {
        let play = || play(format, turn_taking, true, true, &events);
        let (one, two) = (play(), play());
        prop_assert_eq!(one.lines, two.lines);
        prop_assert_eq!(one.media, two.media);
    }

    #[test]
    fn an_uninterrupted_agent_is_passed_on_byte_for_byte(
        format in format(),
        items in vec(vec((0..300_u64, 0..5_000_usize), 1..8), 1..5),
    ) {
        let mut call = TestCall::new(settings(format), ABLE);
        call.at(0, model_ready());
        call.at(0, response_started("resp_1"));
        let (mut now, mut expected) = (0, Vec::new());
        for (n, deltas) in items.iter().enumerate() {
            let mut whole = Downlink::new(format);
            for (delay, bytes) in deltas {
                now += delay;
                let audio: Vec<u8> = (0..*bytes).map(|i| (i * 13 / 5 + n) as u8).collect();
                whole.push(&audio, &mut expected);
                call.at(now, audio_bytes("resp_1", &format!("item_{n}"), audio));
            }
            whole.finish(&mut expected);
        }
        call.at(now, response_done("resp_1"));
        call.until(now + 60_000);
        prop_assert_eq!(&call.media, &expected);
    }

    #[test]
    fn the_order_of_the_transcript_is_the_conversations_and_not_that_of_arrival(
        order in Just((0..9_usize).collect::<Vec<_>>()).prop_shuffle(),
        texts in Just((0..9_usize).collect::<Vec<_>>()).prop_shuffle(),
        texts_first: bool,
    ) {
        let id = |n: usize| format!("user_{n}");
        let mut call = TestCall::connected();
        let place: Vec<Event> = order
            .iter()
            .map(|n| placed(&id(*n), ItemKind::User, n.checked_sub(1).map(id).as_deref()))
            .collect();
        let say: Vec<Event> = texts.iter().map(|n| user_said(&id(*n), &id(*n))).collect();
        let events = if texts_first { [say, place] } else { [place, say] };
        for (at, event) in events.concat().into_iter().enumerate() {
            call.at(at as u64, event);
        }
        let expected: Vec<String> = (0..9).map(|n| format!("user: {}", id(n))).collect();
        prop_assert_eq!(call.words(), expected);
        let numbers: Vec<u32> = call.conversation().iter().map(|entry| entry.sequence).collect();
        prop_assert_eq!(numbers, (1..=9).collect::<Vec<_>>());
    }
}
