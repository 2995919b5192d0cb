-- Calls of agents as those who sell by telephone count them, and what projects and campaigns they belong to.

create table projects (
    id              uuid        primary key default gen_random_uuid(),
    organization_id uuid        not null
        constraint projects_organization references organisations on delete cascade,
    name            text        not null,
    description     text        not null default '',
    created_at      timestamptz not null default now(),
    constraint projects_name unique (organization_id, name),
    constraint projects_of_organization unique (id, organization_id)
);

comment on table projects is 'What campaigns and calls are for.';

create table campaigns (
    id                   uuid        primary key default gen_random_uuid(),
    organization_id      uuid        not null
        constraint campaigns_organization references organisations on delete cascade,
    project_id           uuid
        constraint campaigns_project references projects on delete set null,
    name                 text        not null,
    description          text        not null default '',
    status               text        not null default 'draft'
        constraint campaigns_status check (status in ('draft', 'active', 'paused', 'completed')),
    start_date           date,
    end_date             date,
    time_start           time        not null default '09:00',
    time_end             time        not null default '20:00',
    weekdays             smallint[]  not null default '{1,2,3,4,5,6,7}'
        constraint campaigns_weekdays check (weekdays <@ '{1,2,3,4,5,6,7}' and cardinality(weekdays) > 0),
    total_calls          integer     not null default 0,
    answered_calls       integer     not null default 0,
    transferred_calls    integer     not null default 0,
    scored_calls         integer     not null default 0,
    sentiment_total      numeric     not null default 0,
    avg_sentiment_score  numeric     generated always as (
        case when scored_calls > 0 then round(sentiment_total / scored_calls, 4) end
    ) stored,
    metadata             jsonb       not null default '{}',
    agent_id             uuid
        constraint campaigns_agent references agents on delete set null,
    phone_number_id      uuid
        constraint campaigns_phone_number references phone_numbers on delete set null,
    message              text,
    max_attempts         integer     not null default 3
        constraint campaigns_max_attempts check (max_attempts between 1 and 20),
    max_attempts_per_day integer     not null default 1
        constraint campaigns_max_attempts_per_day check (max_attempts_per_day between 1 and 10),
    max_concurrent_calls integer     not null default 10
        constraint campaigns_max_concurrent_calls check (max_concurrent_calls between 1 and 10000),
    retry_delays_s       jsonb       not null default '{"busy": 900, "no_answer": 7200, "failed": 3600, "voicemail": 14400, "not_placed": 300}'
        constraint campaigns_retry_delays check (jsonb_typeof(retry_delays_s) = 'object'),
    voicemail_policy     text        not null default 'hang_up'
        constraint campaigns_voicemail_policy check (voicemail_policy in ('hang_up', 'leave_message', 'retry')),
    voicemail_message    text
        constraint campaigns_voicemail_message check (voicemail_message is not null or voicemail_policy <> 'leave_message'),
    ring_timeout_s       integer     not null default 30
        constraint campaigns_ring_timeout check (ring_timeout_s between 5 and 600),
    created_at           timestamptz not null default now(),
    updated_at           timestamptz not null default now(),
    completed_at         timestamptz,
    constraint campaigns_dates check (start_date <= end_date),
    constraint campaigns_hours check (time_start < time_end),
    constraint campaigns_of_organization unique (id, organization_id)
);

create index campaigns_organization_id on campaigns (organization_id, created_at desc);

comment on table campaigns is 'Many leads called with one aim: draft -> active -> paused or completed.';
comment on column campaigns.start_date is 'First day, by the calendar where the lead is; null is no limit. So is the last one.';
comment on column campaigns.time_start is 'Nobody is called before, by the clock where the lead is, nor at or after `time_end`.';
comment on column campaigns.weekdays is 'Days on which calls are made; 1 is Monday, 7 is Sunday.';
comment on column campaigns.total_calls is 'Calls the carrier took; kept by a trigger on call_logs, as are the other counters.';
comment on column campaigns.scored_calls is 'Calls with a sentiment score: the average is over these.';
comment on column campaigns.message is 'What this campaign''s calls are about, for the agent.';
comment on column campaigns.max_attempts_per_day is 'Most calls to one lead, or to its telephone, within one day of its own calendar, whatever they are for.';
comment on column campaigns.retry_delays_s is 'Seconds to wait after an outcome: busy, no_answer, failed, canceled, voicemail, not_placed. An outcome that is missing is not tried again, but for not_placed: after five minutes.';
comment on column campaigns.voicemail_policy is 'What is done when a machine answers: `hang_up` and be done, `leave_message` and be done, hang up and `retry` later.';

create table call_logs (
    id                      uuid        primary key default gen_random_uuid(),
    organization_id         uuid        not null
        constraint call_logs_organization references organisations on delete cascade,
    lead_id                 bigint
        constraint call_logs_lead references leads on delete set null,
    campaign_id             uuid
        constraint call_logs_campaign references campaigns on delete set null,
    project_id              uuid
        constraint call_logs_project references projects on delete set null,
    agent_id                uuid
        constraint call_logs_agent references agents on delete set null,
    call_sid                varchar(50) not null
        constraint call_logs_call_sid unique,
    direction               text        not null
        constraint call_logs_direction check (direction in ('outbound', 'inbound')),
    caller_number           text,
    callee_number           text,
    status                  text        not null default 'initiated'
        constraint call_logs_status
        check (status in ('initiated', 'ringing', 'connected', 'transferred', 'completed', 'failed')),
    call_status             text,
    started_at              timestamptz not null default now(),
    answered_at             timestamptz,
    ended_at                timestamptz,
    duration                integer
        constraint call_logs_duration check (duration >= 0),
    recording_url           text,
    conversation_transcript text,
    sentiment_score         numeric,
    interest_level          text,
    conversation_summary    text,
    transferred             boolean     not null default false,
    transferred_at          timestamptz,
    transfer_reason         text,
    disconnect_reason       text,
    disconnect_notes        text,
    ai_analysis             jsonb,
    created_at              timestamptz not null default now(),
    updated_at              timestamptz not null default now()
);

create index call_logs_started on call_logs (organization_id, started_at desc);
create index call_logs_lead_id on call_logs (lead_id);
create index call_logs_campaign_id on call_logs (campaign_id);
create index call_logs_project_id on call_logs (project_id);
create index call_logs_agent_id on call_logs (agent_id);

comment on table call_logs is 'Calls of agents with their transcript and what came of them. Derived from call events.';
comment on column call_logs.status is 'Where the call is in its life. It moves back from `transferred` when the agent has the call again.';
comment on column call_logs.call_status is 'The carrier''s latest word, such as `in-progress` or `no-answer`.';
comment on column call_logs.caller_number is 'As the carrier sent it; not always a number.';
comment on column call_logs.answered_at is 'When somebody or something took the call.';
comment on column call_logs.duration is 'Seconds, once the call is over.';
comment on column call_logs.conversation_transcript is 'What was said, one line a turn.';
comment on column call_logs.disconnect_reason is 'Why the call ended; the first cause.';
comment on column call_logs.disconnect_notes is 'More about it: the carrier''s status and SIP answer.';

-- Deltas, under the lock that an update of the campaign takes: what two calls change at once is both counted.
create function count_call_of_campaign() returns trigger
language plpgsql
as $$
begin
    if tg_op <> 'INSERT' and old.campaign_id is not null then
        update campaigns
        set total_calls = total_calls - 1,
            answered_calls = answered_calls - (old.answered_at is not null)::int,
            transferred_calls = transferred_calls - old.transferred::int,
            scored_calls = scored_calls - (old.sentiment_score is not null)::int,
            sentiment_total = sentiment_total - coalesce(old.sentiment_score, 0)
        where id = old.campaign_id;
    end if;
    if tg_op <> 'DELETE' and new.campaign_id is not null then
        update campaigns
        set total_calls = total_calls + 1,
            answered_calls = answered_calls + (new.answered_at is not null)::int,
            transferred_calls = transferred_calls + new.transferred::int,
            scored_calls = scored_calls + (new.sentiment_score is not null)::int,
            sentiment_total = sentiment_total + coalesce(new.sentiment_score, 0)
        where id = new.campaign_id;
    end if;
    return null;
end
$$;

comment on function count_call_of_campaign is 'Keeps the counters of campaigns equal to what call_logs say.';

create trigger count_new_or_gone_call
after insert or delete on call_logs
for each row execute function count_call_of_campaign();

create trigger count_changed_call
after update on call_logs
for each row
when (
    old.campaign_id is distinct from new.campaign_id
    or (old.answered_at is null) <> (new.answered_at is null)
    or old.transferred <> new.transferred
    or old.sentiment_score is distinct from new.sentiment_score
)
execute function count_call_of_campaign();
