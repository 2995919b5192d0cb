//! A call comes from another server, where its stream was lost, or leaves for one.

use std::time::Duration;

use voicebridge::audio::AudioFormat;
use voicebridge::call::Input;
use voicebridge::call::transcript::Remembered;
use voicebridge::wire::model::{ErrorClass, Transcription};
use voicebridge::wire::openai;

use crate::support::*;

fn history() -> Vec<Remembered> {
    vec![
        Remembered::Caller("When do you open?".into()),
        Remembered::Function {
            call: tool("call_0"),
            name: "hours".into(),
            arguments: "{}".into(),
            output: Some("seven".into()),
        },
        Remembered::Agent("At seven.".into()),
    ]
}

/// A stream of a call that has had another one before, with its model ready.
fn resumed(moved: bool) -> TestCall {
    let mut settings = settings(AudioFormat::Pcmu);
    settings.greeting = Some("Say hello.".into());
    settings.history = history();
    settings.moved = moved;
    settings.stream = 2;
    let mut call = TestCall::new(settings, openai::CAPABILITIES);
    call.at(10, model_ready());
    call
}

fn move_away() -> Event {
    Event::Plain(Input::MoveAway)
}

#[test]
fn a_call_that_lost_its_stream_is_told_what_was_heard_and_says_that_it_is_back() {
    let call = resumed(false);
    call.expect_after(
        0,
        "
        0.010s model item seed-1 When do you open?
        0.010s model item seed-2 calls call_0 hours {}
        0.010s model item seed-3 answers call_0 seven
        0.010s model item seed-4 by the agent At seven.
        0.010s model respond resume in its own words [resp-resume-5]
    ",
    );
    assert_eq!(call.conversation().len(), 0, "it is on record already");
}

#[test]
fn nobody_knows_what_came_of_a_function_that_ran_when_the_stream_was_lost() {
    let mut settings = settings(AudioFormat::Pcmu);
    let (name, arguments) = ("book".to_owned(), "{}".to_owned());
    settings.history = vec![Remembered::Function { call: tool("call_0"), name, arguments, output: None }];
    settings.stream = 2;
    let mut call = TestCall::new(settings, openai::CAPABILITIES);
    call.at(10, model_ready());
    let told = call.log();
    assert!(told.contains(r#"answers call_0 {"error":"The line broke while this ran."#), "{told}");
    assert_eq!(call.count("tool call_0"), 0, "nor is it run again by us");
}

#[test]
fn a_call_that_was_moved_at_a_pause_has_nothing_to_explain() {
    let mut call = resumed(true);
    assert_eq!((call.count("model item seed-"), call.count("model respond")), (4, 0));
    call.at(100, speech_starts("user_1", 0));
    call.at(900, speech_stops("user_1", 800));
    call.until(5_800);
    assert_eq!(call.count("model respond"), 0, "and the model answers what is said next by itself");
}

#[test]
fn a_session_that_is_lost_later_is_replaced_with_both_parts_of_the_conversation() {
    let mut call = resumed(true);
    call.at(100, committed("user_1", None));
    call.at(200, user_said("user_1", "And on Sundays?"));
    call.at(2_000, error(ErrorClass::SessionOver, None));
    call.at(2_500, model_ready());
    assert_eq!(call.count("model item seed-"), 4 + 5);
    let last = call.select(|line| line.at.as_millis() == 2_500);
    assert!(last.contains("When do you open?") && last.contains("And on Sundays?"), "{last}");
}

#[test]
fn a_call_that_had_lasted_almost_as_long_as_it_may_ends_then() {
    let mut settings = settings(AudioFormat::Pcmu);
    settings.history = history();
    settings.max_duration = Duration::from_secs(3);
    let mut call = TestCall::new(settings, openai::CAPABILITIES);
    call.at(0, model_ready());
    call.until(3_000);
    assert_eq!(call.count("end stream max_duration"), 1);
}

#[test]
fn a_call_moves_away_at_once_when_nobody_speaks() {
    let mut call = TestCall::connected();
    call.at(1_000, move_away());
    assert_eq!(call.count("end stream moved"), 1);
    assert_eq!(call.time_of("end stream moved").as_millis(), 1_000);
}

#[test]
fn a_call_does_not_move_away_before_the_answer_has_been_heard_and_written_down() {
    let writer = Transcription { model: "writer".into(), languages: Vec::new(), keywords: Vec::new() };
    let mut call = TestCall::connected_with(|settings| settings.session.transcription = Some(writer));
    call.at(0, speech_starts("user_1", 0));
    call.at(500, move_away());
    call.at(900, speech_stops("user_1", 900));
    call.at(900, committed("user_1", None));
    call.at(1_100, response_started("resp_1"));
    call.at(1_100, agent_text("item_1", "At seven."));
    call.at(1_100, text_done("item_1", "At seven."));
    call.at(1_100, agent_audio("item_1", 800));
    call.at(1_100, audio_done("item_1"));
    call.at(1_100, response_done("resp_1"));
    call.at(1_950, all_marks_played());
    assert_eq!(call.count("end stream"), 0, "the caller's words are not known yet");
    call.at(2_100, user_said("user_1", "When do you open?"));
    call.until(2_899);
    assert_eq!(call.count("end stream"), 0, "the caller may be about to answer");
    call.until(2_900);
    assert_eq!(call.count("end stream moved"), 1);
    assert_eq!(call.words(), ["user: When do you open?", "assistant: At seven."]);
}

#[test]
fn what_was_said_is_handed_out_before_the_stream_ends_because_the_next_one_is_told_it_at_once() {
    let mut call = TestCall::connected();
    call.at(100, response_started("resp_1"));
    call.at(100, agent_text("item_1", "Hello there"));
    call.at(100, agent_audio("item_1", 2_000));
    call.at(100, tool_call("call_1", "book", "{}"));
    call.at(1_100, Event::Plain(Input::StreamClosed));
    let log = call.log();
    let place = |part: &str| log.find(part).unwrap_or_else(|| panic!("no {part} in\n{log}"));
    assert!(place("save 1r1 assistant") < place("end stream stream_lost"), "{log}");
    assert!(place("save 2r1 tool book {} -> …") < place("end stream stream_lost"), "{log}");
    assert_eq!(call.count("save 2r2"), 0, "nobody knows what came of it\n{}", call.log());
}

#[test]
fn a_call_of_quick_answers_moves_away_in_a_shorter_pause_after_a_while() {
    let mut call = TestCall::connected();
    call.at(10, move_away());
    for turn in 0..40 {
        let from = 20 + turn * 600;
        call.at(from, response_started(&format!("resp_{turn}")));
        call.at(from + 10, response_done(&format!("resp_{turn}")));
    }
    // Each pause is shorter than a second; the first of those that follow ten seconds is taken.
    assert_eq!(call.time_of("end stream moved").as_millis(), 10_010);
}

#[test]
fn a_call_does_not_move_away_while_a_function_runs_or_keys_are_pressed() {
    let mut call = TestCall::connected();
    call.at(100, response_started("resp_1"));
    call.at(100, tool_call("call_1", "weather", "{}"));
    call.at(100, response_done("resp_1"));
    call.at(200, move_away());
    assert_eq!(call.count("end stream"), 0, "{}", call.log());
    let mut call = TestCall::connected();
    call.at(100, key('4'));
    call.at(200, move_away());
    assert_eq!(call.count("end stream"), 0, "{}", call.log());
}

#[test]
fn a_call_without_a_session_keeps_what_the_caller_says_instead_of_moving() {
    let mut call = TestCall::connected();
    call.at(1_000, model_closed());
    call.at(1_100, move_away());
    assert_eq!(call.count("end stream"), 0);
    call.at(1_300, model_ready());
    call.until(2_400);
    assert_eq!(call.time_of("end stream moved").as_millis(), 2_300);
}
