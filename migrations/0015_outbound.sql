-- Who is to be called, every try to do so, and whom not to call.

alter table leads
    add column time_zone text;

comment on column leads.time_zone is 'IANA name of where this person is; null is not known, and then no campaign calls.';

create table do_not_call (
    organization_id uuid        not null
        constraint do_not_call_organization references organisations on delete cascade,
    number          text        not null
        constraint do_not_call_e164 check (number ~ '^\+[1-9][0-9]{1,17}$'),
    reason          text        not null default '',
    source          text        not null default 'api'
        constraint do_not_call_source check (source in ('api', 'import', 'call', 'keypad')),
    call_sid        varchar(50),
    created_at      timestamptz not null default now(),
    constraint do_not_call_pkey primary key (organization_id, number)
);

comment on table do_not_call is 'Numbers that are not called, for whatever reason and by whatever campaign.';
comment on column do_not_call.source is 'Where it was said: to us, in a list, on a call, or on its keypad.';

create table call_queue (
    id              uuid        primary key default gen_random_uuid(),
    organization_id uuid        not null
        constraint call_queue_organization references organisations on delete cascade,
    campaign_id     uuid
        constraint call_queue_campaign references campaigns on delete cascade,
    lead_id         bigint
        constraint call_queue_lead references leads on delete cascade,
    status          text        not null default 'queued'
        constraint call_queue_status check (status in ('queued', 'processing', 'completed', 'failed')),
    attempt_count   integer     not null default 0
        constraint call_queue_attempt_count check (attempt_count >= 0),
    max_attempts    integer     not null default 3
        constraint call_queue_max_attempts check (max_attempts between 1 and 20),
    next_retry_at   timestamptz not null default now(),
    last_error      text,
    to_number       text        not null
        constraint call_queue_e164 check (to_number ~ '^\+[1-9][0-9]{1,17}$'),
    message         text,
    priority        smallint    not null default 0
        constraint call_queue_priority check (priority between -1 and 1),
    agent_id        uuid
        constraint call_queue_agent references agents on delete set null,
    phone_number_id uuid
        constraint call_queue_phone_number references phone_numbers on delete set null,
    interaction_id  text
        constraint call_queue_interaction references interactions on delete set null,
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(),
    finished_at     timestamptz
);

-- A lead is called once by a campaign, however often it is enqueued.
create unique index call_queue_once on call_queue (campaign_id, lead_id);
create index call_queue_due on call_queue (priority desc, next_retry_at) where status = 'queued';
create index call_queue_organization_id on call_queue (organization_id, created_at desc);
create index call_queue_lead_id on call_queue (lead_id);
create index call_queue_to_number on call_queue (organization_id, to_number) where status = 'queued';
create index call_queue_phone_number_id on call_queue (phone_number_id) where phone_number_id is not null;
create index call_queue_interaction_id on call_queue (interaction_id) where interaction_id is not null;
create index call_queue_open on call_queue (campaign_id) where status in ('queued', 'processing');

comment on table call_queue is 'Calls to be made. A row is tried again until somebody has answered or there is no reason to go on.';
comment on column call_queue.status is '`processing`: a try is going on, see call_attempts.';
comment on column call_queue.attempt_count is 'Tries so far, the one that is going on included.';
comment on column call_queue.next_retry_at is 'Not before. The first try is one as well.';
comment on column call_queue.last_error is 'Why the last try came to nothing, or why there was none.';
comment on column call_queue.message is 'What this call is about, for the agent.';
comment on column call_queue.priority is '1 is high, 0 normal, -1 low: higher ones first.';

create table call_attempts (
    id                 uuid        primary key default gen_random_uuid(),
    organization_id    uuid        not null
        constraint call_attempts_organization references organisations on delete cascade,
    queue_id           uuid
        constraint call_attempts_queue references call_queue on delete set null,
    lead_id            bigint
        constraint call_attempts_lead references leads on delete set null,
    campaign_id        uuid
        constraint call_attempts_campaign references campaigns on delete set null,
    call_log_id        uuid
        constraint call_attempts_call_log references call_logs on delete set null,
    agent_id           uuid        not null
        constraint call_attempts_agent references agents on delete cascade,
    attempt_number     integer     not null
        constraint call_attempts_number check (attempt_number > 0),
    channel            text        not null default 'voice',
    status             text        not null default 'dialing'
        constraint call_attempts_status check (status in ('dialing', 'placed', 'ended')),
    outcome            text
        constraint call_attempts_outcome
        check (outcome in ('answered', 'voicemail', 'busy', 'no_answer', 'failed', 'canceled', 'not_placed')),
    duration           integer,
    will_retry         boolean,
    next_retry_at      timestamptz,
    retry_reason       text,
    voicemail_detected boolean     not null default false,
    call_sid           varchar(50)
        constraint call_attempts_call_sid unique,
    to_number          text        not null,
    from_number        text        not null,
    node               text        not null,
    requested_at       timestamptz not null,
    placed_at          timestamptz,
    answered_at        timestamptz,
    ended_at           timestamptz,
    answered_by        text,
    sip_response_code  integer,
    error              text,
    created_at         timestamptz not null default now(),
    constraint call_attempts_once unique (queue_id, attempt_number),
    constraint call_attempts_outcome_at_end check ((outcome is not null) = (status = 'ended'))
);

-- Never two calls at a time to the same telephone; so a call that the carrier knows and we lost can be told by its numbers.
create unique index call_attempts_one_at_a_time on call_attempts (organization_id, to_number) where status <> 'ended';
create index call_attempts_going_on on call_attempts (status, requested_at) where status <> 'ended';
create index call_attempts_lead_id on call_attempts (lead_id, requested_at);
create index call_attempts_to_number on call_attempts (organization_id, to_number, requested_at);
create index call_attempts_campaign_id on call_attempts (campaign_id);
create index call_attempts_call_log_id on call_attempts (call_log_id);
create index call_attempts_organization_id on call_attempts (organization_id, requested_at desc);

comment on table call_attempts is 'Every try. The row is there before the carrier is asked, so that nobody asks twice.';
comment on column call_attempts.queue_id is 'Null once the row is deleted with its campaign: that we called stays known, and counts for the calls of the day.';
comment on column call_attempts.status is '`dialing`: the carrier is being asked, and may have placed the call. `placed`: it has, and gave its call_sid.';
comment on column call_attempts.outcome is 'What came of it. `not_placed`: the carrier has no such call.';
comment on column call_attempts.node is 'Who asked the carrier.';
comment on column call_attempts.requested_at is 'When the carrier was about to be asked.';
comment on column call_attempts.error is 'What the carrier or the network said, where that is why it came to nothing.';

-- The carrier takes so many calls a second of one account, whichever server asks.
create table dial_pace (
    account_sid text        primary key,
    next_at     timestamptz not null
);

comment on table dial_pace is 'When the next call may be asked for, all servers together.';
comment on column dial_pace.account_sid is 'The account at the carrier.';
