-- All that menu systems have told of their calls, message by message. What a call's row says is folded from them.

create table ivr_messages (
    id               bigint      primary key generated always as identity,
    organization_id  uuid        not null
        constraint ivr_messages_organization references organisations on delete cascade,
    provider_id      uuid        not null,
    provider_call_id text        not null,
    call_sid         varchar(50),
    from_number      text,
    from_phone       text,
    to_number        text,
    to_phone         text,
    status           text,
    started_at       timestamptz,
    ended_at         timestamptz,
    duration         integer
        constraint ivr_messages_duration check (duration >= 0),
    digits           text,
    recording_url    text,
    occurred_at      timestamptz,
    unreadable       text[]      not null default '{}',
    payload          jsonb       not null,
    payload_sha256   bytea       not null
        constraint ivr_messages_digest check (octet_length(payload_sha256) = 32),
    received_at      timestamptz not null,
    constraint ivr_messages_once unique (provider_id, provider_call_id, payload_sha256),
    constraint ivr_messages_call foreign key (provider_id, provider_call_id)
        references ivr_calls (provider_id, provider_call_id) on delete cascade
);

create index ivr_messages_organization_id on ivr_messages (organization_id);
-- Payloads that have grown old.
create index ivr_messages_age on ivr_messages (organization_id, received_at) where payload <> '{}';

comment on table ivr_messages is 'Messages of menu systems about calls, as they were read and as they were sent. Rows are added only, and go with their call; a message that is sent again is the row that is there.';
comment on column ivr_messages.id is 'In the order in which those of a call came.';
comment on column ivr_messages.from_phone is '`from_number` in E.164, if it is a telephone number; by it leads are looked for.';
comment on column ivr_messages.to_phone is '`to_number`, the same.';
comment on column ivr_messages.occurred_at is 'When what the message tells of happened, by the provider''s clock: the later message is the newer one.';
comment on column ivr_messages.payload is 'The whole message; empty once it was kept for as long as was decided.';
comment on column ivr_messages.payload_sha256 is 'Of `payload` as it came, written as PostgreSQL writes it: what was sent again is known by it.';

comment on table ivr_calls is 'Calls as menu systems have told of them: one row each, of each column what the newest of its messages said that said anything.';
comment on column ivr_calls.occurred_at is 'When what the newest message that says so tells of happened, by the provider''s clock.';
comment on column ivr_calls.unreadable is 'Members of ours that the newest message has in a form we cannot read.';
comment on column ivr_calls.payload is 'The whole newest message.';
comment on column ivr_calls.received_at is 'When the latest message came that had not come before.';

-- Of what was told before, the newest message of each call is left.
insert into ivr_messages (
    organization_id, provider_id, provider_call_id, call_sid, from_number, from_phone, to_number, to_phone, status,
    started_at, ended_at, duration, digits, recording_url, occurred_at, unreadable, payload, payload_sha256, received_at
)
select organization_id, provider_id, provider_call_id, call_sid,
       from_number, case when from_number ~ '^\+[1-9][0-9]{6,14}$' then from_number end,
       to_number, case when to_number ~ '^\+[1-9][0-9]{6,14}$' then to_number end,
       status, started_at, ended_at, duration, digits, recording_url, occurred_at, unreadable, payload,
       sha256(convert_to(payload::text, 'UTF8')), received_at
from ivr_calls;

-- What was erased does not come back by another message of it.
select refuse_erased_calls('ivr_messages');

create trigger refuse_erased_ivr_call
before insert on ivr_messages
for each row execute function refuse_erased_ivr_call();

select protect_tenant_table('ivr_messages');

alter table ivr_providers
add column final_statuses text[] not null default '{}';

comment on column ivr_providers.final_statuses is 'Its words for calls that are over, in whatever case: a message that says one of them is newer than any that does not tell of the end.';

alter table ivr_providers
add column country_code text
    constraint ivr_providers_country check (country_code ~ '^[A-Z]{2}$');

comment on column ivr_providers.country_code is 'Two letters of ISO 3166-1: whose numbers those are that it sends without a plus. Null: by those no lead is looked for.';
