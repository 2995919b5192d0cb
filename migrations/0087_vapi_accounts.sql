-- Whose a report of VAPI is, is said by the secret that it comes with: each organisation has its own.

create table vapi_accounts (
    id              uuid        primary key default gen_random_uuid(),
    organization_id uuid        not null
        constraint vapi_accounts_organization references organisations on delete cascade,
    secret_sha256   bytea       not null
        constraint vapi_accounts_secret_length check (octet_length(secret_sha256) = 32),
    created_at      timestamptz not null default now(),
    constraint vapi_accounts_secret unique (secret_sha256)
);

create index vapi_accounts_organization_id on vapi_accounts (organization_id, created_at desc);

comment on table vapi_accounts is 'Secrets that VAPI shows with the reports of an organisation''s calls. Several hold while one takes the place of another.';
comment on column vapi_accounts.secret_sha256 is 'Of the secret, which has 256 bits of chance and is shown once, when it is made.';

select protect_tenant_table('vapi_accounts', 'select, insert, delete');

-- An assistant is one agent of an organisation. What others call theirs is nobody's concern.
drop index agents_vapi_assistant;
create unique index agents_vapi_assistant on agents (organization_id, vapi_assistant_id);

comment on column agents.vapi_assistant_id is 'The same agent at VAPI, for end-of-call reports that name it; no two agents of an organisation share one.';
