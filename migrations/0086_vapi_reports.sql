-- Reports of VAPI are known again by what was received, also when less than that is kept of them; and calls are listed
-- without reading their reports.

alter table calls
    add column vapi_report_length integer,
    add column vapi_report_sha256 bytea
        constraint calls_vapi_report_sha256 check (octet_length(vapi_report_sha256) = 32),
    add column told_by_vapi_id    boolean not null default false,
    -- Beside the report and not in it, which may be megabytes: lists and counts look at every call.
    add column report_completed   boolean generated always as (
        case data->'call'->>'status'
            when 'completed' then true
            when 'failed' then false
        end
    ) stored;

comment on column calls.vapi_report_length is 'Bytes of the report of VAPI that is on record, as it was received: what is kept of it may be less.';
comment on column calls.vapi_report_sha256 is 'Its SHA-256: the same report again changes nothing, whatever is still kept of it.';
comment on column calls.told_by_vapi_id is 'Others were told of the call by VAPI''s id, before the carrier''s was known: what they are told goes on being the same events.';
comment on column calls.report_completed is 'What the end-of-call report says of the call: `completed`, or else `failed`; null while there is none.';
comment on column calls.data is 'The end-of-call report; {} while the call lives. `call.duration` (seconds) and `call.status` are always there at the end. VAPI''s is kept whole: what our members of `call` took the place of is under `call.vapi`, and `call.reportedBy` is `vapi`. The report of a call that one of our own agents carried is kept under `vapi`.';

-- That an end is VAPI's is said in the part of the report that is kept for good.
update calls
set data = jsonb_set(
        data, '{call}',
        (data->'call') || jsonb_build_object('reportedBy', 'vapi', 'reportedReason', data->'endedReason')
    )
where data->>'type' = 'end-of-call-report'
  and jsonb_typeof(data->'call') = 'object';

-- A call that goes by VAPI's id is somebody's as well.
create or replace function organization_of_call(sid text) returns uuid
language sql stable
as $$
    select coalesce(
        (select organization_id from calls where call_sid = sid),
        (select organization_id from calls where call_sid is null and vapi_call_id = sid),
        (select organization_id from call_leases where call_sid = sid),
        (select organization_id from leads where call_sid = sid)
    )
$$;

-- The members of an object that are texts, numbers and the like of at most so many bytes; at most 40 of them.
create function small_members(value jsonb, most_bytes integer) returns jsonb
language sql immutable
as $$
    select coalesce(jsonb_object_agg(name, member), '{}')
    from (
        select name, member
        from jsonb_each(case when jsonb_typeof(value) = 'object' then value else '{}' end) as members (name, member)
        where jsonb_typeof(member) not in ('object', 'array')
          and octet_length(member::text) <= most_bytes
        order by name
        limit 40
    ) as small
$$;

comment on function small_members is 'An object without its large members.';

-- What lists show of a report.
create function report_in_brief(data jsonb) returns jsonb
language sql immutable
as $$
    select jsonb_strip_nulls(jsonb_build_object(
        'call', case when data ? 'call' then (
            select coalesce(jsonb_object_agg(name, member), '{}')
            from jsonb_each(small_members(data->'call', 1000)) as members (name, member)
        ) end,
        'disposition', nullif(small_members(jsonb_build_object('it', data->'disposition'), 1000)->'it', 'null'),
        'carrier_status', nullif(small_members(jsonb_build_object('it', data->'carrier_status'), 1000)->'it', 'null')
    ))
$$;

comment on function report_in_brief is 'What lists of calls show of an end-of-call report: the figures of the call, and what came of it.';

-- What lists show of what happened: at most the first 200 events.
create function events_in_brief(event_sequence jsonb) returns jsonb
language sql immutable
as $$
    select coalesce(jsonb_agg(
        jsonb_build_object(
            'type', event->'type', 'timestamp', event->'timestamp', 'details', small_members(event->'details', 300)
        )
        order by place
    ), '[]')
    from jsonb_array_elements(event_sequence) with ordinality as sequence (event, place)
    where place <= 200
$$;

comment on function events_in_brief is 'What lists of calls show of what happened: types, times and small details.';

grant execute on function small_members, report_in_brief, events_in_brief to voicebridge_api, voicebridge_service;
