-- A call may have several streams: when the node that carried it died or is stopped, another one takes over.

alter table call_leases
    drop constraint call_leases_next_action,
    add constraint call_leases_next_action check (next_action in ('hang_up', 'transfer', 'apologise', 'resume'));

comment on column call_leases.next_action is 'What the carrier is told when it asks after the stream has ended; null while nobody has decided, also because the node died.';

-- Kept because the lease knows only the latest: how often a call came back, how long it lasts in all, and until when a
-- holder of an old token was the right one.
create table call_streams (
    call_sid        varchar(50) not null
        constraint call_streams_lease references call_leases on delete cascade,
    fencing_token   bigint      not null
        constraint call_streams_fencing_token check (fencing_token > 0),
    organization_id uuid        not null
        constraint call_streams_organization references organisations on delete cascade,
    resumed_after   text,
    node            text,
    offered_at      timestamptz not null default now(),
    claimed_at      timestamptz,
    constraint call_streams_pkey primary key (call_sid, fencing_token)
);

create index call_streams_organization_id on call_streams (organization_id);

comment on table call_streams is 'Every stream a call was offered, by fencing token.';
comment on column call_streams.resumed_after is 'Why the stream before it ended, where this one goes on with the same conversation.';
comment on column call_streams.node is 'Who took it; null until then.';
comment on column call_streams.offered_at is 'From then on holders of smaller tokens are late.';

insert into call_streams (call_sid, fencing_token, organization_id, node, offered_at, claimed_at)
select call_sid, fencing_token, organization_id, node, offered_at, claimed_at
from call_leases;

-- Finds what the reaper looks for among all calls there ever were.
create index call_leases_open on call_leases (offered_at) where ended_at is null;

-- Who could take over a call.
create table nodes (
    name       text        primary key,
    started_at timestamptz not null default now(),
    seen_at    timestamptz not null default now(),
    draining   boolean     not null default false
);

comment on table nodes is 'Servers that share this database.';
comment on column nodes.seen_at is 'Last sign of life; older than a minute is taken for gone.';
comment on column nodes.draining is 'Takes no new calls.';
