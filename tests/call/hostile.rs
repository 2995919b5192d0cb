//! Peers that mean no good: no panic, and no collection that grows without end.

use std::time::Duration;

use voicebridge::audio::AudioFormat;
use voicebridge::call::Input;
use voicebridge::wire::model::ItemKind;
use voicebridge::wire::twilio::{Inbound, Media};

use crate::support::*;

#[test]
fn numbers_at_the_end_of_their_range_are_only_numbers() {
    for ready in [true, false] {
        let mut call = TestCall::new(settings(AudioFormat::Pcmu), ABLE);
        if ready {
            call.at(0, model_ready());
        }
        for timestamp_ms in [u64::MAX, 0, u64::MAX - 5, u64::MAX / 2, 1] {
            call.at(10, caller_frame(timestamp_ms));
        }
        call.at(20, speech_starts("user_1", u64::MAX));
        call.until(5_000);
        call.at(5_000, speech_stops("user_1", u64::MAX));
        call.at(5_000, user_said("user_1", "x"));
        call.at(5_010, stop());
        call.run_out();
    }
}

#[test]
fn a_frame_without_audio_is_nothing() {
    let mut call = TestCall::connected();
    call.at(0, Event::CallerAudio { timestamp_ms: 0, ulaw: Vec::new() });
    assert_eq!(call.count("model append"), 0);
}

#[test]
fn ids_that_are_none_are_refused_and_do_not_spoil_the_next_item() {
    for format in [AudioFormat::Pcmu, AudioFormat::Pcm24k] {
        let mut call = TestCall::new(settings(format), ABLE);
        call.at(0, model_ready());
        call.at(0, response_started("resp_1"));
        for id in ["", " ", "\u{1F600}", &"x".repeat(129)] {
            call.at(0, audio_bytes("resp_1", id, vec![0; 700]));
            call.at(0, Event::Text { response: "resp_1".into(), item: id.into(), text: "x".into() });
            call.at(0, audio_bytes(id, "item_1", vec![0; 700]));
        }
        assert_eq!(call.media.len(), 0);
        call.at(0, audio_bytes("resp_1", "item_1", vec![0; 100 * format.bytes_per_ms()]));
        call.at(0, response_done("resp_1"));
        assert_eq!(call.media.len(), 800);
    }
}

#[test]
fn a_long_id_makes_no_long_mark() {
    let mut call = TestCall::answering();
    let id = "i".repeat(128);
    call.at(0, agent_audio(&id, 1_000));
    call.at(0, response_done("resp_1"));
    call.at(300, all_marks_played());
    call.until(1_100);
    call.at(1_100, all_marks_played());
    assert_eq!(call.conversation()[0].heard_until_ms, Some(1_000)); // The rules measure the names.
}

#[test]
fn more_audio_than_twilio_would_take_is_refused() {
    let mut call = TestCall::answering();
    for _ in 0..70 {
        call.at(0, agent_audio("item_1", 10_000));
    }
    assert_eq!(call.count("note LateAudioDropped"), 10, "ten minutes are kept");
    call.at(1_000, speech_started());
    assert_eq!(call.count("model truncate item_1 at 1000ms"), 1);
}

#[test]
fn a_thousand_items_of_one_byte_are_not_all_kept() {
    let mut call = TestCall::answering();
    for n in 0..1_000 {
        call.at(0, audio_bytes("resp_1", &format!("item_{n}"), vec![1]));
    }
    assert!(call.media.len() <= 1_000);
    assert!(call.count("note LateAudioDropped") > 0);
    call.at(10, speech_started());
}

#[test]
fn a_player_that_sends_no_marks_back_costs_no_more_and_hears_the_same() {
    let mut call = TestCall::answering();
    for minute in 0..5 {
        call.at(0, agent_audio("item_1", 60_000));
        call.at(0, response_done("resp_1"));
        for second in 0..60 {
            call.at(minute * 60_000 + second * 1_000, caller_frame(minute * 60_000 + second * 1_000));
        }
    }
    call.at(299_000, mark_played(1)); // Long forgotten.
    call.at(299_500, speech_started());
    assert_eq!(call.count("model truncate item_1 at 299500ms"), 1);
}

#[test]
fn endless_text_and_items_are_cut_off() {
    let mut call = TestCall::answering();
    let long = "ä".repeat(50_000);
    for _ in 0..20 {
        call.at(0, agent_text("item_1", &long));
    }
    call.at(0, agent_audio("item_1", 100));
    call.at(0, user_said("user_1", &long));
    call.at(0, response_done("resp_1"));
    call.at(200, all_marks_played());
    for entry in &call.entries {
        assert!(entry.content.len() <= 64 * 1024, "{}", entry.content.len());
    }
    for n in 0..2_500 {
        call.at(300, placed(&format!("user_{n}"), ItemKind::User, None));
    }
    call.at(300, user_said("user_2499", "Too many."));
    call.at(300, stop());
    call.run_out();
    assert!(call.conversation().len() <= 2_048);
}

#[test]
fn arguments_without_end_are_refused() {
    let mut call = TestCall::answering();
    let arguments = format!(r#"{{"x":"{}"}}"#, "y".repeat(100_000));
    call.at(0, tool_call("call_1", "look_up", &arguments));
    assert_eq!(call.count("tool call_1"), 0);
    assert!(call.log().contains("the arguments are too long"));
}

#[test]
fn a_flood_of_responses_leaves_the_interrupted_one_silent() {
    let mut call = TestCall::answering();
    call.at(0, agent_audio("item_1", 1_000));
    call.at(100, speech_started());
    for n in 0..30 {
        call.at(100, speech_started());
        call.at(100, response_started(&format!("other_{n}")));
    }
    call.at(110, speech_stops("user_9", 100));
    call.at(120, agent_audio("item_1", 1_000)); // The rules listen.
    call.until(1_000);
}

#[test]
fn a_second_stream_and_unknown_messages_are_ignored() {
    let mut call = TestCall::connected();
    call.at(0, Event::Plain(Input::Twilio(Inbound::Unknown { event: "close".into() })));
    call.at(0, Event::Plain(Input::Twilio(Inbound::Connected)));
    call.at(0, Event::Plain(Input::Twilio(Inbound::Media(Media { timestamp_ms: 0, payload: "*" }))));
    call.at(10, all_marks_played());
    call.at(10, mark_played(7));
    call.at(10, tool_finished("nobody_asked", "x"));
    call.expect_after(0, "");
}

#[test]
fn a_call_of_many_hours_comes_to_its_end() {
    let mut call = TestCall::connected_with(|settings| settings.max_duration = Duration::from_secs(2 * 3600));
    let hour = 3_600_000;
    for ms in (0..2 * hour).step_by(10_000) {
        call.at(ms + 1, caller_frame(ms));
        call.at(ms + 2, speech_starts("user_1", ms));
        call.at(ms + 3, speech_stops("user_1", ms));
        call.at(ms + 4, response_started(&format!("r{ms}")));
        call.at(ms + 5, response_done(&format!("r{ms}")));
    }
    call.run_out();
    assert_eq!(call.time_of("ended max_duration").as_millis(), 2 * hour);
}
