//! Every call ends once, for one reason, and soon.

use voicebridge::audio::AudioFormat;
use voicebridge::call::Input;
use voicebridge::call::settings::Settings;

use crate::support::*;

/// A caller in mid-sentence, whose words are still to come.
fn speaking() -> TestCall {
    let mut call = TestCall::connected();
    call.at(0, speech_starts("user_1", 0));
    call
}

#[test]
fn the_last_words_of_a_caller_who_hung_up_are_waited_for() {
    let mut call = speaking();
    call.at(500, stop());
    call.at(600, committed("user_1", None));
    call.at(1_500, user_said("user_1", "And goodbye."));
    call.expect_after(
        0,
        "
        0.500s end stream caller_hung_up
        0.500s model commit [commit-1]
        1.500s ended caller_hung_up
    ",
    );
    assert_eq!(call.words(), ["user: And goodbye."]);
}

#[test]
fn last_words_that_never_come_are_waited_for_only_so_long() {
    let mut call = speaking();
    call.at(500, stop());
    call.run_out();
    assert_eq!(call.time_of("ended caller_hung_up").as_millis(), 3_500);
    call.expect_saved(r#"1r1 user "" not transcribed"#);
}

#[test]
fn a_last_turn_too_short_to_be_one_is_forgotten() {
    let mut call = speaking();
    call.at(500, stop());
    call.at(600, error(voicebridge::wire::model::ErrorClass::Benign, Some("commit-1")));
    assert_eq!(call.time_of("ended").as_millis(), 600);
    call.expect_saved("");
}

#[test]
fn what_came_after_a_forgotten_turn_keeps_its_place() {
    let mut call = TestCall::connected();
    call.at(0, committed("user_1", None));
    call.at(0, user_said("user_1", "One."));
    call.at(10, speech_starts("user_2", 0));
    call.at(20, key('#'));
    call.at(30, stop());
    call.at(40, error(voicebridge::wire::model::ErrorClass::Benign, Some("commit-2")));
    call.run_out();
    assert_eq!(call.words(), ["user: One.", "user: (The caller pressed # on the keypad.)"]);
    assert_eq!(call.conversation()[1].sequence, 2);
}

#[test]
fn a_call_without_open_texts_ends_at_once() {
    let mut call = TestCall::connected();
    call.at(500, stop());
    call.expect_after(
        0,
        "
        0.500s end stream caller_hung_up
        0.500s ended caller_hung_up
    ",
    );
}

#[test]
fn the_first_reason_counts() {
    let mut call = speaking();
    call.at(500, hang_up(EndReason::Operator));
    call.at(510, stop());
    call.at(520, hang_up(EndReason::Drained));
    call.at(530, Event::Plain(Input::StreamClosed));
    call.run_out();
    assert_eq!((call.count("end stream operator"), call.count("ended operator")), (1, 1));
    assert_eq!((call.count("end stream"), call.count("ended")), (1, 1));
}

#[test]
fn what_was_playing_when_the_call_ended_is_recorded_as_far_as_it_was_heard() {
    let mut call = TestCall::answering();
    call.at(0, agent_text("item_1", "We open at seven in the morning."));
    call.at(0, agent_audio("item_1", 2_000));
    call.at(0, response_done("resp_1"));
    call.at(1_010, stop());
    call.expect_saved(
        r#"1r1 assistant "We open at seven" of "We open at seven in the morning." heard 1010ms by clock interrupted"#,
    );
    assert_eq!(call.count("twilio clear") + call.count("model truncate"), 0, "there is nobody to tell");
}

#[test]
fn a_stream_that_breaks_is_lost() {
    let mut call = TestCall::connected();
    call.at(10, Event::Plain(Input::StreamClosed));
    assert_eq!(call.count("ended stream_lost"), 1);
}

#[test]
fn a_model_that_goes_while_the_last_words_are_awaited_ends_the_wait() {
    let mut call = speaking();
    call.at(500, stop());
    call.at(700, model_closed());
    assert_eq!(call.time_of("ended caller_hung_up").as_millis(), 700);
}

#[test]
fn nothing_is_played_after_the_stream_whatever_the_model_still_says() {
    for format in [AudioFormat::Pcmu, AudioFormat::Pcm24k] {
        let mut call = TestCall::new(settings(format), ABLE);
        call.at(0, model_ready());
        call.at(0, response_started("resp_1"));
        call.at(0, agent_audio("item_1", 333));
        call.at(10, speech_starts("user_1", 0));
        call.at(11, speech_stops("user_1", 5)); // Its text keeps the call alive.
        call.at(12, response_started("resp_2"));
        call.at(12, audio_of("resp_2", "item_2", 333));
        call.at(20, stop());
        call.at(30, audio_of("resp_2", "item_2", 100));
        call.at(40, audio_done("item_2"));
        call.at(50, tool_call_of("resp_2", "call_1", "book", "{}"));
        call.at(60, response_done("resp_2"));
        call.at(70, key('1'));
        call.at(80, caller_frame(0));
        call.at(90, speech_starts("user_2", 10));
        call.run_out(); // The rules watch.
        assert_eq!(call.count("ended caller_hung_up"), 1);
    }
}

#[test]
fn nothing_comes_after_the_end() {
    let mut call = TestCall::connected();
    call.at(10, stop());
    let lines = call.lines.len();
    for event in
        [stop(), key('1'), user_said("user_1", "Hello?"), hang_up(EndReason::Operator), caller_frame(0)]
    {
        call.at(20, event);
    }
    call.at(30, model_ready());
    call.until(100_000);
    assert_eq!(call.lines.len(), lines);
}

#[test]
fn a_caller_who_hangs_up_before_the_model_is_ready_leaves_nothing_behind() {
    let mut call = TestCall::new(settings(AudioFormat::Pcmu), ABLE);
    call.at(10, caller_frame(0));
    call.at(20, stop());
    call.at(30, model_ready());
    call.expect_after(
        0,
        "
        0.020s end stream caller_hung_up
        0.020s ended caller_hung_up
    ",
    );
}

#[test]
fn every_reason_from_outside_ends_the_call_within_the_linger() {
    for reason in EndReason::ALL {
        let mut call = speaking();
        call.at(500, hang_up(reason));
        call.run_out();
        assert_eq!(call.count(&format!("ended {reason}")), 1);
        let linger = Settings::new(session(AudioFormat::Pcmu)).linger;
        assert_eq!(call.time_of("ended").since(call.time_of("end stream")), linger);
    }
}
