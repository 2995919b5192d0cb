//! The caller speaks over the agent.

use voicebridge::audio::AudioFormat;
use voicebridge::wire::model::{Capabilities, ErrorClass};

use crate::support::*;

#[test]
fn a_barge_in_clears_first_and_truncates_where_the_caller_stopped_hearing() {
    let mut call = TestCall::answering();
    call.at(0, agent_audio("item_1", 1000));
    call.at(550, speech_started());
    call.until(2000);
    call.expect_after(
        500,
        "
        0.550s twilio clear
        0.550s model truncate item_1 at 550ms
    ",
    );
}

#[test]
fn late_audio_of_an_interrupted_response_is_never_played() {
    let mut call = TestCall::answering();
    call.at(0, agent_audio("item_1", 1000));
    call.at(550, speech_started());
    for ms in [551, 560, 600] {
        call.at(ms, agent_audio("item_1", 100)); // The model had not seen the interruption yet.
    }
    call.at(610, response_cancelled("resp_1"));
    call.at(620, agent_audio("item_1", 100)); // Seen after the end, too.
    call.until(2000);
    call.expect_after(
        500,
        "
        0.550s twilio clear
        0.550s model truncate item_1 at 550ms
    ",
    );
    assert_eq!(call.count("note LateAudioDropped"), 4);
}

#[test]
fn an_item_heard_as_far_as_it_had_come_is_truncated_when_more_of_it_comes_late() {
    let mut call = TestCall::answering();
    call.at(0, agent_audio("item_1", 400));
    call.at(1000, speech_started()); // The model has paused; everything so far was heard.
    call.expect_after(500, "");
    call.at(1010, agent_audio("item_1", 100));
    call.at(1020, agent_audio("item_1", 100));
    call.expect_after(500, "1.010s model truncate item_1 at 400ms");
}

#[test]
fn a_barge_in_after_the_response_is_done_takes_back_what_twilio_still_plays() {
    let mut call = TestCall::answering();
    call.at(0, agent_audio("item_1", 8000));
    call.at(10, audio_done("item_1"));
    call.at(20, response_done("resp_1"));
    call.at(3050, speech_started());
    call.expect_after(
        3000,
        "
        3.050s twilio clear
        3.050s model truncate item_1 at 3050ms
    ",
    );
}

#[test]
fn speech_with_nothing_unheard_clears_and_truncates_nothing() {
    let mut call = TestCall::answering();
    call.at(0, agent_audio("item_1", 300));
    call.at(0, response_done("resp_1"));
    call.at(330, all_marks_played());
    call.at(400, speech_started());
    call.expect_after(330, "");
}

#[test]
fn speech_before_anything_was_said_clears_nothing() {
    let mut call = TestCall::connected();
    call.at(100, speech_started());
    call.expect_after(0, "");
}

#[test]
fn less_than_a_frame_left_to_hear_is_let_through() {
    let mut call = TestCall::answering();
    call.at(0, agent_audio("item_1", 300));
    call.at(0, response_done("resp_1"));
    call.at(285, speech_started());
    call.expect_after(100, "");
}

#[test]
fn every_item_that_was_not_heard_to_its_end_is_truncated() {
    let mut call = TestCall::answering();
    call.at(0, agent_audio("item_1", 500));
    call.at(0, agent_audio("item_2", 500));
    call.at(0, response_done("resp_1"));
    call.at(250, speech_started());
    call.expect_after(
        200,
        "
        0.250s twilio clear
        0.250s model truncate item_1 at 250ms
        0.250s model truncate item_2 at 0ms
    ",
    );
}

#[test]
fn an_item_that_was_heard_is_not_truncated_with_the_next() {
    let mut call = TestCall::answering();
    call.at(0, agent_audio("item_1", 200));
    call.at(0, agent_audio("item_2", 500));
    call.at(450, speech_started());
    call.expect_after(
        400,
        "
        0.450s twilio clear
        0.450s model truncate item_2 at 250ms
    ",
    );
}

#[test]
fn a_mark_that_came_back_is_the_least_that_was_heard() {
    let mut call = TestCall::answering();
    call.at(0, agent_audio("item_1", 1000));
    call.at(0, response_done("resp_1"));
    call.at(130, mark_played(1)); // 200 ms, earlier than our clock would have it.
    call.at(140, speech_started());
    call.expect_after(
        130,
        "
        0.140s twilio clear
        0.140s model truncate item_1 at 200ms
    ",
    );
    call.at(141, text_done("item_1", "A second of words."));
    assert_eq!(call.entries.last().unwrap().evidence.unwrap().as_str(), "mark");
}

#[test]
fn marks_flushed_by_clear_say_nothing_about_what_was_heard() {
    let mut call = TestCall::answering();
    call.at(0, agent_audio("item_1", 1000));
    call.at(450, speech_started());
    call.at(460, all_marks_played());
    call.at(500, speech_stops("user_9", 500));
    call.at(600, response_started("resp_2"));
    call.at(600, audio_of("resp_2", "item_2", 1000));
    call.at(610, mark_played(1)); // Once more, out of nowhere.
    call.at(650, speech_started());
    call.expect_after(
        600,
        "
        0.650s twilio clear
        0.650s model truncate item_2 at 50ms
    ",
    );
}

#[test]
fn a_second_start_of_speech_changes_nothing() {
    let mut call = TestCall::answering();
    call.at(0, agent_audio("item_1", 1000));
    call.at(550, speech_started());
    call.at(560, speech_starts("user_10", 500));
    call.expect_after(
        500,
        "
        0.550s twilio clear
        0.550s model truncate item_1 at 550ms
    ",
    );
}

#[test]
fn a_response_that_begins_while_the_caller_speaks_is_cancelled_and_stays_silent() {
    let mut call = TestCall::connected_with(|settings| settings.greeting = Some("Greet.".into()));
    call.at(10, speech_started());
    call.at(30, response_started("resp_1"));
    call.at(40, agent_audio("item_1", 500));
    call.at(50, response_cancelled("resp_1"));
    call.expect_after(0, "0.030s model cancel resp_1");
}

#[test]
fn audio_of_a_response_that_was_not_announced_is_interrupted_like_any_other() {
    let mut call = TestCall::connected();
    call.at(0, agent_audio("item_1", 1000));
    call.at(550, speech_started());
    call.at(560, agent_audio("item_1", 500));
    call.at(570, audio_of("resp_2", "item_2", 500)); // Nor does one play that begins over the caller.
    call.expect_after(
        500,
        "
        0.550s twilio clear
        0.550s model truncate item_1 at 550ms
    ",
    );
}

#[test]
fn late_audio_of_a_response_that_was_done_is_dropped_after_an_interruption() {
    let mut call = TestCall::answering();
    call.at(0, agent_audio("item_1", 1000));
    call.at(0, response_done("resp_1"));
    call.at(550, speech_started());
    call.at(560, speech_stops("user_9", 500));
    call.at(570, agent_audio("item_1", 500));
    call.expect_after(
        500,
        "
        0.550s twilio clear
        0.550s model truncate item_1 at 550ms
    ",
    );
}

#[test]
fn a_model_that_cannot_truncate_or_cancel_is_not_asked_to() {
    let capabilities =
        Capabilities { can_truncate: false, can_cancel: false, owns_turns: true, yields_turns: true };
    let mut call = TestCall::new(settings(AudioFormat::Pcmu), capabilities);
    call.at(0, model_ready());
    call.at(0, response_started("resp_1"));
    call.at(0, agent_audio("item_1", 1000));
    call.at(550, speech_started());
    call.at(560, response_started("resp_2"));
    call.expect_after(500, "0.550s twilio clear");
}

#[test]
fn a_model_that_leaves_turns_to_us_is_cancelled_and_asked() {
    let capabilities =
        Capabilities { can_truncate: true, can_cancel: true, owns_turns: false, yields_turns: true };
    let mut call = TestCall::new(settings(AudioFormat::Pcmu), capabilities);
    call.at(0, model_ready());
    call.at(0, response_started("resp_1"));
    call.at(0, agent_audio("item_1", 1000));
    call.at(550, speech_started());
    call.at(560, response_cancelled("resp_1"));
    call.at(900, speech_stops("user_9", 800));
    call.at(901, committed("user_9", Some("item_1")));
    call.expect_after(
        500,
        "
        0.550s twilio clear
        0.550s model truncate item_1 at 550ms
        0.550s model cancel resp_1
        0.901s model respond turn [resp-turn-3]
    ",
    );
}

#[test]
fn a_truncation_the_model_refuses_and_a_cancel_too_late_do_not_end_the_call() {
    let mut call = TestCall::answering();
    call.at(0, agent_audio("item_1", 1000));
    call.at(550, speech_started());
    call.at(560, error(ErrorClass::Benign, Some("trunc-1")));
    call.at(570, error(ErrorClass::BadRequest, Some("trunc-1")));
    call.at(580, response_cancelled("resp_1"));
    call.at(600, speech_stops("user_9", 600));
    call.at(700, response_started("resp_2"));
    call.at(710, audio_of("resp_2", "item_2", 100));
    call.expect_after(560, "0.710s twilio media 100ms");
    assert!(!call.is_ended());
}

#[test]
fn an_interruption_in_the_models_own_format_is_measured_in_what_was_heard() {
    let mut call = TestCall::new(settings(AudioFormat::Pcm24k), ABLE);
    call.at(0, model_ready());
    call.at(0, response_started("resp_1"));
    call.at(0, audio_bytes("resp_1", "item_1", vec![0; 48 * 1000]));
    call.at(550, speech_started());
    call.expect_after(
        500,
        "
        0.550s twilio clear
        0.550s model truncate item_1 at 550ms
    ",
    );
    // What the converter still held is not the beginning of the next item.
    call.at(600, speech_stops("user_9", 600));
    call.at(610, response_started("resp_2"));
    let before = call.media.len();
    call.at(620, audio_bytes("resp_2", "item_2", vec![0; 48 * 100]));
    call.at(620, response_done("resp_2"));
    assert_eq!(call.media.len() - before, 800);
}
