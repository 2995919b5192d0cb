//! Functions the model asks for.

use crate::support::*;

#[test]
fn a_function_is_run_answered_and_the_model_asked_to_go_on_once_its_response_is_done() {
    let mut call = TestCall::answering();
    call.at(10, tool_call("call_1", "look_up", r#"{"day":"Sunday"}"#));
    call.at(20, tool_finished("call_1", r#"{"open":false}"#));
    call.at(30, response_done("resp_1"));
    call.at(40, response_started("resp_2"));
    call.at(50, response_done("resp_2"));
    call.expect_after(
        0,
        r#"
        0.010s tool call_1 look_up {"day":"Sunday"}
        0.020s model item tool-1 answers call_1 {"open":false}
        0.030s model respond tool [resp-tool-2]
        0.050s model respond retry [resp-retry-3]
    "#,
    );
    assert_eq!(call.words(), [r#"tool: {"open":false}"#]);
}

#[test]
fn a_function_is_on_record_from_the_moment_it_is_asked_for() {
    let mut call = TestCall::answering();
    call.at(10, tool_call("call_1", "look_up", "{}"));
    call.expect_saved("1r1 tool look_up {} -> …");
    call.at(20, tool_finished("call_1", "found"));
    call.expect_saved("1r1 tool look_up {} -> …\n1r2 tool look_up {} -> found");
}

#[test]
fn parallel_functions_are_followed_by_one_response() {
    let mut call = TestCall::answering();
    call.at(10, tool_call("call_1", "look_up", "{}"));
    call.at(11, tool_call("call_2", "book", "{}"));
    call.at(20, response_done("resp_1"));
    call.at(30, tool_finished("call_2", "booked"));
    call.at(40, tool_finished("call_1", "found"));
    call.expect_after(
        20,
        "
        0.030s model item tool-1 answers call_2 booked
        0.040s model item tool-2 answers call_1 found
        0.040s model respond tool [resp-tool-3]
    ",
    );
}

#[test]
fn a_function_that_answers_before_the_next_is_asked_for_is_followed_by_the_same_response() {
    let mut call = TestCall::answering();
    call.at(10, tool_call("call_1", "look_up", "{}"));
    call.at(11, tool_finished("call_1", "found"));
    call.at(12, tool_call("call_2", "book", "{}"));
    call.at(20, response_done("resp_1"));
    call.at(40, tool_finished("call_2", "booked"));
    call.expect_after(
        20,
        "
        0.040s model item tool-2 answers call_2 booked
        0.040s model respond tool [resp-tool-3]
    ",
    );
}

#[test]
fn arguments_that_are_no_json_object_are_explained_to_the_model() {
    for bad in ["{", "", "[1]", "null", "\"x\""] {
        let mut call = TestCall::answering();
        call.at(10, tool_call("call_1", "look_up", bad));
        assert_eq!(call.count("tool call_1"), 0, "{bad}");
        assert_eq!(
            call.count("model item tool-1 answers call_1 {\"error\":\"the arguments are not"),
            1,
            "{bad}"
        );
    }
}

#[test]
fn a_function_there_is_not_is_explained_to_the_model() {
    let mut call = TestCall::answering();
    call.at(10, tool_call("call_1", "launch", "{}"));
    call.at(20, response_done("resp_1"));
    call.expect_after(
        0,
        r#"
        0.010s model item tool-1 answers call_1 {"error":"there is no such function"}
        0.020s model respond tool [resp-tool-2]
    "#,
    );
}

#[test]
fn a_slow_function_is_given_up_and_its_late_answer_ignored() {
    let mut call = TestCall::answering();
    call.at(10, tool_call("call_1", "look_up", "{}"));
    call.at(20, response_done("resp_1"));
    call.at(9_000, tool_finished("call_1", "late"));
    call.expect_after(
        20,
        r#"
        7.010s tool call_1 cancelled
        7.010s model item tool-1 answers call_1 {"error":"the function did not answer in time"}
        7.010s model respond tool [resp-tool-2]
    "#,
    );
}

#[test]
fn a_function_call_said_twice_runs_once() {
    let mut call = TestCall::answering();
    call.at(10, tool_call("call_1", "book", "{}"));
    call.at(11, tool_call("call_1", "book", "{}"));
    call.at(20, tool_finished("call_1", "booked"));
    call.at(21, tool_call("call_1", "book", "{}"));
    call.expect_after(
        0,
        "
        0.010s tool call_1 book {}
        0.020s model item tool-1 answers call_1 booked
    ",
    );
}

#[test]
fn a_function_of_a_response_the_caller_spoke_over_is_not_run() {
    let mut call = TestCall::answering();
    call.at(10, agent_audio("item_1", 500));
    call.at(100, speech_started());
    call.at(110, tool_call("call_1", "book", "{}"));
    call.at(120, response_cancelled("resp_1"));
    assert_eq!(call.count("tool call_1"), 0);
    assert_eq!(call.count("model item tool-2 answers call_1 {\"error\":\"the caller spoke"), 1);
}

#[test]
fn the_answer_of_a_function_waits_for_the_caller_to_finish() {
    let mut call = TestCall::answering();
    call.at(10, tool_call("call_1", "look_up", "{}"));
    call.at(20, response_done("resp_1"));
    call.at(100, speech_started());
    call.at(200, tool_finished("call_1", "found"));
    call.at(900, speech_stops("user_9", 800));
    call.at(950, response_started("resp_2")); // The model's own answer has seen the function's.
    call.at(960, audio_of("resp_2", "item_2", 20));
    call.at(970, response_done("resp_2"));
    call.expect_after(
        20,
        "
        0.200s model item tool-1 answers call_1 found
        0.960s twilio media 20ms
    ",
    );
}

#[test]
fn too_many_functions_at_a_time_are_refused_in_words() {
    let mut call = TestCall::answering();
    for n in 0..20 {
        call.at(10, tool_call(&format!("call_{n}"), "look_up", "{}"));
    }
    assert_eq!(call.count("tool call_"), 16);
    let refused =
        |line: &&Line| line.text.starts_with("model item") && line.text.contains("too many functions");
    assert_eq!(call.lines.iter().filter(refused).count(), 4);
}

#[test]
fn a_goodbye_is_played_to_its_last_mark_before_the_call_ends() {
    let mut call = TestCall::answering();
    call.at(0, agent_text("item_1", "Goodbye."));
    call.at(0, agent_audio("item_1", 600));
    call.at(10, tool_call("call_1", GOODBYE, r#"{"reason":"done"}"#));
    call.at(20, response_done("resp_1"));
    call.at(300, mark_played(1));
    call.at(500, mark_played(2));
    assert_eq!(call.count("end stream"), 0);
    call.at(690, mark_played(3));
    call.expect_after(
        500,
        "
        0.690s end stream agent_ended
        0.690s ended agent_ended
    ",
    );
    assert_eq!(call.words(), ["assistant: Goodbye.", r#"tool: {"ok":true}"#]);
}

#[test]
fn a_goodbye_whose_mark_is_lost_ends_the_call_anyway() {
    let mut call = TestCall::answering();
    call.at(0, agent_audio("item_1", 600));
    call.at(10, tool_call("call_1", GOODBYE, "{}"));
    call.at(20, response_done("resp_1"));
    for second in 1..40 {
        call.at(second * 1_000, caller_frame(second * 1_000));
    }
    assert_eq!(call.time_of("ended agent_ended").as_millis(), 30_010);
}

#[test]
fn a_goodbye_is_taken_back_when_the_caller_speaks_again() {
    let mut call = TestCall::answering();
    call.at(0, agent_audio("item_1", 600));
    call.at(10, tool_call("call_1", GOODBYE, "{}"));
    call.at(20, response_done("resp_1"));
    call.at(250, speech_started());
    call.at(260, all_marks_played());
    call.at(900, speech_stops("user_9", 800));
    call.at(1_000, response_started("resp_2"));
    call.at(1_010, audio_of("resp_2", "item_2", 20));
    call.expect_after(200, r#"
        0.250s twilio clear
        0.250s model truncate item_1 at 250ms
        0.250s model item tool-2 answers call_1 {"error":"the caller spoke again, so this was not done; the call goes on"}
        1.010s twilio media 20ms
    "#);
}

#[test]
fn a_goodbye_said_over_the_caller_does_not_hang_up_on_them() {
    let mut call = TestCall::answering();
    call.at(0, agent_audio("item_1", 600));
    call.at(250, speech_started());
    call.at(260, tool_call("call_1", GOODBYE, "{}")); // On its way when the caller began.
    call.at(270, response_cancelled("resp_1"));
    call.until(3_000);
    assert_eq!(call.count("end stream"), 0);
}

#[test]
fn a_second_goodbye_is_answered_and_does_not_keep_the_call_from_going_on() {
    let mut call = TestCall::answering();
    call.at(0, agent_audio("item_1", 600));
    call.at(10, tool_call("call_1", GOODBYE, "{}"));
    call.at(11, tool_call("call_2", GOODBYE, "{}"));
    call.at(20, response_done("resp_1"));
    call.at(250, speech_started());
    call.at(260, speech_stops("user_9", 250));
    call.at(300, response_started("resp_2"));
    call.at(310, audio_of("resp_2", "item_2", 20));
    call.at(320, response_done("resp_2"));
    for ms in (1..14).map(|s| s * 1_000) {
        call.at(ms, caller_frame(ms));
    }
    assert_eq!(call.count("model respond nudge"), 1, "nothing is left running that would forbid it");
}

#[test]
fn a_transfer_ends_the_stream_after_the_last_words_and_is_not_taken_back() {
    let mut call = TestCall::answering();
    call.at(0, agent_audio("item_1", 600));
    call.at(10, tool_call("call_1", HUMAN, r#"{"reason":"refund","summary":"Wants money back."}"#));
    call.at(20, response_done("resp_1"));
    call.at(250, speech_started());
    call.expect_after(
        200,
        "
        0.250s twilio clear
        0.250s model truncate item_1 at 250ms
        0.250s transfer \"refund\" \"Wants money back.\"
        0.250s end stream transferred
        0.250s model commit [commit-2]
    ",
    );
}

#[test]
fn a_transfer_outweighs_a_goodbye() {
    let mut call = TestCall::answering();
    call.at(10, tool_call("call_1", GOODBYE, "{}"));
    call.at(11, tool_call("call_2", HUMAN, "{}"));
    call.at(20, response_done("resp_1"));
    assert_eq!(call.count("end stream transferred"), 1);
}

#[test]
fn a_goodbye_waits_for_the_functions_beside_it() {
    let mut call = TestCall::answering();
    call.at(10, tool_call("call_1", "book", "{}"));
    call.at(11, tool_call("call_2", GOODBYE, "{}"));
    call.at(20, response_done("resp_1"));
    assert_eq!(call.count("end stream"), 0);
    call.at(900, tool_finished("call_1", "booked"));
    assert_eq!(call.time_of("end stream agent_ended").as_millis(), 900);
    assert_eq!(call.count("tool call_1 cancelled"), 0);
}

#[test]
fn functions_that_run_when_the_call_ends_are_cancelled_and_recorded() {
    let mut call = TestCall::answering();
    call.at(10, tool_call("call_1", "look_up", "{}"));
    call.at(20, stop());
    call.at(30, tool_finished("call_1", "late"));
    call.expect_after(
        10,
        "
        0.020s tool call_1 cancelled
        0.020s end stream caller_hung_up
        0.020s model cancel resp_1
        0.020s ended caller_hung_up
    ",
    );
    assert_eq!(call.words(), [r#"tool: {"error":"the call ended first"}"#]);
}
