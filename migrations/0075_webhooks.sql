-- What happens to calls is told to whoever an organisation names: outgoing webhooks, signed after the Standard Webhooks
-- specification.
--
-- What is to be told is written in the transaction that makes it true, so that it is told if and only if it happened; it
-- is sent afterwards, and again until it is taken.

create table webhook_endpoints (
    id                    uuid        primary key default gen_random_uuid(),
    organization_id       uuid        not null
        constraint webhook_endpoints_organization references organisations on delete cascade,
    url                   text        not null,
    description           text        not null default '',
    events                text[]      not null
        constraint webhook_endpoints_events check (
            cardinality(events) > 0
            and events <@ array[
                'call.started', 'call.transferred', 'call.completed', 'call.failed', 'transcript.completed', 'lead.linked'
            ]
        ),
    include_transcript    boolean     not null default false,
    enabled               boolean     not null default true,
    disabled_at           timestamptz,
    disabled_reason       text,
    listens_since         timestamptz not null default now(),
    secret                text        not null,
    previous_secret       text,
    previous_secret_until timestamptz,
    failing_since         timestamptz,
    last_delivered_at     timestamptz,
    created_at            timestamptz not null default now(),
    updated_at            timestamptz not null default now(),
    constraint webhook_endpoints_disabled check (enabled = (disabled_at is null)),
    constraint webhook_endpoints_previous check ((previous_secret is null) = (previous_secret_until is null))
);

-- Asked with each event of a call: most organisations have none.
create index webhook_endpoints_organization_id on webhook_endpoints (organization_id);

comment on table webhook_endpoints is 'Where an organisation wants to be told what happens to its calls.';
comment on column webhook_endpoints.events is 'Types of events that are told there.';
comment on column webhook_endpoints.include_transcript is 'What was said goes along with `transcript.completed`; else only where it can be read.';
comment on column webhook_endpoints.disabled_reason is 'Why nothing is sent there any more, for people; null where they have said so themselves.';
comment on column webhook_endpoints.listens_since is 'What happened before is not told: when it was registered or enabled again.';
comment on column webhook_endpoints.secret is '`whsec_` and base64. Kept as it is, because everything that is sent is signed with it; shown once, when it is made.';
comment on column webhook_endpoints.previous_secret is 'The one before the last rotation; signs as well until `previous_secret_until`.';
comment on column webhook_endpoints.failing_since is 'Nothing was taken there since; null when the latest delivery was.';

create table webhook_deliveries (
    id              uuid        primary key default gen_random_uuid(),
    organization_id uuid        not null
        constraint webhook_deliveries_organization references organisations on delete cascade,
    endpoint_id     uuid        not null
        constraint webhook_deliveries_endpoint references webhook_endpoints on delete cascade,
    position        bigint      generated always as identity,
    event_id        text        not null,
    event_type      text        not null,
    call_sid        varchar(50),
    body            json        not null,
    occurred_at     timestamptz not null,
    status          text        not null default 'pending'
        constraint webhook_deliveries_status check (status in ('pending', 'delivered', 'dead')),
    attempts        integer     not null default 0,
    round           integer     not null default 0,
    due_at          timestamptz not null default now(),
    lease           uuid,
    settled_at      timestamptz,
    created_at      timestamptz not null default now(),
    constraint webhook_deliveries_event unique (endpoint_id, event_id),
    constraint webhook_deliveries_settled check ((status = 'pending') = (settled_at is null))
);

-- What is to be sent, by when.
create index webhook_deliveries_due on webhook_deliveries (endpoint_id, due_at) where status = 'pending';
-- What has to be sent before another event of the same call.
create index webhook_deliveries_of_call on webhook_deliveries (endpoint_id, call_sid, position) where status = 'pending';
create index webhook_deliveries_list on webhook_deliveries (organization_id, created_at desc);
create index webhook_deliveries_settled_at on webhook_deliveries (settled_at) where status <> 'pending';

comment on table webhook_deliveries is 'One event for one endpoint: what is to be sent, and what came of it. Kept for 30 days after that.';
comment on column webhook_deliveries.position is 'Events of one call go to an endpoint in this order, the next when the one before is delivered or dead.';
comment on column webhook_deliveries.event_id is 'The `webhook-id`: made of organisation, type and what it is about, so the same fact has the same one, however often and wherever it is sent.';
comment on column webhook_deliveries.call_sid is 'The call it is about; null for a `ping`.';
comment on column webhook_deliveries.body is 'Sent as it is here, byte by byte.';
comment on column webhook_deliveries.status is '`dead`: given up, until somebody has it sent again.';
comment on column webhook_deliveries.attempts is 'Requests that were begun, those included that a server did not live to finish.';
comment on column webhook_deliveries.round is 'Those since it was first to be sent, or since somebody had it sent again: what the next pause depends on.';
comment on column webhook_deliveries.due_at is 'Not sent before. While a request is under way: when another server takes it over.';
comment on column webhook_deliveries.lease is 'The request that is under way.';

create table webhook_attempts (
    delivery_id     uuid        not null
        constraint webhook_attempts_delivery references webhook_deliveries on delete cascade,
    attempt         integer     not null,
    organization_id uuid        not null
        constraint webhook_attempts_organization references organisations on delete cascade,
    at              timestamptz not null,
    duration_ms     integer     not null,
    status_code     integer,
    error           text,
    response        text,
    primary key (delivery_id, attempt)
);

create index webhook_attempts_organization_id on webhook_attempts (organization_id);

comment on table webhook_attempts is 'Requests of a delivery and what came of each. One that is missing was cut off with its server.';
comment on column webhook_attempts.status_code is 'HTTP status; null when there was no answer.';
comment on column webhook_attempts.error is 'Why there was none.';
comment on column webhook_attempts.response is 'The first kilobyte of the answer''s body.';

select protect_tenant_table('webhook_endpoints', 'select, insert, update, delete');
select protect_tenant_table('webhook_deliveries', 'select, insert, update');
select protect_tenant_table('webhook_attempts', 'select');

-- Writes down what is to be told, for each endpoint of the organisation that listens. `told` is a list of
-- `{type, subject, call_sid, at, wait_s, data, turns}`. The same fact told again is the same event: as long as nothing of
-- it was sent it says what is known now, and then it stays. Returns how many rows were written.
--
-- What is older than the rows are kept is not told: nobody would know any more that it was.
create function announce(organization uuid, told jsonb) returns bigint
language plpgsql
as $$
declare
    written bigint;
begin
    insert into webhook_deliveries (organization_id, endpoint_id, event_id, event_type, call_sid, body, occurred_at, due_at)
    select organization, endpoint.id, event.id, event.type, event.call_sid,
           json_build_object(
               'id', event.id,
               'type', event.type,
               'timestamp', to_char(event.at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
               'organization_id', organization,
               'data', case
                   when endpoint.include_transcript and event.turns is not null
                   then event.data || jsonb_build_object('turns', event.turns)
                   else event.data
               end
           ),
           event.at, now() + event.wait
    from (
        select 'evt_' || left(encode(sha256(convert_to(
                   organization::text || ' ' || (value->>'type') || ' ' || (value->>'subject'), 'UTF8'
               )), 'hex'), 32) as id,
               value->>'type' as type,
               value->>'call_sid' as call_sid,
               (value->>'at')::timestamptz as at,
               make_interval(secs => coalesce((value->>'wait_s')::float8, 0)) as wait,
               value->'data' as data,
               nullif(value->'turns', 'null') as turns,
               place
        from jsonb_array_elements(told) with ordinality as list (value, place)
    ) as event
    join webhook_endpoints endpoint on endpoint.organization_id = organization
        and endpoint.enabled
        and event.type = any (endpoint.events)
        -- The clocks of servers differ a little.
        and event.at > endpoint.listens_since - interval '1 minute'
    where event.at > now() - interval '29 days'
    order by event.place
    on conflict on constraint webhook_deliveries_event do update
    set body = excluded.body
    where webhook_deliveries.status = 'pending'
      and webhook_deliveries.attempts = 0
      and webhook_deliveries.body::text <> excluded.body::text;
    get diagnostics written = row_count;
    if written > 0 then
        notify webhooks;
    end if;
    return written;
end
$$;

-- Whoever links a lead to a call, and by whatever way, has that told. Linked again is told once.
create function announce_linked_lead() returns trigger
language plpgsql
as $$
begin
    perform announce(new.organization_id, jsonb_build_array(jsonb_build_object(
        'type', 'lead.linked',
        'subject', new.call_sid || ' ' || new.id,
        'call_sid', new.call_sid,
        'at', now(),
        'data', jsonb_build_object(
            'call_sid', new.call_sid,
            'lead_id', new.id,
            'lead_status', new.lead_status,
            'links', jsonb_build_object('lead', '/api/leads/' || new.id, 'call', '/api/calls/' || new.call_sid)
        )
    )));
    return null;
end
$$;

create trigger announce_linked_lead
after update of call_sid on leads
for each row
when (new.call_sid is not null and new.call_sid is distinct from old.call_sid)
execute function announce_linked_lead();

create trigger announce_lead_with_call
after insert on leads
for each row
when (new.call_sid is not null)
execute function announce_linked_lead();
