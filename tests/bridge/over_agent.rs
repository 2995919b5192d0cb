//! Sounds over the agent, between two real sockets.

use sqlx::AssertSqlSafe;
use voicebridge::simulate::caller::{CallReport, run_call};
use voicebridge::simulate::model::{ModelOptions, ModelReport};
use voicebridge::simulate::scenario::{Step, Utterance};
use voicebridge::simulate::speech::agent_phrase;

use crate::world::World;
use crate::{brief, interrupt, listen, only_stream, say, scenario};

const ANSWER: &str = "hours-answer";

/// What was seen of one call.
struct Seen {
    call: CallReport,
    model: ModelReport,
    rows: Vec<serde_json::Value>,
    pauses: u64,
    confirmed: u64,
    /// What is on record of sounds over the agent.
    judged: Vec<serde_json::Value>,
}

/// Asks, makes these sounds over the answer, hears the rest, hangs up.
async fn sounds(reversible: bool, format: &str, over: Vec<Step>) -> Seen {
    let model = ModelOptions { script: brief([]), ..ModelOptions::default() };
    let world = World::start(model, &[("AUDIO_FORMAT", format)]).await;
    world.change_agent(&format!("reversible_barge_in = {reversible}")).await;
    let heard_out = Step::Listen { silence_ms: 1_800, within_ms: 30_000 };
    let steps = [listen(), say("hours-question")].into_iter().chain(over).chain([heard_out, Step::HangUp]);
    let call = run_call(world.call(scenario(steps))).await;
    world.reason(&call.call_sid).await;
    world.settled().await;
    let judged = format!(
        "select coalesce(data->'soundsOverAgent', '[]') from calls where call_sid = '{}'",
        call.call_sid
    );
    let judged: serde_json::Value =
        sqlx::query_scalar(AssertSqlSafe(judged)).fetch_one(world.running.store.pool()).await.unwrap();
    let seen = Seen {
        judged: judged.as_array().unwrap().clone(),
        rows: world.transcript(&call.call_sid).await,
        model: world.model.report(),
        pauses: world.metric("pauses_total"),
        confirmed: ["length", "words"]
            .map(|why| world.metric(&format!(r#"sounds_judged_total{{verdict="confirmed",why="{why}"}}"#)))
            .iter()
            .sum(),
        call,
    };
    only_stream(&seen.call);
    assert_eq!(seen.model.sessions[0].violations, Vec::<String>::new());
    world.stop().await;
    seen
}

fn cough(heard_ms: u64) -> Step {
    let say = Utterance::Cough { ms: 400, gain_db: 0 };
    Step::InterruptAfter { heard_ms, within_ms: 30_000, say }
}

impl Seen {
    /// Everything the agent said was heard once, but for what the ledger cannot know.
    fn all_was_heard(&self) {
        let session = &self.model.sessions[0];
        let generated: f64 = session.responses.iter().map(|response| response.generated_ms).sum();
        let heard = only_stream(&self.call).heard_bytes as f64 / 8.0;
        assert!((generated - heard).abs() < 60.0, "{heard} of {generated} ms");
        assert!(session.items.iter().all(|item| item.truncated_ms.is_none()), "{session:?}");
        assert!(session.responses.iter().all(|response| response.status == "completed"), "{session:?}");
        assert!(self.rows.iter().all(|row| row["interrupted"] == false), "{:?}", self.rows);
    }

    /// What each sound was taken for, by its record, and by what.
    fn verdicts(&self) -> Vec<[&str; 2]> {
        for sound in &self.judged {
            let ms = |name: &str| sound[name].as_u64().unwrap_or_else(|| panic!("no {name} in {sound}"));
            // Words that come later stop an agent that has gone on.
            let paused = sound["pausedMs"].as_u64().unwrap_or(ms("noticedMs"));
            assert!(ms("noticedMs") <= paused && paused <= ms("judgedMs"), "{sound}");
            assert!(ms("voiceMs") > 0 && sound["loudestDbfs"].as_f64().unwrap() > -60.0, "{sound}");
            assert!(sound["item"].as_str().unwrap().starts_with("item_"), "{sound}");
        }
        self.judged.iter().map(|sound| ["verdict", "why"].map(|name| sound[name].as_str().unwrap())).collect()
    }

    fn words(&self) -> Vec<&str> {
        self.rows.iter().map(|row| row["content"].as_str().unwrap()).collect()
    }
}

#[tokio::test]
async fn an_agent_goes_on_after_signs_of_listening_which_stay_in_the_conversation() {
    let answer = agent_phrase(ANSWER).unwrap().text;
    for format in ["pcmu", "pcm24k"] {
        let over = vec![interrupt(1_000, "mm-hm"), cough(1_500), interrupt(1_500, "okay")];
        let seen = sounds(true, format, over).await;
        seen.all_was_heard();
        assert_eq!((seen.pauses, seen.confirmed), (3, 0), "{format}");
        assert_eq!(seen.verdicts(), [["resumed", "short"]; 3], "{format}");
        let question = "Hello, I would like to know your opening hours.";
        let mut words = seen.words();
        // A cough has no words, and what is as short as "okay" is not recognised here.
        assert!(words.split_off(4).iter().all(|words| words.ends_with("s of speech)")), "{format}");
        assert_eq!(words, ["Good day.", question, answer, "Mm hm."], "{format}");
        assert_eq!(seen.model.sessions[0].responses.len(), 2, "nobody answered them");
    }
}

#[tokio::test]
async fn an_agent_stops_for_a_question_and_for_a_word_that_means_stop() {
    for (phrase, clears) in [("sunday-question", 1), ("wait", 2)] {
        let seen = sounds(true, "pcmu", vec![interrupt(1_500, phrase)]).await;
        let session = &seen.model.sessions[0];
        let cut = session.items.iter().find(|item| item.truncated_ms.is_some()).expect("one was cut");
        let stream = only_stream(&seen.call);
        assert_eq!(stream.clears.len(), clears, "{phrase}");
        let before = session.items[0].generated_ms.unwrap();
        let heard = stream.clears.last().unwrap().heard_bytes as f64 / 8.0 - before;
        let error = (cut.truncated_ms.unwrap() as f64 - heard).abs();
        assert!(error <= 40.0, "{phrase}: off by {error} ms");
        assert_eq!(seen.confirmed, 1, "{phrase}");
        assert_eq!(seen.verdicts().last().unwrap()[0], "confirmed", "{phrase}");
        assert_eq!(seen.rows[2]["interrupted"], true);
        assert_eq!(session.responses.len(), 3, "{phrase} was answered");
    }
}

#[tokio::test]
async fn an_agent_that_is_not_to_wait_stops_for_any_sound() {
    let seen = sounds(false, "pcmu", vec![interrupt(1_500, "mm-hm")]).await;
    assert_eq!((seen.pauses, seen.confirmed, seen.judged.len()), (0, 0, 0));
    assert_eq!(seen.rows[2]["interrupted"], true);
    let turns = &seen.model.sessions[0].session["audio"]["input"]["turn_detection"];
    assert_eq!((&turns["create_response"], &turns["interrupt_response"]), (&true.into(), &true.into()));
}
