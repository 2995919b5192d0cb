//! Whole stretches of a call, line by line, as in `tests/golden`.

use voicebridge::wire::model::{ErrorClass, ItemKind};

use crate::support::*;

/// A connected call whose caller has been heard; the agent greets.
fn greeting() -> TestCall {
    let mut call = TestCall::connected_with(|settings| settings.greeting = Some("Greet.".into()));
    call.at(250, sound_of_caller(0, 250));
    call
}

/// What the caller's side sends in that time, in one message.
fn sound_of_caller(from: u64, to: u64) -> Event {
    Event::CallerAudio { timestamp_ms: from, ulaw: vec![0x55; (to - from) as usize * 8] }
}

/// The usual events of an answer: text ahead of sound, sound faster than it plays.
fn answer(call: &mut TestCall, at: u64, of: &str, id: &str, previous: Option<&str>, text: &str, ms: usize) {
    call.at(at, response_started(of));
    call.at(at, placed(id, ItemKind::Assistant, previous));
    call.at(at, Event::Text { response: of.into(), item: id.into(), text: text.into() });
    call.at(at + 1, audio_of(of, id, ms / 2));
    call.at(at + 2, audio_of(of, id, ms - ms / 2));
    call.at(at + 3, text_done(id, text));
    call.at(at + 4, placed(id, ItemKind::Assistant, previous));
}

/// The usual events of a caller's turn, without its text.
fn turn(call: &mut TestCall, from: u64, to: u64, id: &str, previous: Option<&str>) {
    call.at(from + 40, speech_starts(id, from));
    call.at(to, sound_of_caller(from, to));
    call.at(to + 500, speech_stops(id, to));
    call.at(to + 501, committed(id, previous));
    call.at(to + 502, placed(id, ItemKind::User, previous));
}

#[test]
fn an_inbound_call_with_greeting_and_goodbye() {
    let mut call = greeting();
    answer(&mut call, 300, "resp_1", "item_1", None, "Northgate Bakery, good morning!", 400);
    call.at(310, response_done("resp_1"));
    call.at(760, all_marks_played());
    call.at(1_000, sound_of_caller(250, 1_000));
    turn(&mut call, 1_000, 1_500, "user_1", Some("item_1"));
    answer(&mut call, 2_100, "resp_2", "item_2", Some("user_1"), "Goodbye!", 300);
    call.at(2_110, user_said("user_1", "No, thank you."));
    call.at(2_120, tool_call_of("resp_2", "call_1", GOODBYE, r#"{"reason":"done"}"#));
    call.at(2_130, response_done("resp_2"));
    call.at(2_460, all_marks_played());
    assert_golden("inbound_call", &call.log());
}

#[test]
fn a_barge_in_while_the_answer_is_being_generated() {
    let mut call = greeting();
    let text = "We are open from seven in the morning until six in the evening.";
    call.at(300, response_started("resp_1"));
    call.at(300, placed("item_1", ItemKind::Assistant, None));
    call.at(300, agent_text("item_1", text));
    call.at(310, agent_audio("item_1", 800));
    call.at(560, mark_played(1));
    call.at(750, sound_of_caller(250, 750));
    call.at(790, speech_starts("user_1", 700));
    call.at(795, agent_audio("item_1", 400));
    call.at(800, audio_done("item_1"));
    call.at(800, text_done("item_1", text));
    call.at(810, response_cancelled("resp_1"));
    call.at(830, all_marks_played()); // Flushed.
    call.at(1_400, sound_of_caller(750, 1_400));
    call.at(1_500, speech_stops("user_1", 1_000));
    call.at(1_501, committed("user_1", Some("item_1")));
    call.at(1_900, user_said("user_1", "And on Sunday?"));
    answer(&mut call, 1_950, "resp_2", "item_2", Some("user_1"), "Closed.", 200);
    call.at(1_960, response_done("resp_2"));
    call.at(2_200, all_marks_played());
    assert_golden("barge_in_while_generating", &call.log());
}

#[test]
fn a_barge_in_while_twilio_plays_a_finished_answer() {
    let mut call = greeting();
    answer(&mut call, 300, "resp_1", "item_1", None, "We are open from seven until six.", 2_000);
    call.at(310, response_done("resp_1"));
    call.at(560, mark_played(1));
    call.at(760, mark_played(2));
    call.at(1_000, sound_of_caller(250, 1_000));
    call.at(1_010, speech_starts("user_1", 900));
    call.at(1_060, all_marks_played()); // Flushed.
    call.at(1_700, sound_of_caller(1_000, 1_700));
    call.at(1_800, speech_stops("user_1", 1_300));
    call.at(1_801, committed("user_1", Some("item_1")));
    call.at(2_100, user_said("user_1", "Thanks."));
    assert_golden("barge_in_after_response_done", &call.log());
}

#[test]
fn a_question_that_needs_a_function() {
    let mut call = TestCall::connected();
    turn(&mut call, 0, 500, "user_1", None);
    call.at(1_100, response_started("resp_1"));
    call.at(1_200, tool_call_of("resp_1", "call_1", "look_up", r#"{"day":"Sunday"}"#));
    call.at(1_210, response_done("resp_1"));
    call.at(1_300, user_said("user_1", "Do you open on Sunday?"));
    call.at(1_500, tool_finished("call_1", r#"{"open":false}"#));
    answer(&mut call, 1_600, "resp_2", "item_2", Some("item_of_call_1"), "No.", 200);
    call.at(1_610, response_done("resp_2"));
    call.at(1_900, all_marks_played());
    assert_golden("tool_call", &call.log());
}

#[test]
fn a_hang_up_whose_last_words_come_late() {
    let mut call = TestCall::answering();
    call.at(0, placed("item_1", ItemKind::Assistant, None));
    call.at(0, agent_text("item_1", "One moment please, I will look."));
    call.at(0, agent_audio("item_1", 1_000));
    call.at(10, response_done("resp_1"));
    call.at(440, sound_of_caller(0, 440));
    call.at(450, speech_starts("user_1", 400));
    call.at(900, stop());
    call.at(950, committed("user_1", Some("item_1")));
    call.at(1_600, user_said("user_1", "Never mind."));
    assert_golden("hang_up_with_late_transcript", &call.log());
}

#[test]
fn an_entry_on_the_keypad() {
    let mut call = TestCall::connected();
    for (ms, digit) in [(1_000, '4'), (1_300, '2'), (1_600, '#')] {
        call.at(ms, key(digit));
    }
    answer(&mut call, 1_900, "resp_1", "item_1", Some("keypad-1"), "Forty-two.", 200);
    call.at(1_950, response_done("resp_1"));
    call.at(2_200, all_marks_played());
    assert_golden("keypad", &call.log());
}

#[test]
fn nobody_there() {
    let mut call = TestCall::connected();
    for second in 1..60 {
        call.at(second * 1_000, sound_of_caller(second * 1_000 - 1_000, second * 1_000));
        for (due, of, id, previous) in
            [(12, "resp_1", "item_1", None), (25, "resp_2", "item_2", Some("item_1"))]
        {
            if second == due {
                answer(&mut call, second * 1_000 + 400, of, id, previous, "Are you there?", 200);
                call.at(second * 1_000 + 410, response_done(of));
                call.at(second * 1_000 + 700, all_marks_played());
            }
        }
    }
    assert_golden("dead_air", &call.select(|line| !line.text.starts_with("model append")));
}

#[test]
fn a_response_that_fails_for_good() {
    let mut call = TestCall::connected();
    turn(&mut call, 0, 500, "user_1", None);
    call.at(1_100, response_started("resp_1"));
    call.at(1_150, response_failed("resp_1", "rate_limit_exceeded", ErrorClass::RetryResponse));
    call.at(1_300, user_said("user_1", "Hello?"));
    call.at(3_200, response_started("resp_2"));
    call.at(3_250, response_failed("resp_2", "rate_limit_exceeded", ErrorClass::RetryResponse));
    call.at(3_500, model_ready());
    call.at(3_600, response_started("resp_3"));
    call.at(3_700, response_failed("resp_3", "server_error", ErrorClass::RetryResponse));
    call.at(4_100, response_started("resp_4"));
    call.at(4_200, response_failed("resp_4", "server_error", ErrorClass::RetryResponse));
    assert_golden("response_failed", &call.log());
}
