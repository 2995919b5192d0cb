-- What the carrier told us about calls: one row per callback, never changed.

create table call_events (
    id                bigint      generated always as identity primary key,
    organization_id   uuid        not null
        constraint call_events_organization references organisations on delete cascade,
    call_sid          varchar(50) not null,
    call_status       text,
    to_number         text,
    from_number       text,
    direction         text,
    duration          integer,
    sequence_number   integer,
    event_time        timestamptz,
    sip_response_code integer,
    answered_by       text,
    payload           jsonb       not null default '{}',
    created_at        timestamptz not null default now()
);

-- What identifies a callback: its number within the call. Kinds of callback that carry no number are told apart by all
-- they say; the carrier repeats itself word for word when it tries again.
create unique index call_events_callback on call_events (
    call_sid,
    coalesce(call_status, ''),
    coalesce(sequence_number, -1),
    (case when sequence_number is null then md5(payload::text) else '' end)
);

create index call_events_organization_id on call_events (organization_id);

comment on table call_events is 'Callbacks of the carrier (status, answering machine, recording), append-only. A repeated one is one row.';
comment on column call_events.call_status is 'The carrier''s word, such as `ringing` or `completed`; null where a callback is about something else.';
comment on column call_events.to_number is 'As the carrier sent it; not always a number (`client:…`, `sip:…`).';
comment on column call_events.from_number is 'As the carrier sent it; not always a number (`anonymous`).';
comment on column call_events.direction is '`inbound`, `outbound-api` or `outbound-dial`: says which of the two numbers is the other party.';
comment on column call_events.duration is 'Seconds, once the call is over.';
comment on column call_events.sequence_number is 'The carrier''s count of callbacks of this call; null for kinds that are not counted.';
comment on column call_events.payload is 'All parameters of the callback.';
