//! What goes wrong with requests to the carrier's API.

use std::str::FromStr;
use std::time::Duration;

use crate::simulate::random::Random;

/// What goes wrong with one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// 429 with code 20429; nothing is done.
    TooMany,
    /// 503 without a body that could be read; nothing is done.
    ErrorBefore,
    /// 500, although the call goes on.
    ErrorAfter,
    /// The connection is cut before anything is done.
    LostBefore,
    /// The connection is cut instead of an answer; the call goes on.
    LostAfter,
    /// The answer comes late; the call goes on meanwhile.
    Slow,
}

impl Fault {
    /// Every fault.
    pub const ALL: [Self; 6] =
        [Self::TooMany, Self::ErrorBefore, Self::ErrorAfter, Self::LostBefore, Self::LostAfter, Self::Slow];

    /// The word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::TooMany => "too-many",
            Self::ErrorBefore => "error-before",
            Self::ErrorAfter => "error-after",
            Self::LostBefore => "lost-before",
            Self::LostAfter => "lost-after",
            Self::Slow => "slow",
        }
    }

    /// Whether the request is carried out.
    pub(super) const fn is_carried_out(self) -> bool {
        matches!(self, Self::ErrorAfter | Self::LostAfter | Self::Slow)
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|fault| fault.word() == text).ok_or_else(|| {
            let known: Vec<&str> = Self::ALL.into_iter().map(Self::word).collect();
            format!("`{text}` is none of {}", known.join(", "))
        })
    }
}

/// Which requests something goes wrong with.
#[derive(Debug, Clone, PartialEq)]
pub struct Faults {
    /// Requests for a call, counted from 1, with which exactly this goes wrong.
    pub list: Vec<(u64, Fault)>,
    /// How often of one time, for all requests for a call that are not listed.
    pub shares: Vec<(f64, Fault)>,
    /// The shares hold for all other requests, too.
    pub everywhere: bool,
    /// How late a slow answer is.
    pub slow: Duration,
}

impl Default for Faults {
    fn default() -> Self {
        Self { list: Vec::new(), shares: Vec::new(), everywhere: false, slow: Duration::from_secs(8) }
    }
}

impl Faults {
    /// What goes wrong with the `nth` request that asks for a call (from 1).
    pub(super) fn of_call(&self, nth: u64, random: &mut Random) -> Option<Fault> {
        let listed = self.list.iter().find(|(number, _)| *number == nth).map(|(_, fault)| *fault);
        listed.or_else(|| self.draw(random))
    }

    /// What goes wrong with any other request.
    pub(super) fn of_other(&self, random: &mut Random) -> Option<Fault> {
        if self.everywhere { self.draw(random) } else { None }
    }

    fn draw(&self, random: &mut Random) -> Option<Fault> {
        let mut drawn = random.between(0, 999_999) as f64 / 1e6;
        for (share, fault) in &self.shares {
            if drawn < *share {
                return Some(*fault);
            }
            drawn -= share;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listed_faults_come_once_and_the_others_as_often_as_asked_for() {
        let faults = Faults {
            list: vec![(2, Fault::LostAfter)],
            shares: vec![(0.1, Fault::TooMany), (0.2, Fault::Slow)],
            ..Faults::default()
        };
        let mut random = Random::new(5);
        assert_eq!(faults.of_call(2, &mut random), Some(Fault::LostAfter));
        let drawn: Vec<Option<Fault>> = (3..3003).map(|nth| faults.of_call(nth, &mut random)).collect();
        let count = |wanted| drawn.iter().filter(|fault| **fault == wanted).count();
        assert!((250..350).contains(&count(Some(Fault::TooMany))));
        assert!((520..680).contains(&count(Some(Fault::Slow))));
        assert_eq!(count(Some(Fault::LostAfter)), 0);
        assert_eq!(faults.of_other(&mut random), None);
    }

    #[test]
    fn faults_are_written_as_words() {
        for fault in Fault::ALL {
            assert_eq!(fault.word().parse(), Ok(fault));
        }
        assert!("broken".parse::<Fault>().unwrap_err().contains("lost-after"));
    }
}
