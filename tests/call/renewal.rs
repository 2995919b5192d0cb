//! A session whose time is nearly over is replaced by another one, and nobody notices.

use std::time::Duration;

use voicebridge::audio::AudioFormat;
use voicebridge::call::settings::Settings;
use voicebridge::clock::CallTime;
use voicebridge::wire::model::Transcription;

use crate::support::*;

const SESSION_MS: u64 = 30_000;
/// A quarter of it before its end.
const OPENS_AT: u64 = 22_500;

fn until_ms(ms: u64) -> CallTime {
    CallTime::from_millis(ms)
}

/// A call whose session lasts half a minute, just before the next one is asked for.
fn nearly_over() -> TestCall {
    let patient = Duration::from_mins(5);
    let mut settings =
        Settings { nudge_after: patient, stream_silence: patient, ..settings(AudioFormat::Pcmu) };
    settings.session.transcription = Some(writer());
    let mut call = TestCall::new(settings, ABLE);
    call.at(0, model_ready_until(until_ms(SESSION_MS)));
    call.until(OPENS_AT - 1);
    assert_eq!(call.count("open next model"), 0);
    call
}

fn writer() -> Transcription {
    Transcription { model: "writer".into(), languages: Vec::new(), keywords: Vec::new() }
}

/// The caller's audio up to a time of the stream.
fn frames(call: &mut TestCall, from_ms: u64, to_ms: u64) {
    for timestamp_ms in (from_ms..to_ms).step_by(20) {
        call.at(timestamp_ms + 20, caller_frame(timestamp_ms));
    }
}

#[test]
fn the_next_session_is_opened_beside_the_one_in_use_and_takes_over_in_a_pause() {
    let mut call = nearly_over();
    call.at(22_500, speech_starts("user_1", 22_000));
    call.at(22_900, next_model_ready());
    assert_eq!(call.count("use next model"), 0, "the caller speaks");
    call.at(23_500, speech_stops("user_1", 23_000));
    call.at(23_500, committed("user_1", None));
    call.at(23_600, response_started("resp_1"));
    call.at(23_700, agent_text("item_1", "At seven."));
    call.at(23_700, agent_audio("item_1", 1_000));
    call.at(23_700, audio_done("item_1"));
    call.at(23_800, response_done("resp_1"));
    call.at(24_900, all_marks_played());
    call.until(25_500);
    assert_eq!(call.count("use next model"), 0, "the caller's words are not written down");
    call.at(25_500, user_said("user_1", "When do you open?"));
    call.expect_after(
        25_000,
        "
        25.500s use next model
        25.500s model item seed-1 When do you open?
        25.500s model item seed-2 by the agent At seven.
    ",
    );
}

#[test]
fn the_caller_is_heard_without_a_gap_and_what_began_before_the_model_said_so_is_heard_again() {
    let mut call = nearly_over();
    frames(&mut call, 22_480, 24_000);
    call.at(24_000, next_model_ready());
    let before = call.appended.len();
    frames(&mut call, 24_000, 24_400);
    assert_eq!(call.time_of("use next model").as_millis(), 24_000, "nobody has spoken for long");
    assert_eq!(call.appended.len() - before, 400 * 8, "it was not followed before, and nothing is missing");

    let mut spoken = nearly_over();
    frames(&mut spoken, 22_480, 23_000);
    spoken.at(23_000, response_started("resp_1"));
    spoken.at(23_000, next_model_ready());
    frames(&mut spoken, 23_000, 25_000);
    spoken.at(25_000, agent_audio("item_1", 20));
    spoken.at(25_000, audio_done("item_1"));
    spoken.at(25_000, response_done("resp_1"));
    let before = spoken.appended.len();
    frames(&mut spoken, 25_000, 26_000);
    assert_eq!(spoken.count("use next model"), 1);
    assert_eq!(spoken.appended.len() - before, 2_000 * 8, "the last second before it is heard twice");
}

#[test]
fn a_long_answer_plays_on_while_the_next_session_takes_over() {
    let mut call = nearly_over();
    call.at(22_600, response_started("resp_1"));
    call.at(22_600, agent_text("item_1", "A long story."));
    call.at(22_600, agent_audio("item_1", 9_000));
    call.at(22_600, audio_done("item_1"));
    call.at(22_600, response_done("resp_1"));
    call.at(22_900, next_model_ready());
    call.until(34_000);
    // Half of the time from opening to leaving.
    assert_eq!(call.time_of("use next model").as_millis(), 25_500);
    assert_eq!(call.media.len(), 9_000 * 8);
    assert_eq!((call.count("twilio clear"), call.count("model respond")), (0, 0));
    assert!(call.log().contains("by the agent A long story."));
}

#[test]
fn without_a_pause_it_takes_over_before_the_end_and_nothing_of_the_caller_is_lost() {
    let mut call = nearly_over();
    let spoken_from = 22_520 + 2_000;
    call.at(22_495, response_started("resp_1"));
    call.at(22_500, next_model_ready());
    frames(&mut call, 22_520, 25_000);
    call.at(25_000, speech_starts("user_1", 2_000)); // The model's count begins with what it was given.
    call.at(25_000, response_cancelled("resp_1"));
    frames(&mut call, 25_000, 28_480);
    assert_eq!(call.count("use next model"), 0);
    let before = call.appended.len();
    frames(&mut call, 28_480, 29_000);
    assert_eq!(call.time_of("use next model").as_millis(), 28_500);
    assert_eq!(call.appended.len() - before, (29_000 - spoken_from) * 8, "the turn from its beginning");
    call.at(29_100, speech_starts("user_2", 0));
    call.at(30_000, speech_stops("user_2", 4_500));
    call.at(30_000, committed("user_2", None));
    call.at(30_500, user_said("user_2", "All of it."));
    assert_eq!(call.words(), ["user: All of it."], "and once");
}

#[test]
fn words_that_are_still_to_be_written_down_are_waited_for_but_not_to_the_end() {
    let left_at = |text_at: Option<u64>| {
        let mut call = nearly_over();
        call.at(22_495, speech_starts("user_1", 22_000));
        call.at(22_500, next_model_ready());
        call.at(28_400, speech_stops("user_1", 28_400));
        call.at(28_400, committed("user_1", None));
        call.at(28_450, response_started("resp_1"));
        if let Some(at) = text_at {
            call.at(at, user_said("user_1", "When do you open?"));
        }
        call.until(30_000);
        (call.time_of("use next model").as_millis(), call.words())
    };
    assert_eq!(left_at(Some(28_480)), (28_500, vec!["user: When do you open?".into()]));
    assert_eq!(left_at(Some(28_900)), (28_900, vec!["user: When do you open?".into()]));
    assert_eq!(left_at(None), (29_250, vec!["user: ".into()]));
}

#[test]
fn an_answer_that_is_cut_off_by_the_end_is_gone_on_with() {
    let mut call = nearly_over();
    call.at(22_600, next_model_ready_until(until_ms(60_000)));
    call.at(28_400, response_started("resp_1"));
    call.at(28_400, agent_text("item_1", "One two three four"));
    call.at(28_400, agent_audio("item_1", 2_000));
    call.until(28_500);
    assert_eq!(call.count("model respond resume"), 0);
    call.until(28_600);
    // It took over long before, because nobody spoke.
    assert_eq!(call.time_of("use next model").as_millis(), 22_600);

    let mut busy = nearly_over();
    busy.at(22_550, response_started("resp_1"));
    busy.at(22_600, next_model_ready_until(until_ms(60_000)));
    busy.at(28_400, agent_text("item_1", "One two three four"));
    busy.at(28_400, agent_audio("item_1", 2_000));
    busy.until(28_500);
    assert_eq!(busy.time_of("use next model").as_millis(), 28_500);
    assert_eq!(busy.count("model respond resume in its own words"), 1);
    busy.until(31_000);
    assert_eq!(busy.media.len(), 2_000 * 8, "what had come is heard to its end");
}

#[test]
fn a_next_session_that_does_not_come_is_asked_for_again_until_the_first_is_over() {
    let mut call = nearly_over();
    call.at(22_700, next_model_gone());
    for _ in 0..20 {
        call.until(call.now.as_millis() + 500);
        let now = call.now.as_millis();
        call.at(now, next_model_gone());
    }
    let tries = call.count("open next model");
    assert!((4..=12).contains(&tries), "{tries}");
    assert_eq!(call.count("use next model"), 0);
    call.at(33_000, model_closed());
    call.at(33_200, model_ready());
    assert_eq!((call.count("open model"), call.count("end")), (1, 0), "it is lost as any other");
}

#[test]
fn a_session_that_is_lost_early_is_replaced_at_once_by_the_one_that_stands_by() {
    let mut call = nearly_over();
    call.at(22_600, speech_starts("user_1", 22_600));
    call.at(22_700, next_model_ready());
    call.at(22_800, model_closed());
    assert_eq!(call.time_of("use next model").as_millis(), 22_800);
    assert_eq!(call.count("open model"), 0);

    let mut opening = nearly_over();
    opening.until(22_600);
    opening.at(22_700, model_closed());
    opening.at(22_900, model_ready());
    opening.expect_after(22_500, "22.700s use next model");
    assert_eq!(opening.count("end"), 0);
}

/// A call whose model talks while its next session stands by since 22.9 s.
fn standing_by() -> TestCall {
    let mut call = nearly_over();
    call.at(22_500, response_started("resp_1"));
    call.at(22_900, next_model_ready());
    call
}

#[test]
fn a_session_that_stands_by_and_shows_no_life_is_replaced_before_it_is_needed() {
    let mut call = standing_by();
    call.next_deaf = true;
    call.until(25_399);
    assert_eq!((call.count("ping next model"), call.count("leave next model")), (2, 0));
    call.until(26_000);
    assert_eq!(call.time_of("leave next model").as_millis(), 25_400, "two questions were not answered");
    assert_eq!(call.count("open next model"), 2);
    call.next_deaf = false;
    call.at(26_000, next_model_ready_until(until_ms(56_000)));
    call.at(27_000, agent_audio("item_1", 100));
    call.at(27_000, response_done("resp_1"));
    call.until(30_000);
    assert_eq!(call.count("use next model"), 1);
    assert_eq!((call.count("leave next model"), call.count("open model"), call.count("end")), (1, 0, 0));
}

#[test]
fn a_session_that_stands_by_quietly_and_answers_is_kept() {
    let mut call = standing_by();
    call.until(28_400);
    assert_eq!((call.count("open next model"), call.count("leave next model")), (1, 0));
    call.until(28_500);
    assert_eq!(call.count("use next model"), 1);
}

#[test]
fn a_session_that_is_in_doubt_is_not_gone_over_to_before_it_has_answered() {
    let mut call = standing_by();
    call.next_deaf = true;
    call.at(24_100, agent_audio("item_1", 100));
    call.at(24_200, response_done("resp_1"));
    call.at(24_460, caller_frame(24_440));
    assert_eq!((call.count("ping next model"), call.count("use next model")), (1, 0), "asked at 24.4 s");
    call.at(24_600, next_model_alive());
    assert_eq!(call.time_of("use next model").as_millis(), 24_600);

    // At the end of the time that is left, too, as long as it takes to know.
    let mut last = standing_by();
    last.at(26_950, next_model_alive());
    last.next_deaf = true;
    last.until(29_000);
    assert_eq!(last.count("use next model"), 0, "asked at 28.45 s, and it would have left at 28.5 s");
    last.at(29_100, next_model_alive());
    assert_eq!(last.time_of("use next model").as_millis(), 29_100);

    // And no longer, because the session in use is as good as over.
    let mut late = standing_by();
    late.at(26_950, next_model_alive());
    late.next_deaf = true;
    late.until(29_250);
    late.deaf = true; // It is the same one now.
    late.until(32_000);
    assert_eq!(late.time_of("use next model").as_millis(), 29_250);
    assert_eq!((late.time_of("open model").as_millis(), late.count("end")), (31_750, 0), "it is found out");
}

#[test]
fn a_session_in_doubt_does_not_take_over_from_one_that_is_lost() {
    let mut call = standing_by();
    (call.deaf, call.next_deaf) = (true, true);
    call.until(25_000);
    assert_eq!(call.count("use next model"), 0, "the network has dropped both");
    assert_eq!(call.time_of("leave next model").as_millis(), call.time_of("open model").as_millis());
    call.at(25_400, model_ready());
    assert_eq!((call.count("model respond retry"), call.count("end")), (1, 0), "{}", call.log());
}

#[test]
fn nothing_is_renewed_while_the_last_words_are_played() {
    let mut call = nearly_over();
    call.at(22_490, response_started("resp_1"));
    call.at(22_495, agent_audio("item_1", 3_000));
    call.at(22_495, tool_call("call_1", GOODBYE, "{}"));
    call.at(22_500, next_model_ready());
    call.at(22_600, response_done("resp_1"));
    call.at(26_000, all_marks_played());
    call.run_out();
    assert_eq!((call.count("use next model"), call.count("ended agent_ended")), (0, 1));
}

/// A conversation over the whole of five minutes, with a model that ends each session after half a minute.
#[test]
fn five_minutes_of_talk_in_sessions_of_half_a_minute_have_no_gap_no_repeated_greeting_and_every_word_in_order()
 {
    let mut call = TestCall::connected_with(|settings| {
        settings.greeting = Some("Greet.".into());
        settings.session.transcription = Some(writer());
    });
    // The first one is replaced by hand, because the helper gives it no end.
    call.at(0, model_closed());
    call.at(1_000, model_ready_until(until_ms(1_000 + SESSION_MS)));
    let mut talk = Talk {
        call,
        stream_ms: 0,
        session_from_ms: 1_000,
        seen: 0,
        session: 1,
        given: 0,
        turns: 0,
        last: None,
    };
    talk.frames_until(1_500);
    talk.answer("resp_1", "Good day.", 1_000);
    while talk.stream_ms < 300_000 {
        talk.turn();
    }
    let Talk { call, turns, session, .. } = talk;
    let renewed = call.count("use next model");
    assert!(renewed >= 9 && session as usize == renewed + 1, "{renewed} in five minutes, {session}");
    assert_eq!(
        (call.count("note ModelLost"), call.count("note ModelRenewed")),
        (1, renewed),
        "after the first"
    );
    assert_eq!(
        call.count("model respond greeting"),
        2,
        "once for the session that was lost at once, and once heard"
    );
    assert_eq!(
        (call.count("end"), call.count("twilio clear"), call.count("model respond resume")),
        (0, 0, 0)
    );
    let words = call.words();
    assert_eq!(words.len(), 1 + 2 * turns, "{words:#?}");
    for turn in 1..=turns {
        assert_eq!(words[2 * turn - 1], format!("user: Question {turn}?"));
        assert_eq!(words[2 * turn], format!("assistant: Answer {turn}."));
    }
    let resumed_with: Vec<_> =
        call.lines.iter().filter(|line| line.text.contains("model item seed-")).collect();
    assert!(resumed_with.iter().any(|line| line.text.ends_with("Question 1?")));
}

/// Plays both far ends of a call: what the caller says reaches the session that is in use, which answers it.
struct Talk {
    call: TestCall,
    stream_ms: u64,
    session_from_ms: u64,
    /// Lines of the log that were looked at.
    seen: usize,
    session: u32,
    /// Bytes that earlier sessions were given.
    given: usize,
    turns: usize,
    /// The item that the session knows last; none of its own at its beginning.
    last: Option<String>,
}

impl Talk {
    /// The caller's stream runs on; sessions are opened when they are asked for.
    fn frames_until(&mut self, ms: u64) {
        while self.stream_ms < ms {
            let before = self.call.appended.len();
            self.call.at(self.stream_ms + 20, caller_frame(self.stream_ms));
            self.stream_ms += 20;
            let gave = self.call.appended.len() - before;
            assert!(gave >= 160, "a frame of the caller waited at {}", self.stream_ms);
            let lines: Vec<_> = self.call.lines[self.seen..].to_vec();
            self.seen = self.call.lines.len();
            for line in lines {
                let now = self.call.now.as_millis();
                if line.text == "open next model" {
                    self.call.at(now, next_model_ready_until(until_ms(now + SESSION_MS)));
                } else if line.text == "use next model" {
                    self.session += 1;
                    self.session_from_ms = line.at.as_millis();
                    self.given = before;
                    self.last = None;
                }
            }
            let age = self.stream_ms.saturating_sub(self.session_from_ms);
            assert!(age < SESSION_MS, "a session was used beyond its end at {}", self.stream_ms);
        }
    }

    /// A question of two seconds, an answer of three, and what people leave between.
    fn turn(&mut self) {
        self.turns += 1;
        let turn = self.turns;
        let id = format!("user_{}_{turn}", self.session);
        // The model notices 100 ms after the first sound. It counts what it was given itself.
        self.frames_until(self.stream_ms + 100);
        let position_ms = (self.call.appended.len() - self.given) as u64 / 8;
        self.call.at(self.stream_ms, speech_starts(&id, position_ms.saturating_sub(100)));
        let session = self.session;
        self.frames_until(self.stream_ms + 2_400);
        assert_eq!(self.session, session, "it took over while the caller spoke");
        let position_ms = (self.call.appended.len() - self.given) as u64 / 8;
        self.call.at(self.stream_ms, speech_stops(&id, position_ms));
        self.call.at(self.stream_ms, committed(&id, self.last.as_deref()));
        self.frames_until(self.stream_ms + 100);
        let answer = format!("Answer {turn}.");
        self.answer(&format!("resp_t{turn}"), &answer, 3_000);
        self.call.at(self.stream_ms, user_said(&id, &format!("Question {turn}?")));
        self.frames_until(self.stream_ms + 600);
    }

    /// The model says something, faster than it is heard; the caller hears it without a gap.
    fn answer(&mut self, response: &str, text: &str, ms: usize) {
        let (now, id) = (self.stream_ms, format!("item_of_{response}"));
        let heard = self.call.media.len();
        self.call.at(now, response_started(response));
        let delta = Event::Text { response: response.into(), item: id.clone(), text: text.into() };
        self.call.at(now, delta);
        self.call.at(now, audio_of(response, &id, ms));
        self.call.at(now, response_done(response));
        self.last = Some(id);
        self.frames_until(now + ms as u64 + 40);
        assert_eq!(self.call.media.len() - heard, ms * 8, "{text} has a gap");
        self.call.at(self.stream_ms, all_marks_played());
    }
}
