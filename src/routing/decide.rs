//! Who takes a call.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::ids::PhoneNumber;
use crate::routing::hours::{Schedule, Verdict};

/// Telephones that ring together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RingGroup {
    /// The team they are of; `None` is a number that stands alone.
    pub team: Option<Uuid>,
    /// How long they ring.
    pub timeout: Duration,
    /// Of the people who take calls. None at all: nobody is there to be called.
    pub telephones: Vec<Telephone>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Telephone {
    /// Its number.
    pub number: PhoneNumber,
    /// Whose it is, `team_members.id`; `None` is a number that stands alone.
    pub member: Option<Uuid>,
}

/// Whether an agent can take a call here and now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgentHealth {
    /// It can.
    Well,
    /// It takes no new calls.
    Disabled,
    /// The server is being stopped.
    Draining,
    /// As many calls are live as this server takes.
    Full,
    /// No endpoint of the model works as far as is known.
    ModelDown,
}

impl RingGroup {
    /// One number that stands alone.
    #[must_use]
    pub fn of_one(number: PhoneNumber, timeout: Duration) -> Self {
        Self { team: None, timeout, telephones: vec![Telephone { number, member: None }] }
    }

    /// The group if anybody is there to be called.
    #[must_use]
    pub fn somebody(self) -> Option<Self> {
        (!self.telephones.is_empty()).then_some(self)
    }

    /// The number, where there is only one.
    #[must_use]
    pub fn only_number(&self) -> Option<&PhoneNumber> {
        match &*self.telephones {
            [telephone] => Some(&telephone.number),
            _ => None,
        }
    }

    /// A word for records.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        if self.team.is_some() { "team" } else { "number" }
    }
}

impl AgentHealth {
    /// Every state.
    pub const ALL: [Self; 5] = [Self::Well, Self::Disabled, Self::Draining, Self::Full, Self::ModelDown];

    /// A word for records and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Well => "agent_well",
            Self::Disabled => "agent_disabled",
            Self::Draining => "draining",
            Self::Full => "max_calls",
            Self::ModelDown => "model_down",
        }
    }
}

/// What people there are to be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct People {
    /// Those who answer by the schedule.
    pub by_schedule: bool,
    /// Those who answer where the agent cannot.
    pub instead: bool,
}

/// Where a call goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// To people.
    Team,
    /// To the agent.
    Agent,
    /// Nobody can take it, and that is said.
    Sentence,
    /// It is over.
    HangUp,
}

impl To {
    /// Every place.
    pub const ALL: [Self; 4] = [Self::Team, Self::Agent, Self::Sentence, Self::HangUp];

    /// The stored word, `routing_decisions.decision`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Team => "team",
            Self::Agent => "agent",
            Self::Sentence => "sentence",
            Self::HangUp => "hang_up",
        }
    }

    /// Reads the stored word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|to| to.as_str() == word)
    }
}

/// Where a call goes, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// Where.
    pub to: To,
    /// A word for why. Of a sentence it is [`AgentHealth::as_str`].
    pub reason: &'static str,
    /// What was looked at.
    pub details: Map<String, Value>,
}

/// Who takes a call that has just come. `hours`: what the schedule says, where there is one.
///
/// People come first in their hours. Else the agent does, and where it cannot, people do at any hour.
#[must_use]
pub fn route(hours: Option<&Verdict>, people: People, agent: AgentHealth) -> Decision {
    let to_agent = match hours {
        Some(Verdict::InHours { .. }) if people.by_schedule => {
            return decision(To::Team, "in_business_hours", agent);
        }
        Some(Verdict::InHours { .. }) => "no_team",
        Some(Verdict::OutOfHours) => "out_of_hours",
        Some(Verdict::Holiday { .. }) => "holiday",
        Some(Verdict::Off) => "schedule_off",
        None => "no_schedule",
    };
    agent_or_people(to_agent, people.instead, agent)
}

/// Who takes a call that has come for an agent. `people`: there are some to be called where the agent cannot.
#[must_use]
pub fn for_agent(people: bool, agent: AgentHealth) -> Decision {
    agent_or_people("agent_called", people, agent)
}

fn agent_or_people(to_agent: &'static str, people: bool, agent: AgentHealth) -> Decision {
    match agent {
        AgentHealth::Well => decision(To::Agent, to_agent, agent),
        _ if people => decision(To::Team, agent.as_str(), agent),
        // It says itself that it cannot go on, and may be the first to find that the model is back.
        AgentHealth::ModelDown => decision(To::Agent, to_agent, agent),
        _ => decision(To::Sentence, agent.as_str(), agent),
    }
}

/// How a call goes on after people were called. `dial_status`: the carrier's word for what came of it. `is_over`: the
/// caller has gone.
#[must_use]
pub fn after_team(dial_status: &str, is_over: bool, agent: AgentHealth) -> Decision {
    let mut decision = if people_answered(dial_status) {
        decision(To::HangUp, "team_answered", agent)
    } else if is_over {
        decision(To::HangUp, "caller_left", agent)
    } else if matches!(agent, AgentHealth::Well | AgentHealth::ModelDown) {
        decision(To::Agent, "team_no_answer", agent)
    } else {
        // The same telephones are not rung again.
        decision(To::Sentence, agent.as_str(), agent)
    };
    decision.details.insert("dial_status".into(), dial_status.into());
    decision
}

/// Whether somebody has spoken with the caller.
// Twilio dossier, 3.3: `answered` is of conferences only.
#[must_use]
pub fn people_answered(dial_status: &str) -> bool {
    matches!(dial_status, "completed" | "answered")
}

fn decision(to: To, reason: &'static str, agent: AgentHealth) -> Decision {
    Decision { to, reason, details: Map::from_iter([("agent".to_owned(), json!(agent.as_str()))]) }
}

impl Decision {
    /// With what the schedule says.
    #[must_use]
    pub fn at_hours(mut self, schedule: &Schedule, now: Timestamp, verdict: &Verdict) -> Self {
        let (day, time) = schedule.wall(now);
        let zone = schedule.time_zone.iana_name();
        let mut note = |name: &str, value: Value| self.details.insert(name.to_owned(), value);
        note("time_zone", json!(zone));
        note("time_there", json!(format!("{day}T{time}")));
        match verdict {
            Verdict::InHours { span, holiday } => {
                note("span", json!(span.to_string()));
                if let Some(name) = holiday {
                    note("holiday", json!(name));
                }
            }
            Verdict::Holiday { name } => drop(note("holiday", json!(name))),
            Verdict::OutOfHours | Verdict::Off => {}
        }
        self
    }

    /// With who is called.
    #[must_use]
    pub fn ringing(mut self, group: &RingGroup) -> Self {
        self.details.insert("team_id".into(), json!(group.team));
        self.details.insert("telephones".into(), json!(group.telephones.len()));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::hours::{Span, WallTime};

    fn verdicts() -> [Option<Verdict>; 5] {
        let span = Span { opens: WallTime::MIDNIGHT, closes: WallTime::END_OF_DAY };
        [
            Some(Verdict::InHours { span, holiday: None }),
            Some(Verdict::OutOfHours),
            Some(Verdict::Holiday { name: "New Year".into() }),
            Some(Verdict::Off),
            None,
        ]
    }

    #[test]
    fn people_answer_in_their_hours_the_agent_outside_of_them_and_people_again_where_the_agent_cannot() {
        use AgentHealth::{Disabled, Draining, Full, ModelDown, Well};
        let all = People { by_schedule: true, instead: true };
        let nobody = People { by_schedule: false, instead: false };
        let only_instead = People { by_schedule: false, instead: true };
        let [open, out, holiday, off, none] = verdicts();
        for (hours, people, agent, to, reason) in [
            (&open, all, Well, To::Team, "in_business_hours"),
            (&open, all, Disabled, To::Team, "in_business_hours"),
            (&open, all, ModelDown, To::Team, "in_business_hours"),
            (&open, nobody, Well, To::Agent, "no_team"),
            (&open, only_instead, Well, To::Agent, "no_team"),
            (&open, only_instead, Full, To::Team, "max_calls"),
            (&out, all, Well, To::Agent, "out_of_hours"),
            (&holiday, all, Well, To::Agent, "holiday"),
            (&off, all, Well, To::Agent, "schedule_off"),
            (&none, all, Well, To::Agent, "no_schedule"),
            (&out, all, Disabled, To::Team, "agent_disabled"),
            (&holiday, all, Draining, To::Team, "draining"),
            (&off, all, Full, To::Team, "max_calls"),
            (&none, all, ModelDown, To::Team, "model_down"),
            (&out, nobody, Disabled, To::Sentence, "agent_disabled"),
            (&open, nobody, Draining, To::Sentence, "draining"),
            (&none, nobody, Full, To::Sentence, "max_calls"),
            (&out, nobody, ModelDown, To::Agent, "out_of_hours"),
        ] {
            let decision = route(hours.as_ref(), people, agent);
            assert_eq!((decision.to, decision.reason), (to, reason), "{hours:?} {people:?} {agent:?}");
            assert_eq!(decision.details["agent"], agent.as_str());
        }
    }

    #[test]
    fn a_call_for_an_agent_goes_to_people_only_where_the_agent_cannot_take_it() {
        use AgentHealth::{Disabled, Draining, Full, ModelDown, Well};
        for (agent, with_people, without) in [
            (Well, (To::Agent, "agent_called"), (To::Agent, "agent_called")),
            (Disabled, (To::Team, "agent_disabled"), (To::Sentence, "agent_disabled")),
            (Draining, (To::Team, "draining"), (To::Sentence, "draining")),
            (Full, (To::Team, "max_calls"), (To::Sentence, "max_calls")),
            (ModelDown, (To::Team, "model_down"), (To::Agent, "agent_called")),
        ] {
            for (people, expected) in [(true, with_people), (false, without)] {
                let decision = for_agent(people, agent);
                assert_eq!((decision.to, decision.reason), expected, "{agent:?} {people}");
            }
        }
    }

    #[test]
    fn nobody_is_called_who_is_not_there_and_no_agent_answers_that_cannot() {
        for hours in &verdicts() {
            for agent in AgentHealth::ALL {
                for (by_schedule, instead) in [(false, false), (false, true), (true, true)] {
                    let people = People { by_schedule, instead };
                    let Decision { to, .. } = route(hours.as_ref(), people, agent);
                    assert!(to != To::Team || by_schedule || instead);
                    assert!(to != To::Agent || matches!(agent, AgentHealth::Well | AgentHealth::ModelDown));
                    assert!(to != To::Sentence || !instead, "people are better than a sentence");
                    assert_ne!(to, To::HangUp);
                }
            }
        }
    }

    #[test]
    fn after_people_were_called_the_call_is_over_or_the_agent_has_it() {
        use AgentHealth::{Disabled, Full, ModelDown, Well};
        for (status, is_over, agent, to, reason) in [
            ("completed", false, Well, To::HangUp, "team_answered"),
            ("answered", true, Disabled, To::HangUp, "team_answered"),
            ("no-answer", false, Well, To::Agent, "team_no_answer"),
            ("busy", false, Well, To::Agent, "team_no_answer"),
            ("failed", false, ModelDown, To::Agent, "team_no_answer"),
            ("canceled", true, Well, To::HangUp, "caller_left"),
            ("no-answer", true, Full, To::HangUp, "caller_left"),
            ("no-answer", false, Full, To::Sentence, "max_calls"),
        ] {
            let decision = after_team(status, is_over, agent);
            assert_eq!((decision.to, decision.reason), (to, reason), "{status} {is_over} {agent:?}");
            assert_eq!(decision.details["dial_status"], status);
        }
    }

    #[test]
    fn words_of_the_records_are_read_back() {
        for to in To::ALL {
            assert_eq!(To::from_word(to.as_str()), Some(to));
        }
        assert_eq!(To::from_word("elsewhere"), None);
    }
}
