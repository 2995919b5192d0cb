-- Which node carries a call now, and what becomes of the call when its stream ends.

create table call_leases (
    call_sid            varchar(50) primary key,
    organization_id     uuid        not null
        constraint call_leases_organization references organisations on delete cascade,
    agent_id            uuid        not null
        constraint call_leases_agent references agents on delete cascade,
    direction           text,
    from_number         text,
    to_number           text,
    fencing_token       bigint      not null
        constraint call_leases_fencing_token check (fencing_token > 0),
    node                text,
    stream_token_sha256 bytea
        constraint call_leases_stream_token unique
        constraint call_leases_stream_token_length check (octet_length(stream_token_sha256) = 32),
    offered_at          timestamptz not null default now(),
    claimed_at          timestamptz,
    heartbeat_at        timestamptz,
    next_action         text
        constraint call_leases_next_action check (next_action in ('hang_up', 'transfer', 'apologise')),
    disconnect_reason   text,
    ended_at            timestamptz
);

create index call_leases_organization_id on call_leases (organization_id);
create index call_leases_agent_id on call_leases (agent_id);

comment on table call_leases is 'Calls that are or were carried by a node: one row per call, one holder at a time.';
comment on column call_leases.direction is 'The carrier''s word; tells which number is the other party.';
comment on column call_leases.from_number is 'As the carrier sent it; not always a number.';
comment on column call_leases.to_number is 'As the carrier sent it; not always a number.';
comment on column call_leases.fencing_token is 'Grows with every offer of the call. Whoever holds a smaller one writes nothing.';
comment on column call_leases.node is 'Who carries the call; null until the stream has arrived.';
comment on column call_leases.stream_token_sha256 is 'Digest of the one-time secret in the stream''s address; null when our TwiML did not bring the stream.';
comment on column call_leases.heartbeat_at is 'Last sign of life of the holder.';
comment on column call_leases.next_action is 'What the carrier is told when it asks after the stream has ended.';
comment on column call_leases.disconnect_reason is 'Why the call ended; the first cause wins.';

-- The one definition of a call that is going on: not ended by us, not reported finished by the carrier, and its holder has
-- shown life within two minutes (several heartbeats), so that a call on a node that died is not live for ever.
create function call_is_live(sid text) returns boolean
language sql stable
as $$
    select exists (
        select
        from call_leases
        where call_sid = sid
          and ended_at is null
          and greatest(offered_at, claimed_at, heartbeat_at) > now() - interval '2 minutes'
    )
    and not exists (
        select
        from call_events
        where call_sid = sid
          and call_status in ('completed', 'busy', 'failed', 'no-answer', 'canceled')
    )
$$;

comment on function call_is_live is 'Whether this call is going on now.';

-- Whose call it is, by whatever record of it came first.
create function organization_of_call(sid text) returns uuid
language sql stable
as $$
    select coalesce(
        (select organization_id from calls where call_sid = sid),
        (select organization_id from call_leases where call_sid = sid),
        (select organization_id from leads where call_sid = sid)
    )
$$;

comment on function organization_of_call is 'Whose call this is; null when nothing is known of it.';
