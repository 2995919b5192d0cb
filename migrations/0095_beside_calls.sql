-- What is known of a call beside what `calls` has, in tables of its own: what VAPI reported it by, and what lists and whoever
-- removes what is old ask of every call, without reading reports that may be megabytes.

create table vapi_calls (
    call_id         uuid        primary key
        constraint vapi_calls_call references calls on delete cascade,
    organization_id uuid        not null
        constraint vapi_calls_organization references organisations on delete cascade,
    -- A report that is sent twice is one call, also where no carrier has an id of it.
    vapi_call_id    text
        constraint vapi_calls_vapi_call_id unique,
    reported_at     timestamptz,
    report_length   integer,
    report_sha256   bytea
        constraint vapi_calls_report_sha256 check (octet_length(report_sha256) = 32),
    told_by_vapi_id boolean     not null default false
);

create index vapi_calls_organization_id on vapi_calls (organization_id);

comment on table vapi_calls is 'Calls that VAPI has reported.';
comment on column vapi_calls.vapi_call_id is 'VAPI''s id of the call. Other records of a call that no carrier has an id of name it by this.';
comment on column vapi_calls.reported_at is 'When the report was made that is on record, by VAPI''s clock: an older one changes nothing any more.';
comment on column vapi_calls.report_length is 'Bytes of that report, as it was received: what is kept of it may be less.';
comment on column vapi_calls.report_sha256 is 'Its SHA-256: the same report again changes nothing, whatever is still kept of it.';
comment on column vapi_calls.told_by_vapi_id is 'Others were told of the call by VAPI''s id, before the carrier''s was known: what they are told goes on being the same events.';

insert into vapi_calls (
    call_id, organization_id, vapi_call_id, reported_at, report_length, report_sha256, told_by_vapi_id
)
select id, organization_id, vapi_call_id, vapi_reported_at, vapi_report_length, vapi_report_sha256, told_by_vapi_id
from calls
where coalesce(vapi_call_id, vapi_reported_at::text) is not null;

select protect_tenant_table('vapi_calls', 'select');

create or replace function organization_of_call(sid text) returns uuid
language sql stable
as $$
    select coalesce(
        (select organization_id from calls where call_sid = sid),
        (
            select calls.organization_id
            from vapi_calls
            join calls on calls.id = vapi_calls.call_id
            where vapi_calls.vapi_call_id = sid and call_sid is null
        ),
        (select organization_id from call_leases where call_sid = sid),
        (select organization_id from leads where call_sid = sid)
    )
$$;

alter table calls
    drop column vapi_call_id,
    drop column vapi_reported_at,
    drop column vapi_report_length,
    drop column vapi_report_sha256,
    drop column told_by_vapi_id,
    drop column report_completed;

comment on column calls.call_sid is 'The carrier''s id of the call; null for calls that no carrier carried, such as those from a browser to VAPI. Their other records name them by `vapi_calls.vapi_call_id`.';

-- Whether what was said, or was written from it, is left in what is on record of a call. `team_answered` is our own word.
create function has_words(data jsonb, event_sequence jsonb) returns boolean
language sql immutable
as $$
    select data <> without_words(data)
        or exists (
            select
            from jsonb_array_elements(event_sequence) as event
            where case
                      when event->>'type' = 'transferred'
                          then event->'details'->>'summary' <> ''
                               or event->'details'->>'reason' not in ('', 'team_answered')
                      else event->'details' <> without_words(event->'details')
                  end
        )
$$;

comment on function has_words is 'Whether anything that was said, or was written from it, is left in the record of a call.';

-- The same for what others put into it.
create function has_payload(data jsonb, event_sequence jsonb) returns boolean
language sql immutable
as $$
    select data <> without_payload(data)
        or exists (
            select
            from jsonb_array_elements(event_sequence) as event
            where event->>'type' in ('agent_call_completed', 'stream_ended')
              and event->'details' <> without_payload(event->'details')
        )
$$;

comment on function has_payload is 'Whether anything that others sent, beside what our records are made of, is left in the record of a call.';

create table call_briefs (
    call_id         uuid        primary key
        constraint call_briefs_call references calls on delete cascade,
    organization_id uuid        not null
        constraint call_briefs_organization references organisations on delete cascade,
    created_at      timestamptz not null,
    report          jsonb       not null,
    events          jsonb       not null,
    completed       boolean,
    has_words       boolean     not null,
    has_payload     boolean     not null
);

create index call_briefs_organization_id on call_briefs (organization_id);
create index call_briefs_words on call_briefs (organization_id, created_at) where has_words;
create index call_briefs_payload on call_briefs (organization_id, created_at) where has_payload;

comment on table call_briefs is 'What lists show of each call, and what is to be removed of it one day. Written by a trigger of `calls`, and by nobody else.';
comment on column call_briefs.created_at is 'That of the call.';
comment on column call_briefs.report is 'The end-of-call report without its large members.';
comment on column call_briefs.events is 'What happened, without large details; at most 200 events.';
comment on column call_briefs.completed is 'What the report says of the call: `completed`, or else `failed`; null while there is none.';
comment on column call_briefs.has_words is 'Something that was said, or was written from it, is left.';
comment on column call_briefs.has_payload is 'Something that others sent is left.';

-- As its owner: whoever writes to a call may not write here.
create function write_call_brief() returns trigger
language plpgsql security definer set search_path = public, pg_temp
as $$
begin
    insert into call_briefs as known (
        call_id, organization_id, created_at, report, events, completed, has_words, has_payload
    )
    values (
        new.id, new.organization_id, new.created_at, report_in_brief(new.data), events_in_brief(new.event_sequence),
        case new.data->'call'->>'status' when 'completed' then true when 'failed' then false end,
        coalesce(has_words(new.data, new.event_sequence), false),
        coalesce(has_payload(new.data, new.event_sequence), false)
    )
    on conflict (call_id) do update
    set organization_id = excluded.organization_id,
        created_at = excluded.created_at,
        report = excluded.report,
        events = excluded.events,
        completed = excluded.completed,
        has_words = excluded.has_words,
        has_payload = excluded.has_payload;
    return null;
end
$$;

comment on function write_call_brief is 'Keeps what lists show of a call beside it.';

revoke execute on function write_call_brief from public;

create trigger write_call_brief
after insert or update of data, event_sequence, created_at, organization_id on calls
for each row execute function write_call_brief();

insert into call_briefs (call_id, organization_id, created_at, report, events, completed, has_words, has_payload)
select id, organization_id, created_at, report_in_brief(data), events_in_brief(event_sequence),
       case data->'call'->>'status' when 'completed' then true when 'failed' then false end,
       coalesce(has_words(data, event_sequence), false), coalesce(has_payload(data, event_sequence), false)
from calls;

select protect_tenant_table('call_briefs', 'select');

-- What a late report tells was said when it was said, and is as old as its call.
drop index conversation_transcripts_age;
create index conversation_transcripts_age on conversation_transcripts (organization_id, least(created_at, "timestamp"));
