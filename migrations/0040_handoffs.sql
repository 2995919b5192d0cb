-- People take calls over from agents and give them back, steer calls that agents carry, and say that they want no more of them.

alter table call_leases
    add column handoffs       integer     not null default 0
        constraint call_leases_handoffs check (handoffs >= 0),
    add column handed_over_at timestamptz;

comment on column call_leases.handoffs is 'How often people were called on behalf of the agent, the time that is going on included.';
comment on column call_leases.handed_over_at is 'People are called, or have the call, since then; no node carries it meanwhile. Null again when it is back with the agent.';

-- While people have a call nobody shows life for it. The carrier says when it is over.
create or replace function call_is_live(sid text) returns boolean
language sql stable
as $$
    select exists (
        select
        from call_leases
        where call_sid = sid
          and ended_at is null
          and (greatest(offered_at, claimed_at, heartbeat_at) > now() - interval '2 minutes'
               or handed_over_at > now() - interval '4 hours')
    )
    and not exists (
        select
        from call_events
        where call_sid = sid
          and call_status in ('completed', 'busy', 'failed', 'no-answer', 'canceled')
    )
$$;

alter table agents
    add column opt_out_digit text default '9'
        constraint agents_opt_out_digit check (opt_out_digit ~ '^[0-9*#]$');

comment on column agents.opt_out_digit is 'On calls that we make: the key with which the other party says that they do not want to be called again; null is none.';

create table call_commands (
    id              uuid        primary key default gen_random_uuid(),
    organization_id uuid        not null
        constraint call_commands_organization references organisations on delete cascade,
    call_sid        varchar(50) not null,
    kind            text        not null
        constraint call_commands_kind check (kind in ('hang_up', 'transfer', 'say', 'inject')),
    payload         jsonb       not null default '{}',
    created_at      timestamptz not null default now(),
    taken_at        timestamptz,
    node            text,
    done_at         timestamptz,
    result          jsonb,
    constraint call_commands_result_when_done check ((result is not null) = (done_at is not null)),
    constraint call_commands_node_when_taken check ((node is not null) = (taken_at is not null))
);

create index call_commands_organization_id on call_commands (organization_id, created_at desc);
create index call_commands_open on call_commands (call_sid) where taken_at is null and done_at is null;

comment on table call_commands is 'What people in charge want of a call that is going on. The node that carries it takes each once.';
comment on column call_commands.payload is 'What is to be said, told or done, by the names of the request.';
comment on column call_commands.taken_at is 'When the node that carries the call took it; null and done: it was withdrawn before.';
comment on column call_commands.result is '{outcome, message}: what came of it.';
