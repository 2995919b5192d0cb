-- People we talk to, each linked to their most recent call.

create table leads (
    id                bigint      generated always as identity primary key,
    organization_id   uuid        not null
        constraint leads_organization references organisations on delete cascade,
    name              text        not null default '',
    phone             text        not null
        constraint leads_phone_e164 check (phone ~ '^\+[1-9][0-9]{1,17}$'),
    email             text,
    lead_status       text        not null default 'new',
    last_contacted_at timestamptz,
    notes             text        not null default '',
    score             integer,
    call_sid          varchar(50)
        constraint leads_call_sid unique,
    created_at        timestamptz not null default now(),
    updated_at        timestamptz not null default now()
);

create index idx_leads_call_sid on leads (call_sid);
create index leads_phone on leads (organization_id, phone);

comment on table leads is 'People we talk to. Several may share one telephone.';
comment on column leads.phone is 'In E.164.';
comment on column leads.lead_status is 'Where the organisation stands with this person: `new`, `contacted`, or a word of its own.';
comment on column leads.last_contacted_at is 'Of leads that share a telephone, the one contacted last is meant.';
comment on column leads.call_sid is 'The most recent call. A call belongs to at most one lead.';
