-- What is not kept: words that are never written down, records that grow old, and people who are to be forgotten.

alter table agents
    add column redact text[] not null default '{}'
        constraint agents_redact
        check (redact <@ '{payment_card,card_security_code,iban,us_ssn,email,phone_number}'::text[]);

comment on column agents.redact is 'Kinds of words that are replaced by placeholders before anything of a call is stored.';

-- How long words and payloads are kept. No row: for ever.
create table retention_policies (
    organization_id uuid        primary key
        constraint retention_policies_organization references organisations on delete cascade,
    transcript_days integer
        constraint retention_policies_transcript_days check (transcript_days between 1 and 3650),
    payload_days    integer
        constraint retention_policies_payload_days check (payload_days between 1 and 3650),
    confirmed_at    timestamptz,
    updated_at      timestamptz not null default now()
);

comment on table retention_policies is 'How long an organisation keeps words and payloads; null is for ever.';
comment on column retention_policies.confirmed_at is
    'When it took effect. Null: it keeps less than the one before, and nothing is removed until a dry run of it was looked at.';

select protect_tenant_table('retention_policies', 'select, insert, update');

create table retention_runs (
    id              uuid        primary key default gen_random_uuid(),
    organization_id uuid        not null
        constraint retention_runs_organization references organisations on delete cascade,
    "trigger"       text        not null
        constraint retention_runs_trigger check ("trigger" in ('nightly', 'command', 'api')),
    day             date        not null,
    dry_run         boolean     not null,
    transcript_days integer,
    payload_days    integer,
    counts          jsonb       not null default '[]'
        constraint retention_runs_counts check (jsonb_typeof(counts) = 'array'),
    started_at      timestamptz not null default now(),
    seen_at         timestamptz not null default now(),
    finished_at     timestamptz,
    error           text
);

create unique index retention_runs_once_a_day on retention_runs (organization_id, day) where "trigger" = 'nightly';
create index retention_runs_organization_id on retention_runs (organization_id, started_at desc);

comment on table retention_runs is 'What was removed because of its age, or would be.';
comment on column retention_runs.day is 'In UTC. A night belongs to whoever makes its row first.';
comment on column retention_runs.counts is '`[{table, what, rows, oldest}]`: removed so far; of a dry run what would be.';
comment on column retention_runs.seen_at is 'Last sign of life of who runs it: another server goes on with one that fell silent.';

select protect_tenant_table('retention_runs', 'select');

-- What is too old is found without looking at all that is not. Rows that were emptied leave the second.
create index conversation_transcripts_age on conversation_transcripts (organization_id, created_at);
create index call_events_age on call_events (organization_id, created_at) where payload <> '{}' and not payload ? 'removed';

-- Who asked for a person to be forgotten, and what came of it. Nothing in it says who that was.
create table erasures (
    id                uuid        primary key default gen_random_uuid(),
    organization_id   uuid        not null
        constraint erasures_organization references organisations on delete cascade,
    asked_by          text        not null,
    subject           text        not null
        constraint erasures_subject check (subject in ('phone', 'lead')),
    salt              bytea       not null
        constraint erasures_salt check (octet_length(salt) = 16),
    number_sha256     bytea       not null
        constraint erasures_number_length check (octet_length(number_sha256) = 32),
    calls             integer     not null,
    counts            jsonb       not null
        constraint erasures_counts check (jsonb_typeof(counts) = 'array'),
    kept_do_not_call  boolean     not null,
    erased_at         timestamptz not null default now()
);

create index erasures_organization_id on erasures (organization_id, erased_at desc);

comment on table erasures is 'People who were erased, without saying who they were.';
comment on column erasures.number_sha256 is 'SHA-256 of `salt` and the number in E.164: whoever has the number can find the row.';
comment on column erasures.counts is '`[{table, rows}]`: deleted, or emptied.';

select protect_tenant_table('erasures', 'select');

-- Calls that are never to be known again, whoever tells of them: late callbacks, spools of other servers, reports sent twice.
create table erased_calls (
    call_sid_sha256 bytea       primary key
        constraint erased_calls_length check (octet_length(call_sid_sha256) = 32),
    organization_id uuid        not null
        constraint erased_calls_organization references organisations on delete cascade,
    erased_at       timestamptz not null default now()
);

create index erased_calls_organization_id on erased_calls (organization_id);

comment on table erased_calls is 'Calls that were erased, by the SHA-256 of their SIDs. Rows that name one are not taken any more.';

select protect_tenant_table('erased_calls');

-- The database itself refuses, so that no way of writing can forget to ask. As its owner: who asks may not see the list.
create function call_is_erased(sid text) returns boolean
language sql stable security definer set search_path = public, pg_temp
as $$
    select exists (select from erased_calls where call_sid_sha256 = sha256(convert_to(sid, 'UTF8')))
$$;

comment on function call_is_erased is 'Whether a call was erased: nothing is put on record of it any more.';

grant execute on function call_is_erased to voicebridge_api, voicebridge_service;

-- `tg_argv[0]`: the column that names the call.
create function refuse_erased_call() returns trigger
language plpgsql
as $$
declare
    sid text := to_jsonb(new)->>tg_argv[0];
begin
    return case when sid is null or not call_is_erased(sid) then new end;
end
$$;

comment on function refuse_erased_call is 'Leaves out a new row about a call that was erased, as if it had been there before.';

-- To be called by each migration that makes a table which names calls.
create function refuse_erased_calls(of_table regclass, call_column text default 'call_sid') returns void
language plpgsql
as $$
begin
    execute format(
        'create trigger %I before insert on %s for each row execute function refuse_erased_call(%L)',
        'refuse_erased_' || call_column, of_table, call_column
    );
end
$$;

comment on function refuse_erased_calls is 'Has a table take no rows about calls that were erased.';

select refuse_erased_calls(name::regclass)
from unnest(array[
    'calls', 'call_events', 'call_logs', 'call_leases', 'call_streams', 'conversation_transcripts', 'routing_decisions',
    'call_commands', 'agent_calls'
]) as name;
select refuse_erased_calls('agent_calls', 'parent_call_sid');

-- A telephone number as it would be dialled: digits, with `+` in front where there was one. Of addresses such as
-- `sip:+14155550123@example.com` the part before the `@`.
create function dialled(number text) returns text
language sql immutable
as $$
    select case when part ~ '^\s*\+' then '+' else '' end || regexp_replace(part, '[^0-9]', '', 'g')
    from (select regexp_replace(split_part(number, '@', 1), '^\s*[a-z]+:', '', 'i') as part) as address
$$;

comment on function dialled is 'A number without all that is only spelling.';

grant execute on function dialled to voicebridge_api, voicebridge_service;
