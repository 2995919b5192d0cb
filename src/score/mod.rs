//! How well signs of listening are told from interruptions: many of both, over a real bridge, counted at its far ends.

mod judge;
mod plan;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use secrecy::SecretString;
use serde::Serialize;
use uuid::Uuid;

use crate::app::{App, Running, stage};
use crate::audio::AudioFormat;
use crate::simulate::caller::{CallReport, CallerOptions, run_call};
use crate::simulate::model::script::{Reply, Rule, Script, Speech, When};
use crate::simulate::model::{ModelOptions, ModelServer, SessionReport, Transcripts};
use crate::simulate::speech;
use judge::{Judged, TRANSCRIBED_AFTER_MS, judge};
use plan::{Meaning, PROMPTS, plans};

/// Of the signs of listening so many may stop the agent.
const MOST_SIGNS_THAT_STOP: f64 = 0.2;
/// Of the interruptions so many must stop it, in time.
const LEAST_INTERRUPTIONS_THAT_STOP: f64 = 0.95;
/// In time: so long after it could be known. The time it takes to notice that somebody falls silent.
const IN_TIME_MS: f64 = 400.0;
/// What the agent says at length, by the recordings it is made of.
const LONG_ANSWERS: [&[&str]; 2] = [&["hours-answer"], &["generic", "address-answer", "order-answer"]];

const METHOD: &str = "\
Every call runs over real sockets: a simulated telephone network and a simulated model that finds turns by their
loudness, 10 ms at a time, and leaves answering and stopping to the bridge. The caller asks, hears a part of a long
answer, and says something over it: a sign of listening or a cough, or an interruption. What, when, in which voice and
how loud (-10 to +3 dB) follows from the seed; the bridge hears only the sound, and half a second after the end of the
turn the words, where the model recognises the recording.

It is counted at the far ends alone. An answer was stopped when the model was told so, or when the caller's ear did not
get all of it. An interruption can be known as soon as it has 900 ms of voice, or when its words are written; it stopped
the agent in time if nothing of the answer was heard later than 400 ms after that.

The exit code says whether at most 20 % of the signs and at least 95 % of the interruptions stopped the agent.";

/// Options of `score`.
#[derive(Debug, Clone, Args)]
#[command(after_help = METHOD)]
pub struct ScoreOptions {
    /// Signs of listening in all.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub signs: u32,
    /// Interruptions in all.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub interruptions: u32,
    /// Calls side by side.
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=200))]
    pub calls: u32,
    /// Decides what is said, when, by whom and how loud.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Audio towards the model: pcm24k or pcmu.
    #[arg(long, default_value_t = AudioFormat::Pcm24k)]
    pub format: AudioFormat,
    /// Write everything that was found here, as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// What was found.
#[derive(Debug, Serialize)]
struct Score {
    seed: u64,
    calls: u32,
    signs: usize,
    signs_that_stopped: usize,
    interruptions: usize,
    interruptions_that_stopped_in_time: usize,
    sounds: Vec<Judged>,
    /// Calls that could not be judged, and why.
    unusable: Vec<String>,
}

/// Runs the calls and prints the score. False: a bound is missed.
pub async fn run(options: ScoreOptions) -> anyhow::Result<bool> {
    let data_dir = std::env::temp_dir().join(format!("voicebridge-score-{}", std::process::id()));
    let result = Box::pin(in_dir(&options, &data_dir)).await;
    if data_dir.exists() {
        std::fs::remove_dir_all(&data_dir)
            .with_context(|| format!("cannot remove {}", data_dir.display()))?;
    }
    let score = result?;
    print(&score);
    if let Some(path) = &options.json {
        let json = serde_json::to_string_pretty(&score)?;
        std::fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(score.is_good())
}

async fn in_dir(options: &ScoreOptions, data_dir: &Path) -> anyhow::Result<Score> {
    let model = ModelOptions {
        seed: options.seed,
        script: script(),
        transcripts: Transcripts { delay_ms: TRANSCRIBED_AFTER_MS, ..Transcripts::default() },
        ..ModelOptions::default()
    };
    let model = ModelServer::on_any_port(model).await.context("cannot start the model")?;
    let token = SecretString::from(Uuid::new_v4().simple().to_string());
    let far_ends = stage::far_ends(model.url(), &token, options.format);
    let running = App::start(stage::config(&far_ends, data_dir, 0)?).await?;
    let score = Box::pin(place_calls(options, &running, &model, &token)).await;
    running.stop().await?;
    model.stop().await;
    Ok(score)
}

async fn place_calls(
    options: &ScoreOptions,
    running: &Running,
    model: &ModelServer,
    token: &SecretString,
) -> Score {
    let plans = plans(options.calls, options.signs, options.interruptions, options.seed);
    println!("{} calls side by side, each with a number of questions and long answers…", plans.len());
    let calls = plans.iter().enumerate().map(|(number, plan)| {
        let url = running.public_url.join("/media-stream-twiml");
        let usual = CallerOptions::new(url, Some(token.clone()), plan.scenario());
        let seed = options.seed.wrapping_add(number as u64);
        run_call(CallerOptions { seed, ..usual })
    });
    let calls: Vec<CallReport> = futures_util::future::join_all(calls).await;
    let sessions = model.report().sessions;
    let long_answers: Vec<&str> = LONG_ANSWERS
        .iter()
        .filter_map(|ids| speech::agent_phrase(ids.first()?))
        .map(|phrase| phrase.text)
        .collect();
    let (mut sounds, mut unusable) = (Vec::new(), Vec::new());
    for (plan, call) in plans.iter().zip(&calls) {
        let judged = session_of(call, &sessions)
            .ok_or_else(|| "the model had no session of it".to_owned())
            .and_then(|session| judge(&plan.exchanges, call, session, &long_answers));
        match judged {
            Ok(judged) => sounds.extend(judged),
            Err(why) => unusable.push(format!("call {}: {why}", call.call_sid)),
        }
    }
    let of = |meaning| sounds.iter().filter(move |sound: &&Judged| sound.meaning == meaning);
    let in_time = |sound: &&Judged| sound.stopped && sound.silent_after_ms <= IN_TIME_MS;
    Score {
        seed: options.seed,
        calls: options.calls,
        signs: of(Meaning::GoOn).count(),
        signs_that_stopped: of(Meaning::GoOn).filter(|sound| sound.stopped).count(),
        interruptions: of(Meaning::Stop).count(),
        interruptions_that_stopped_in_time: of(Meaning::Stop).filter(in_time).count(),
        sounds,
        unusable,
    }
}

/// The session that said what the caller heard: marks name its items.
fn session_of<'a>(call: &CallReport, sessions: &'a [SessionReport]) -> Option<&'a SessionReport> {
    let stream = call.streams.first()?;
    let items: Vec<&str> = stream.marks.iter().filter_map(|mark| mark.name.split(':').nth(1)).collect();
    sessions.iter().find(|session| session.items.iter().any(|item| items.contains(&item.id.as_str())))
}

impl Score {
    fn is_good(&self) -> bool {
        let share = |part: usize, all: usize| part as f64 / all.max(1) as f64;
        self.unusable.is_empty()
            && share(self.signs_that_stopped, self.signs) <= MOST_SIGNS_THAT_STOP
            && share(self.interruptions_that_stopped_in_time, self.interruptions)
                >= LEAST_INTERRUPTIONS_THAT_STOP
    }
}

fn print(score: &Score) {
    let of = |meaning, value: fn(&Judged) -> Option<f64>| {
        let chosen = score.sounds.iter().filter(|sound| sound.meaning == meaning);
        let mut values: Vec<f64> = chosen.filter_map(value).collect();
        values.sort_by(f64::total_cmp);
        Spread(values)
    };
    let percent = |part: usize, all: usize| 100.0 * part as f64 / all.max(1) as f64;
    let (signs, stops) = (score.signs, score.interruptions);
    println!("\nSounds over the agent, judged by the far ends                     median    95 %     most");
    println!(
        "  signs of listening and coughs that stopped it: {:>4} of {signs} ({:.1} %, at most 20 %)",
        score.signs_that_stopped,
        percent(score.signs_that_stopped, signs)
    );
    println!(
        "  interruptions that stopped it in time:         {:>4} of {stops} ({:.1} %, at least 95 %)",
        score.interruptions_that_stopped_in_time,
        percent(score.interruptions_that_stopped_in_time, stops)
    );
    let row = |name: &str, spread: &Spread| println!("  {name:<60} {spread}");
    row("ms from an interruption's first sound to silence", &of(Meaning::Stop, |sound| sound.quiet_after_ms));
    row(
        "ms from where it could be known to silence for good",
        &of(Meaning::Stop, |sound| sound.stopped.then_some(sound.silent_after_ms)),
    );
    row(
        "ms a sign of listening held the agent up",
        &of(Meaning::GoOn, |sound| (!sound.stopped).then_some(sound.held_up_ms)),
    );
    row(
        "ms of the answer lost or heard twice by that",
        &of(Meaning::GoOn, |sound| (!sound.stopped).then_some(sound.slip_ms)),
    );
    for sound in &score.sounds {
        let in_time = sound.stopped && sound.silent_after_ms <= IN_TIME_MS;
        let wrong = if sound.meaning == Meaning::GoOn { sound.stopped } else { !in_time };
        if wrong {
            let what = if sound.stopped { "stopped the agent" } else { "did not stop the agent" };
            println!(
                "  wrong: {} ({:.0} ms) {what}, silent after {:.0} ms",
                sound.what, sound.length_ms, sound.silent_after_ms
            );
        }
    }
    for why in &score.unusable {
        println!("  could not be judged: {why}");
    }
}

/// Sorted values.
struct Spread(Vec<f64>);

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Some(most) = self.0.last() else { return f.write_str("       -       -       -") };
        let at =
            |share: f64| self.0[((self.0.len() as f64 * share).ceil() as usize).clamp(1, self.0.len()) - 1];
        write!(f, "{:>8.0}{:>8.0}{most:>8.0}", at(0.5), at(0.95))
    }
}

/// A greeting, two long answers, and a tone for everything else.
fn script() -> Script {
    let say = |when: When, say: Vec<Speech>| Rule {
        when,
        needs_tool: None,
        times: None,
        reply: Reply { say, ..Reply::default() },
    };
    let tone = |ms, text: &str| vec![Speech::Tone { ms, text: text.into() }];
    let mut rules = vec![say(When::Greeting, tone(400, "Good day."))];
    for (prompt, ids) in PROMPTS.iter().zip(LONG_ANSWERS) {
        let long = ids.iter().map(|id| Speech::Phrase((*id).into())).collect();
        rules.push(say(When::Heard((*prompt).into()), long));
    }
    rules.push(say(When::Anything, tone(700, "Noted.")));
    Script { rules }
}
