//! What was decided of sounds over the agent, for the record of the call.

use serde_json::{Map, Value, json};

use crate::call::timing::Judgement;
use crate::clock::CallTime;

/// A call in which there are more is noisy, and the rest tells nothing new.
const MOST: usize = 200;

/// The sounds of one stream.
#[derive(Debug, Default)]
pub(super) struct Sounds(Vec<Judgement>);

impl Sounds {
    pub(super) fn add(&mut self, judgement: &Judgement) {
        if self.0.len() < MOST {
            self.0.push(judgement.clone());
        }
    }

    /// Members of the end-of-call report: none when there was no sound.
    pub(super) fn report(&self) -> Map<String, Value> {
        if self.0.is_empty() {
            return Map::new();
        }
        Map::from_iter([("soundsOverAgent".to_owned(), self.0.iter().map(in_report).collect())])
    }
}

/// Times are milliseconds since the stream began.
fn in_report(judgement: &Judgement) -> Value {
    json!({
        "item": judgement.item,
        "noticedMs": judgement.noticed.as_millis(),
        "pausedMs": judgement.paused.map(CallTime::as_millis),
        "judgedMs": judgement.judged.as_millis(),
        "voiceMs": judgement.voice.as_millis() as u64,
        "loudestDbfs": (f64::from(judgement.loudest.0) * 10.0).round() / 10.0,
        "verdict": judgement.verdict.as_str(),
        "why": judgement.why.as_str(),
    })
}
