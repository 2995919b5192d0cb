-- Calls that a menu system elsewhere has answered, as it tells of them; and how each such system spells things.

create table ivr_providers (
    id              uuid        primary key default gen_random_uuid(),
    organization_id uuid        not null
        constraint ivr_providers_organization references organisations on delete cascade,
    name            text        not null
        constraint ivr_providers_name_form check (name ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
    secret_sha256   bytea       not null
        constraint ivr_providers_secret check (octet_length(secret_sha256) = 32),
    mapping         jsonb       not null
        constraint ivr_providers_mapping check (jsonb_typeof(mapping) = 'object' and mapping ? 'call_id'),
    time_zone       text        not null default 'UTC',
    active          boolean     not null default true,
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(),
    constraint ivr_providers_name unique (organization_id, name),
    constraint ivr_providers_of_organization unique (id, organization_id)
);

-- A name may be taken by several organisations; the secret says which of them is meant.
create unique index ivr_providers_webhook on ivr_providers (name, secret_sha256);

comment on table ivr_providers is 'Menu systems that tell of their calls by webhook.';
comment on column ivr_providers.name is 'In the path of its webhook.';
comment on column ivr_providers.secret_sha256 is 'Of the secret it shows. The secret itself is shown once, when it is made.';
comment on column ivr_providers.mapping is 'Our names to its: {"call_id": "/data/call/id", "from_number": "caller.number", "digits": "digits"}. JSON pointers, paths with dots, or names of form fields.';
comment on column ivr_providers.time_zone is 'IANA name of the zone that its times are in where they do not say.';
comment on column ivr_providers.active is 'False: what it sends is refused.';

create table ivr_calls (
    id               uuid        primary key default gen_random_uuid(),
    organization_id  uuid        not null
        constraint ivr_calls_organization references organisations on delete cascade,
    provider_id      uuid        not null,
    provider_call_id text        not null,
    call_sid         varchar(50),
    from_number      text,
    to_number        text,
    status           text,
    started_at       timestamptz,
    ended_at         timestamptz,
    duration         integer
        constraint ivr_calls_duration check (duration >= 0),
    digits           text,
    recording_url    text,
    lead_id          bigint
        constraint ivr_calls_lead references leads on delete set null,
    occurred_at      timestamptz,
    unreadable       text[]      not null default '{}',
    payload          jsonb       not null,
    received_at      timestamptz not null,
    created_at       timestamptz not null default now(),
    constraint ivr_calls_call unique (provider_id, provider_call_id),
    constraint ivr_calls_provider foreign key (provider_id, organization_id)
        references ivr_providers (id, organization_id)
);

create index ivr_calls_received on ivr_calls (organization_id, received_at desc);
create index ivr_calls_lead_id on ivr_calls (lead_id);
create index ivr_calls_call_sid on ivr_calls (call_sid);

comment on table ivr_calls is 'Calls as menu systems have told of them: one row each, which says what the newest message said.';
comment on column ivr_calls.provider_call_id is 'The provider''s id of the call.';
comment on column ivr_calls.call_sid is 'The carrier''s id, where the provider tells it; joins the call''s other records.';
comment on column ivr_calls.status is 'The provider''s word.';
comment on column ivr_calls.duration is 'Seconds.';
comment on column ivr_calls.digits is 'Keys that the caller pressed, or the entries chosen by them.';
comment on column ivr_calls.lead_id is 'Who has the caller''s number, or else the called one.';
comment on column ivr_calls.occurred_at is 'When what the message tells of happened, by the provider''s clock: a message that is older than the row changes nothing.';
comment on column ivr_calls.unreadable is 'Members of ours that the message has in a form we cannot read; they are null.';
comment on column ivr_calls.payload is 'The whole message.';

select protect_tenant_table('ivr_providers', 'select, insert, update, delete');
select protect_tenant_table('ivr_calls');
