//! What was said, in conversation order, cut to what was heard.

use voicebridge::wire::model::{ItemKind, ModelEvent};

use crate::support::*;

#[test]
fn the_callers_words_stand_before_the_answer_although_they_come_after_it() {
    let mut call = TestCall::connected();
    call.at(0, speech_starts("user_1", 0));
    call.at(900, speech_stops("user_1", 800));
    call.at(901, committed("user_1", None));
    call.at(950, response_started("resp_1"));
    call.at(951, placed("item_1", ItemKind::Assistant, Some("user_1")));
    call.at(960, agent_text("item_1", "We open at seven."));
    call.at(960, agent_audio("item_1", 200));
    call.at(970, response_done("resp_1"));
    call.at(1200, all_marks_played());
    call.at(1500, user_said("user_1", "When do you open?"));
    call.expect_saved(
        r#"
        2r1 assistant "We open at seven." heard 200ms by mark
        1r1 user "When do you open?"
    "#,
    );
}

#[test]
fn two_turns_whose_texts_come_in_reverse_order_stand_in_the_order_they_were_said() {
    let mut call = TestCall::connected();
    for (n, previous) in [("user_1", None), ("user_2", Some("user_1"))] {
        call.at(0, speech_starts(n, 0));
        call.at(500, speech_stops(n, 400));
        call.at(500, committed(n, previous));
    }
    call.at(900, user_said("user_2", "Second."));
    call.at(950, user_said("user_1", "First."));
    assert_eq!(call.words(), ["user: First.", "user: Second."]);
}

#[test]
fn text_that_never_comes_is_waited_for_only_so_long() {
    let mut call = TestCall::connected();
    call.at(0, speech_starts("user_1", 0));
    call.at(500, speech_stops("user_1", 400));
    call.at(500, committed("user_1", None));
    call.at(600, response_started("resp_1")); // So that no missing answer disturbs.
    call.until(8_499);
    call.expect_saved("");
    call.until(8_500);
    call.expect_saved(r#"1r1 user "" not transcribed"#);
    call.at(9_000, user_said("user_1", "Late."));
    call.expect_saved(
        r#"
        1r1 user "" not transcribed
        1r2 user "Late."
    "#,
    );
}

#[test]
fn a_turn_that_was_only_committed_is_waited_for_only_so_long() {
    let mut call = TestCall::connected();
    call.at(500, committed("user_1", None));
    call.until(8_500);
    call.expect_saved(r#"1r1 user "" not transcribed"#);
}

#[test]
fn a_transcription_that_failed_closes_the_turn() {
    let mut call = TestCall::connected();
    call.at(0, speech_starts("user_1", 0));
    call.at(500, speech_stops("user_1", 400));
    call.at(510, model(ModelEvent::UserTranscriptFailed { item: item("user_1"), code: "bad_audio".into() }));
    call.expect_saved(r#"1r1 user "" not transcribed"#);
}

#[test]
fn an_item_announced_late_renumbers_those_after_it_with_new_revisions() {
    let mut call = TestCall::connected();
    call.at(0, committed("user_1", None));
    call.at(0, user_said("user_1", "One."));
    call.at(0, committed("user_3", Some("user_2")));
    call.at(0, user_said("user_3", "Three."));
    call.at(10, committed("user_2", Some("user_1")));
    call.at(20, user_said("user_2", "Two."));
    call.expect_saved(
        r#"
        1r1 user "One."
        2r1 user "Three."
        3r2 user "Three."
        2r1 user "Two."
    "#,
    );
}

#[test]
fn nothing_is_saved_twice() {
    let mut call = TestCall::connected();
    for _ in 0..3 {
        call.at(0, committed("user_1", None));
        call.at(0, placed("user_1", ItemKind::User, None));
        call.at(0, user_said("user_1", "One."));
    }
    call.at(0, stop());
    call.run_out();
    call.expect_saved(r#"1r1 user "One.""#);
}

#[test]
fn an_interrupted_turn_keeps_what_was_heard_and_what_was_generated() {
    let mut call = TestCall::answering();
    let text = "We open at seven in the morning and close at six."; // 49 characters, about 3 s
    call.at(0, agent_text("item_1", text));
    call.at(0, agent_audio("item_1", 3000));
    call.at(10, text_done("item_1", text));
    call.at(20, response_done("resp_1"));
    call.at(1500, speech_started());
    call.expect_saved(&format!(
        r#"1r1 assistant "We open at seven in the" of {text:?} heard 1500ms by clock interrupted"#
    ));
}

#[test]
fn text_that_is_completed_after_the_interruption_is_kept_as_generated() {
    let mut call = TestCall::answering();
    call.at(0, agent_text("item_1", "We open at "));
    call.at(0, agent_audio("item_1", 1000));
    call.at(500, speech_started());
    call.at(510, agent_text("item_1", "seven."));
    call.at(520, response_cancelled("resp_1"));
    let entry = &call.conversation()[0];
    assert_eq!(entry.generated.as_deref(), Some("We open at seven."));
    assert_eq!((entry.content.as_str(), entry.heard_until_ms), ("We open", Some(500)));
}

#[test]
fn words_without_a_sound_were_not_heard() {
    let mut call = TestCall::answering();
    call.at(0, agent_text("item_1", "We open"));
    call.at(50, speech_started());
    call.at(60, response_cancelled("resp_1"));
    call.expect_saved(r#"1r1 assistant "" of "We open" heard 0ms by clock interrupted"#);
}

#[test]
fn a_turn_that_is_still_playing_is_not_called_unheard() {
    let mut call = TestCall::answering();
    call.at(0, agent_text("item_1", "We open."));
    call.at(0, agent_audio("item_1", 300));
    call.at(10, response_cancelled("resp_1")); // By the model, for reasons of its own.
    call.at(350, all_marks_played());
    call.expect_saved(r#"1r1 assistant "We open." heard 300ms by mark"#);
}

#[test]
fn the_order_does_not_depend_on_the_order_of_arrival() {
    let chain = ["user_1", "item_1", "user_2", "item_2", "user_3"];
    let expected: Vec<String> = chain.iter().map(|id| format!("user: {id}")).collect();
    for permutation in permutations(chain.len()) {
        let mut call = TestCall::connected();
        for index in permutation {
            let previous = index.checked_sub(1).map(|p| chain[p]);
            call.at(0, placed(chain[index], ItemKind::User, previous));
            call.at(0, user_said(chain[index], chain[index]));
        }
        assert_eq!(call.words(), expected);
    }
}

fn permutations(n: usize) -> Vec<Vec<usize>> {
    if n == 0 {
        return vec![Vec::new()];
    }
    let smaller = permutations(n - 1);
    let insert = |p: &Vec<usize>, at: usize| [&p[..at], &[n - 1], &p[at..]].concat();
    smaller.iter().flat_map(|p| (0..n).map(move |at| insert(p, at))).collect()
}

#[test]
fn items_that_name_each_other_in_a_circle_are_all_kept() {
    let mut call = TestCall::connected();
    call.at(0, placed("user_1", ItemKind::User, Some("user_3")));
    call.at(0, placed("user_2", ItemKind::User, Some("user_1")));
    call.at(0, placed("user_3", ItemKind::User, Some("user_2")));
    call.at(0, placed("user_4", ItemKind::User, Some("user_4")));
    for id in ["user_1", "user_2", "user_3", "user_4"] {
        call.at(0, user_said(id, id));
    }
    let conversation = call.conversation();
    let numbers: Vec<u32> = conversation.iter().map(|entry| entry.sequence).collect();
    assert_eq!(numbers, [1, 2, 3, 4]);
}

#[test]
fn the_time_of_a_turn_is_when_it_was_spoken() {
    let mut call = TestCall::connected();
    for n in 0..100 {
        call.at(20 + n * 20, caller_frame(5 + n * 20)); // The stream's first time is not always 0.
    }
    call.at(2_000, speech_starts("user_1", 500));
    call.at(2_010, speech_stops("user_1", 1200));
    call.at(2_020, user_said("user_1", "Hello."));
    let entry = &call.conversation()[0];
    assert_eq!(entry.audio_start.unwrap().as_millis(), 505);
    assert_eq!(entry.audio_end.unwrap().as_millis(), 1205);
}

#[test]
fn an_answer_is_timed_from_the_callers_last_sound() {
    let mut call = TestCall::connected();
    for n in 0..100 {
        call.at(20 + n * 20, caller_frame(n * 20));
    }
    call.at(2_000, speech_starts("user_1", 500));
    call.at(2_010, speech_stops("user_1", 1500));
    call.at(2_100, response_started("resp_1"));
    call.at(2_300, agent_text("item_1", "Hi."));
    call.at(2_300, agent_audio("item_1", 100));
    call.at(2_300, response_done("resp_1"));
    call.at(2_500, all_marks_played());
    assert_eq!(call.count("measured item_1 800ms"), 1);
    let answer = call.conversation().into_iter().find(|e| e.item.as_str() == "item_1").unwrap();
    assert_eq!(answer.response_latency_ms, Some(800));
}

#[test]
fn an_item_that_waits_for_the_one_before_is_not_timed_by_its_sound() {
    let mut call = TestCall::answering();
    call.at(0, agent_audio("item_1", 1000));
    call.at(10, agent_audio("item_2", 100));
    call.until(2_000);
    assert_eq!(call.time_of("measured item_2").as_millis(), 900, "when it was sent, not while item_1 was");
}
