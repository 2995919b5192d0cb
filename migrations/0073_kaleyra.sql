-- Calls that another system handled: Kaleyra's log of them, one row a leg, and figures over it.

create table kaleyra_call_logs (
    id              text        not null primary key,
    uniqid          text,
    callfrom        text        not null,
    callto          text        not null,
    start_time      timestamptz not null,
    end_time        timestamptz,
    duration        integer     not null default 0,
    billsec         integer     not null default 0,
    status          text        not null,
    location        text,
    provider        text,
    service         text        not null,
    caller_id       text,
    recording       text,
    notes           text,
    custom          text,
    synced_at       timestamptz not null default now(),
    organization_id uuid        not null
        constraint kaleyra_call_logs_organization references organisations on delete cascade,
    lead_id         bigint
        constraint kaleyra_call_logs_lead references leads on delete set null
);

comment on table kaleyra_call_logs is 'Kaleyra''s log of calls, fetched by syncs. Each row is one leg: Incoming to a number, CallForward to an agent, or Click2Call.';
comment on column kaleyra_call_logs.id is 'Kaleyra''s id of the leg.';
comment on column kaleyra_call_logs.uniqid is 'Kaleyra''s internal id, such as 58_1771925707.21729277.';
comment on column kaleyra_call_logs.callfrom is 'As Kaleyra writes it, mostly ten digits. The customer, except of Click2Call.';
comment on column kaleyra_call_logs.callto is 'The number that was called, or the agent''s; of Click2Call the customer.';
comment on column kaleyra_call_logs.duration is 'Seconds in all.';
comment on column kaleyra_call_logs.billsec is 'Seconds of talk.';
comment on column kaleyra_call_logs.status is 'ANSWER, NOANSWER, BUSY, CANCEL, FAILED, CONGESTION, ANSWERED-A, ANSWERED-B, ACCEPTED or FORWARDED; in upper case. Any other word that Kaleyra comes up with is kept, since a row that is refused is a call that is lost.';
comment on column kaleyra_call_logs.location is 'State or circle of the caller.';
comment on column kaleyra_call_logs.provider is 'The caller''s telecom carrier.';
comment on column kaleyra_call_logs.service is 'Incoming, CallForward or Click2Call. Other words are kept.';
comment on column kaleyra_call_logs.caller_id is 'The number of ours that the call used.';
comment on column kaleyra_call_logs.recording is 'Where Kaleyra keeps the recording.';
comment on column kaleyra_call_logs.synced_at is 'When a sync last saw it.';
comment on column kaleyra_call_logs.organization_id is 'Ours, not Kaleyra''s: whose account it is.';
comment on column kaleyra_call_logs.lead_id is 'Ours, not Kaleyra''s: who the customer is, by telephone. Of leads that share one, the one contacted last when the row was tied.';

create index idx_kaleyra_logs_start_time on kaleyra_call_logs (start_time);
create index idx_kaleyra_logs_service on kaleyra_call_logs (service);
create index idx_kaleyra_logs_callto on kaleyra_call_logs (callto);
create index idx_kaleyra_logs_status on kaleyra_call_logs (status);

select protect_tenant_table('kaleyra_call_logs', 'select');

-- Rows are read by one organisation at a time, the newest first.
create index kaleyra_logs_of_organization on kaleyra_call_logs (organization_id, start_time desc);
create index kaleyra_logs_of_lead on kaleyra_call_logs (lead_id) where lead_id is not null;

create function kaleyra_customer_phone(service text, callfrom text, callto text) returns text
language sql immutable
as $$
    select case
               when dialed ~ '^\+[1-9][0-9]{6,14}$' then dialed
               when dialed ~ '^00[1-9][0-9]{6,14}$' then '+' || substr(dialed, 3)
               when dialed ~ '^0?91[1-9][0-9]{9}$' then '+91' || right(dialed, 10)
               when dialed ~ '^0?[1-9][0-9]{9}$' then '+91' || right(dialed, 10)
           end
    from regexp_replace(case when service = 'Click2Call' then callto else callfrom end, '[ ().-]', '', 'g') as dialed
$$;

comment on function kaleyra_customer_phone is 'The customer''s telephone in E.164: who calls, or of Click2Call who is called. Numbers without a country code are Indian. Null: not a telephone number.';

-- Rows that a lead added later may belong to.
create index kaleyra_logs_untied on kaleyra_call_logs (organization_id, kaleyra_customer_phone(service, callfrom, callto))
where lead_id is null;

-- Figures of what the caller of the function sees: as `voicebridge_api` those of one organisation, as the owner of the table
-- those of all. Of legs that started from `p_start` on and before `p_end`.

create function get_kaleyra_call_volume(p_start timestamptz, p_end timestamptz)
returns table (total bigint, incoming bigint, forwarded bigint, click2call bigint)
language sql stable security invoker
as $$
    select count(*),
           count(*) filter (where service = 'Incoming'),
           count(*) filter (where service = 'CallForward'),
           count(*) filter (where service = 'Click2Call')
    from kaleyra_call_logs
    where start_time >= p_start
      and start_time < p_end
$$;

comment on function get_kaleyra_call_volume is 'Legs that started within [p_start, p_end), in all and by service. `total` counts legs of any service.';

create function get_kaleyra_agent_stats(p_start timestamptz, p_end timestamptz)
returns table (agent_number text, calls_answered bigint, total_talk_seconds bigint, missed_calls bigint)
language sql stable security invoker
as $$
    select callto,
           count(*) filter (where answered),
           coalesce(sum(billsec) filter (where answered), 0)::bigint,
           count(*) filter (where not answered)
    from kaleyra_call_logs,
         lateral (select status in ('ANSWER', 'ANSWERED-A', 'ANSWERED-B', 'ACCEPTED') as answered) as verdict
    where service = 'CallForward'
      and start_time >= p_start
      and start_time < p_end
    group by callto
    order by 2 desc, callto
$$;

comment on function get_kaleyra_agent_stats is 'How agents did, from CallForward legs that started within [p_start, p_end) alone. Answered: ANSWER, ANSWERED-A, ANSWERED-B, ACCEPTED. Missed: any other status; FORWARDED too, since the leg went on to somebody else. Seconds of talk are those of answered legs.';

create function get_kaleyra_daily_volume(p_start timestamptz, p_end timestamptz)
returns table (date date, incoming bigint, forwarded bigint)
language sql stable security invoker
as $$
    select (start_time at time zone 'Asia/Kolkata')::date,
           count(*) filter (where service = 'Incoming'),
           count(*) filter (where service = 'CallForward')
    from kaleyra_call_logs
    where service in ('Incoming', 'CallForward')
      and start_time >= p_start
      and start_time < p_end
    group by 1
    order by 1
$$;

comment on function get_kaleyra_daily_volume is 'Legs that started within [p_start, p_end) by day in Asia/Kolkata. Days without any are left out.';

create function get_kaleyra_status_breakdown(p_start timestamptz, p_end timestamptz)
returns table (status text, count bigint)
language sql stable security invoker
as $$
    select logs.status, count(*)
    from kaleyra_call_logs as logs
    where logs.start_time >= p_start
      and logs.start_time < p_end
    group by logs.status
    order by 2 desc, 1
$$;

comment on function get_kaleyra_status_breakdown is 'Legs that started within [p_start, p_end) by status, the most frequent first.';

grant execute on function
    kaleyra_customer_phone(text, text, text),
    get_kaleyra_call_volume(timestamptz, timestamptz),
    get_kaleyra_agent_stats(timestamptz, timestamptz),
    get_kaleyra_daily_volume(timestamptz, timestamptz),
    get_kaleyra_status_breakdown(timestamptz, timestamptz)
to voicebridge_api, voicebridge_service;
