//! What the callers of a score say over the agent, and when: made from a seed, unknown to the bridge.

use crate::audio::g711;
use crate::audio::level::Decibels;
use crate::simulate::random::Random;
use crate::simulate::scenario::{Scenario, Step, Utterance};
use crate::simulate::speech;

/// What is said to be given a long answer, one kind of it each.
pub(super) const PROMPTS: [&str; 2] = ["hello", "still-here"];
/// Said to show that one listens.
const SIGNS: [&str; 6] = ["mm-hm", "uh-huh", "yeah", "okay", "right", "i-see"];
/// Every so many signs of listening is a cough instead.
const COUGH_EVERY: u64 = 4;
/// Said to stop the agent; long enough to be known by their length alone.
const LONG: [&str; 5] =
    ["hours-question", "sunday-question", "order-question", "address-question", "person-please"];
/// Said to stop the agent, and known by their words only.
const BRIEF: [&str; 4] = ["stop", "wait", "wrong", "excuse-me"];
/// The stand-in for a transcription knows recordings up to this much quieter; of others it writes only how long they are.
const KNOWN_DOWN_TO_DB: i32 = -3;
/// Sound as loud as this is voice, to the judge.
const VOICE: Decibels = Decibels(-45.0);
/// So much voice is an interruption, by the policy's own word.
const INTERRUPTS_AFTER_MS: u64 = 900;

/// What somebody means by a sound over the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Meaning {
    /// "Go on": a sign of listening, or no word at all.
    GoOn,
    /// "Stop."
    Stop,
}

/// One question, its long answer, and a sound over that.
#[derive(Debug, Clone)]
pub(super) struct Exchange {
    pub(super) meaning: Meaning,
    pub(super) utterance: Utterance,
    /// So much of the answer is heard first.
    pub(super) heard_ms: u64,
    /// When, in the utterance, there has been as much voice as an interruption has; `None`: never.
    pub(super) long_after_ms: Option<u64>,
}

/// One caller.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) voice: &'static str,
    pub(super) exchanges: Vec<Exchange>,
}

/// Shares so many of each among the callers, in an order of their own.
pub(super) fn plans(callers: u32, signs: u32, interruptions: u32, seed: u64) -> Vec<Plan> {
    let part = |all: u32, caller: u32| all / callers + u32::from(caller < all % callers);
    (0..callers)
        .map(|caller| {
            let mut random = Random::for_part(seed, caller.into());
            let voices = speech::caller_voices();
            let voice = random.pick(voices).copied().unwrap_or("anna");
            let mut left = [part(signs, caller), part(interruptions, caller)];
            let mut exchanges = Vec::new();
            while left[0] + left[1] > 0 {
                let is_sign = random.between(1, u64::from(left[0] + left[1])) <= u64::from(left[0]);
                left[usize::from(!is_sign)] -= 1;
                exchanges.push(exchange(&mut random, voice, is_sign));
            }
            Plan { voice, exchanges }
        })
        .collect()
}

fn exchange(random: &mut Random, voice: &str, is_sign: bool) -> Exchange {
    let mut gain = |quietest: i32| random.between(0, (3 - quietest).unsigned_abs().into()) as i32 + quietest;
    let (any_gain, known_gain) = (gain(-10), gain(KNOWN_DOWN_TO_DB));
    let mut phrase = |phrases: &[&str], gain_db| {
        let phrase = random.pick(phrases).copied().unwrap_or("hello").to_owned();
        Utterance::Adjusted { phrase, gain_db }
    };
    let (meaning, utterance) = if is_sign {
        let said = phrase(&SIGNS, any_gain);
        let cough = Utterance::Cough { ms: random.between(150, 700), gain_db: any_gain };
        (Meaning::GoOn, if random.between(1, COUGH_EVERY) == 1 { cough } else { said })
    } else {
        let (mut long, brief) = (phrase(&LONG, any_gain), phrase(&BRIEF, known_gain));
        let too_soft = long_after_ms(&sound(&long, voice)).is_none();
        if let (Utterance::Adjusted { gain_db, .. }, true) = (&mut long, too_soft) {
            *gain_db = known_gain; // Too soft for its length to tell, so its words must.
        }
        (Meaning::Stop, if random.between(1, 5) <= 3 { long } else { brief })
    };
    let long_after_ms = long_after_ms(&sound(&utterance, voice));
    Exchange { meaning, utterance, heard_ms: random.between(600, 5_000), long_after_ms }
}

fn sound(utterance: &Utterance, voice: &str) -> Vec<u8> {
    match utterance {
        Utterance::Adjusted { phrase, gain_db } => {
            let recording = speech::caller_phrase(phrase, voice).and_then(|phrase| phrase.ulaw().ok());
            speech::louder(&recording.unwrap_or_default(), *gain_db)
        }
        Utterance::Cough { ms, gain_db } => speech::louder(&speech::cough(*ms), *gain_db),
        Utterance::Phrase(_) | Utterance::File(_) | Utterance::Beginning { .. } | Utterance::Beep { .. } => {
            vec![g711::SILENCE]
        }
    }
}

fn long_after_ms(ulaw: &[u8]) -> Option<u64> {
    let voiced = ulaw.chunks(160).enumerate().filter(|(_, frame)| Decibels::of_ulaw(frame) >= VOICE);
    let frames = (INTERRUPTS_AFTER_MS / 20) as usize;
    voiced.map(|(index, _)| (index as u64 + 1) * 20).nth(frames - 1)
}

impl Plan {
    /// As the caller follows it.
    pub(super) fn scenario(&self) -> Scenario {
        let mut steps = vec![listen()];
        for (number, exchange) in self.exchanges.iter().enumerate() {
            steps.extend([
                Step::Say(Utterance::Phrase(PROMPTS[number % PROMPTS.len()].into())),
                Step::InterruptAfter {
                    heard_ms: exchange.heard_ms,
                    within_ms: 15_000,
                    say: exchange.utterance.clone(),
                },
                listen(),
            ]);
        }
        steps.push(Step::HangUp);
        Scenario { name: "score".into(), voice: self.voice.into(), steps }
    }
}

/// Until the agent has finished. Longer than any pause it makes.
fn listen() -> Step {
    Step::Listen { silence_ms: 1_800, within_ms: 25_000 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_has_what_was_asked_for_and_depends_on_its_seed_alone() {
        let count = |plans: &[Plan], meaning| {
            plans.iter().flat_map(|plan| &plan.exchanges).filter(|e| e.meaning == meaning).count()
        };
        let one = plans(7, 50, 53, 4);
        assert_eq!((one.len(), count(&one, Meaning::GoOn), count(&one, Meaning::Stop)), (7, 50, 53));
        let scenarios = |seed| plans(7, 50, 53, seed).iter().map(Plan::scenario).collect::<Vec<_>>();
        assert_eq!(scenarios(4), scenarios(4));
        assert_ne!(scenarios(4), scenarios(5));
        for scenario in scenarios(4) {
            Scenario::from_json(&serde_json::to_string(&scenario).unwrap()).unwrap();
        }
    }

    #[test]
    fn only_what_lasts_is_long() {
        let all = plans(1, 200, 200, 1);
        let long = |meaning| {
            let of = all[0].exchanges.iter().filter(move |exchange| exchange.meaning == meaning);
            of.filter(|exchange| exchange.long_after_ms.is_some()).count()
        };
        assert_eq!(long(Meaning::GoOn), 0, "no sign of listening is as long as an interruption");
        assert!((60..180).contains(&long(Meaning::Stop)), "{}", long(Meaning::Stop));
    }
}
