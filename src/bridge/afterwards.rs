//! Calls whose stream has ended: Twilio asks how they go on, and a server that stops must still be there to answer.
//!
//! What a call has decided is remembered until then, for when the database cannot be asked.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::call::end::EndReason;
use crate::ids::{AgentId, CallSid};
use crate::store::leases::FencingToken;

/// Twilio asks at once; this covers a slow network.
const ASKED_WITHIN: Duration = Duration::from_secs(5);

/// Calls about which Twilio has not asked yet.
#[derive(Clone, Default)]
pub(super) struct Afterwards(Arc<Mutex<HashMap<CallSid, Awaited>>>);

struct Awaited {
    asked: CancellationToken,
    agent: AgentId,
    token: FencingToken,
    answer: Answer,
}

/// Why a call ended, once it has.
#[derive(Debug, Clone, Default)]
pub(super) struct Answer(Arc<OnceLock<EndReason>>);

impl Answer {
    /// The first reason is the reason.
    pub(super) fn decide(&self, reason: EndReason) {
        let _ = self.0.set(reason);
    }
}

/// What a call of this node has decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decided {
    /// Who spoke for us.
    pub agent: AgentId,
    /// The right it was decided with.
    pub token: FencingToken,
    /// Why it ended.
    pub reason: EndReason,
}

/// One of them.
pub(super) struct Question {
    afterwards: Afterwards,
    call_sid: CallSid,
    asked: CancellationToken,
}

impl Afterwards {
    /// Twilio will ask about this call. To be said before its stream can end.
    pub(super) fn expect(
        &self,
        call_sid: &CallSid,
        agent: AgentId,
        token: FencingToken,
    ) -> (Question, Answer) {
        let (asked, answer) = (CancellationToken::new(), Answer::default());
        let awaited = Awaited { asked: asked.clone(), agent, token, answer: answer.clone() };
        self.lock().insert(call_sid.clone(), awaited);
        (Question { afterwards: self.clone(), call_sid: call_sid.clone(), asked }, answer)
    }

    /// Twilio asks about this call now. What the call has decided is told once.
    pub(super) fn asked(&self, call_sid: &CallSid) -> Option<Decided> {
        let Awaited { asked, agent, token, answer } = self.lock().remove(call_sid)?;
        asked.cancel();
        answer.0.get().map(|reason| Decided { agent, token, reason: *reason })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<CallSid, Awaited>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Question {
    /// Waits until it was asked, or for as long as it would have come.
    pub(super) async fn wait(self) {
        let _ = tokio::time::timeout(ASKED_WITHIN, self.asked.cancelled()).await;
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        // A later stream of the same call has a question of its own, which stays.
        self.asked.cancel();
        let mut waiting = self.afterwards.lock();
        if waiting.get(&self.call_sid).is_some_and(|awaited| awaited.asked.is_cancelled()) {
            waiting.remove(&self.call_sid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    #[tokio::test(start_paused = true)]
    async fn a_question_is_waited_for_until_it_comes_but_not_for_ever() {
        let (afterwards, began) = (Afterwards::default(), Instant::now());
        let [one, other] = ["CA1", "CA2"].map(|sid| CallSid::parse(sid).unwrap());
        let (agent, token) = (AgentId(uuid::Uuid::nil()), FencingToken(1));
        let ((first, answer), (second, _)) =
            (afterwards.expect(&one, agent, token), afterwards.expect(&other, agent, token));
        answer.decide(EndReason::AgentEnded);
        answer.decide(EndReason::StreamLost);
        let decided = Decided { agent, token, reason: EndReason::AgentEnded };
        assert_eq!(afterwards.asked(&one), Some(decided), "before anybody waits");
        assert_eq!(afterwards.asked(&one), None);
        first.wait().await;
        assert_eq!(began.elapsed(), Duration::ZERO);
        second.wait().await;
        assert_eq!(began.elapsed(), ASKED_WITHIN);
        assert!(afterwards.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn each_stream_of_a_call_has_its_own_question() {
        let (afterwards, began) = (Afterwards::default(), Instant::now());
        let call = CallSid::parse("CA1").unwrap();
        let (agent, token) = (AgentId(uuid::Uuid::nil()), FencingToken(1));
        let ((first, _), (second, _)) =
            (afterwards.expect(&call, agent, token), afterwards.expect(&call, agent, token));
        drop(first);
        assert_eq!(afterwards.asked(&call), None, "it goes on");
        second.wait().await;
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}
