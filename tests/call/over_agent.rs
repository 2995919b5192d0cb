//! A sound over the agent pauses it; what the sound is decides whether it goes on.

use std::fmt::Write as _;

use voicebridge::audio::AudioFormat;
use voicebridge::audio::g711;
use voicebridge::call::outbox::Note;
use voicebridge::wire::model::{Capabilities, TurnTaking};

use crate::support::*;

/// dBFS of somebody at the usual level of a telephone line.
const USUAL: f64 = -26.0;
/// dBFS of our own voice that comes back over a bad line.
const ECHO: f64 = -40.0;
/// dBFS of a line on which nobody speaks.
const IDLE: f64 = -65.0;

/// A call on which the agent says this much, all of which has come from the model by then.
fn answering(ms: usize) -> Line {
    let mut line = Line { call: TestCall::judging(), at: 0 };
    line.call.at(0, response_started("resp_1"));
    line.call.at(0, audio_bytes("resp_1", "item_1", counted(ms)));
    line.call.at(0, agent_text("item_1", "We are open from seven until six."));
    line.call.at(0, text_done("item_1", "We are open from seven until six."));
    line.call.at(0, audio_done("item_1"));
    line.call.at(0, response_done("resp_1"));
    line
}

/// Audio in which every place sounds different.
fn counted(ms: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..ms * 8).map(|_| next()).collect()
}

/// A call and the frames that come from the caller.
struct Line {
    call: TestCall,
    at: u64,
}

impl Line {
    /// Frames of this level until then, one every 20 ms.
    fn sound(&mut self, until_ms: u64, dbfs: f64) {
        let amplitude = (32_768.0 * 10_f64.powf(dbfs / 20.0)) as i16;
        while self.at + 20 <= until_ms {
            let ulaw = [g711::encode(amplitude), g711::encode(-amplitude)].repeat(80);
            self.call.at(self.at + 20, Event::CallerAudio { timestamp_ms: self.at, ulaw });
            self.at += 20;
        }
        self.call.until(until_ms);
    }

    fn quiet(&mut self, until_ms: u64) {
        self.sound(until_ms, IDLE);
    }

    /// Somebody speaks from then to then, and the model notices it 80 ms later.
    fn voice(&mut self, from_ms: u64, to_ms: u64, id: &str) {
        self.quiet(from_ms);
        self.sound((from_ms + 80).min(to_ms), USUAL);
        self.quiet(from_ms + 80);
        self.call.at(from_ms + 80, speech_starts(id, from_ms));
        self.sound(to_ms, USUAL);
    }

    /// The model calls the turn over after half a second of quiet.
    fn over(&mut self, to_ms: u64, id: &str) {
        self.quiet(to_ms + 500);
        self.call.at(to_ms + 500, speech_stops(id, to_ms));
        self.call.at(to_ms + 500, committed(id, Some("item_1")));
    }

    #[track_caller]
    fn expect_after(&self, ms: u64, expected: &str) {
        let call = &self.call;
        let after = |line: &&crate::support::Line| line.at.as_millis() > ms;
        let quiet = ["save", "measured", "note", "session", "model append", "twilio mark", "twilio media"];
        let mut log = String::new();
        for line in call.lines.iter().filter(after) {
            if line.text == "note Paused" || !quiet.iter().any(|quiet| line.text.starts_with(quiet)) {
                writeln!(log, "{} {}", line.at, line.text).unwrap();
            }
        }
        let trim =
            |text: &str| text.lines().map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join("\n");
        assert_eq!(trim(&log), trim(expected));
    }
}

// ---- It was nothing --------------------------------------------------------------------------------------------------

#[test]
fn a_sign_of_listening_pauses_the_agent_which_goes_on_with_the_very_next_sample() {
    let mut line = answering(3_000);
    line.voice(1_000, 1_400, "user_1");
    let before = line.call.media.len();
    line.over(1_400, "user_1");
    line.call.at(2_500, user_said("user_1", "Mm hm."));
    line.quiet(6_000);
    line.expect_after(
        900,
        "
        1.080s twilio clear
        1.080s note Paused
        1.700s judged user_1 resumed by short after 620ms
    ",
    );
    // 1080 ms had been heard of what was sent; from there on everything was sent once more.
    let said = counted(3_000);
    assert!(before > 1_080 * 8);
    assert!(line.call.media[..before] == said[..before]);
    assert!(line.call.media[before..] == said[1_080 * 8..]);
    assert_eq!(line.call.words(), ["assistant: We are open from seven until six.", "user: Mm hm."]);
    assert!(!line.call.conversation()[0].interrupted);
    assert_eq!(line.call.conversation()[0].heard_until_ms, Some(3_000));
}

#[test]
fn marks_of_before_a_pause_mean_nothing_after_it() {
    let mut line = answering(3_000);
    line.voice(1_000, 1_300, "user_1");
    line.call.at(1_310, all_marks_played()); // Flushed.
    line.over(1_300, "user_1");
    assert!(line.call.marks.iter().any(|mark| mark == "g1:item_1:1280"), "{:?}", line.call.marks);
    line.voice(2_000, 3_500, "user_2");
    // It was held up from 1080 to 1600 ms.
    line.expect_after(
        1_900,
        "
        2.080s twilio clear
        2.080s note Paused
        2.900s judged user_2 confirmed by length after 820ms
        2.900s model truncate item_1 at 1560ms
    ",
    );
}

#[test]
fn what_comes_from_the_model_during_a_pause_is_heard_after_it() {
    let mut line = Line { call: TestCall::judging(), at: 0 };
    let said = counted(4_000);
    line.call.at(0, response_started("resp_1"));
    line.call.at(0, audio_bytes("resp_1", "item_1", said[..1_500 * 8].to_vec()));
    line.voice(500, 800, "user_1");
    line.call.at(850, audio_bytes("resp_1", "item_1", said[1_500 * 8..].to_vec()));
    line.call.at(860, audio_done("item_1"));
    line.call.at(870, response_done("resp_1"));
    let before = line.call.media.len();
    line.over(800, "user_1");
    line.quiet(6_000);
    line.expect_after(
        400,
        "
        0.580s twilio clear
        0.580s note Paused
        1.100s judged user_1 resumed by short after 520ms
    ",
    );
    assert!(line.call.media[before..] == said[580 * 8..]);
}

#[test]
fn an_answer_that_begins_to_sound_while_somebody_coughs_waits_for_the_end_of_it() {
    let mut line = Line { call: TestCall::judging(), at: 0 };
    line.call.at(0, response_started("resp_1"));
    line.voice(200, 500, "user_1");
    line.call.at(510, agent_audio("item_1", 400));
    line.call.at(520, response_done("resp_1"));
    assert_eq!(line.call.media.len(), 0);
    line.over(500, "user_1");
    line.expect_after(
        0,
        "
        0.280s note Paused
        0.800s judged user_1 resumed by short after 520ms
        0.800s connected
    ",
    );
    line.quiet(2_000);
    assert_eq!(line.call.media.len(), 400 * 8);
}

#[test]
fn one_sign_of_listening_after_the_other_is_let_pass() {
    let mut line = answering(6_000);
    for n in 0..3 {
        let from = 1_000 + n * 1_500;
        let id = format!("user_{n}");
        line.voice(from, from + 400, &id);
        line.over(from + 400, &id);
        line.call.at(from + 950, user_said(&id, "Yeah."));
    }
    line.quiet(12_000);
    assert_eq!((line.call.count("note Paused"), line.call.count("judged")), (3, 3));
    assert_eq!((line.call.count("model truncate"), line.call.count("model respond")), (0, 0));
    let (sent, said) = (&line.call.media, counted(6_000));
    assert!(sent.ends_with(&said[4_080 * 8..]), "the last stretch goes to the end");
    assert_eq!(line.call.conversation()[0].heard_until_ms, Some(6_000));
}

#[test]
fn a_second_word_in_the_same_turn_pauses_again_and_both_count() {
    let mut line = answering(6_000);
    line.voice(1_000, 1_500, "user_1");
    line.quiet(1_900); // Longer than words are apart, shorter than the model waits.
    line.sound(3_000, USUAL);
    line.expect_after(
        900,
        "
        1.080s twilio clear
        1.080s note Paused
        1.800s judged user_1 resumed by short after 720ms
        1.940s twilio clear
        1.940s note Paused
        2.300s judged user_1 confirmed by length after 360ms
        2.300s model truncate item_1 at 1220ms
    ",
    );
}

#[test]
fn a_pause_ends_when_the_caller_s_audio_stays_away() {
    let mut line = answering(6_000);
    line.voice(1_000, 1_400, "user_1");
    line.call.until(5_000);
    line.expect_after(
        900,
        "
        1.080s twilio clear
        1.080s note Paused
        3.080s judged user_1 resumed by unclear after 2s
    ",
    );
}

#[test]
fn the_last_word_of_an_answer_that_is_spoken_over_is_an_answer_to_it() {
    let mut line = answering(2_000);
    line.voice(1_500, 1_800, "user_1");
    line.over(1_800, "user_1");
    line.quiet(4_000);
    line.expect_after(
        1_400,
        "
        1.580s twilio clear
        1.580s note Paused
        2.100s judged user_1 resumed by short after 520ms
        2.300s model respond turn [resp-turn-1]
    ",
    );
    assert_eq!(line.call.conversation()[0].heard_until_ms, Some(2_000));
}

// ---- It was an interruption ------------------------------------------------------------------------------------------

#[test]
fn voice_that_goes_on_is_an_interruption_and_is_answered() {
    let mut line = answering(6_000);
    line.voice(1_000, 2_500, "user_1");
    line.over(2_500, "user_1");
    line.expect_after(
        900,
        "
        1.080s twilio clear
        1.080s note Paused
        1.900s judged user_1 confirmed by length after 820ms
        1.900s model truncate item_1 at 1080ms
        3.000s model respond turn [resp-turn-2]
    ",
    );
    assert!(line.call.conversation()[0].interrupted);
    assert_eq!(line.call.conversation()[0].heard_until_ms, Some(1_080));
    assert_eq!(line.call.count("note BargeIn"), 1);
}

#[test]
fn an_interrupted_answer_that_is_still_being_made_is_cancelled_and_its_rest_dropped() {
    let mut line = Line { call: TestCall::judging(), at: 0 };
    line.call.at(0, response_started("resp_1"));
    line.call.at(0, agent_audio("item_1", 3_000));
    line.voice(1_000, 2_000, "user_1");
    line.call.at(2_010, agent_audio("item_1", 500));
    line.call.at(2_020, response_cancelled("resp_1"));
    line.over(2_000, "user_1");
    line.expect_after(
        900,
        "
        1.080s twilio clear
        1.080s note Paused
        1.900s judged user_1 confirmed by length after 820ms
        1.900s model truncate item_1 at 1080ms
        1.900s model cancel resp_1
        2.500s model respond turn [resp-turn-3]
    ",
    );
    assert_eq!(line.call.count("note LateAudioDropped"), 1);
}

#[test]
fn words_that_are_written_along_confirm_at_once() {
    let mut line = answering(6_000);
    line.voice(1_000, 1_300, "user_1");
    line.call.at(1_310, user_writes("user_1", "Sto"));
    line.call.at(1_330, user_writes("user_1", "p, "));
    line.expect_after(
        900,
        "
        1.080s twilio clear
        1.080s note Paused
        1.330s judged user_1 confirmed by words after 250ms
        1.330s model truncate item_1 at 1080ms
    ",
    );
}

#[test]
fn words_that_come_late_stop_an_agent_that_went_on() {
    let mut line = answering(6_000);
    line.voice(1_000, 1_400, "user_1");
    line.over(1_400, "user_1");
    line.quiet(2_500);
    line.call.at(2_500, user_said("user_1", "Stop, please."));
    line.expect_after(
        1_500,
        "
        1.700s judged user_1 resumed by short after 620ms
        2.500s judged user_1 confirmed by words after 0ns
        2.500s twilio clear
        2.500s model truncate item_1 at 1880ms
        2.500s model respond turn [resp-turn-2]
    ",
    );
}

#[test]
fn words_that_come_when_the_agent_has_finished_are_answered() {
    let mut line = answering(2_500);
    line.voice(1_000, 1_400, "user_1");
    line.over(1_400, "user_1");
    line.quiet(5_000);
    line.call.at(5_000, user_said("user_1", "And on Sunday?"));
    line.expect_after(
        1_900,
        "
        5.000s judged user_1 confirmed by words after 0ns
        5.000s model respond turn [resp-turn-1]
    ",
    );
    assert!(!line.call.conversation()[0].interrupted);
}

#[test]
fn words_of_a_turn_that_was_answered_with_the_next_one_stop_nothing() {
    let mut line = Line { call: TestCall::judging(), at: 0 };
    line.call.at(0, response_started("resp_1"));
    line.call.at(0, agent_audio("item_1", 6_000));
    line.call.at(0, response_done("resp_1"));
    line.voice(1_000, 1_400, "user_1");
    line.over(1_400, "user_1");
    line.voice(2_500, 4_000, "user_2");
    line.over(4_000, "user_2");
    line.call.at(4_600, response_started("resp_2"));
    line.call.at(4_600, audio_of("resp_2", "item_2", 2_000));
    line.quiet(5_000);
    line.call.at(5_000, user_said("user_1", "What about Sunday?"));
    line.quiet(5_200);
    line.expect_after(4_500, "");
}

#[test]
fn somebody_who_speaks_while_the_answer_is_being_thought_of_interrupts_it_sooner() {
    let mut line = Line { call: TestCall::judging(), at: 0 };
    line.call.at(0, response_started("resp_1"));
    line.voice(1_000, 2_000, "user_1");
    line.expect_after(
        0,
        "
        1.080s note Paused
        1.600s judged user_1 confirmed by length after 520ms
        1.600s model cancel resp_1
    ",
    );
}

#[test]
fn somebody_who_speaks_while_nobody_else_does_is_not_judged() {
    let mut line = Line { call: TestCall::judging(), at: 0 };
    line.voice(1_000, 1_200, "user_1");
    line.over(1_200, "user_1");
    line.expect_after(0, "1.700s model respond turn [resp-turn-1]");
}

// ---- It was our own voice --------------------------------------------------------------------------------------------

#[test]
fn an_echo_does_not_hold_the_agent_up() {
    let mut line = answering(3_000);
    line.sound(600, ECHO);
    line.call.at(600, speech_starts("user_1", 500));
    line.sound(1_100, ECHO);
    line.quiet(1_600);
    line.call.at(1_600, speech_stops("user_1", 1_100));
    line.expect_after(100, "1.600s judged user_1 resumed by echo after 0ns");
}

#[test]
fn an_echo_that_goes_on_is_found_out_by_one_pause() {
    let mut line = answering(9_000);
    line.sound(600, ECHO);
    line.call.at(600, speech_starts("user_1", 500));
    line.sound(1_220, ECHO);
    assert_eq!(line.call.count("note Paused"), 1, "{}", line.call.log());
    line.sound(1_320, ECHO); // It comes back for a while.
    line.quiet(1_700);
    line.sound(4_000, ECHO);
    line.expect_after(
        100,
        "
        1.200s twilio clear
        1.200s note Paused
        1.620s judged user_1 resumed by echo after 420ms
    ",
    );
}

#[test]
fn a_quiet_caller_is_heard_as_soon_as_the_agent_is_paused() {
    let mut line = answering(9_000);
    line.quiet(500);
    line.sound(600, ECHO);
    line.call.at(600, speech_starts("user_1", 500));
    line.sound(4_000, ECHO);
    // A second of doubt, the echo's time, and as much voice as anybody must have.
    line.expect_after(
        100,
        "
        1.500s twilio clear
        1.500s note Paused
        2.640s judged user_1 confirmed by length after 1.14s
        2.640s model truncate item_1 at 1500ms
    ",
    );
}

// ---- What else goes on -----------------------------------------------------------------------------------------------

#[test]
fn keys_that_are_pressed_during_a_pause_are_told_at_once_and_answered_after_it() {
    let mut line = answering(3_000);
    line.voice(1_000, 1_400, "user_1");
    line.call.at(1_410, key('#'));
    line.over(1_400, "user_1");
    line.expect_after(
        1_300,
        "
        1.410s model item keypad-1 (The caller pressed # on the keypad.)
        1.700s judged user_1 resumed by short after 620ms
        1.700s model respond keypad [resp-keypad-2]
    ",
    );
}

#[test]
fn a_function_that_answers_during_a_pause_is_followed_up_after_it() {
    let mut line = Line { call: TestCall::judging(), at: 0 };
    line.call.at(0, response_started("resp_1"));
    line.call.at(0, agent_audio("item_1", 3_000));
    line.call.at(10, tool_call("call_1", "look_up", "{}"));
    line.call.at(20, response_done("resp_1"));
    line.voice(1_000, 1_400, "user_1");
    line.call.at(1_410, tool_finished("call_1", "done"));
    line.over(1_400, "user_1");
    line.expect_after(
        1_300,
        "
        1.410s model item tool-1 answers call_1 done
        1.700s judged user_1 resumed by short after 620ms
        1.700s model respond tool [resp-tool-2]
    ",
    );
}

#[test]
fn a_goodbye_over_the_goodbye_lets_it_be_said_and_a_question_takes_it_back() {
    let leaving = || {
        let mut line = Line { call: TestCall::judging(), at: 0 };
        line.call.at(0, response_started("resp_1"));
        line.call.at(0, agent_audio("item_1", 3_000));
        line.call.at(10, tool_call("call_1", GOODBYE, "{}"));
        line.call.at(20, response_done("resp_1"));
        line
    };
    let mut polite = leaving();
    polite.voice(1_000, 1_400, "user_1");
    polite.over(1_400, "user_1");
    polite.call.at(2_000, user_said("user_1", "Thanks, bye."));
    polite.quiet(3_700);
    polite.call.at(3_700, all_marks_played());
    polite.expect_after(1_800, "3.700s end stream agent_ended\n3.700s ended agent_ended");

    let mut asking = leaving();
    asking.voice(2_800, 4_000, "user_1");
    asking.call.at(4_000, all_marks_played()); // Flushed: nobody may take that for the end.
    asking.over(4_000, "user_1");
    assert!(!asking.call.is_ended());
    assert_eq!((asking.call.count("end stream"), asking.call.count("model respond turn")), (0, 0));
    assert_eq!(asking.call.count("model respond tool"), 1, "{}", asking.call.log());
}

#[test]
fn nobody_is_asked_whether_they_are_there_while_they_may_be_speaking() {
    let mut line = answering(500);
    line.call.at(600, all_marks_played());
    line.call.at(700, response_started("resp_2"));
    line.voice(11_500, 12_700, "user_1");
    line.over(12_700, "user_1");
    assert_eq!(line.call.count("model respond nudge"), 0);
}

#[test]
fn a_session_that_is_lost_during_a_pause_ends_it() {
    let mut line = answering(3_000);
    line.voice(1_000, 1_200, "user_1");
    let before = line.call.media.len();
    line.call.at(1_210, model_closed());
    line.expect_after(
        900,
        "
        1.080s twilio clear
        1.080s note Paused
        1.210s judged user_1 resumed by model_lost after 130ms
        1.210s open model
    ",
    );
    line.call.at(1_500, model_ready());
    line.quiet(5_000);
    assert!(line.call.media[before..] == counted(3_000)[1_080 * 8..]);
    assert_eq!(line.call.conversation()[0].heard_until_ms, Some(3_000));
}

#[test]
fn a_caller_who_speaks_on_when_the_session_was_lost_interrupts_in_the_next_one() {
    let mut line = answering(9_000);
    line.voice(1_000, 1_200, "user_1");
    line.call.at(1_200, model_closed());
    line.sound(1_400, USUAL);
    line.call.at(1_400, model_ready());
    line.call.at(1_420, speech_starts("user_2", 20));
    line.sound(3_000, USUAL);
    assert_eq!(line.call.count("note Paused"), 2);
    assert_eq!(line.call.count("judged user_2 confirmed"), 1);
    assert!(line.call.conversation()[0].interrupted);
}

#[test]
fn a_call_that_ends_during_a_pause_has_heard_no_more_than_before_it() {
    let mut line = answering(3_000);
    line.voice(1_000, 1_200, "user_1");
    line.call.at(1_500, stop());
    line.call.run_out();
    let said = &line.call.conversation()[0];
    assert_eq!((said.interrupted, said.heard_until_ms), (true, Some(1_080)));
    assert_eq!(line.call.count("model commit"), 1, "what was being said is still worth a text");
}

#[test]
fn a_player_that_is_late_goes_on_from_where_it_really_was() {
    let mut line = answering(6_000);
    line.quiet(250);
    line.call.at(250, mark_played(1)); // 50 ms there and back.
    for (at, mark) in [(850, 2), (1_050, 3), (1_250, 4)] {
        line.quiet(at);
        line.call.at(at, mark_played(mark)); // 400 ms late.
    }
    line.voice(1_300, 1_600, "user_1");
    let before = line.call.media.len();
    line.over(1_600, "user_1");
    assert!(line.call.media[before..].starts_with(&counted(6_000)[980 * 8..1_000 * 8]));
}

#[test]
fn a_model_that_cannot_yield_its_turns_is_stopped_by_any_sound() {
    let capabilities = Capabilities { yields_turns: false, ..ABLE };
    let mut settings = settings(AudioFormat::Pcmu);
    settings.session.turn_taking = TurnTaking::ByUs;
    let mut call = TestCall::new(settings.clone(), capabilities);
    call.rules = crate::rules::Rules::new(&{
        settings.session.turn_taking = TurnTaking::ByModel;
        settings
    });
    call.at(0, model_ready());
    call.at(0, response_started("resp_1"));
    call.at(0, agent_audio("item_1", 1_000));
    call.at(550, speech_started());
    assert_eq!(
        (call.count("model truncate item_1 at 550ms"), call.count(&format!("note {:?}", Note::Paused))),
        (1, 0)
    );
}
