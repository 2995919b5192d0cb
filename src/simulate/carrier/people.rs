//! Who is at the other end of a number, and what they do when it rings.

use std::str::FromStr;

use crate::simulate::random::Random;
use crate::simulate::scenario::Scenario;

/// What answering machines say before the beep, at most patient length.
const GREETING_MS: u64 = 3_000;
/// Length of their beep.
const BEEP_MS: u64 = 400;

/// What happens when a number is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Person {
    /// Somebody answers and follows the scenario.
    Answers(Scenario),
    /// Somebody answers and hangs up after so many milliseconds, whatever happens.
    HangsUp {
        /// From the moment of answering.
        after_ms: u64,
    },
    /// A machine answers, greets, beeps and listens.
    Voicemail {
        /// Length of the greeting.
        greeting_ms: u64,
    },
    /// The line is busy.
    Busy,
    /// It rings until the timeout.
    NoAnswer,
    /// The network cannot connect the call.
    Failed {
        /// What the network answers, such as 404.
        sip: u16,
    },
    /// The carrier refuses the request itself with 400 and this code, such as 21217.
    Refused {
        /// Error code.
        code: u32,
    },
}

impl Person {
    /// The word for it: what reports show and [`FromStr`] reads.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Answers(_) => "answered",
            Self::HangsUp { .. } => "hangs-up",
            Self::Voicemail { .. } => "voicemail",
            Self::Busy => "busy",
            Self::NoAnswer => "no-answer",
            Self::Failed { .. } => "failed",
            Self::Refused { .. } => "refused",
        }
    }

    /// What this person plays; `pace` shortens what machines say.
    pub(super) fn scenario(&self, pace: f64) -> Scenario {
        match self {
            Self::Answers(scenario) => scenario.clone(),
            Self::Voicemail { .. } => {
                let beep_ms = (BEEP_MS as f64 * pace) as u64;
                Scenario::answering_machine(self.greeting_ms(pace), beep_ms)
            }
            // Silent until gone.
            _ => Scenario { name: self.word().into(), voice: String::new(), steps: Vec::new() },
        }
    }

    fn greeting_ms(&self, pace: f64) -> u64 {
        let Self::Voicemail { greeting_ms } = self else { return 0 };
        (*greeting_ms as f64 * pace) as u64
    }

    /// From answering to the end of the beep, for a machine.
    pub(super) fn beep_after_ms(&self, pace: f64) -> Option<u64> {
        let is_machine = matches!(self, Self::Voicemail { .. });
        is_machine.then(|| self.greeting_ms(pace) + (BEEP_MS as f64 * pace) as u64)
    }
}

/// `answered`, `answered:SCENARIO`, `hangs-up[:MS]`, `voicemail[:MS]`, `busy`, `no-answer`, `failed[:SIP]`, `refused:CODE`.
impl FromStr for Person {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (word, detail) = match text.split_once(':') {
            Some((word, detail)) => (word, Some(detail)),
            None => (text, None),
        };
        let number = |default: Option<u64>| match detail {
            None => default.ok_or_else(|| format!("`{text}` lacks a number, as in `{word}:21217`")),
            Some(detail) => detail.parse::<u64>().map_err(|_| format!("`{detail}` is no number")),
        };
        Ok(match word {
            "answered" => {
                let scenario =
                    Scenario::load(detail.unwrap_or("brief"), 1).map_err(|error| error.to_string())?;
                Self::Answers(scenario)
            }
            "hangs-up" => Self::HangsUp { after_ms: number(Some(800))? },
            "voicemail" => Self::Voicemail { greeting_ms: number(Some(GREETING_MS))? },
            "busy" => Self::Busy,
            "no-answer" => Self::NoAnswer,
            "failed" => Self::Failed { sip: number(Some(404))? as u16 },
            "refused" => Self::Refused { code: number(None)? as u32 },
            _ => {
                return Err(format!(
                    "`{text}` is none of answered[:SCENARIO], hangs-up[:MS], voicemail[:MS], busy, no-answer, \
                     failed[:SIP], refused:CODE"
                ));
            }
        })
    }
}

/// Everybody there is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct People {
    /// The last digits of a number, and who it belongs to; the first that fits decides.
    pub rules: Vec<(String, Person)>,
    /// Everybody else: this share of them is so. Drawn anew each time a number is called.
    pub mix: Vec<(u32, Person)>,
}

impl People {
    /// Everybody is the same.
    #[must_use]
    pub fn all(person: Person) -> Self {
        Self { rules: Vec::new(), mix: vec![(1, person)] }
    }

    /// A number that ends so belongs to this person.
    #[must_use]
    pub fn with(mut self, ending: impl Into<String>, person: Person) -> Self {
        self.rules.push((ending.into(), person));
        self
    }

    /// Who is called by dialing `to` for the `nth` time, counted from 0. Everybody answers briefly unless told otherwise.
    #[must_use]
    pub fn who(&self, to: &str, nth: u32, seed: u64) -> Person {
        if let Some((_, person)) = self.rules.iter().find(|(ending, _)| to.ends_with(ending.as_str())) {
            return person.clone();
        }
        let digits: u64 = to
            .bytes()
            .filter(u8::is_ascii_digit)
            .fold(0, |sum, digit| sum.wrapping_mul(10).wrapping_add(u64::from(digit - b'0')));
        let total: u64 = self.mix.iter().map(|(share, _)| u64::from(*share)).sum();
        let mut random = Random::for_part(seed ^ digits, u64::from(nth));
        let mut drawn = random.between(1, total.max(1));
        for (share, person) in &self.mix {
            match drawn.checked_sub(u64::from(*share)) {
                None | Some(0) => return person.clone(),
                Some(rest) => drawn = rest,
            }
        }
        Person::Answers(Scenario::named("brief").unwrap_or_else(|| Scenario::random(seed, 0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_digits_say_who_it_is_and_the_rest_is_drawn() {
        let people = People {
            rules: vec![("99".into(), Person::Busy), ("9".into(), Person::NoAnswer)],
            mix: vec![(3, Person::Failed { sip: 404 }), (1, Person::HangsUp { after_ms: 5 })],
        };
        assert_eq!(people.who("+14155550199", 0, 7), Person::Busy);
        assert_eq!(people.who("+14155550189", 0, 7), Person::NoAnswer);
        let drawn: Vec<Person> = (0..400).map(|nth| people.who("+14155550100", nth, 7)).collect();
        let failed = drawn.iter().filter(|person| person.word() == "failed").count();
        assert!((250..350).contains(&failed), "{failed} of 400, three quarters were asked for");
        assert_eq!(drawn, (0..400).map(|nth| people.who("+14155550100", nth, 7)).collect::<Vec<_>>());
        assert_eq!(People::default().who("+1", 0, 0).word(), "answered");
    }

    #[test]
    fn people_are_written_as_words() {
        assert_eq!("failed:480".parse(), Ok(Person::Failed { sip: 480 }));
        assert_eq!("voicemail".parse(), Ok(Person::Voicemail { greeting_ms: 3000 }));
        assert_eq!("answered:silent".parse(), Ok(Person::Answers(Scenario::named("silent").unwrap())));
        for (wrong, why) in [("asleep", "none of"), ("refused", "lacks a number"), ("failed:x", "no number")]
        {
            let error = wrong.parse::<Person>().unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
