//! A session of the model is lost in the middle of a call, and the call goes on with another one.

use std::time::Duration;

use voicebridge::audio::AudioFormat;
use voicebridge::call::Unavailable;
use voicebridge::call::settings::Settings;
use voicebridge::wire::model::{ErrorClass, ItemKind};

use crate::support::*;

/// A call with one question and one answer, heard to its end.
fn after_one_answer() -> TestCall {
    let mut call = TestCall::connected();
    question(&mut call);
    call.at(1_100, response_started("resp_1"));
    call.at(1_100, agent_text("item_1", "At seven."));
    call.at(1_100, text_done("item_1", "At seven."));
    call.at(1_100, agent_audio("item_1", 800));
    call.at(1_100, audio_done("item_1"));
    call.at(1_100, response_done("resp_1"));
    call.at(2_000, all_marks_played());
    call
}

fn question(call: &mut TestCall) {
    call.at(0, speech_starts("user_1", 0));
    call.at(900, speech_stops("user_1", 900));
    call.at(900, committed("user_1", None));
    call.at(1_000, user_said("user_1", "When do you open?"));
}

#[test]
fn another_session_is_told_what_was_said_and_given_what_the_caller_said_meanwhile() {
    let mut call = after_one_answer();
    call.at(2_500, model_closed());
    let appended = call.appended.len();
    for frame in 0..10 {
        call.at(2_500 + 20 * frame, caller_frame(2_500 + 20 * frame));
    }
    assert_eq!(call.appended.len(), appended, "there is nobody to give it to");
    call.at(2_700, model_ready());
    call.expect_after(
        2_000,
        "
        2.500s open model
        2.700s model item seed-1 When do you open?
        2.700s model item seed-2 by the agent At seven.
    ",
    );
    assert_eq!(call.appended.len(), appended + 10 * 160);
    assert_eq!(call.words(), ["user: When do you open?", "assistant: At seven."]);
}

#[test]
fn a_session_that_expires_is_replaced_as_one_that_breaks() {
    let mut call = after_one_answer();
    call.at(2_500, error(ErrorClass::SessionOver, None));
    call.at(2_500, model_closed());
    assert_eq!((call.count("open model"), call.count("end")), (1, 0));
    call.at(2_700, model_ready());
    assert_eq!(call.count("model item seed-"), 2);
}

#[test]
fn what_is_said_next_stands_behind_what_was_said_before() {
    let mut call = after_one_answer();
    call.at(2_500, model_closed());
    call.at(2_700, model_ready());
    call.at(2_700, placed("seed-1", ItemKind::User, None));
    call.at(2_700, placed("seed-2", ItemKind::Assistant, Some("seed-1")));
    call.at(3_000, committed("user_2", Some("seed-2")));
    call.at(3_000, user_said("user_2", "And on Sundays?"));
    call.at(3_500, committed("user_3", None));
    call.at(3_500, user_said("user_3", "Hello?"));
    let order: Vec<_> = call.conversation().iter().map(|entry| entry.content.clone()).collect();
    assert_eq!(order[..2], ["When do you open?", "At seven."]);
    assert_eq!(order.len(), 4, "{order:?}");
    assert_eq!(call.count("save 3r1 user \"And on Sundays?\""), 1);
}

#[test]
fn the_new_session_s_clock_is_the_stream_s() {
    let mut call = after_one_answer();
    for frame in 0..5 {
        call.at(2_400 + 20 * frame, caller_frame(2_400 + 20 * frame));
    }
    call.at(2_500, model_closed());
    call.at(2_500, caller_frame(2_500));
    call.at(2_700, model_ready());
    call.at(4_000, speech_starts("user_2", 400));
    call.at(4_500, speech_stops("user_2", 900));
    call.at(4_500, committed("user_2", None));
    call.at(4_600, user_said("user_2", "And on Sundays?"));
    let entry = call.conversation().pop().unwrap();
    let ms = |at: Option<voicebridge::clock::CallTime>| at.unwrap().as_millis();
    assert_eq!(
        (ms(entry.audio_start), ms(entry.audio_end)),
        (2_800, 3_300),
        "it was given what came from 2.4 s on"
    );
}

#[test]
fn an_answer_that_was_cut_off_plays_on_and_is_continued() {
    let mut call = TestCall::connected();
    question(&mut call);
    call.at(1_100, response_started("resp_1"));
    call.at(1_100, agent_text("item_1", "We open at seven in the morning, and on Sundays "));
    call.at(1_100, agent_audio("item_1", 1_500));
    call.at(1_300, model_closed());
    call.at(2_000, model_ready());
    call.expect_after(
        1_900,
        "
        2.000s twilio media 100ms
        2.000s model item seed-1 When do you open?
        2.000s model item seed-2 by the agent We open at seven in the
        2.000s model respond resume in its own words [resp-resume-3]
    ",
    );
    call.at(2_100, response_started("resp_2"));
    call.at(2_100, audio_of("resp_2", "item_2", 500));
    call.at(2_100, response_done("resp_2"));
    call.until(4_000);
    assert_eq!(call.media.len(), 2_000 * 8, "every sound of both parts, and no clear");
}

#[test]
fn a_question_that_was_not_answered_is_answered_by_the_next_session() {
    let mut call = TestCall::connected();
    question(&mut call);
    call.at(1_050, model_closed());
    call.at(1_200, model_ready());
    assert_eq!(call.count("model respond retry"), 1);

    let mut begun = TestCall::connected();
    question(&mut begun);
    begun.at(1_020, response_started("resp_1"));
    begun.at(1_050, model_closed());
    begun.at(1_200, model_ready());
    assert_eq!(begun.count("model respond retry"), 1);
}

#[test]
fn nothing_is_asked_for_that_has_been_heard() {
    let mut call = after_one_answer();
    call.at(2_500, model_closed());
    call.at(2_700, model_ready());
    call.until(5_000);
    assert_eq!(call.count("model respond"), 0);
}

#[test]
fn a_greeting_nobody_has_heard_is_asked_for_again_and_one_that_was_heard_is_not() {
    let greeting = |heard: bool| {
        let mut call = TestCall::connected_with(|settings| settings.greeting = Some("Greet.".into()));
        if heard {
            call.at(100, response_started("resp_1"));
            call.at(100, agent_audio("item_1", 300));
            call.at(100, audio_done("item_1"));
            call.at(100, response_done("resp_1"));
        }
        call.at(500, model_closed());
        call.at(700, model_ready());
        call.count("model respond greeting in its own words")
    };
    assert_eq!((greeting(false), greeting(true)), (2, 1));
}

#[test]
fn a_caller_who_was_cut_off_is_answered_even_if_the_rest_is_too_short_to_be_heard() {
    let mut call = TestCall::connected();
    call.at(0, speech_starts("user_1", 0));
    call.at(500, model_closed());
    call.at(700, model_ready());
    assert_eq!(call.words(), ["user: "], "that something was said is on record");
    call.until(5_600);
    assert_eq!(call.count("model respond"), 0, "the rest may still be heard");
    call.until(5_700);
    assert_eq!(call.count("model respond retry"), 1);
    assert!(call.log().contains("item seed-1 (The caller said something here that was lost on the way.)"));
}

#[test]
fn a_turn_that_the_connection_broke_into_is_heard_by_the_next_session_from_its_beginning() {
    let mut call = TestCall::connected();
    frames(&mut call, 0..75);
    call.at(1_000, speech_starts("user_1", 400));
    frames(&mut call, 75..150);
    let before = call.appended.len();
    call.at(3_000, model_closed());
    call.at(3_200, model_ready());
    assert_eq!(call.appended.len() - before, 2_600 * 8, "all since 0.4 s");
    assert_eq!(call.count("model item seed-"), 0, "nothing was lost on the way");
    call.at(3_300, speech_starts("user_2", 0));
    call.at(3_900, speech_stops("user_2", 2_600));
    call.at(3_900, committed("user_2", None));
    call.at(4_100, user_said("user_2", "When do you open?"));
    assert_eq!(call.words(), ["user: When do you open?"]);
}

#[test]
fn a_turn_that_was_neither_answered_nor_written_down_is_heard_again() {
    let mut call = TestCall::connected();
    frames(&mut call, 0..40);
    call.at(800, speech_starts("user_1", 400));
    frames(&mut call, 40..100);
    call.at(2_000, speech_stops("user_1", 1_600));
    call.at(2_000, committed("user_1", None));
    let before = call.appended.len();
    call.at(2_100, model_closed());
    call.at(2_300, model_ready());
    assert_eq!(call.appended.len() - before, 1_600 * 8, "all since 0.4 s");
    assert_eq!(call.count("model item seed-"), 0);
    assert_eq!(call.count("model respond"), 0, "it is answered when it has been heard");
    call.at(2_400, speech_starts("user_2", 0));
    call.at(2_600, speech_stops("user_2", 1_200));
    call.at(2_600, committed("user_2", None));
    call.at(2_900, user_said("user_2", "When do you open?"));
    assert_eq!(call.words(), ["user: When do you open?"], "it is on record once");
    call.until(7_700);
    assert_eq!(call.count("model respond retry"), 1, "if the model does not do so by itself");
}

#[test]
fn a_turn_that_was_answered_before_it_was_written_down_stays_on_record_when_the_next_one_is_broken_into() {
    let mut call = TestCall::connected();
    frames(&mut call, 0..20);
    call.at(400, speech_starts("user_1", 100));
    frames(&mut call, 20..50);
    call.at(1_000, speech_stops("user_1", 800));
    call.at(1_000, committed("user_1", None));
    call.at(1_100, response_started("resp_1"));
    call.at(1_100, agent_text("item_1", "At seven."));
    call.at(1_100, text_done("item_1", "At seven."));
    call.at(1_100, agent_audio("item_1", 400));
    call.at(1_100, audio_done("item_1"));
    call.at(1_100, response_done("resp_1"));
    call.at(1_600, all_marks_played());
    frames(&mut call, 85..100);
    call.at(2_000, speech_starts("user_2", 1_700));
    frames(&mut call, 100..110);
    call.at(2_200, model_closed());
    call.at(2_400, model_ready());
    assert_eq!(call.words(), ["user: ", "assistant: At seven."], "{}", call.log());
}

#[test]
fn an_answer_that_may_have_had_more_to_say_or_do_is_asked_to_go_on() {
    let mut call = TestCall::connected();
    question(&mut call);
    call.at(1_100, response_started("resp_1"));
    call.at(1_100, agent_text("item_1", "Let me look that up."));
    call.at(1_100, text_done("item_1", "Let me look that up."));
    call.at(1_100, agent_audio("item_1", 800));
    call.at(1_100, audio_done("item_1"));
    call.at(1_200, model_closed());
    call.at(1_400, model_ready());
    assert_eq!(call.count("model respond resume in its own words"), 1, "{}", call.log());
}

fn frames(call: &mut TestCall, numbers: std::ops::Range<u64>) {
    for number in numbers {
        call.at(20 * number + 20, caller_frame(20 * number));
    }
}

#[test]
fn a_function_that_runs_is_known_to_the_next_session_and_not_run_twice() {
    let mut call = TestCall::connected();
    question(&mut call);
    call.at(1_100, response_started("resp_1"));
    call.at(1_100, tool_call("call_1", "look_up", "{}"));
    call.at(1_100, response_done("resp_1"));
    call.at(1_200, model_closed());
    call.at(1_400, model_ready());
    call.at(2_000, tool_finished("call_1", "seven"));
    call.expect_after(
        1_000,
        "
        1.100s tool call_1 look_up {}
        1.200s open model
        1.400s model item seed-1 When do you open?
        1.400s model item seed-2 calls call_1 look_up {}
        2.000s model item tool-3 answers call_1 seven
        2.000s model respond tool [resp-tool-4]
    ",
    );
}

#[test]
fn what_a_function_answered_without_a_session_is_told_to_the_next_one() {
    let mut call = TestCall::connected();
    question(&mut call);
    call.at(1_100, response_started("resp_1"));
    call.at(1_100, tool_call("call_1", "look_up", "{}"));
    call.at(1_100, response_done("resp_1"));
    call.at(1_200, model_closed());
    call.at(1_300, tool_finished("call_1", "seven"));
    call.at(1_400, model_ready());
    call.expect_after(
        1_300,
        "
        1.400s model item seed-1 When do you open?
        1.400s model item seed-2 calls call_1 look_up {}
        1.400s model item seed-3 answers call_1 seven
        1.400s model respond tool [resp-tool-4]
    ",
    );
}

#[test]
fn a_session_that_does_not_come_is_tried_for_again_and_then_given_up() {
    let mut call = after_one_answer();
    call.at(2_500, model_closed());
    for failure in 1..=4 {
        let now = call.now.as_millis();
        call.at(now, no_model(Unavailable::Failed));
        call.until(now + 125 * 2_u64.pow(failure));
        assert_eq!(call.count("open model"), 1 + failure as usize, "{}", call.log());
    }
    let now = call.now.as_millis();
    call.at(now, no_model(Unavailable::Failed));
    assert_eq!((call.count("open model"), call.count("end stream model_lost")), (5, 1));
}

#[test]
fn sessions_that_break_at_once_are_not_opened_for_ever() {
    let mut call = after_one_answer();
    call.at(2_500, model_closed());
    let mut now = 2_600;
    while !call.is_ended() {
        call.at(now, model_ready());
        call.at(now + 100, model_closed());
        now += 2_000;
    }
    assert_eq!((call.count("open model"), call.count("ended model_lost")), (5, 1));
}

#[test]
fn a_session_that_is_not_answered_for_at_all_is_waited_for_only_so_long() {
    let mut call = after_one_answer();
    call.at(2_500, model_closed());
    call.run_out();
    assert_eq!(call.time_of("ended model_lost").as_millis(), 10_500);
}

#[test]
fn a_refusal_that_cannot_pass_ends_the_call_at_once() {
    let mut call = after_one_answer();
    call.at(2_500, model_closed());
    call.at(2_600, no_model(Unavailable::Refused));
    assert_eq!(call.time_of("ended model_refused").as_millis(), 2_600);
}

#[test]
fn outages_that_come_again_and_again_use_up_the_patience_of_the_call() {
    let mut call = TestCall::connected();
    let mut now = 0;
    for _ in 0..5 {
        call.at(now + 900, caller_frame(now + 900));
        call.at(now + 1_000, model_closed());
        call.at(now + 6_500, model_ready());
        now += 6_500;
    }
    assert_eq!(call.count("end stream"), 0);
    call.at(now + 1_000, model_closed());
    call.run_out();
    let (ended, left_ms) = (call.time_of("end stream model_lost").as_millis(), 30_000 - 5 * 5_500);
    assert_eq!(ended, now + 1_000 + left_ms, "half a minute without a model is enough");
}

#[test]
fn a_connection_that_brings_nothing_and_answers_no_ping_is_replaced_within_two_and_a_half_seconds() {
    let mut call = after_one_answer();
    call.deaf = true;
    call.until(2_000);
    let last_sign = 1_100;
    call.until(4_500);
    assert_eq!(call.time_of("ping model").as_millis(), last_sign + 1_500);
    assert_eq!(call.time_of("open model").as_millis(), last_sign + 2_500);
    call.at(4_500, model_ready());
    assert_eq!((call.count("model item seed-"), call.count("end")), (2, 0));
}

#[test]
fn a_model_that_is_only_quiet_is_asked_now_and_then_and_kept() {
    let mut call = after_one_answer();
    for frame in 100..600 {
        call.at(20 * frame, caller_frame(20 * frame));
    }
    assert_eq!(call.count("open model"), 0);
}

#[test]
fn what_the_caller_said_to_a_dead_connection_is_said_again_to_the_next() {
    let mut call = after_one_answer();
    call.deaf = true;
    for frame in 100..200 {
        call.at(20 * frame, caller_frame(20 * frame));
    }
    let into_the_void = call.appended.len();
    call.at(4_000, model_ready());
    // The last sign of life was at 1.1 s; in doubt from 2.6 s, lost at 3.6 s.
    assert_eq!(call.appended.len() - into_the_void, 2_000 * 8);
}

#[test]
fn a_call_without_life_at_any_endpoint_says_that_the_model_stalled() {
    let mut call = after_one_answer();
    call.deaf = true;
    call.run_out();
    assert_eq!(call.count("ended model_stalled"), 1);
}

#[test]
fn a_response_without_life_is_asked_for_in_another_session_once() {
    let patiently = |settings: &mut Settings| settings.stream_silence = Duration::from_mins(5);
    let mut call = TestCall::connected_with(patiently);
    question(&mut call);
    call.at(1_100, response_started("resp_1"));
    call.until(16_100);
    assert_eq!(call.time_of("open model").as_millis(), 16_100);
    call.at(16_300, model_ready());
    assert_eq!(call.count("model respond retry"), 1);
    call.at(16_400, response_started("resp_2"));
    call.run_out();
    assert_eq!(call.time_of("end stream model_stalled").as_millis(), 31_400);

    let mut answered = TestCall::connected_with(patiently);
    answered.at(0, response_started("resp_1"));
    for round in 1..5 {
        let now = 20_000 * round;
        answered.at(now, model_ready());
        answered.at(now, response_started("resp_2"));
        answered.at(now, audio_of("resp_2", "item_2", 100));
        answered.at(now, response_done("resp_2"));
        answered.at(now, response_started("resp_1"));
    }
    assert_eq!(answered.count("end"), 0, "an answer between makes it bad luck\n{}", answered.log());
}

#[test]
fn an_endpoint_that_is_not_asked_costs_no_tries_but_time() {
    let mut call = after_one_answer();
    call.at(2_500, model_closed());
    let mut tries = 1;
    while !call.is_ended() {
        let now = call.now.as_millis();
        call.at(now, no_model(Unavailable::NotTried));
        call.until(now + 250);
        tries += 1;
    }
    assert!(call.count("open model") > 20 && tries > 20, "{tries}");
    assert_eq!(call.time_of("end stream model_lost").as_millis(), 10_500);

    let mut new = TestCall::new(settings(AudioFormat::Pcmu), ABLE);
    new.at(100, no_model(Unavailable::NotTried));
    assert_eq!(new.time_of("end stream model_unavailable").as_millis(), 100, "nobody waits for nothing");
}

#[test]
fn who_speaks_over_an_answer_of_the_last_session_is_not_forgotten_by_the_next() {
    let mut call = TestCall::connected();
    question(&mut call);
    call.at(1_100, response_started("resp_1"));
    call.at(1_100, agent_text("item_1", "We open at seven in the morning, and on Sundays at nine."));
    call.at(1_100, agent_audio("item_1", 4_000));
    call.at(1_100, audio_done("item_1"));
    call.at(1_100, response_done("resp_1"));
    call.at(1_500, model_closed());
    call.at(1_700, model_ready());
    call.at(2_100, speech_starts("user_2", 200));
    assert_eq!(call.count("model truncate"), 0, "the new session knows no such item");
    let told = call.lines.iter().find(|line| line.text.contains("interrupted")).unwrap();
    assert!(
        told.text.contains("heard only this of it: \"We open at") && !told.text.contains("nine"),
        "{told:?}"
    );
    // What it is told stands between turns, and what is said next stands behind it.
    call.at(2_200, placed("seed-2", ItemKind::Assistant, Some("seed-1")));
    call.at(2_200, placed("item_2", ItemKind::Assistant, Some("seed-2")));
    call.at(2_200, placed("seed-3", ItemKind::User, Some("item_2")));
    call.at(2_600, speech_stops("user_2", 900));
    call.at(2_600, committed("user_2", Some("seed-3")));
    call.at(2_600, text_done("item_2", "Anything else?"));
    call.at(2_700, user_said("user_2", "Thank you."));
    call.at(2_700, stop());
    let order: Vec<_> = call.conversation().iter().map(|entry| entry.item.to_string()).collect();
    assert_eq!(order, ["user_1", "item_1", "item_2", "user_2"]);
}

/// A question that nobody writes down, unless `words` say what it was, and its answer.
fn exchange(call: &mut TestCall, n: u64, words: Option<&str>) {
    let (user, response, item) = (format!("user_{n}"), format!("resp_{n}"), format!("item_{n}"));
    let at = 3_000 * n;
    call.at(at, speech_starts(&user, at));
    call.at(at + 500, speech_stops(&user, at + 500));
    let previous = (n > 1).then(|| format!("item_{}", n - 1));
    call.at(at + 500, committed(&user, previous.as_deref()));
    if let Some(words) = words {
        call.at(at + 600, user_said(&user, words));
    }
    call.at(at + 600, response_started(&response));
    call.at(at + 600, audio_of(&response, &item, 400));
    call.at(at + 600, text_done(&item, &format!("Answer {n}.")));
    call.at(at + 600, response_done(&response));
    call.at(at + 1_200, all_marks_played());
}

/// What a session is told of the conversation.
fn told(call: &TestCall) -> Vec<&str> {
    let told = call.lines.iter().filter_map(|line| line.text.strip_prefix("model item seed-"));
    told.map(|told| told.split_once(' ').unwrap().1).collect()
}

#[test]
fn of_turns_that_nobody_wrote_down_the_next_session_is_told_once_for_as_many_as_they_are() {
    let mut call = TestCall::connected();
    exchange(&mut call, 1, Some("When do you open?"));
    for n in 2..=5 {
        exchange(&mut call, n, None);
    }
    exchange(&mut call, 6, Some("And on Sundays?"));
    exchange(&mut call, 7, None);
    call.at(25_000, model_closed());
    call.at(25_200, model_ready());
    assert_eq!(
        told(&call),
        [
            "When do you open?",
            "by the agent Answer 1.",
            "(What the caller said here and in the 3 turns after this one was lost on the way.)",
            "by the agent Answer 2.",
            "by the agent Answer 3.",
            "by the agent Answer 4.",
            "by the agent Answer 5.",
            "And on Sundays?",
            "by the agent Answer 6.",
            "(The caller said something here that was lost on the way.)",
            "by the agent Answer 7.",
        ]
    );
}

#[test]
fn a_turn_that_nobody_wrote_down_or_answered_is_told_in_its_place_whatever_was_lost_before() {
    let mut call = TestCall::connected();
    exchange(&mut call, 1, None);
    exchange(&mut call, 2, None);
    call.at(9_000, speech_starts("user_9", 9_000));
    call.at(9_500, speech_stops("user_9", 9_500));
    call.at(9_500, committed("user_9", Some("item_2")));
    call.at(9_600, model_closed());
    call.at(9_800, model_ready());
    assert_eq!(
        told(&call),
        [
            "(What the caller said here and in the turn after this one was lost on the way.)",
            "by the agent Answer 1.",
            "by the agent Answer 2.",
            "(The caller said something here that was lost on the way.)",
        ]
    );
}

#[test]
fn a_goodbye_is_played_to_its_end_without_another_session() {
    let mut call = TestCall::answering();
    call.at(0, agent_audio("item_1", 1_000));
    call.at(0, tool_call("call_1", GOODBYE, "{}"));
    call.at(300, model_closed());
    call.until(2_000);
    call.at(2_000, all_marks_played());
    call.run_out();
    assert_eq!((call.count("open model"), call.count("ended agent_ended")), (0, 1));
    assert_eq!(call.media.len(), 8_000);
    assert!(call.time_of("ended").as_millis() < 3_000, "nobody waits for a session that is gone");
}
