-- The part of a call that people have, after the agent handed it to them.

create table agent_calls (
    id               uuid        primary key default gen_random_uuid(),
    organization_id  uuid        not null
        constraint agent_calls_organization references organisations on delete cascade,
    lead_id          bigint
        constraint agent_calls_lead references leads on delete set null,
    campaign_id      uuid
        constraint agent_calls_campaign references campaigns on delete set null,
    ai_call_log_id   uuid
        constraint agent_calls_call_log references call_logs on delete set null,
    agent_id         uuid
        constraint agent_calls_member references team_members on delete set null,
    agent_name       text,
    call_sid         varchar(50),
    parent_call_sid  varchar(50) not null,
    handoff          integer     not null default 1
        constraint agent_calls_handoff_number check (handoff > 0),
    status           text        not null default 'ringing'
        constraint agent_calls_status check (status in ('ringing', 'connected', 'completed', 'no_answer', 'busy', 'failed', 'canceled')),
    reason           text        not null default '',
    summary          text        not null default '',
    started_at       timestamptz,
    ended_at         timestamptz,
    duration         integer
        constraint agent_calls_duration check (duration >= 0),
    recording_url    text,
    transcript       text,
    outcome          text,
    next_action      text,
    next_action_date timestamptz,
    agent_notes      text,
    sentiment_score  numeric,
    interest_level   text,
    objections       jsonb       not null default '[]',
    created_at       timestamptz not null default now(),
    updated_at       timestamptz not null default now(),
    constraint agent_calls_once unique (parent_call_sid, handoff)
);

create index agent_calls_organization_id on agent_calls (organization_id, created_at desc);
create index agent_calls_lead_id on agent_calls (lead_id);
create index agent_calls_call_sid on agent_calls (call_sid);
create index agent_calls_campaign_id on agent_calls (campaign_id);

comment on table agent_calls is 'Calls that people took over from an agent, or did not.';
comment on column agent_calls.agent_id is 'The person of the team who answered.';
comment on column agent_calls.call_sid is 'The carrier''s id of the leg to the person.';
comment on column agent_calls.parent_call_sid is 'The caller''s call.';
comment on column agent_calls.handoff is 'Which of the handoffs of that call, from 1.';
comment on column agent_calls.started_at is 'When the person and the caller were connected.';
comment on column agent_calls.outcome is 'What the person made of it; written by people.';
