//! What happens when nothing happens, and what the caller does beside speaking.

use std::time::Duration;

use voicebridge::call::Input;
use voicebridge::wire::model::ModelEvent;

use crate::support::*;

/// Frames of a caller who says nothing, so that the stream is not taken for lost.
fn quiet_line(call: &mut TestCall, from_s: u64, to_s: u64) {
    for second in from_s..to_s {
        call.at(second * 1000, caller_frame(second * 1000));
    }
}

#[test]
fn nobody_speaks_so_the_agent_asks_twice_and_then_the_call_ends() {
    let mut call = TestCall::connected();
    quiet_line(&mut call, 1, 12);
    call.at(12_100, response_started("resp_1"));
    call.at(12_200, agent_audio("item_1", 1000));
    call.at(12_300, response_done("resp_1"));
    call.at(13_300, all_marks_played());
    quiet_line(&mut call, 14, 26);
    call.at(25_300, response_started("resp_2"));
    call.at(25_300, response_done("resp_2")); // It says nothing, once more.
    quiet_line(&mut call, 26, 60);
    assert_eq!(call.time_of("model respond nudge in its own words [resp-nudge-1]").as_millis(), 12_000);
    assert_eq!(call.time_of("model respond nudge in its own words [resp-nudge-2]").as_millis(), 25_200);
    assert_eq!(call.count("model respond nudge"), 2);
    assert_eq!(call.count("ended"), 1);
}

#[test]
fn silence_after_the_last_nudge_ends_the_call() {
    let mut call = TestCall::connected_with(|settings| settings.max_nudges = 0);
    quiet_line(&mut call, 1, 13);
    assert_eq!(call.time_of("ended silence").as_millis(), 12_000);
}

#[test]
fn a_caller_who_speaks_is_asked_anew() {
    let mut call = TestCall::connected_with(|settings| settings.max_nudges = 1);
    quiet_line(&mut call, 1, 13);
    call.at(13_000, response_started("resp_1"));
    call.at(13_000, agent_audio("item_1", 20));
    call.at(13_000, response_done("resp_1"));
    call.at(13_100, speech_starts("user_1", 13_000));
    call.at(13_500, speech_stops("user_1", 13_400));
    call.at(13_600, response_started("resp_2"));
    call.at(13_600, audio_of("resp_2", "item_2", 20));
    call.at(13_600, response_done("resp_2"));
    quiet_line(&mut call, 14, 27);
    assert_eq!(call.count("model respond nudge"), 2);
    assert!(!call.is_ended());
}

#[test]
fn what_happens_just_as_a_timer_is_due_is_seen_first() {
    let speech = ModelEvent::SpeechStarted { item: item("user_1"), audio_start_ms: 11_800 };
    let mut call = TestCall::connected();
    call.until(11_999);
    call.at_before_timeouts(12_003, Input::Model(speech)); // The nudge was due 3 ms ago.
    call.at(13_000, speech_stops("user_1", 12_500));
    call.at(13_100, response_started("resp_1"));
    call.at(13_100, agent_audio("item_1", 20));
    call.at(13_200, response_done("resp_1"));
    call.until(14_000);
    assert_eq!(call.count("model respond"), 0);

    let mut call = TestCall::answering();
    call.at_before_timeouts(15_004, Input::Model(text()));
    assert!(!call.is_ended(), "the response lives");
}

fn text() -> ModelEvent<'static> {
    ModelEvent::TextDelta { response: "resp_1", item: "item_1", text: "Well".into() }
}

#[test]
fn nobody_is_nudged_while_the_agent_still_plays_or_a_function_runs() {
    let mut call = TestCall::answering();
    call.at(0, agent_audio("item_1", 20_000));
    call.at(0, response_done("resp_1"));
    quiet_line(&mut call, 1, 32);
    assert_eq!(call.count("model respond nudge"), 0);
    quiet_line(&mut call, 32, 34);
    assert_eq!(call.time_of("model respond nudge").as_millis(), 32_000);
}

#[test]
fn a_call_lasts_no_longer_than_it_may() {
    let mut call = TestCall::connected_with(|settings| settings.max_duration = Duration::from_secs(5));
    call.run_out();
    assert_eq!(call.time_of("ended max_duration").as_millis(), 5_000);
}

#[test]
fn a_stream_without_any_message_is_lost() {
    let mut call = TestCall::answering();
    call.at(1_000, caller_frame(980));
    call.at(10_000, agent_text("item_1", "The model lives."));
    call.run_out();
    assert_eq!(call.time_of("ended stream_lost").as_millis(), 21_000);
}

#[test]
fn a_response_without_any_life_ends_the_session_and_then_the_call() {
    let mut call = TestCall::connected_with(|settings| settings.greeting = Some("Greet.".into()));
    quiet_line(&mut call, 1, 20);
    assert_eq!(call.time_of("open model").as_millis(), 15_000);
    call.at(20_000, model_ready());
    quiet_line(&mut call, 21, 36);
    assert_eq!(call.time_of("ended model_stalled").as_millis(), 35_000);
}

#[test]
fn an_interrupted_response_that_never_ends_is_let_go() {
    let mut call = TestCall::answering();
    call.at(1_000, agent_audio("item_1", 500));
    call.at(1_200, speech_started());
    quiet_line(&mut call, 2, 18);
    assert!(!call.is_ended(), "the caller is talking");
    call.at(18_000, speech_stops("user_9", 18_000));
    call.until(23_000);
    assert_eq!(call.count("model respond retry"), 1, "and is answered");
}

#[test]
fn a_turn_the_model_does_not_answer_is_asked_for() {
    let mut call = TestCall::connected();
    call.at(0, speech_started());
    call.at(1_000, speech_stops("user_9", 900));
    call.until(6_000);
    call.expect_after(0, "6.000s model respond retry [resp-retry-1]");
}

#[test]
fn keys_are_told_together_after_a_pause() {
    let mut call = TestCall::connected();
    call.at(0, key('4'));
    call.at(1_000, key('2'));
    call.until(3_000);
    call.expect_after(
        0,
        "
        2.500s model item keypad-1 (The caller pressed 42 on the keypad.)
        2.500s model respond keypad [resp-keypad-2]
    ",
    );
    assert_eq!(call.words(), ["user: (The caller pressed 42 on the keypad.)"]);
}

#[test]
fn the_hash_key_ends_the_entry_at_once() {
    let mut call = TestCall::connected();
    call.at(10, key('7'));
    call.at(20, key('#'));
    call.expect_after(
        0,
        "
        0.020s model item keypad-1 (The caller pressed 7# on the keypad.)
        0.020s model respond keypad [resp-keypad-2]
    ",
    );
}

#[test]
fn keys_pressed_before_the_model_is_ready_are_told_when_it_is_and_the_greeting_comes_first() {
    let mut settings = settings(voicebridge::audio::AudioFormat::Pcmu);
    settings.greeting = Some("Greet.".into());
    let mut call = TestCall::new(settings, ABLE);
    call.at(100, key('1'));
    call.at(120, key('#'));
    call.at(5_000, model_ready());
    call.at(5_100, response_started("resp_1"));
    call.at(5_100, agent_audio("item_1", 20));
    call.at(5_200, response_done("resp_1"));
    call.expect_after(
        0,
        "
        5.000s model item keypad-1 (The caller pressed 1# on the keypad.)
        5.000s model respond greeting in its own words [resp-greeting-2]
        5.100s twilio media 20ms
        5.200s model respond keypad [resp-keypad-3]
    ",
    );
}

#[test]
fn an_endless_entry_is_cut() {
    let mut call = TestCall::connected();
    for n in 0..100 {
        call.at(n * 10, key('5'));
    }
    call.until(5_000);
    assert_eq!(call.words(), [format!("user: (The caller pressed {} on the keypad.)", "5".repeat(32))]);
}

#[test]
fn a_gap_in_the_callers_audio_is_filled_with_silence() {
    let mut call = TestCall::connected();
    call.at(20, caller_frame(0));
    call.at(240, caller_frame(220));
    let mut expected = vec![0x55; 160];
    expected.extend(vec![0xFF; 1600]);
    expected.extend(vec![0x55; 160]);
    assert_eq!(call.appended, expected);
}

#[test]
fn a_line_that_stalls_while_the_caller_speaks_is_given_silence_so_that_the_turn_can_end() {
    let mut call = TestCall::connected();
    call.at(20, caller_frame(0));
    call.at(30, speech_started());
    call.until(769);
    assert_eq!(call.appended.len(), 160);
    call.until(770);
    assert_eq!(call.appended.len(), 160 + 8_000);
    call.until(30_000);
    assert!(call.appended.len() <= 160 + 80_000, "ten seconds and no more");
}

#[test]
fn a_line_that_stalls_while_nobody_speaks_is_left_alone() {
    let mut call = TestCall::connected();
    call.at(20, caller_frame(0));
    call.until(11_000);
    assert_eq!(call.appended.len(), 160);
}
