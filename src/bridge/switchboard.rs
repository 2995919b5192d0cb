//! Brings what people in charge want to the calls of this node, and what came of it back.
//!
//! The database rings when something is wanted. Every call of this node is asked about now and then as well, by one statement
//! for all of them: a connection may fall silent without a word, and nobody hears that it does not ring.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::gather::timely;
use crate::call::operator::{Command, Outcome, Wish};
use crate::call::tools::Transfer;
use crate::ids::{CallSid, CommandId};
use crate::shutdown::Tasks;
use crate::store::commands::{self, CommandResult, Taken};
use crate::store::leases::FencingToken;
use crate::store::{Store, Wakeup};

/// Commands that wait for one call. A call takes one at once; a further one is told that there are too many.
const WAITING: usize = 16;
/// How often calls are asked about that nobody has rung for. Whoever wants something waits for some seconds.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// A call answers at once; this is for a machine that is too busy to.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

type Lease = (CallSid, FencingToken);

/// A command for a call, and where its answer goes.
pub(super) struct Order {
    pub(super) command: Command,
    pub(super) answer: oneshot::Sender<Outcome>,
}

/// The calls that this node carries, as far as commands can reach them.
#[derive(Clone, Default)]
pub(super) struct Switchboard(Arc<Mutex<HashMap<Lease, mpsc::Sender<Order>>>>);

/// A call that can be reached until this is dropped.
pub(super) struct Connected {
    switchboard: Switchboard,
    lease: Lease,
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.switchboard.lock().remove(&self.lease);
    }
}

impl Switchboard {
    /// Connects a call, whose commands come out of the receiver.
    pub(super) fn connect(
        &self,
        call_sid: &CallSid,
        token: FencingToken,
    ) -> (Connected, mpsc::Receiver<Order>) {
        let (sender, orders) = mpsc::channel(WAITING);
        let lease = (call_sid.clone(), token);
        self.lock().insert(lease.clone(), sender);
        (Connected { switchboard: self.clone(), lease }, orders)
    }

    /// Brings commands to calls until `stop`.
    pub(super) async fn run(self, store: Store, node: String, tasks: Tasks, stop: CancellationToken) {
        let mut due = interval(LOOK_EVERY);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut bell = Wakeup::listen(&store, commands::CHANNEL);
        loop {
            let rung = tokio::select! {
                () = stop.cancelled() => return,
                rung = bell.next() => Some(rung),
                _ = due.tick() => None,
            };
            match rung.map(|rung| rung.map(CallSid::try_from)) {
                Some(Some(Ok(call_sid))) => {
                    self.take(&store, &node, &tasks, |other| *other == call_sid).await;
                }
                // What was rung before was not heard.
                Some(_) => {
                    self.take(&store, &node, &tasks, |_| true).await;
                }
                None => {
                    if self.take(&store, &node, &tasks, |_| true).await > 0 {
                        debug!("something was wanted of a call that nobody was heard to ring for");
                        bell.mistrust(); // At worst it was about to ring.
                    }
                }
            }
        }
    }

    /// Takes what is wanted of these calls and hands it to them. Returns how much that was.
    async fn take(&self, store: &Store, node: &str, tasks: &Tasks, of: impl Fn(&CallSid) -> bool) -> usize {
        let calls: Vec<Lease> = self.lock().keys().filter(|(call_sid, _)| of(call_sid)).cloned().collect();
        let taken = match timely(commands::take(store, node, &calls)).await {
            Ok(taken) => taken,
            Err(error) => {
                debug!(%error, "commands for calls cannot be looked for");
                return 0;
            }
        };
        let count = taken.len();
        for taken in taken {
            info!(call.id = %taken.call_sid, kind = taken.kind, "somebody in charge wants something of a call");
            let answer = self.hand_over(&taken);
            let (store, id) = (store.clone(), taken.id);
            tasks.spawn(async move {
                let result = match answer {
                    Ok(answer) => result(timeout(ANSWER_WITHIN, answer).await.ok().and_then(Result::ok)),
                    Err(why) => refused(why),
                };
                if let Err(error) = timely(commands::finish(&store, id, &result)).await {
                    warn!(%error, "what came of a command for a call is not on record");
                }
            });
        }
        count
    }

    /// The answer comes out of the receiver; the error is why it will not.
    fn hand_over(&self, taken: &Taken) -> Result<oneshot::Receiver<Outcome>, &'static str> {
        let wish = wish(taken).ok_or("the server that carries the call does not know this command")?;
        let calls = self.lock();
        let orders = calls.get(&(taken.call_sid.clone(), taken.token)).ok_or(CALL_IS_OVER)?;
        let (answer, answered) = oneshot::channel();
        let order = Order { command: Command { id: CommandId(taken.id), wish }, answer };
        match orders.try_send(order) {
            Ok(()) => Ok(answered),
            Err(mpsc::error::TrySendError::Full(_)) => Err("too many commands wait for this call"),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(CALL_IS_OVER),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Lease, mpsc::Sender<Order>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const CALL_IS_OVER: &str = "the call is over";

/// A call that has ended meanwhile answers nothing.
fn result(outcome: Option<Outcome>) -> CommandResult {
    match outcome {
        Some(Outcome::Done(message)) => CommandResult { outcome: "done".into(), message: message.into() },
        Some(Outcome::Refused(why)) => refused(why),
        None => refused(CALL_IS_OVER),
    }
}

fn refused(why: &str) -> CommandResult {
    CommandResult { outcome: "refused".into(), message: why.into() }
}

/// What a row says, by the names of the request. `None`: a later version has written it.
fn wish(taken: &Taken) -> Option<Wish> {
    let text = |name: &str| taken.payload.get(name).and_then(Value::as_str).map(str::to_owned);
    Some(match &*taken.kind {
        "hang_up" => Wish::HangUp { now: taken.payload.get("now").and_then(Value::as_bool).unwrap_or(false) },
        "transfer" => Wish::Transfer(Transfer {
            to: text("to").or_else(|| text("team")),
            reason: text("reason").unwrap_or_default(),
            summary: text("summary").unwrap_or_default(),
        }),
        "say" => Wish::Say(text("text")?),
        "inject" => Wish::Inject(text("text")?),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use uuid::Uuid;

    fn taken(kind: &str, payload: Value) -> Taken {
        let call_sid = CallSid::parse("CA1").unwrap();
        Taken { id: Uuid::from_u128(7), call_sid, token: FencingToken(1), kind: kind.into(), payload }
    }

    #[test]
    fn a_row_is_read_by_the_names_of_the_request() {
        assert_eq!(wish(&taken("hang_up", json!({}))), Some(Wish::HangUp { now: false }));
        assert_eq!(wish(&taken("hang_up", json!({"now": true}))), Some(Wish::HangUp { now: true }));
        assert_eq!(wish(&taken("say", json!({"text": "Hello."}))), Some(Wish::Say("Hello.".into())));
        assert_eq!(wish(&taken("say", json!({}))), None);
        assert_eq!(wish(&taken("dance", json!({}))), None);
        let team = taken("transfer", json!({"team": "t", "reason": "r", "summary": "s"}));
        let transfer = Transfer { to: Some("t".into()), reason: "r".into(), summary: "s".into() };
        assert_eq!(wish(&team), Some(Wish::Transfer(transfer)));
    }

    #[tokio::test]
    async fn a_call_is_reached_while_it_is_connected_and_no_longer() {
        let switchboard = Switchboard::default();
        let (sid, say) = (CallSid::parse("CA1").unwrap(), taken("say", json!({"text": "Hello."})));
        assert_eq!(switchboard.hand_over(&say).err(), Some(CALL_IS_OVER));
        let (connected, mut orders) = switchboard.connect(&sid, FencingToken(1));
        let answered = switchboard.hand_over(&say).unwrap();
        let order = orders.recv().await.unwrap();
        assert_eq!(order.command.id, CommandId(Uuid::from_u128(7)));
        order.answer.send(Outcome::Done("so it is")).unwrap();
        assert_eq!(result(answered.await.ok()).outcome, "done");
        for _ in 0..WAITING {
            switchboard.hand_over(&say).unwrap();
        }
        assert_eq!(switchboard.hand_over(&say).err(), Some("too many commands wait for this call"));
        drop(connected);
        assert_eq!(switchboard.hand_over(&say).err(), Some(CALL_IS_OVER));
    }

    #[tokio::test]
    async fn a_command_goes_to_the_stream_that_carries_the_call_and_not_to_one_that_was_replaced() {
        let switchboard = Switchboard::default();
        let sid = CallSid::parse("CA1").unwrap();
        // Both are here, as when the caller's stream comes again before the old one has noticed.
        let streams: Vec<_> = (1..=8).map(|token| switchboard.connect(&sid, FencingToken(token))).collect();
        for (token, (_, mut orders)) in (1..=8).zip(streams) {
            let say = Taken { token: FencingToken(token), ..taken("say", json!({"text": "Hello."})) };
            switchboard.hand_over(&say).unwrap();
            assert!(orders.try_recv().is_ok(), "{token}");
        }
    }

    #[tokio::test]
    async fn a_call_that_ends_before_it_answers_has_refused() {
        let (sender, receiver) = oneshot::channel::<Outcome>();
        drop(sender);
        assert_eq!(result(receiver.await.ok()), refused(CALL_IS_OVER));
    }
}
