-- Fetching Kaleyra's log: what was asked for, how far it came, and what came of it.

create table kaleyra_syncs (
    id              uuid        primary key default gen_random_uuid(),
    organization_id uuid        not null
        constraint kaleyra_syncs_organization references organisations on delete cascade,
    first_day       date        not null,
    last_day        date        not null,
    status          text        not null default 'running'
        constraint kaleyra_syncs_status check (status in ('running', 'completed', 'failed', 'interrupted')),
    slice           date        not null,
    page            integer     not null default 1
        constraint kaleyra_syncs_page check (page > 0),
    attempt         integer     not null default 1,
    fetched         bigint      not null default 0,
    inserted        bigint      not null default 0,
    updated         bigint      not null default 0,
    unchanged       bigint      not null default 0,
    rejected        bigint      not null default 0,
    reasons         jsonb       not null default '[]',
    error           text,
    node            text        not null,
    started_at      timestamptz not null default now(),
    heartbeat       timestamptz not null default now(),
    finished_at     timestamptz,
    constraint kaleyra_syncs_range check (first_day <= last_day),
    constraint kaleyra_syncs_counts check (fetched = inserted + updated + unchanged + rejected),
    constraint kaleyra_syncs_finished check ((status = 'running') = (finished_at is null))
);

comment on table kaleyra_syncs is 'Runs that fetch Kaleyra''s log. What is fetched and how far a run has come are kept together, so a run can end anywhere and go on from there.';
comment on column kaleyra_syncs.first_day is 'In Asia/Kolkata, as `last_day`, which is fetched too: Kaleyra is asked by days.';
comment on column kaleyra_syncs.slice is 'The day that is fetched next, from `page` on. Behind `last_day`: all is fetched.';
comment on column kaleyra_syncs.attempt is 'Counts who has carried it on. Whoever carried it before writes nothing any more.';
comment on column kaleyra_syncs.fetched is 'Records that Kaleyra has sent; each is counted once more, by what came of it.';
comment on column kaleyra_syncs.unchanged is 'Records that were on record just so already.';
comment on column kaleyra_syncs.reasons is 'Why records were rejected: a list of {id, reason}, the first hundred.';
comment on column kaleyra_syncs.error is 'Why it failed.';
comment on column kaleyra_syncs.heartbeat is 'When whoever carries it last showed life. Long ago: nobody does.';

-- One at a time.
create unique index kaleyra_syncs_one_running on kaleyra_syncs (organization_id) where status = 'running';
create index kaleyra_syncs_latest on kaleyra_syncs (organization_id, started_at desc);

select protect_tenant_table('kaleyra_syncs', 'select');
