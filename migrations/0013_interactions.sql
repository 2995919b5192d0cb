-- Calls as a platform around us counts them: created before the call, updated as it goes. Camel case is theirs.

create type interaction_status as enum ('INITIATED', 'IN_PROGRESS', 'COMPLETED', 'FAILED');
create type interaction_channel as enum ('VOICE', 'SMS', 'EMAIL', 'CHAT');
create type interaction_direction as enum ('INBOUND', 'OUTBOUND');
create type interaction_outcome as enum ('SUCCESS', 'FAILED');
create type interaction_sentiment as enum ('POSITIVE', 'NEUTRAL', 'NEGATIVE');

create table interactions (
    id                          text                  primary key default gen_random_uuid()::text
        constraint interactions_id check (length(id) between 1 and 200),
    organization_id             uuid                  not null
        constraint interactions_organization references organisations on delete cascade,
    status                      interaction_status    not null default 'INITIATED',
    channel                     interaction_channel   not null default 'VOICE',
    direction                   interaction_direction not null default 'OUTBOUND',
    "customerId"                text,
    "agentId"                   text,
    "startTime"                 timestamptz           not null default now(),
    "connectedAt"               timestamptz,
    "endTime"                   timestamptz,
    duration                    integer
        constraint interactions_duration check (duration >= 0),
    outcome                     interaction_outcome,
    "callDisposition"           jsonb,
    transcript                  text,
    recording                   text,
    "recordingConsent"          boolean,
    "paymentDiscussed"          boolean,
    "paymentAmount"             numeric,
    "paymentDate"               timestamptz,
    "followUpRequired"          boolean,
    "callQualityMetrics"        jsonb,
    sentiment                   interaction_sentiment,
    "customerSatisfactionScore" integer
        constraint interactions_satisfaction check ("customerSatisfactionScore" between 1 and 5),
    call_sid                    varchar(50),
    "roomName"                  text,
    "phoneNumber"               text,
    "sipStatus"                 integer,
    "dispatchedAt"              timestamptz,
    "createdAt"                 timestamptz           not null default now(),
    "updatedAt"                 timestamptz           not null default now(),
    constraint interactions_call_sid unique (call_sid)
);

create index interactions_customer on interactions (organization_id, "customerId", "startTime" desc);
create index interactions_started on interactions (organization_id, "startTime" desc);

comment on table interactions is 'INITIATED -> IN_PROGRESS -> COMPLETED or FAILED; never back. Changed by call events only, once created.';
comment on column interactions.id is 'Given by the platform, or ours.';
comment on column interactions."agentId" is 'The platform''s word for who speaks; ours where it is the id of one of our agents.';
comment on column interactions."connectedAt" is 'Sound has flown both ways.';
comment on column interactions."callDisposition" is '{disposition, connection_status, call_duration, keywords_detected}; of a failed call {disposition, connection_status, reason}.';
comment on column interactions."roomName" is 'The media stream that carries the call.';
comment on column interactions."dispatchedAt" is 'When its call was asked for. Asking changes nothing else.';
