//! A session that breaks, stalls or fails before it has served speaks against its endpoint; nothing else does.

use std::time::Duration;

use voicebridge::audio::AudioFormat;
use voicebridge::call::Unavailable;
use voicebridge::call::settings::Settings;
use voicebridge::clock::CallTime;
use voicebridge::wire::model::ErrorClass;

use crate::support::*;

const LOST: &str = "session lost early";
const SERVED: &str = "session served";

/// A call in which nobody minds silence.
fn patient() -> TestCall {
    let patience = Duration::from_hours(1);
    TestCall::connected_with(|settings| {
        (settings.nudge_after, settings.stream_silence) = (patience, patience);
    })
}

fn answer(call: &mut TestCall, at: u64, response: &str) {
    call.at(at, response_started(response));
    call.at(at, audio_of(response, &format!("item_of_{response}"), 500));
    call.at(at, response_done(response));
}

#[test]
fn a_session_that_breaks_before_its_first_answer_is_complete_is_replaced_from_elsewhere() {
    let mut call = patient();
    call.at(100, response_started("resp_1"));
    call.at(150, agent_audio("item_1", 400));
    call.at(2_000, model_closed());
    assert_eq!((call.count(LOST), call.time_of("open model elsewhere").as_millis()), (1, 2_000));
    // There it breaks as soon, with a try that does not come about between.
    call.at(2_100, no_model(Unavailable::Failed));
    call.until(3_000);
    call.at(3_000, model_ready());
    call.at(3_200, error(ErrorClass::SessionOver, None));
    call.at(3_200, model_closed());
    call.until(4_000);
    assert_eq!((call.count(LOST), call.count("open model elsewhere")), (2, 3), "{}", call.log());
    // A session that has served makes it good.
    call.at(4_000, model_ready());
    answer(&mut call, 4_500, "resp_3");
    call.at(9_000, model_closed());
    assert_eq!((call.count(LOST), call.count(SERVED)), (2, 1));
    assert_eq!(call.lines.last().unwrap().text, "open model");
}

#[test]
fn fifty_sessions_that_have_served_and_break_after_minutes_speak_against_nobody() {
    for n in 0..50 {
        let mut call = patient();
        answer(&mut call, 1_000, "resp_1");
        call.at(2_000, all_marks_played());
        if n % 2 == 0 {
            call.at(60_000, response_started("resp_2"));
        }
        call.at(60_000 + 7_000 * (n % 2) + n, model_closed());
        assert_eq!((call.count(LOST), call.count(SERVED)), (0, 1));
        assert_eq!((call.count("open model"), call.count("open model elsewhere")), (1, 0));
    }
    // Nor does one that was asked for nothing in all this time.
    let mut unasked = patient();
    unasked.at(29_000, caller_frame(29_000));
    unasked.at(30_000, model_closed());
    assert_eq!((unasked.count(LOST), unasked.count("open model")), (0, 1));
}

#[test]
fn a_connection_that_falls_silent_at_once_is_lost_early() {
    let mut call = patient();
    call.deaf = true;
    call.until(3_000);
    assert_eq!((call.count(LOST), call.time_of("open model elsewhere").as_millis()), (1, 2_500));
}

#[test]
fn sessions_whose_first_answer_shows_no_life_are_lost_early_however_old_they_are() {
    let mut call = patient();
    call.at(100_000, response_started("resp_1"));
    call.until(115_000);
    assert_eq!((call.count(LOST), call.count("open model elsewhere")), (1, 1));
    call.at(115_100, model_ready());
    call.at(115_100, response_started("resp_2"));
    call.run_out();
    assert_eq!((call.count(LOST), call.count("ended model_stalled")), (2, 1), "the second one ends the call");
}

#[test]
fn a_session_whose_answers_fail_is_lost_early_unless_what_was_asked_is_to_blame() {
    let lost_by = |code: &str, class| {
        let mut call = patient();
        for (at, response) in [(1_000, "resp_1"), (5_000, "resp_2")] {
            call.at(at, response_started(response));
            call.at(at + 100, response_failed(response, code, class));
        }
        assert_eq!(call.count("open model"), 1, "another session is asked in any case");
        (call.count(LOST), call.count("open model elsewhere"))
    };
    assert_eq!(lost_by("server_error", ErrorClass::RetryResponse), (1, 1));
    assert_eq!(lost_by("rate_limit_exceeded", ErrorClass::RetryResponse), (1, 1));
    assert_eq!(lost_by("invalid_value", ErrorClass::BadRequest), (0, 0));

    let refused_by = |class| {
        let mut call = TestCall::connected_with(|settings| settings.greeting = Some("Greet.".into()));
        call.at(10, error(class, Some("resp-greeting-1")));
        call.at(5_000, error(class, Some("resp-retry-2")));
        (call.count("open model"), call.count(LOST))
    };
    assert_eq!(refused_by(ErrorClass::RetryResponse), (1, 1));
    assert_eq!(refused_by(ErrorClass::BadRequest), (1, 0));
}

#[test]
fn what_callers_and_we_ourselves_end_speaks_against_nobody() {
    let ends = [
        stop(),
        hang_up(EndReason::Drained),
        hang_up(EndReason::LeaseLost),
        error(ErrorClass::Fatal, None),
        response_failed("resp_1", "insufficient_quota", ErrorClass::Fatal),
        Event::Plain(voicebridge::call::Input::StreamClosed),
    ];
    for end in ends {
        let mut call = TestCall::answering();
        call.at(500, end.clone());
        call.at(600, model_closed());
        call.run_out();
        assert_eq!(call.count(LOST), 0, "{end:?}");
    }
}

#[test]
fn an_answer_that_the_caller_interrupted_has_served() {
    let mut call = patient();
    call.at(100, response_started("resp_1"));
    call.at(150, agent_audio("item_1", 400));
    call.at(300, speech_started());
    call.at(350, response_cancelled("resp_1"));
    call.at(2_000, model_closed());
    assert_eq!((call.count(SERVED), call.count(LOST)), (1, 0));

    let mut unheard = patient();
    unheard.at(100, response_started("resp_1"));
    unheard.at(300, speech_started());
    unheard.at(350, response_cancelled("resp_1"));
    unheard.at(2_000, model_closed());
    assert_eq!((unheard.count(SERVED), unheard.count(LOST)), (0, 1), "nothing of it had come");
}

#[test]
fn each_session_shows_it_once() {
    let mut call = patient();
    answer(&mut call, 1_000, "resp_1");
    answer(&mut call, 3_000, "resp_2");
    call.at(5_000, model_closed());
    call.at(5_100, model_closed());
    call.at(5_500, model_ready());
    answer(&mut call, 6_000, "resp_3");
    assert_eq!((call.count(SERVED), call.count(LOST)), (2, 0));

    let mut lost = patient();
    lost.at(500, error(ErrorClass::SessionOver, None));
    lost.at(500, model_closed());
    lost.at(501, model_closed());
    assert_eq!(lost.count(LOST), 1);
}

#[test]
fn a_session_that_stands_by_and_breaks_at_once_is_lost_early_and_one_that_breaks_later_is_not() {
    let left_after = |ms: u64| {
        let patience = Duration::from_hours(1);
        let settings =
            Settings { nudge_after: patience, stream_silence: patience, ..settings(AudioFormat::Pcmu) };
        let mut call = TestCall::new(settings, ABLE);
        call.at(0, model_ready_until(CallTime::from_millis(200_000)));
        call.at(149_000, speech_starts("user_1", 149_000));
        call.at(150_000, next_model_ready());
        call.at(150_000 + ms, next_model_gone());
        call.until(151_000 + ms);
        assert_eq!(call.count("open next model"), 2);
        let said = |start: &str| {
            let line = call.lines.iter().rfind(|line| line.text.starts_with(start)).unwrap();
            line.text.clone()
        };
        (said("leave next model"), said("open next model"))
    };
    assert_eq!(left_after(500), ("leave next model, lost early".into(), "open next model elsewhere".into()));
    assert_eq!(left_after(32_000), ("leave next model".into(), "open next model".into()));
}
