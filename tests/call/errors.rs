//! The model fails, or says that we did.

use voicebridge::call::Input;
use voicebridge::wire::model::{ErrorClass, ModelEvent, ResponseStatus};

use crate::support::*;

#[test]
fn a_rate_limited_response_is_asked_for_once_more_after_a_while() {
    let mut call = TestCall::answering();
    call.at(100, response_failed("resp_1", "rate_limit_exceeded", ErrorClass::RetryResponse));
    call.until(5_000);
    assert_eq!(call.count("model respond"), 1);
    let asked_ms = call.time_of("model respond retry [resp-retry-1]").as_millis();
    assert!((1_100..2_100).contains(&asked_ms), "{asked_ms}");
}

#[test]
fn trouble_of_the_provider_passes_sooner_than_a_rate_limit() {
    let mut call = TestCall::answering();
    call.at(100, response_failed("resp_1", "server_error", ErrorClass::RetryResponse));
    call.until(5_000);
    let asked_ms = call.time_of("model respond retry [resp-retry-1]").as_millis();
    assert!((250..400).contains(&asked_ms), "{asked_ms}");
}

#[test]
fn trouble_that_names_no_event_is_about_the_response_that_was_asked_for() {
    let mut call = TestCall::connected_with(|settings| settings.greeting = Some("Greet.".into()));
    call.at(100, error(ErrorClass::RetryResponse, None));
    call.until(3_000);
    assert_eq!(call.count("model respond retry in its own words"), 1);
}

#[test]
fn a_response_that_fails_again_is_asked_for_in_another_session_and_then_ends_the_call_with_an_apology() {
    let mut call = TestCall::answering();
    call.at(1_100, response_failed("resp_1", "server_error", ErrorClass::BadRequest));
    call.at(1_500, response_started("resp_2"));
    call.at(1_600, response_failed("resp_2", "server_error", ErrorClass::BadRequest));
    call.at(1_800, model_ready());
    call.at(1_900, response_started("resp_3"));
    call.at(3_000, response_failed("resp_3", "server_error", ErrorClass::BadRequest));
    call.at(3_500, response_started("resp_4"));
    call.at(3_600, response_failed("resp_4", "server_error", ErrorClass::BadRequest));
    let said = |start: &str| call.time_of(start).as_millis();
    assert!((1_250..1_400).contains(&said("model respond retry [resp-retry-1]")), "{}", call.log());
    assert_eq!((said("open model"), said("model respond retry [resp-retry-2]")), (1_600, 1_800));
    assert!((3_150..3_300).contains(&said("model respond retry [resp-retry-3]")), "{}", call.log());
    assert_eq!((said("end stream model_failed"), call.count("model respond")), (3_600, 3));
    assert!(!EndReason::ModelFailed.is_success());
}

#[test]
fn a_success_between_two_failures_forgives_the_first() {
    let mut call = TestCall::answering();
    call.at(100, response_failed("resp_1", "server_error", ErrorClass::BadRequest));
    call.at(500, response_started("resp_2"));
    call.at(500, audio_of("resp_2", "item_2", 100));
    call.at(500, response_done("resp_2"));
    call.at(600, response_started("resp_3"));
    call.at(700, response_failed("resp_3", "server_error", ErrorClass::BadRequest));
    call.until(2_000);
    assert_eq!(call.count("model respond retry"), 2);
    assert!(!call.is_ended());
}

#[test]
fn a_failed_greeting_is_retried_as_a_greeting() {
    let mut call = TestCall::connected_with(|settings| settings.greeting = Some("Greet.".into()));
    call.at(10, response_started("resp_1"));
    call.at(100, response_failed("resp_1", "server_error", ErrorClass::BadRequest));
    call.until(500);
    let asked_ms = call.time_of("model respond retry in its own words [resp-retry-2]").as_millis();
    assert!((250..400).contains(&asked_ms), "{asked_ms}");
}

#[test]
fn a_failure_of_a_response_the_caller_spoke_over_is_no_failure() {
    let mut call = TestCall::answering();
    call.at(10, speech_started());
    call.at(20, response_failed("resp_1", "server_error", ErrorClass::RetryResponse));
    call.at(30, speech_stops("user_9", 20));
    call.at(40, response_started("resp_2"));
    call.at(50, audio_of("resp_2", "item_2", 20));
    call.at(60, response_done("resp_2"));
    call.until(5_000);
    call.expect_after(0, "0.050s twilio media 20ms");
}

#[test]
fn an_account_without_money_ends_the_call() {
    let mut call = TestCall::answering();
    call.at(100, response_failed("resp_1", "insufficient_quota", ErrorClass::Fatal));
    assert_eq!(call.count("ended model_refused"), 1);
}

#[test]
fn an_empty_response_is_asked_for_once_more_and_then_left_to_the_silence() {
    let mut call = TestCall::answering();
    call.at(100, response_done("resp_1"));
    call.at(200, response_started("resp_2"));
    call.at(300, response_done("resp_2"));
    call.until(5_000);
    call.expect_after(0, "0.100s model respond retry [resp-retry-1]");
}

#[test]
fn an_empty_response_does_not_use_up_the_second_try_of_a_failed_one() {
    let failed = ResponseStatus::Failed {
        code: "server_error".into(),
        message: String::new(),
        class: ErrorClass::RetryResponse,
    };
    let mut call = TestCall::answering();
    call.at(100, response_done("resp_1"));
    call.at(200, response_started("resp_2"));
    call.at(300, done_with("resp_2", failed));
    call.until(5_000);
    assert_eq!(call.count("model respond retry"), 2);
    assert!(!call.is_ended());
}

#[test]
fn a_response_cut_short_by_its_length_counts_when_it_was_heard() {
    let cut = || ResponseStatus::Incomplete { reason: "max_output_tokens".into() };
    let mut call = TestCall::answering();
    call.at(10, agent_audio("item_1", 100));
    call.at(20, done_with("resp_1", cut()));
    call.until(5_000);
    assert_eq!(call.count("model respond"), 0);

    let mut call = TestCall::answering();
    call.at(20, done_with("resp_1", cut()));
    call.until(5_000);
    assert_eq!(call.count("model respond retry"), 1, "nothing was heard");
}

#[test]
fn a_request_refused_because_a_response_runs_is_sent_again_when_that_is_done() {
    let mut call = TestCall::connected();
    call.at(10, key('#'));
    call.at(20, error(ErrorClass::ResponseBusy, Some("resp-keypad-2")));
    call.until(5_000);
    assert_eq!(call.count("model respond"), 1, "not at once: it would be refused again");
    call.at(5_010, response_done("resp_1")); // Never announced.
    call.expect_after(10, "5.010s model respond keypad [resp-keypad-3]");
}

#[test]
fn a_request_that_crossed_the_models_own_response_is_sent_again_when_that_is_done() {
    let mut call = TestCall::connected();
    call.at(10, key('#'));
    call.at(15, response_started("resp_1")); // Taken for ours at first.
    call.at(20, error(ErrorClass::ResponseBusy, Some("resp-keypad-2")));
    call.at(30, agent_audio("item_1", 20));
    call.at(40, response_done("resp_1"));
    call.expect_after(
        10,
        "
        0.030s twilio media 20ms
        0.040s model respond keypad [resp-keypad-3]
    ",
    );
}

#[test]
fn a_refusal_about_something_else_asks_for_nothing() {
    let mut call = TestCall::answering();
    call.at(10, agent_audio("item_1", 20));
    call.at(20, error(ErrorClass::ResponseBusy, Some("resp-greeting-77")));
    call.at(30, response_done("resp_1"));
    call.until(2_000);
    assert_eq!(call.count("model respond"), 0);
}

#[test]
fn a_model_that_stays_busy_and_says_nothing_has_stalled_and_another_session_is_asked() {
    let mut call = TestCall::connected();
    call.at(10, key('#'));
    call.at(20, error(ErrorClass::ResponseBusy, Some("resp-keypad-2")));
    call.at(15_100, model_ready());
    assert_eq!(call.time_of("open model").as_millis(), 15_010);
    assert_eq!(call.time_of("model respond keypad [resp-keypad-4]").as_millis(), 15_100);
}

#[test]
fn a_request_refused_for_what_it_says_is_tried_once_more() {
    let mut call = TestCall::connected_with(|settings| settings.greeting = Some("Greet.".into()));
    call.at(10, error(ErrorClass::BadRequest, Some("resp-greeting-1")));
    call.until(400);
    assert_eq!(call.count("model respond retry in its own words [resp-retry-2]"), 1);
    call.at(1_400, error(ErrorClass::BadRequest, Some("resp-retry-2")));
    assert_eq!(call.count("open model"), 1, "another session is as good as it gets");
}

#[test]
fn errors_that_ask_for_nothing_change_nothing() {
    let mut call = TestCall::answering();
    for class in [ErrorClass::Benign, ErrorClass::BadRequest, ErrorClass::RetryResponse] {
        call.at(10, error(class, None));
        call.at(10, error(class, Some("nobody-1")));
    }
    call.expect_after(0, "");
}

#[test]
fn a_refused_key_is_a_model_that_refuses() {
    let mut call = TestCall::answering();
    call.at(10, error(ErrorClass::Fatal, None));
    assert_eq!(call.count("ended model_refused"), 1);
}

#[test]
fn a_response_that_is_done_twice_is_done_once() {
    let mut call = TestCall::answering();
    call.at(10, agent_audio("item_1", 20));
    call.at(20, response_done("resp_1"));
    call.at(30, response_done("resp_1"));
    call.at(40, response_started("resp_2"));
    call.at(50, audio_of("resp_2", "item_2", 20));
    call.at(60, response_done("resp_1")); // It does not take away what the second one did.
    call.at(70, response_done("resp_2"));
    call.until(5_000);
    assert_eq!(call.count("model respond"), 0);
}

#[test]
fn words_that_mean_nothing_to_us_change_nothing() {
    let mut call = TestCall::answering();
    call.at(10, model(ModelEvent::Ignored { kind: "rate_limits.updated".into() }));
    call.at(10, model(ModelEvent::SessionCreated { session_id: "s".into(), expires_at: None }));
    call.at(10, model(ModelEvent::Truncated { item: item("item_1"), audio_end_ms: 7 }));
    call.expect_after(0, "");
    call.at(20, Event::Plain(Input::UnreadableMessage));
    assert_eq!(call.count("note MessageIgnored"), 1);
}

#[test]
fn ten_frames_in_a_row_that_are_not_audio_end_the_stream() {
    let mut call = TestCall::connected();
    for _ in 0..9 {
        call.at(10, Event::Plain(Input::OversizeMessage));
    }
    call.at(10, caller_frame(0));
    for _ in 0..9 {
        call.at(20, bad_frame());
    }
    assert!(!call.is_ended());
    call.at(20, bad_frame());
    assert_eq!(call.count("ended stream_invalid"), 1);
    assert_eq!((call.count("note FrameTooLarge"), call.count("note FrameDropped")), (9, 10));
}

fn bad_frame() -> Event {
    use voicebridge::wire::twilio::{Inbound, Media};
    Event::Plain(Input::Twilio(Inbound::Media(Media { timestamp_ms: 0, payload: "not base64!" })))
}
