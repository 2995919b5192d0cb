//! Calls whose stream has ended: Twilio asks how they go on, and a server that stops must still be there to answer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::ids::CallSid;

/// Twilio asks at once; this covers a slow network.
const ASKED_WITHIN: Duration = Duration::from_secs(5);

/// Calls about which Twilio has not asked yet.
#[derive(Clone, Default)]
pub(super) struct Afterwards(Arc<Mutex<HashMap<CallSid, CancellationToken>>>);

/// One of them.
pub(super) struct Question {
    afterwards: Afterwards,
    call_sid: CallSid,
    asked: CancellationToken,
}

impl Afterwards {
    /// Twilio will ask about this call. To be said before its stream can end.
    pub(super) fn expect(&self, call_sid: &CallSid) -> Question {
        let asked = CancellationToken::new();
        self.lock().insert(call_sid.clone(), asked.clone());
        Question { afterwards: self.clone(), call_sid: call_sid.clone(), asked }
    }

    /// Twilio asks about this call now.
    pub(super) fn asked(&self, call_sid: &CallSid) {
        if let Some(asked) = self.lock().remove(call_sid) {
            asked.cancel();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<CallSid, CancellationToken>> {
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
        if waiting.get(&self.call_sid).is_some_and(CancellationToken::is_cancelled) {
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
        let (first, second) = (afterwards.expect(&one), afterwards.expect(&other));
        afterwards.asked(&one); // Before anybody waits.
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
        let (first, second) = (afterwards.expect(&call), afterwards.expect(&call));
        drop(first);
        afterwards.asked(&call);
        second.wait().await;
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}
