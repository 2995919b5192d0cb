-- One row per call: who owned it, how it was routed, what happened in order, and the report at its end.

create table calls (
    id              uuid        primary key default gen_random_uuid(),
    organization_id uuid        not null
        constraint calls_organization references organisations on delete cascade,
    agent_id        uuid        not null
        constraint calls_agent references agents on delete cascade,
    phone_number_id uuid
        constraint calls_phone_number references phone_numbers on delete set null,
    call_sid        text,
    event_sequence  jsonb       not null default '[]'::jsonb
        constraint calls_event_sequence check (jsonb_typeof(event_sequence) = 'array'),
    routing_status  text
        constraint calls_routing_status
        check (routing_status in ('transferred_to_team', 'team_no_answer', 'direct_to_agent', 'completed')),
    created_at      timestamptz default now(),
    data            jsonb       not null
);

create index idx_calls_organization_id on calls (organization_id);
create index idx_calls_agent_id on calls (agent_id);
create index idx_calls_call_sid on calls (call_sid);
create index idx_calls_phone_number_id on calls (phone_number_id);
create index idx_calls_phone_number_created on calls (phone_number_id, created_at desc);
create index idx_calls_created_at on calls (created_at desc);
create index idx_calls_org_created on calls (organization_id, created_at desc);

-- A webhook that the carrier sends twice is one call.
create unique index calls_call_sid_unique on calls (call_sid);

comment on table calls is 'Calls. Written by lifecycle events only, each exactly once, whatever order they arrive in.';
comment on column calls.call_sid is 'The carrier''s id of the call; null for records from elsewhere that have none.';
comment on column calls.event_sequence is 'What happened, by time: [{type, timestamp, details}].';
comment on column calls.routing_status is 'Where the call went; never moves back, and `completed` is the last.';
comment on column calls.data is 'The end-of-call report; {} while the call lives. `call.duration` (seconds) and `call.status` are always there at the end.';
