//! Agents and numbers as they were when they were last looked up: for calls that come while the database is away.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use crate::api::inbound::Line;
use crate::ids::{AgentId, CallSid, PhoneNumber, PhoneNumberId};
use crate::lifecycle::CallRef;
use crate::routing::decide::RingGroup;
use crate::store::agents::Agent;
use crate::store::phone_numbers::OwnNumber;

/// Of each kind; a further one takes the place of any other. An agent takes a few kilobytes.
const MOST: usize = 1024;

/// What was looked up last.
#[derive(Debug, Default)]
pub struct Known(Mutex<LookedUp>);

#[derive(Debug, Default)]
struct LookedUp {
    agents: HashMap<AgentId, Arc<Agent>>,
    /// Also numbers that are none of ours: the default agent answers them.
    numbers: HashMap<PhoneNumber, Option<OwnNumber>>,
    default: Option<AgentId>,
    /// Who is called where the agent cannot take a call.
    people: HashMap<AgentId, Option<Arc<RingGroup>>>,
    /// How calls to our numbers go.
    lines: HashMap<PhoneNumberId, Arc<Line>>,
    /// Calls that people were called for here, and how often.
    handed: HashMap<CallSid, (CallRef, u32)>,
}

impl Known {
    /// What came of looking for who answers: the agent named by the request, else of the number, else the default one.
    pub(super) fn learn(
        &self,
        named: Option<AgentId>,
        number: Option<(&PhoneNumber, Option<OwnNumber>)>,
        found: Option<&Arc<Agent>>,
    ) {
        let mut known = self.lock();
        if let Some((number, own)) = number {
            put(&mut known.numbers, number.clone(), own);
        }
        let wanted = named.or(number.and_then(|(_, own)| own).map(|own| own.agent_id));
        match (wanted, found) {
            (_, Some(agent)) => put(&mut known.agents, agent.id, Arc::clone(agent)),
            (Some(gone), None) => drop(known.agents.remove(&gone)),
            (None, None) => {}
        }
        if wanted.is_none() {
            known.default = found.map(|agent| agent.id);
        }
    }

    /// Who answered when it was looked up last, and which of our numbers was called. `None`: it was not looked up.
    pub(super) fn agent_for(
        &self,
        named: Option<AgentId>,
        number: Option<&PhoneNumber>,
    ) -> Option<(Arc<Agent>, Option<PhoneNumberId>)> {
        let known = self.lock();
        let own = match (number, named) {
            (Some(number), Some(_)) => known.numbers.get(number).copied().flatten(),
            // Another's number must not be answered by the default agent.
            (Some(number), None) => *known.numbers.get(number)?,
            (None, _) => None,
        };
        let id = named.or(own.map(|own| own.agent_id)).or(known.default)?;
        let agent = Arc::clone(known.agents.get(&id)?);
        let own = own.filter(|own| own.organization_id == agent.organization_id);
        Some((agent, own.map(|own| own.id)))
    }

    /// Who is called where this agent cannot take a call.
    pub(super) fn learn_people(&self, agent: AgentId, people: Option<Arc<RingGroup>>) {
        put(&mut self.lock().people, agent, people);
    }

    /// Who was called when it was looked up last.
    pub(super) fn people(&self, agent: AgentId) -> Option<Arc<RingGroup>> {
        self.lock().people.get(&agent).cloned().flatten()
    }

    /// People are called for this call, for the `handoff`th time, from 1.
    pub(super) fn learn_handoff(&self, call: &CallRef, handoff: u32) {
        put(&mut self.lock().handed, call.call_sid.clone(), (call.clone(), handoff));
    }

    /// The call that people were called for, and which of its handoffs the latest was.
    pub(super) fn handed(&self, call_sid: &CallSid) -> Option<(CallRef, u32)> {
        self.lock().handed.get(call_sid).cloned()
    }

    /// How calls to this number go. `None`: there is no such number any more.
    pub(super) fn learn_line(&self, id: PhoneNumberId, line: Option<&Arc<Line>>) {
        let mut known = self.lock();
        match line {
            Some(line) => {
                put(&mut known.agents, line.agent.id, Arc::clone(&line.agent));
                put(&mut known.lines, id, Arc::clone(line));
            }
            None => drop(known.lines.remove(&id)),
        }
    }

    /// How calls to this number went when it was looked up last.
    pub(super) fn line(&self, id: PhoneNumberId) -> Option<Arc<Line>> {
        self.lock().lines.get(&id).cloned()
    }

    /// Numbers to which this applies: they are to be looked up again after a change.
    pub(super) fn lines_that(&self, apply: impl Fn(&Line) -> bool) -> Vec<PhoneNumberId> {
        self.lock().lines.iter().filter(|(_, line)| apply(line)).map(|(id, _)| *id).collect()
    }

    /// Agents that put their callers through to this team.
    pub(super) fn agents_with(&self, team: Uuid) -> Vec<AgentId> {
        let known = self.lock();
        let with =
            |people: &Option<Arc<RingGroup>>| people.as_ref().is_some_and(|group| group.team == Some(team));
        known.people.iter().filter(|(_, people)| with(people)).map(|(id, _)| *id).collect()
    }

    /// The agent was changed, or is gone. What was never asked for is not remembered.
    pub(super) fn changed(&self, id: AgentId, agent: Option<&Arc<Agent>>) {
        let mut known = self.lock();
        let Some(agent) = agent else {
            known.agents.remove(&id);
            known.people.remove(&id);
            known.default = known.default.filter(|default| *default != id);
            return;
        };
        if let Some(known) = known.agents.get_mut(&id) {
            *known = Arc::clone(agent);
        }
    }

    /// The agent as it was when it was looked up last.
    pub(super) fn agent(&self, id: AgentId) -> Option<Arc<Agent>> {
        self.lock().agents.get(&id).cloned()
    }

    /// Whether any call can be answered without the database.
    pub(super) fn is_empty(&self) -> bool {
        self.lock().agents.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, LookedUp> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn put<K: Hash + Eq + Clone, V>(map: &mut HashMap<K, V>, key: K, value: V) {
    if map.len() >= MOST && !map.contains_key(&key) {
        let any = map.keys().next().cloned();
        any.map(|key| map.remove(&key));
    }
    map.insert(key, value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::OrganizationId;
    use std::time::Duration;

    fn agent(number: u128) -> Arc<Agent> {
        Arc::new(Agent {
            id: AgentId(Uuid::from_u128(number)),
            organization_id: OrganizationId(Uuid::nil()),
            name: String::new(),
            enabled: true,
            instructions: String::new(),
            greeting: None,
            voice: String::new(),
            model: None,
            transcription_model: None,
            languages: Vec::new(),
            keywords: Vec::new(),
            reversible_barge_in: true,
            redact: crate::redact::Redaction::NONE,
            audio_format: None,
            turn_detection: None,
            tools: Vec::new(),
            transfer_number: None,
            fallback_sentence: String::new(),
            max_duration: Duration::ZERO,
            nudge_after: Duration::ZERO,
            max_nudges: 0,
            opt_out_digit: None,
            calls_out: false,
        })
    }

    #[test]
    fn whoever_answered_last_answers_and_nobody_else() {
        let known = Known::default();
        let [ours, theirs, unknown] =
            ["+14155550100", "+14155550101", "+14155550102"].map(|n| PhoneNumber::parse(n).unwrap());
        let (usual, special) = (agent(1), agent(2));
        let own = OwnNumber {
            id: PhoneNumberId(Uuid::from_u128(7)),
            organization_id: special.organization_id,
            agent_id: special.id,
        };
        assert!(known.is_empty() && known.agent_for(None, None).is_none());
        known.learn(None, Some((&theirs, None)), Some(&usual));
        known.learn(None, Some((&ours, Some(own))), Some(&special));
        let answers =
            |named, number| known.agent_for(named, number).map(|(agent, number)| (agent.id, number));
        assert_eq!(answers(None, Some(&theirs)), Some((usual.id, None)), "the default agent answers it");
        assert_eq!(answers(None, None), Some((usual.id, None)));
        assert_eq!(answers(None, Some(&ours)), Some((special.id, Some(own.id))));
        assert_eq!(answers(Some(special.id), Some(&unknown)), Some((special.id, None)));
        assert_eq!(answers(None, Some(&unknown)), None, "it may be another agent's");
        known.learn(None, Some((&ours, Some(own))), None);
        assert_eq!(answers(None, Some(&ours)), None, "its agent is gone");
        known.learn(None, None, None);
        assert_eq!(answers(None, None), None, "there is no default agent any more");
    }

    #[test]
    fn it_does_not_grow_without_end() {
        let known = Known::default();
        for number in 0..2 * MOST as u128 {
            let agent = agent(number);
            known.learn(Some(agent.id), None, Some(&agent));
            assert!(known.agent(agent.id).is_some());
        }
        assert_eq!(known.lock().agents.len(), MOST);
    }
}
