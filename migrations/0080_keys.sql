-- Who may ask the API, and who has seen or changed which conversation.

create table api_keys (
    id                  uuid        primary key default gen_random_uuid(),
    organization_id     uuid        not null
        constraint api_keys_organization references organisations on delete cascade,
    name                text        not null
        constraint api_keys_name check (length(name) between 1 and 200),
    scopes              text[]      not null
        constraint api_keys_scopes
        check (scopes <@ '{read,review,operate,admin}' and cardinality(scopes) > 0 and array_position(scopes, null) is null),
    requests_per_minute integer     not null default 600
        constraint api_keys_requests_per_minute check (requests_per_minute between 1 and 60000),
    created_by          text        not null,
    created_at          timestamptz not null default now(),
    expires_at          timestamptz,
    last_used_at        timestamptz,
    revoked_at          timestamptz,
    constraint api_keys_of_organization unique (id, organization_id)
);

create index api_keys_organization_id on api_keys (organization_id, created_at desc);

comment on table api_keys is 'Keys of programs and people that ask the API. A key that was revoked stays, for those who read the audit log.';
comment on column api_keys.scopes is 'What it may do: read; review; operate; admin, which is everything in the organisation. Each includes read.';
comment on column api_keys.requests_per_minute is 'Most requests a minute to one server.';
comment on column api_keys.created_by is 'Who made it: another key, by name and prefix, or the administrator.';
comment on column api_keys.last_used_at is 'To the minute.';

create table api_key_secrets (
    prefix          text        primary key
        constraint api_key_secrets_prefix check (prefix ~ '^vb_[0-9a-z]{12}$'),
    organization_id uuid        not null,
    key_id          uuid        not null,
    sha256          bytea       not null
        constraint api_key_secrets_length check (octet_length(sha256) = 32),
    created_at      timestamptz not null default now(),
    expires_at      timestamptz,
    constraint api_key_secrets_owner foreign key (key_id, organization_id)
        references api_keys (id, organization_id) on delete cascade
);

create index api_key_secrets_key_id on api_key_secrets (key_id);
create index api_key_secrets_organization_id on api_key_secrets (organization_id);

comment on table api_key_secrets is 'What a key is known by: one secret, or two while it is being rotated.';
comment on column api_key_secrets.prefix is 'How the secret begins; may be shown.';
comment on column api_key_secrets.sha256 is 'Of the whole secret, which has 256 bits of chance: nothing slower is needed to keep it from being found.';
comment on column api_key_secrets.expires_at is 'When a secret that was replaced is taken no more; null is the one that holds.';

create table audit_log (
    id              bigint      generated always as identity primary key,
    organization_id uuid        not null
        constraint audit_log_organization references organisations on delete cascade,
    at              timestamptz not null default clock_timestamp(),
    key_id          uuid
        constraint audit_log_actor references api_keys on delete set null,
    actor           text        not null,
    action          text        not null
        constraint audit_log_action check (action ~ '^[a-z_]+\.[a-z_]+$'),
    subject         text        not null,
    call_sid        varchar(50),
    request_id      uuid
);

create index audit_log_organization_id on audit_log (organization_id, id desc);
create index audit_log_call_sid on audit_log (organization_id, call_sid, id desc);
create index audit_log_key_id on audit_log (key_id, id desc);

comment on table audit_log is 'Who has seen or changed what. Append-only: the API cannot change or delete a row.';
comment on column audit_log.key_id is 'Null: the administrator of the server.';
comment on column audit_log.actor is 'The key by name and prefix, as it was then.';
comment on column audit_log.action is 'What was done: a kind of thing and a verb, such as `transcript.read`.';
comment on column audit_log.subject is 'Of what: an id.';
comment on column audit_log.call_sid is 'The call whose conversation it is about.';
comment on column audit_log.request_id is 'As in the answer''s `x-request-id` and in the log of the server.';

select protect_tenant_table('api_keys', 'select, insert, update');
select protect_tenant_table('api_key_secrets', 'select, insert, update, delete');
select protect_tenant_table('audit_log', 'select, insert');
