//! People take a call over, give it back, steer it, and want no more of them.

use voicebridge::audio::AudioFormat;
use voicebridge::call::operator::Wish;
use voicebridge::call::settings::Settings;
use voicebridge::call::tools::Transfer;
use voicebridge::call::transcript::{Remembered, Role};

use crate::support::*;

/// A stream on which the caller comes back from people who did not answer, with its model ready.
fn handed_back(failed: u32, history: Vec<Remembered>) -> TestCall {
    let mut settings = settings(AudioFormat::Pcmu);
    settings.greeting = Some("Say hello.".into());
    (settings.stream, settings.handed_back, settings.handoffs_failed) = (2, true, failed);
    settings.history = history;
    let mut call = TestCall::new(settings, ABLE);
    call.at(10, model_ready());
    call
}

fn put_through() -> Remembered {
    Remembered::Function {
        call: tool("call_0"),
        name: HUMAN.into(),
        arguments: "{}".into(),
        output: Some(r#"{"ok":true}"#.into()),
    }
}

fn transfer(to: Option<&str>) -> Wish {
    let to = to.map(str::to_owned);
    Wish::Transfer(Transfer { to, reason: "manager".into(), summary: "Calls for the third time.".into() })
}

/// A call that we make, whose other party can say that they do not want it.
fn outbound() -> TestCall {
    TestCall::connected_with(can_opt_out)
}

fn can_opt_out(settings: &mut Settings) {
    (settings.can_opt_out, settings.opt_out_digit) = (true, Some('9'));
}

/// The agent says so much in a response of its own.
fn agent_says(call: &mut TestCall, at: u64, response: &str, item: &str, ms: usize) {
    call.at(at, response_started(response));
    call.at(at, audio_of(response, item, ms));
    call.at(at, response_done(response));
}

#[test]
fn the_caller_goes_to_people_when_the_sentence_that_says_so_has_been_heard() {
    let mut call = TestCall::answering();
    call.at(0, agent_audio("item_1", 600));
    call.at(10, tool_call("call_1", HUMAN, r#"{"reason":"refund","summary":"Wants money back."}"#));
    call.at(20, response_done("resp_1"));
    call.until(590);
    assert_eq!(
        call.count("transfer"),
        0,
        "a stream that breaks now is a lost one, and nobody was put through"
    );
    call.at(650, all_marks_played());
    call.expect_after(
        600,
        r#"
        0.650s transfer "refund" "Wants money back."
        0.650s end stream transferred
        0.650s ended transferred
    "#,
    );
}

#[test]
fn what_was_said_is_handed_out_before_people_are_called_because_the_call_may_come_back() {
    let mut call = TestCall::answering();
    call.at(0, agent_text("item_1", "One moment."));
    call.at(0, agent_audio("item_1", 200));
    call.at(10, tool_call("call_1", HUMAN, "{}"));
    call.at(20, response_done("resp_1"));
    call.at(300, all_marks_played());
    let log = call.log();
    let place = |part: &str| log.find(part).unwrap_or_else(|| panic!("no {part} in\n{log}"));
    assert!(place("save 1r1 assistant") < place("end stream transferred"), "{log}");
}

#[test]
fn an_agent_that_has_a_call_back_knows_that_nobody_answered_says_so_and_does_not_greet() {
    let call = handed_back(1, vec![Remembered::Caller("A person, please.".into()), put_through()]);
    call.expect_after(
        0,
        r#"
        0.010s model item seed-1 A person, please.
        0.010s model item seed-2 calls call_0 transfer_to_human {}
        0.010s model item seed-3 answers call_0 {"error":"Nobody of the team answered. The caller is back with you."}
        0.010s model respond resume in its own words [resp-resume-4]
    "#,
    );
    let [asked] = &call.asked[..] else { panic!("{:?}", call.asked) };
    assert!(asked.contains("nobody of the team answered") && asked.contains("Do not greet"), "{asked}");
}

#[test]
fn an_agent_whose_call_somebody_in_charge_had_put_through_knows_it_when_it_has_it_back() {
    let call = handed_back(1, vec![Remembered::Caller("Hello?".into())]);
    assert_eq!(
        call.count("model note seed-2 The caller was put through to the team by somebody"),
        1,
        "{}",
        call.log()
    );
}

#[test]
fn a_session_that_is_lost_after_the_call_has_come_back_is_told_the_same() {
    let mut call = handed_back(1, vec![put_through()]);
    call.at(3_000, model_closed());
    call.at(3_400, model_ready());
    let told = call.select(|line| line.at.as_millis() == 3_400);
    assert!(told.contains("Nobody of the team answered"), "{told}");
}

#[test]
fn people_who_did_not_answer_twice_are_not_called_a_third_time() {
    for (failed, puts_through) in [(1, true), (2, false)] {
        let mut call = handed_back(failed, vec![put_through()]);
        call.at(20, response_started("resp_1"));
        call.at(30, tool_call("call_1", HUMAN, "{}"));
        call.at(40, response_done("resp_1"));
        assert_eq!(call.count("end stream transferred"), usize::from(puts_through));
        let explained =
            call.count(r#"model item tool-5 answers call_1 {"error":"nobody of the team is there"#);
        assert_eq!(explained, usize::from(!puts_through), "{}", call.log());
    }
}

#[test]
fn somebody_in_charge_ends_a_call_after_the_sentence_that_is_being_said() {
    let mut call = TestCall::answering();
    call.at(0, agent_audio("item_1", 600));
    call.at(10, response_done("resp_1"));
    call.at(100, command(Wish::HangUp { now: false }));
    call.at(400, speech_started()); // Nothing that the caller says takes it back.
    assert_eq!(call.count("answer hang_up done: the call ends after the sentence that is being said"), 1);
    call.expect_after(
        300,
        "
        0.400s twilio media 100ms
        0.400s twilio clear
        0.400s model truncate item_1 at 400ms
        0.400s end stream operator
        0.400s model commit [commit-2]
    ",
    );
    let mut call = TestCall::answering();
    call.at(0, agent_audio("item_1", 600));
    call.at(10, response_done("resp_1"));
    call.at(100, command(Wish::HangUp { now: false }));
    call.at(700, all_marks_played());
    assert_eq!(call.time_of("end stream operator").as_millis(), 700);
}

#[test]
fn somebody_in_charge_ends_a_call_at_once() {
    let mut call = TestCall::answering();
    call.at(0, agent_audio("item_1", 600));
    call.at(100, command(Wish::HangUp { now: true }));
    let log = call.log();
    let place = |part: &str| log.find(part).unwrap_or_else(|| panic!("no {part} in\n{log}"));
    assert!(place("answer hang_up done") < place("end stream operator"), "{log}");
    assert_eq!(call.time_of("end stream operator").as_millis(), 100);
}

#[test]
fn a_hang_up_by_somebody_in_charge_outweighs_a_transfer_and_a_transfer_a_goodbye() {
    for (first, then, reason) in [
        (GOODBYE, transfer(None), "transferred"),
        (GOODBYE, Wish::HangUp { now: false }, "operator"),
        (HUMAN, Wish::HangUp { now: false }, "operator"),
    ] {
        let mut call = TestCall::answering();
        call.at(0, agent_audio("item_1", 600));
        call.at(10, tool_call("call_1", first, "{}"));
        call.at(20, response_done("resp_1"));
        call.at(30, command(then));
        if reason == "transferred" {
            agent_says(&mut call, 40, "resp_2", "item_2", 200);
        }
        call.at(2_000, all_marks_played());
        assert_eq!(call.count(&format!("end stream {reason}")), 1, "{}", call.log());
        assert_eq!(call.count("model item tool-"), 1, "the function is answered\n{}", call.log());
        assert_eq!(call.count("transfer "), usize::from(reason == "transferred"));
    }
}

#[test]
fn somebody_in_charge_puts_a_call_through_and_the_agent_says_so_first() {
    let mut call = TestCall::connected();
    call.at(100, command(transfer(Some("+14155550199"))));
    assert!(call.asked[0].contains("being put through to a person"), "{:?}", call.asked);
    call.at(200, response_started("resp_1"));
    call.at(210, agent_audio("item_1", 400));
    call.at(220, response_done("resp_1"));
    call.at(500, command(transfer(None)));
    call.at(510, command(Wish::Say("Hello.".into())));
    call.at(700, all_marks_played());
    call.expect_after(
        0,
        r#"
        0.100s answer transfer done: the agent says so, then the telephones of the people ring
        0.100s model respond last in its own words [resp-last-1]
        0.210s twilio media 100ms
        0.210s twilio media 100ms
        0.310s twilio media 100ms
        0.410s twilio media 100ms
        0.500s answer transfer refused: the caller is being put through already
        0.510s answer say refused: the agent is leaving the call
        0.700s transfer "manager" "Calls for the third time."
        0.700s end stream transferred
        0.700s ended transferred
    "#,
    );
}

#[test]
fn a_call_without_a_session_is_put_through_without_a_word() {
    let mut call = TestCall::connected();
    call.at(2_000, model_closed());
    call.at(2_100, command(transfer(None)));
    assert_eq!(call.time_of("end stream transferred").as_millis(), 2_100);
}

#[test]
fn what_somebody_in_charge_wants_said_waits_for_the_caller_and_is_said_in_order() {
    let mut call = TestCall::connected();
    call.at(0, speech_starts("user_1", 0));
    call.at(100, command(Wish::Say("One.".into())));
    call.at(110, command(Wish::Say("Two.".into())));
    call.at(500, speech_stops("user_1", 500));
    assert_eq!(call.count("model respond"), 0, "nobody is interrupted, and the turn is answered first");
    agent_says(&mut call, 600, "resp_1", "item_1", 100);
    assert_eq!(call.count("model respond operator"), 1);
    agent_says(&mut call, 900, "resp_2", "item_2", 100);
    agent_says(&mut call, 1_200, "resp_3", "item_3", 100);
    assert_eq!(call.count("model respond operator"), 2);
    let said: Vec<bool> =
        call.asked.iter().zip(["\"One.\"", "\"Two.\""]).map(|(a, b)| a.contains(b)).collect();
    assert_eq!(said, [true, true], "{:?}", call.asked);
}

#[test]
fn more_sentences_than_anybody_would_hear_are_refused() {
    let mut call = TestCall::connected();
    call.at(0, speech_starts("user_1", 0));
    for _ in 0..12 {
        call.at(100, command(Wish::Say("Again.".into())));
    }
    assert_eq!(call.count("answer say done"), 9, "one is about to be asked for, eight wait");
    assert_eq!(call.count("answer say refused: too many sentences"), 3);
}

#[test]
fn what_the_agent_is_to_know_is_told_and_on_record_and_not_said() {
    let mut call = TestCall::connected();
    call.at(100, command(Wish::Inject("A customer since 2011.".into())));
    call.until(5_000);
    assert_eq!((call.count("model note note-1 A customer since 2011."), call.count("model respond")), (1, 0));
    let [entry] = &call.conversation()[..] else { panic!("{}", call.log()) };
    assert_eq!((entry.role, entry.content.as_str()), (Role::System, "A customer since 2011."));
}

#[test]
fn what_the_agent_is_to_know_is_known_to_every_session_of_the_call() {
    let mut call = TestCall::new(settings(AudioFormat::Pcmu), ABLE);
    call.at(10, command(Wish::Inject("A customer since 2011.".into())));
    call.at(500, model_ready());
    assert_eq!(call.count("model note seed-2 A customer since 2011."), 1, "{}", call.log());
    call.at(3_000, model_closed());
    call.at(3_400, model_ready());
    let told = call.select(|line| line.at.as_millis() == 3_400);
    assert!(told.contains("A customer since 2011."), "{told}");
}

#[test]
fn a_call_that_is_over_refuses_what_is_wanted_of_it() {
    let mut call = TestCall::connected();
    call.at(0, speech_starts("user_1", 0));
    call.at(10, stop());
    call.at(20, command(Wish::Say("Hello.".into())));
    assert_eq!(call.count("answer say refused: the call is over"), 1, "{}", call.log());
}

#[test]
fn who_presses_the_key_is_on_record_at_once_told_so_and_the_call_ends() {
    let mut call = outbound();
    call.at(100, key('9'));
    call.until(1_599);
    assert_eq!(call.count("opted out"), 0, "more digits may follow");
    call.until(1_600);
    assert_eq!(call.count("opted out Keypad"), 1);
    assert!(call.asked[0].contains("does not want to be called again"), "{:?}", call.asked);
    agent_says(&mut call, 1_700, "resp_1", "item_1", 100);
    call.at(1_900, all_marks_played());
    call.expect_after(
        1_820,
        "
        1.900s end stream agent_ended
        1.900s ended agent_ended
    ",
    );
    assert_eq!(call.count("opted out"), 1, "once");
    assert_eq!(call.count("model item keypad"), 0, "the key is no entry");
}

#[test]
fn who_presses_the_key_and_hangs_up_is_on_record_too() {
    let mut call = outbound();
    call.at(100, key('9'));
    call.at(200, stop());
    assert_eq!(call.count("opted out Keypad"), 1, "{}", call.log());
    let mut call = outbound();
    call.at(100, key('9'));
    call.at(150, key('#'));
    assert_eq!(call.count("opted out Keypad"), 1, "the entry is complete");
}

#[test]
fn who_says_so_is_on_record_before_the_agent_confirms_it_in_one_response() {
    let mut call = TestCall::connected_with(can_opt_out);
    call.at(0, response_started("resp_1"));
    call.at(10, tool_call("call_1", "do_not_call_again", "{}"));
    call.at(20, response_done("resp_1"));
    call.expect_after(
        0,
        r#"
        0.010s opted out Said
        0.010s model item tool-1 answers call_1 {"ok":true}
        0.020s model respond last in its own words [resp-last-2]
    "#,
    );
    agent_says(&mut call, 100, "resp_2", "item_1", 100);
    call.at(400, all_marks_played());
    assert_eq!(call.count("end stream agent_ended"), 1);
}

#[test]
fn what_is_said_over_the_confirmation_is_answered_and_the_number_stays_on_record() {
    let mut call = outbound();
    call.at(50, key('9'));
    call.at(60, key('#'));
    call.at(200, response_started("resp_1"));
    call.at(210, agent_audio("item_1", 2_000));
    call.at(500, speech_starts("user_1", 400));
    call.at(510, response_cancelled("resp_1"));
    call.at(900, speech_stops("user_1", 800));
    agent_says(&mut call, 1_000, "resp_2", "item_2", 100);
    call.until(3_000);
    assert_eq!((call.count("end stream"), call.count("opted out")), (0, 1), "{}", call.log());
}

#[test]
fn the_key_means_nothing_within_an_entry_without_a_number_or_where_it_is_another() {
    for (first, second, told) in [('4', '9', "49"), ('9', '4', "94"), ('9', '9', "99")] {
        let mut call = outbound();
        call.at(100, key(first));
        call.at(200, key(second));
        call.until(3_000);
        assert_eq!((call.count("opted out"), call.count("end stream")), (0, 0));
        assert_eq!(call.words(), [format!("user: (The caller pressed {told} on the keypad.)")]);
    }
    for change in [
        |settings: &mut Settings| settings.can_opt_out = false,
        |settings: &mut Settings| settings.opt_out_digit = Some('8'),
        |settings: &mut Settings| settings.opt_out_digit = None,
    ] {
        let mut call = TestCall::connected_with(|settings| {
            can_opt_out(settings);
            change(settings);
        });
        call.at(100, key('9'));
        call.until(3_000);
        assert_eq!(call.count("opted out"), 0);
    }
}

#[test]
fn who_withholds_their_number_is_not_told_that_it_is_on_record() {
    let mut call = TestCall::answering();
    call.at(10, tool_call("call_1", "do_not_call_again", "{}"));
    let told = r#"model item tool-1 answers call_1 {"error":"the number of this person is not known"#;
    assert_eq!(call.count(told), 1, "{}", call.log());
    assert_eq!((call.count("opted out"), call.count("respond last")), (0, 0));
}
