//! Who is called next: the one transaction that decides it and notes it down before the carrier is asked.
//!
//! All servers take turns by the row of their account in `dial_pace`, and organisations and their campaigns by theirs in
//! `dial_turns`. What the rules ask about is read after everything that could change it is locked. Locks beyond the pace are
//! never waited for, so whoever records what calls do is not held up and nobody is dead-locked: a row that somebody else holds
//! is left for the next turn.

pub mod attempts;

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use jiff_sqlx::ToSqlx;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::ids::{AgentId, OrganizationId, PhoneNumber};
use crate::outreach::campaign::CampaignStatus;
use crate::outreach::retry::VoicemailPolicy;
use crate::outreach::rules::{Campaign, Candidate, Verdict, Wait};
use crate::outreach::window::{TimeOfDay, Weekdays, Window};
use crate::store::{Store, call_queue};

/// Rows looked at in one turn. Others wait for their turn as long as that takes: some milliseconds.
const AT_A_TIME: i64 = 8;
/// Somebody has to put something right first: then a row is looked at again.
const ASK_AGAIN: SignedDuration = SignedDuration::from_mins(5);

/// What may be dialed at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// From one request for a call to the next one, of all servers together.
    pub interval: Duration,
    /// Calls of ours that may go on at a time, of all servers together.
    pub max_calls: u32,
    /// Calls that this server can carry for us beside those it carries now. Those it asked for and that have not come yet
    /// take their part of it.
    pub room: u32,
}

/// A turn, and what was seen on the way.
#[derive(Debug)]
pub struct Turn {
    /// What came of it.
    pub claim: Claim,
    /// What organisations have to put right.
    pub lacking: Vec<Lacking>,
    /// Calls of ours that went on before, of all servers together. `None`: nobody looked.
    pub going_on: Option<i64>,
}

/// What came of a turn.
#[derive(Debug)]
pub enum Claim {
    /// This is to be dialed now, by whoever asked. Nobody else will.
    Dial(Box<Claimed>),
    /// There was nothing to dial among the rows looked at, and there may be more of them.
    Again,
    /// It is somebody else's turn, or somebody holds what is due.
    Busy,
    /// The carrier wants no call before this.
    Later {
        /// When.
        at: Timestamp,
        /// How long that is from the moment of the turn.
        wait: Duration,
    },
    /// As many calls go on as may.
    Full,
    /// Nothing is due.
    Nothing,
}

/// What an organisation has to put right before a row of it can be called. The row waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lacking {
    /// Whose row it is.
    pub organization: OrganizationId,
    /// What to do.
    pub what: &'static str,
}

/// A try that is on record as `dialing`, and that the carrier is to be asked for once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// `call_attempts.id`.
    pub attempt: Uuid,
    /// `call_queue.id`.
    pub queue: Uuid,
    /// Whose it is.
    pub organization: OrganizationId,
    /// Who will speak.
    pub agent: AgentId,
    /// The interaction it is made for.
    pub interaction: Option<String>,
    /// Which try of the row, from 1.
    pub attempt_number: u32,
    /// Who is called.
    pub to: PhoneNumber,
    /// Our number.
    pub from: PhoneNumber,
    /// How long it rings.
    pub ring_timeout: Duration,
    /// What is done when a machine answers.
    pub voicemail: VoicemailPolicy,
    /// Since when it was due.
    pub due_at: Timestamp,
    /// When the carrier was about to be asked.
    pub requested_at: Timestamp,
}

/// Takes the next row whose turn it is at `now`, for this server (`node`) and the carrier's `account`. Without `now` the
/// database says what time it is: servers whose clocks differ decide alike.
///
/// Rows that may not be called are put off or fail on the way, a few at a time, and what they lack is told beside. Every time
/// that is stored is that moment or follows from it.
pub async fn claim(
    store: &Store,
    account: &str,
    node: &str,
    now: Option<Timestamp>,
    limits: &Limits,
) -> sqlx::Result<Turn> {
    let mut transaction = store.begin().await?;
    let mut turn = Turn { claim: Claim::Nothing, lacking: Vec::new(), going_on: None };
    turn.claim = turn.take(&mut transaction, account, node, now, limits).await?;
    transaction.commit().await?;
    Ok(turn)
}

/// Has no server of the account ask for a call before `until`.
pub async fn slow_down(store: &Store, account: &str, until: Timestamp) -> sqlx::Result<()> {
    sqlx::query!(
        r#"
        insert into dial_pace (account_sid, next_at)
        values ($1, $2)
        on conflict (account_sid) do update
        set next_at = greatest(dial_pace.next_at, excluded.next_at)
        "#,
        account,
        until.to_sqlx() as _,
    )
    .execute(&mut *store.connection().await?)
    .await?;
    Ok(())
}

impl Turn {
    async fn take(
        &mut self,
        connection: &mut PgConnection,
        account: &str,
        node: &str,
        now: Option<Timestamp>,
        limits: &Limits,
    ) -> sqlx::Result<Claim> {
        let Some(Pace { next_at, now }) = pace(connection, account, now).await? else {
            return Ok(Claim::Busy);
        };
        if next_at > now {
            let wait = Duration::try_from(next_at.duration_since(now)).unwrap_or_default();
            return Ok(Claim::Later { at: next_at, wait });
        }
        let GoingOn { all, expected_here } = going_on(connection, node).await?;
        self.going_on = Some(all);
        if all >= limits.max_calls.into() || expected_here >= limits.room.into() {
            return Ok(Claim::Full);
        }
        let due = due(connection, now).await?;
        let rows = locked(connection, &due, now).await?;
        let mut put_off = false;
        for row in &rows {
            match row.verdict(now) {
                Decision::Dial(from) => {
                    let Some(claimed) = note_intent(connection, row, from, node, now).await? else {
                        continue;
                    };
                    let interval = SignedDuration::try_from(limits.interval).unwrap_or(SignedDuration::ZERO);
                    set_pace(connection, account, next_at.max(now) + interval).await?;
                    return Ok(Claim::Dial(Box::new(claimed)));
                }
                Decision::NotBefore(at, why) => {
                    put_off = true;
                    postpone(connection, row.id, at, why, now).await?;
                }
                Decision::Lacks(what) => {
                    put_off = true;
                    self.lacking.push(Lacking { organization: row.organization_id.into(), what });
                    postpone(connection, row.id, now + ASK_AGAIN, what, now).await?;
                }
                Decision::Never(why) => {
                    put_off = true;
                    call_queue::fail(connection, &[row.id], &why, Some(now)).await?;
                }
                Decision::Hold => {}
            }
        }
        Ok(if put_off {
            Claim::Again
        } else if rows.len() < due.len() {
            // Somebody holds one of them, its lead or its campaign, for a moment: its turn may be next.
            Claim::Busy
        } else {
            Claim::Nothing
        })
    }
}

/// The account's turn.
struct Pace {
    /// When the next call may be asked for.
    next_at: Timestamp,
    /// The moment by which all is decided.
    now: Timestamp,
}

/// Takes the turn. `None`: somebody else decides right now.
async fn pace(
    connection: &mut PgConnection,
    account: &str,
    now: Option<Timestamp>,
) -> sqlx::Result<Option<Pace>> {
    if let Some(pace) = take_turn(connection, account, now).await? {
        return Ok(Some(pace));
    }
    sqlx::query!(
        r#"
        insert into dial_pace (account_sid, next_at)
        values ($1, coalesce($2, clock_timestamp()))
        on conflict do nothing
        "#,
        account,
        now.map(ToSqlx::to_sqlx) as _,
    )
    .execute(&mut *connection)
    .await?;
    take_turn(connection, account, now).await
}

async fn take_turn(
    connection: &mut PgConnection,
    account: &str,
    now: Option<Timestamp>,
) -> sqlx::Result<Option<Pace>> {
    let row = sqlx::query!(
        r#"
        select next_at, coalesce($2, clock_timestamp()) as "now!"
        from dial_pace
        where account_sid = $1
        for update skip locked
        "#,
        account,
        now.map(ToSqlx::to_sqlx) as _,
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| Pace { next_at: row.next_at.to_jiff(), now: row.now.to_jiff() }))
}

async fn set_pace(connection: &mut PgConnection, account: &str, next_at: Timestamp) -> sqlx::Result<()> {
    sqlx::query!("update dial_pace set next_at = $2 where account_sid = $1", account, next_at.to_sqlx() as _)
        .execute(connection)
        .await?;
    Ok(())
}

/// Calls of ours that go on.
struct GoingOn {
    all: i64,
    /// Asked for by this server, and not come to any yet.
    expected_here: i64,
}

/// Nobody else adds one while the pace is held.
async fn going_on(connection: &mut PgConnection, node: &str) -> sqlx::Result<GoingOn> {
    sqlx::query_as!(
        GoingOn,
        r#"
        select count(*) as "all!",
               count(*) filter (
                   where node = $1
                     and not exists (
                         select
                         from call_leases
                         where call_leases.call_sid = call_attempts.call_sid and claimed_at is not null
                     )
               ) as "expected_here!"
        from call_attempts
        where status <> 'ended'
        "#,
        node,
    )
    .fetch_one(connection)
    .await
}

/// Rows whose turn it may be, the first one first: of nobody who is being called, and of campaigns that have calls left.
///
/// What is more urgent comes first. Among the rest organisations take turns, and within each its campaigns and the calls of
/// none do: first the next row of each, of whoever has waited longest for a turn before the others, then the one after it. So
/// rows that are looked at in vain do not keep those of others from being looked at, however many there are.
// Each priority is asked for by itself, so that rows which are not due yet are not even looked at in the index.
async fn due(connection: &mut PgConnection, now: Timestamp) -> sqlx::Result<Vec<Uuid>> {
    sqlx::query_scalar!(
        r#"
        with due as (
            select of_none.id, o.id as organization_id, o.id as whose, level.priority, of_none.next_retry_at, of_none.created_at
            from organisations o
            cross join (values (1::smallint), (0::smallint), (-1::smallint)) as level (priority)
            cross join lateral (
                select id, next_retry_at, created_at
                from call_queue q
                where q.organization_id = o.id
                  and q.campaign_id is null
                  and q.priority = level.priority
                  and q.status = 'queued'
                  and q.next_retry_at <= $1
                  and not exists (
                      select
                      from call_attempts a
                      where a.organization_id = q.organization_id
                        and a.to_number = q.to_number
                        and a.status <> 'ended'
                  )
                order by next_retry_at
                limit $2
            ) of_none
            union all
            select of_campaign.id, c.organization_id, c.id, level.priority, of_campaign.next_retry_at,
                   of_campaign.created_at
            from campaigns c
            cross join (values (1::smallint), (0::smallint), (-1::smallint)) as level (priority)
            cross join lateral (
                select id, next_retry_at, created_at
                from call_queue q
                where q.campaign_id = c.id
                  and q.priority = level.priority
                  and q.status = 'queued'
                  and q.next_retry_at <= $1
                  and not exists (
                      select
                      from call_attempts a
                      where a.organization_id = q.organization_id
                        and a.to_number = q.to_number
                        and a.status <> 'ended'
                  )
                order by next_retry_at
                limit $2
            ) of_campaign
            where c.status = 'active'
              and c.max_concurrent_calls > (
                  select count(*)
                  from call_attempts a
                  where a.campaign_id = c.id and a.status <> 'ended'
              )
        ),
        in_campaign as (
            select due.*, turn.last_at,
                   row_number() over (partition by whose, priority order by next_retry_at, created_at, id) as place
            from due
            left join dial_turns turn using (whose)
        ),
        in_organization as (
            select in_campaign.*, turn.last_at as organization_last_at,
                   row_number() over (
                       partition by in_campaign.organization_id, priority
                       order by place, in_campaign.last_at nulls first, next_retry_at, created_at, id
                   ) as organization_place
            from in_campaign
            left join (
                select organization_id, max(last_at) as last_at
                from dial_turns
                group by organization_id
            ) turn using (organization_id)
        )
        select id as "id!"
        from in_organization
        order by priority desc, organization_place, organization_last_at nulls first, next_retry_at, created_at, id
        limit $2
        "#,
        now.to_sqlx() as _,
        AT_A_TIME,
    )
    .fetch_all(connection)
    .await
}

/// Locks what the rules look at, and then reads it, in the same order. What others hold is left out.
async fn locked(connection: &mut PgConnection, due: &[Uuid], now: Timestamp) -> sqlx::Result<Vec<Row>> {
    if due.is_empty() {
        return Ok(Vec::new());
    }
    // Weaker locks than those of a deletion, so that records which name these rows can be written meanwhile.
    let free = sqlx::query_scalar!(
        r#"
        select id
        from call_queue
        where id = any($1) and status = 'queued' and next_retry_at <= $2
        for no key update skip locked
        "#,
        due,
        now.to_sqlx() as _,
    )
    .fetch_all(&mut *connection)
    .await?;
    let rows: Vec<Uuid> = due.iter().filter(|id| free.contains(id)).copied().collect();
    let leads = sqlx::query_scalar!(
        r#"
        select id
        from leads
        where id in (select lead_id from call_queue where id = any($1))
        for no key update skip locked
        "#,
        &rows,
    )
    .fetch_all(&mut *connection)
    .await?;
    let campaigns = sqlx::query_scalar!(
        r#"
        select id
        from campaigns
        where id in (select campaign_id from call_queue where id = any($1))
        for share skip locked
        "#,
        &rows,
    )
    .fetch_all(&mut *connection)
    .await?;
    read(connection, &rows, &leads, &campaigns, now).await
}

/// A row of the queue with all that is asked about it.
struct Row {
    id: Uuid,
    organization_id: Uuid,
    campaign_id: Option<Uuid>,
    lead_id: Option<i64>,
    attempt_count: i32,
    not_placed: i64,
    max_attempts: i32,
    next_retry_at: jiff_sqlx::Timestamp,
    to_number: String,
    interaction_id: Option<String>,
    time_zone: Option<String>,
    is_on_do_not_call: bool,
    is_in_call: bool,
    recent_attempts_us: Vec<i64>,
    agent_id: Option<Uuid>,
    agent_enabled: bool,
    from_number: Option<String>,
    campaign_status: Option<String>,
    start_date: Option<String>,
    end_date: Option<String>,
    time_start: Option<String>,
    time_end: Option<String>,
    weekdays: Option<Vec<i16>>,
    max_attempts_per_day: Option<i32>,
    max_concurrent_calls: Option<i32>,
    running: i64,
    voicemail_policy: Option<String>,
    ring_timeout_s: Option<i32>,
}

async fn read(
    connection: &mut PgConnection,
    rows: &[Uuid],
    leads: &[i64],
    campaigns: &[Uuid],
    now: Timestamp,
) -> sqlx::Result<Vec<Row>> {
    sqlx::query_as!(
        Row,
        r#"
        select q.id, q.organization_id, q.campaign_id, q.lead_id, q.attempt_count, q.max_attempts, q.next_retry_at,
               (
                   select count(*) from call_attempts a where a.queue_id = q.id and a.outcome = 'not_placed'
               ) as "not_placed!",
               q.to_number, q.interaction_id, l.time_zone as "time_zone?",
               exists (
                   select
                   from do_not_call d
                   where d.organization_id = q.organization_id and d.number = q.to_number
               ) as "is_on_do_not_call!",
               exists (
                   select
                   from call_attempts a
                   where a.organization_id = q.organization_id and a.to_number = q.to_number and a.status <> 'ended'
               ) as "is_in_call!",
               array(
                   select (extract(epoch from a.requested_at) * 1000000)::bigint
                   from call_attempts a
                   where a.organization_id = q.organization_id
                     and (a.lead_id = q.lead_id or a.to_number = q.to_number)
                     and a.requested_at > $4::timestamptz - interval '50 hours'
                     and (a.status <> 'ended' or a.call_sid is not null)
               ) as "recent_attempts_us!",
               agent.id as "agent_id?", coalesce(agent.enabled, false) as "agent_enabled!",
               own.number as "from_number?",
               c.status as "campaign_status?", c.start_date::text, c.end_date::text,
               c.time_start::text, c.time_end::text, c.weekdays as "weekdays?",
               c.max_attempts_per_day as "max_attempts_per_day?", c.max_concurrent_calls as "max_concurrent_calls?",
               (select count(*) from call_attempts a where a.campaign_id = c.id and a.status <> 'ended') as "running!",
               c.voicemail_policy as "voicemail_policy?", c.ring_timeout_s as "ring_timeout_s?"
        from call_queue q
        left join leads l on l.id = q.lead_id
        left join campaigns c on c.id = q.campaign_id
        left join lateral (
            -- Whom the row names, else its campaign, else the organisation.
            select a.id, a.enabled
            from agents a
            where a.organization_id = q.organization_id
              and (a.id = coalesce(q.agent_id, c.agent_id)
                   or coalesce(q.agent_id, c.agent_id) is null and a.is_default)
            limit 1
        ) agent on true
        left join lateral (
            -- The number that is named, else one that the agent answers when somebody calls back, else any.
            select p.number
            from phone_numbers p
            where p.organization_id = q.organization_id
            order by (p.id = q.phone_number_id) is true desc, (p.id = c.phone_number_id) is true desc,
                     p.agent_id = agent.id desc, p.created_at, p.id
            limit 1
        ) own on true
        where q.id = any($1)
          and (q.lead_id is null or q.lead_id = any($2))
          and (q.campaign_id is null or q.campaign_id = any($3))
        order by array_position($1::uuid[], q.id)
        "#,
        rows,
        leads,
        campaigns,
        now.to_sqlx() as _,
    )
    .fetch_all(connection)
    .await
}

/// What is done with a row.
#[derive(Debug, PartialEq, Eq)]
enum Decision {
    Dial(Numbers),
    NotBefore(Timestamp, &'static str),
    /// Somebody has to do this first.
    Lacks(&'static str),
    Never(String),
    Hold,
}

/// Who calls whom.
#[derive(Debug, PartialEq, Eq)]
struct Numbers {
    agent: AgentId,
    to: PhoneNumber,
    from: PhoneNumber,
}

impl Row {
    fn verdict(&self, now: Timestamp) -> Decision {
        if self.is_in_call {
            return Decision::Hold;
        }
        let campaign = match self.campaign() {
            Ok(campaign) => campaign,
            Err(why) => return Decision::Never(why.to_owned()),
        };
        let recent: Vec<Timestamp> =
            self.recent_attempts_us.iter().filter_map(|us| Timestamp::from_microsecond(*us).ok()).collect();
        let candidate = Candidate {
            zone: self.time_zone.as_deref(),
            campaign,
            attempts: u32::try_from(i64::from(self.attempt_count) - self.not_placed).unwrap_or(0),
            max_attempts: self.max_attempts.unsigned_abs(),
            not_before: self.next_retry_at.to_jiff(),
            recent_attempts: &recent,
            is_on_do_not_call: self.is_on_do_not_call,
        };
        match candidate.verdict(now) {
            Verdict::Dial => self.numbers(),
            Verdict::NotBefore { at, why } => Decision::NotBefore(at, why_not_now(why)),
            Verdict::Hold { .. } => Decision::Hold,
            Verdict::Never { why } => Decision::Never(why.to_string()),
        }
    }

    /// `Err`: what the columns hold is beyond us, so nobody is called by it.
    fn campaign(&self) -> Result<Option<Campaign>, &'static str> {
        const UNREADABLE: &str = "blocked_by_rule: the campaign's days or hours cannot be read";
        let Some(status) = &self.campaign_status else { return Ok(None) };
        let day = |text: &Option<String>| {
            text.as_deref().map(|text| text.parse().map_err(|_| UNREADABLE)).transpose()
        };
        let time = |text: &Option<String>| {
            text.as_deref().and_then(|text| TimeOfDay::parse(text).ok()).ok_or(UNREADABLE)
        };
        let number = |value: Option<i32>| value.unwrap_or_default().unsigned_abs();
        Ok(Some(Campaign {
            status: CampaignStatus::from_word(status).ok_or(UNREADABLE)?,
            window: Window {
                first_day: day(&self.start_date)?,
                last_day: day(&self.end_date)?,
                opens: time(&self.time_start)?,
                closes: time(&self.time_end)?,
                weekdays: Weekdays::from_numbers(self.weekdays.as_deref().unwrap_or_default())
                    .map_err(|_| UNREADABLE)?,
            },
            max_attempts_per_day: number(self.max_attempts_per_day),
            running: u32::try_from(self.running).unwrap_or(u32::MAX),
            max_concurrent: number(self.max_concurrent_calls),
        }))
    }

    /// The rules allow the call; whether there is everything it takes.
    fn numbers(&self) -> Decision {
        let Some(agent) = self.agent_id else {
            return Decision::Lacks("there is no agent for it: name one, or make one the default");
        };
        if !self.agent_enabled {
            return Decision::Lacks("its agent is switched off: enable it, or name another one");
        }
        let Some(from) = self.from_number.as_deref().and_then(|text| PhoneNumber::parse(text).ok()) else {
            return Decision::Lacks("there is no phone number to call from: add one of the account");
        };
        match PhoneNumber::parse(&self.to_number) {
            Ok(to) => Decision::Dial(Numbers { agent: AgentId(agent), to, from }),
            Err(error) => Decision::Never(format!("the number is {error}")),
        }
    }
}

const fn why_not_now(why: Wait) -> &'static str {
    match why {
        Wait::NotDue => "it is not due yet",
        Wait::OutsideWindow => "outside the campaign's days and hours where the lead is",
        Wait::EnoughForToday => "the lead has had its calls of the day",
    }
}

/// Writes down that the carrier is about to be asked. `None`: somebody else is calling this telephone.
async fn note_intent(
    connection: &mut PgConnection,
    row: &Row,
    numbers: Numbers,
    node: &str,
    now: Timestamp,
) -> sqlx::Result<Option<Claimed>> {
    let Numbers { agent, to, from } = numbers;
    let noted = sqlx::query!(
        r#"
        with noted as (
            insert into call_attempts (organization_id, queue_id, lead_id, campaign_id, agent_id, attempt_number,
                                       to_number, from_number, node, requested_at, created_at)
            -- Usually the next one; more where the row was given further tries by hand.
            select $1, $2, $3, $4, $5,
                   greatest($6, (select coalesce(max(attempt_number), 0) from call_attempts where queue_id = $2)) + 1,
                   $7, $8, $9, $10, $10
            on conflict do nothing
            returning id, attempt_number
        ),
        counted as (
            update call_queue
            set status = 'processing',
                attempt_count = noted.attempt_number,
                last_error = null,
                updated_at = $10
            from noted
            where call_queue.id = $2
        ),
        had_its_turn as (
            insert into dial_turns (whose, organization_id, campaign_id, last_at)
            select coalesce($4, $1), $1, $4, $10
            from noted
            on conflict (whose) do update
            set last_at = excluded.last_at
        )
        select id, attempt_number
        from noted
        "#,
        row.organization_id,
        row.id,
        row.lead_id,
        row.campaign_id,
        agent.0,
        row.attempt_count,
        to.expose(),
        from.expose(),
        node,
        now.to_sqlx() as _,
    )
    .fetch_optional(connection)
    .await?;
    Ok(noted.map(|noted| Claimed {
        attempt: noted.id,
        queue: row.id,
        organization: row.organization_id.into(),
        agent,
        interaction: row.interaction_id.clone(),
        attempt_number: noted.attempt_number.unsigned_abs(),
        to,
        from,
        ring_timeout: Duration::from_secs(row.ring_timeout_s.map_or(RING_S, i32::unsigned_abs).into()),
        voicemail: VoicemailPolicy::stored(row.voicemail_policy.as_deref()),
        due_at: row.next_retry_at.to_jiff(),
        requested_at: now,
    }))
}

/// How long telephones ring that no campaign has called, as campaigns do unless they say otherwise.
const RING_S: u32 = 30;

async fn postpone(
    connection: &mut PgConnection,
    row: Uuid,
    at: Timestamp,
    why: &str,
    now: Timestamp,
) -> sqlx::Result<()> {
    sqlx::query!(
        r#"
        update call_queue
        set next_retry_at = $2,
            last_error = $3,
            updated_at = $4
        where id = $1
        "#,
        row,
        at.to_sqlx() as _,
        why,
        now.to_sqlx() as _,
    )
    .execute(connection)
    .await?;
    Ok(())
}
