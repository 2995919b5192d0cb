//! Places the calls that are due: takes a try, asks the carrier once, and writes down what came of it.
//!
//! **A try is asked for at most once.** It is on record before the carrier hears of it, and nobody asks for a try that is on
//! record. What became of a request without an answer is found out by [`reconcile`], or by whatever the carrier says of
//! that call first.

mod back_off;
pub mod machine;
pub mod reconcile;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;
use uuid::Uuid;

use crate::clients::twilio::{Detection, NewCall, RestError, Twilio};
use crate::ids::{AgentId, CallSid, OrganizationId};
use crate::lifecycle::{self, CallEvent, CallRef, callback};
use crate::outreach::retry::VoicemailPolicy;
use crate::store::Store;
use crate::store::dialing::attempts::{self, Attempt};
use crate::store::dialing::{self, Claim, Claimed, Lacking, Limits, Turn};
use crate::telemetry::{DialOutcome, Metrics, ObserveDuration as _};

use back_off::{BackOff, Pause};

pub use run::run;
mod run;

/// A server that was held up for longer after it took a try does not ask for it any more: the others have begun to look for
/// the call.
const ASK_WITHIN: Duration = Duration::from_secs(15);
/// Turns without anything to dial before the next look at the clock: rows that may not be called are put off in between.
const MOST_TURNS: usize = 25;
/// When a row is tried again that the carrier had no time for, beside the back-off: others go first.
const ROW_BACK_OFF: Duration = Duration::from_secs(5);

/// When a row is tried again whose own number is not one: somebody has to put that right.
const OWN_NUMBER_BACK_OFF: SignedDuration = SignedDuration::from_mins(5);
/// What an organisation has to put right is told again after this.
const REMIND_AFTER: Duration = Duration::from_hours(1);

/// What a dialer is told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Origin at which the carrier reaches us, without a slash at its end.
    pub public_url: String,
    /// Name of this server among those that share the database.
    pub node: String,
    /// Requests for calls a second, of all servers together.
    pub per_second: u32,
    /// Calls of ours that may go on at a time, of all servers together.
    pub max_calls: u32,
}

/// Calls that this server can carry for us beside those it carries now, the reserve for inbound ones not included.
pub type Room = Box<dyn Fn() -> u32 + Send + Sync>;

/// Dials for one server.
pub struct Dialer {
    store: Store,
    carrier: Twilio,
    settings: Settings,
    room: Room,
    metrics: Metrics,
    /// When the carrier is asked again that had no time for us.
    turned_away: Mutex<BackOff>,
    /// What is told once, not each second.
    told: Mutex<Option<String>>,
    /// The same of what single organisations have to put right, and when it was told.
    reminded: Mutex<HashMap<(OrganizationId, String), Instant>>,
}

/// What a step has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A call was asked for, with whatever result.
    Asked,
    /// There may be more to do at once, or it is another server's turn.
    Again,
    /// The carrier wants no call before this.
    Later {
        /// When, by the clock that decides.
        at: Timestamp,
        /// How long that is from now.
        wait: Duration,
    },
    /// Nothing is due, or as many calls go on as may.
    Idle,
}

impl Dialer {
    /// Puts the parts together.
    #[must_use]
    pub fn new(store: Store, carrier: Twilio, settings: Settings, room: Room, metrics: Metrics) -> Self {
        Self {
            store,
            carrier,
            settings,
            room,
            metrics,
            turned_away: Mutex::new(BackOff::new()),
            told: Mutex::new(None),
            reminded: Mutex::default(),
        }
    }

    /// One turn at the time `now`: takes a try if one is due, asks for it, and writes down what came of it.
    pub async fn step(&self, now: Timestamp) -> sqlx::Result<Step> {
        let taken_at = Instant::now();
        match self.claim(Some(now)).await? {
            Ok(claimed) => {
                self.place(&claimed, taken_at).await?;
                Ok(Step::Asked)
            }
            Err(step) => Ok(step),
        }
    }

    /// Takes a try, if one is due at `now`, or else by the database's clock. Whoever has it must [`place`](Self::place) it at
    /// once. `Err`: there is none.
    pub async fn claim(&self, now: Option<Timestamp>) -> sqlx::Result<Result<Box<Claimed>, Step>> {
        let limits = Limits {
            interval: Duration::from_secs(1) / self.settings.per_second.max(1),
            max_calls: self.settings.max_calls,
            room: (self.room)(),
        };
        for _ in 0..MOST_TURNS {
            let (account, node) = (self.carrier.account_sid(), &*self.settings.node);
            let turn = dialing::claim(&self.store, account, node, now, &limits).await?;
            self.note(&turn, limits.interval);
            for Lacking { organization, what } in turn.lacking {
                self.remind(organization, what);
            }
            return Ok(match turn.claim {
                Claim::Dial(claimed) => Ok(claimed),
                Claim::Again => continue,
                Claim::Busy => Err(Step::Again),
                Claim::Later { at, wait } => Err(Step::Later { at, wait }),
                Claim::Full | Claim::Nothing => Err(Step::Idle),
            });
        }
        Ok(Err(Step::Again))
    }

    /// Counts what a turn has shown.
    fn note(&self, turn: &Turn, interval: Duration) {
        let is_backing_off = match &turn.claim {
            // Of itself the pace keeps nobody longer than that.
            Claim::Later { wait, .. } => *wait > interval,
            Claim::Busy => return,
            Claim::Dial(claimed) => {
                let waited = claimed.requested_at.duration_since(claimed.due_at);
                self.metrics.dial_wait_seconds.observe_duration(waited.try_into().unwrap_or_default());
                false
            }
            Claim::Again | Claim::Full | Claim::Nothing => false,
        };
        self.metrics.dial_backing_off.set(is_backing_off.into());
        if let Some(going_on) = turn.going_on {
            self.metrics.dial_calls.set(going_on + i64::from(matches!(turn.claim, Claim::Dial(_))));
        }
    }

    /// Asks the carrier for a try, once, and writes down what came of it. It was begun to take the try at `taken_at`; a
    /// server that was held up since leaves it to the others to look for.
    pub async fn place(&self, claimed: &Claimed, taken_at: Instant) -> sqlx::Result<()> {
        let attempt = claimed.attempt;
        if taken_at.elapsed() > ASK_WITHIN {
            tracing::warn!(%attempt, "this server was held up, and does not ask for a call any more");
            self.metrics.dialed(DialOutcome::NotAsked);
            return Ok(());
        }
        let open = Open::new(&self.metrics);
        let result = self.ask(claimed).await;
        drop(open);
        self.count(&result);
        // By the clock that decided about the try, whatever this server's own one says.
        let now = claimed.requested_at + SignedDuration::try_from(taken_at.elapsed()).unwrap_or_default();
        match result {
            Ok(call_sid) => {
                self.turned_away().answered(claimed.requested_at);
                tracing::info!(call.id = %call_sid, %attempt, "a call is placed");
                placed(&self.store, &claimed.into(), &call_sid, now).await
            }
            Err(RestError::NotProcessed { what, about_account, .. }) => {
                self.wait_for_carrier(claimed, &what, about_account, now).await
            }
            Err(RestError::OwnNumber { what }) => {
                self.turned_away().answered(claimed.requested_at);
                self.remind(claimed.organization, &what);
                attempts::undo(&self.store, attempt, now + OWN_NUMBER_BACK_OFF, &what, now).await?;
                Ok(())
            }
            Err(error @ RestError::Refused { .. }) => {
                self.turned_away().answered(claimed.requested_at);
                tracing::warn!(%attempt, %error, "a call is not made");
                attempts::refuse(&self.store, attempt, &error.explanation(), now).await?;
                Ok(())
            }
            Err(RestError::Unknown { what, .. }) => {
                tracing::warn!(%attempt, why = what, "a call may have been placed, and is looked for");
                // Whatever ails it, more requests do it no good, and each is a try whose call has to be looked for.
                let until = self.pause(claimed, &what, false, now);
                dialing::slow_down(&self.store, self.carrier.account_sid(), until).await
            }
        }
    }

    fn count(&self, result: &Result<CallSid, RestError>) {
        let (outcome, status) = match result {
            Ok(_) => return self.metrics.dialed(DialOutcome::Placed),
            Err(RestError::NotProcessed { status, about_account: true, .. }) => {
                (DialOutcome::Account, *status)
            }
            Err(RestError::NotProcessed { status, .. }) => (DialOutcome::NotNow, *status),
            Err(RestError::OwnNumber { .. }) => (DialOutcome::OwnNumber, Some(400)),
            Err(RestError::Refused { status, .. }) => (DialOutcome::Refused, Some(*status)),
            Err(RestError::Unknown { status, .. }) => (DialOutcome::Unknown, *status),
        };
        self.metrics.dialed(outcome);
        self.metrics.dial_failed(status);
    }

    async fn ask(&self, claimed: &Claimed) -> Result<CallSid, RestError> {
        let Claimed { attempt, agent, .. } = claimed;
        let origin = &self.settings.public_url;
        let url = format!("{origin}/api/agent/{agent}/call-incoming?attempt={attempt}");
        let status_callback = format!("{origin}/api/twilio/call-status?attempt={attempt}");
        let verdict_callback = format!("{status_callback}&amd=1");
        let until_the_beep = claimed.voicemail == VoicemailPolicy::LeaveMessage;
        let call = NewCall {
            to: &claimed.to,
            from: &claimed.from,
            url: &url,
            // Once more, that is: of several servers behind one address another one may answer.
            fallback_url: &url,
            status_callback: &status_callback,
            ring_timeout: claimed.ring_timeout,
            detection: Some(Detection { callback: &verdict_callback, until_the_beep }),
        };
        self.carrier.create(&call).await
    }

    /// The carrier has done nothing: the try is taken back, and nobody asks for a while.
    async fn wait_for_carrier(
        &self,
        claimed: &Claimed,
        what: &str,
        about_account: bool,
        now: Timestamp,
    ) -> sqlx::Result<()> {
        let until = self.pause(claimed, what, about_account, now);
        let next = until + SignedDuration::try_from(ROW_BACK_OFF).unwrap_or_default();
        attempts::undo(&self.store, claimed.attempt, next, what, now).await?;
        dialing::slow_down(&self.store, self.carrier.account_sid(), until).await
    }

    /// A request has failed for a reason that is not its own. Returns when the next one may be made.
    fn pause(&self, claimed: &Claimed, what: &str, about_account: bool, now: Timestamp) -> Timestamp {
        let mut turned_away = self.turned_away();
        let Pause { until, is_news } =
            turned_away.failed(claimed.requested_at, now, about_account, &mut rand::rng());
        let times_in_a_row = turned_away.times();
        drop(turned_away);
        let wait_s = until.duration_since(now).as_secs_f32();
        match (is_news, about_account) {
            (false, _) => {}
            (true, true) => tracing::error!(why = what, wait_s, "no calls can be placed"),
            (true, false) => {
                tracing::warn!(why = what, wait_s, times_in_a_row, "the carrier takes no call now");
            }
        }
        until
    }

    fn turned_away(&self) -> MutexGuard<'_, BackOff> {
        self.turned_away.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says what an organisation has to put right, but not for each of its rows.
    fn remind(&self, organization: OrganizationId, what: &str) {
        let mut reminded = self.reminded.lock().unwrap_or_else(PoisonError::into_inner);
        reminded.retain(|_, told_at| told_at.elapsed() < REMIND_AFTER);
        let key = (organization, what.to_owned());
        if let Entry::Vacant(entry) = reminded.entry(key) {
            entry.insert(Instant::now());
            tracing::error!(organization = %organization.0, what, "calls of an organisation wait for somebody to put something right");
        }
    }

    /// True when this was not the last thing told: a trouble that lasts is told once.
    fn is_news(&self, what: Option<&str>) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = told.as_deref() != what;
        *told = what.map(str::to_owned);
        is_news
    }
}

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dialer").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Counts one request for as long as it is not answered, however it is given up.
struct Open<'a>(&'a Metrics);

impl<'a> Open<'a> {
    fn new(metrics: &'a Metrics) -> Self {
        metrics.dial_requests_open.inc();
        Self(metrics)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.dial_requests_open.dec();
    }
}

/// A try of which a call SID is known.
#[derive(Clone)]
pub struct Dispatch {
    attempt: Uuid,
    queue: Uuid,
    organization: OrganizationId,
    agent: AgentId,
    interaction: Option<String>,
    from: String,
    to: String,
}

// Without the telephones.
impl std::fmt::Debug for Dispatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { attempt, queue, organization, agent, interaction, from: _, to: _ } = self;
        f.debug_struct("Dispatch")
            .field("attempt", attempt)
            .field("queue", queue)
            .field("organization", organization)
            .field("agent", agent)
            .field("interaction", interaction)
            .finish_non_exhaustive()
    }
}

impl From<&Claimed> for Dispatch {
    fn from(claimed: &Claimed) -> Self {
        Self {
            attempt: claimed.attempt,
            queue: claimed.queue,
            organization: claimed.organization,
            agent: claimed.agent,
            interaction: claimed.interaction.clone(),
            from: claimed.from.expose().to_owned(),
            to: claimed.to.expose().to_owned(),
        }
    }
}

impl From<&Attempt> for Dispatch {
    fn from(attempt: &Attempt) -> Self {
        Self {
            attempt: attempt.id,
            queue: attempt.queue,
            organization: attempt.organization,
            agent: attempt.agent,
            interaction: attempt.interaction.clone(),
            from: attempt.from.clone(),
            to: attempt.to.clone(),
        }
    }
}

/// Puts on record that the carrier has placed a try as this call. Whoever learns of it first does so; a second time changes
/// nothing.
pub async fn placed(
    store: &Store,
    dispatch: &Dispatch,
    call_sid: &CallSid,
    now: Timestamp,
) -> sqlx::Result<()> {
    let call =
        CallRef { call_sid: call_sid.clone(), organization: dispatch.organization, agent: dispatch.agent };
    let dispatched = CallEvent::Dispatched {
        attempt: dispatch.attempt,
        queue: dispatch.queue,
        interaction: dispatch.interaction.clone(),
        from: dispatch.from.clone(),
        to: dispatch.to.clone(),
    };
    lifecycle::record(store, &call, now, &dispatched).await?;
    // The carrier may have said that it is over before anybody knew whose call it is.
    callback::catch_up(store, call_sid).await
}

/// The carrier says something of a call that it names by its try. Returns the try, where there is one.
///
/// This is how a request is healed whose answer was lost.
pub async fn learn(
    store: &Store,
    attempt: Uuid,
    call_sid: &CallSid,
    now: Timestamp,
) -> sqlx::Result<Option<Attempt>> {
    let Some(attempt) = attempts::by_id(store, attempt).await? else { return Ok(None) };
    match &attempt.call_sid {
        Some(known) if known == call_sid => {}
        Some(known) => {
            tracing::error!(attempt = %attempt.id, call.id = %call_sid, known = %known, "two calls name the same try");
            return Ok(None);
        }
        None => placed(store, &(&attempt).into(), call_sid, now).await?,
    }
    Ok(Some(attempt))
}
