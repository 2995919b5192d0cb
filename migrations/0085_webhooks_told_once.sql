-- One end of a call is told, and no other, whoever tells of it; and what is told never stands in the way of the call.

alter table webhook_deliveries
    add column held_until timestamptz;

alter table webhook_endpoints
    add column last_failed_at timestamptz,
    add column deleted_at     timestamptz,
    add column events_since   timestamptz[],
    add constraint webhook_endpoints_deleted check (deleted_at is null or not enabled),
    add constraint webhook_endpoints_events_since
        check (events_since is null or cardinality(events_since) = cardinality(events));

comment on column webhook_endpoints.deleted_at is 'Nobody sees it any more; the row goes once all that was sent there is deleted, a part at a time.';

comment on column webhook_endpoints.failing_since is 'Nothing was taken there since, and it was tried each day; null when the latest delivery was taken, or when nothing waits any more.';
comment on column webhook_endpoints.events_since is 'For each of `events` since when it is told there, where that is later than `listens_since`; else null.';
comment on column webhook_endpoints.last_failed_at is 'When something was last not taken there. A day without makes `failing_since` begin anew.';

comment on column webhook_deliveries.held_until is 'Not sent before, because more may become known until then; null where all is.';
comment on column webhook_deliveries.event_id is 'The `webhook-id`: made of organisation, fact and what it is about, so the same fact has the same one, however often and wherever it is sent. That a call is over is one fact, whatever type it is told as.';

-- What was told of one call, for who asks for it and for who has a person forgotten.
create index webhook_deliveries_call_sid on webhook_deliveries (organization_id, call_sid, created_at desc);
-- What is left to be deleted; nearly always nothing.
create index webhook_endpoints_deleted_at on webhook_endpoints (deleted_at) where deleted_at is not null;

-- What `announce` is given, as rows: `id` is the same for the same `fact`, or else type, and subject.
--
-- What is older than the rows are kept is not told: nobody would know any more that it was.
create function told_events(organization uuid, told jsonb)
returns table (
    id       text,
    type     text,
    call_sid text,
    at       timestamptz,
    wait     interval,
    data     jsonb,
    turns    jsonb,
    place    bigint
)
language sql stable
as $$
    select 'evt_' || left(encode(sha256(convert_to(
               organization::text || ' ' || coalesce(value->>'fact', value->>'type') || ' ' || (value->>'subject'), 'UTF8'
           )), 'hex'), 32),
           value->>'type',
           value->>'call_sid',
           (value->>'at')::timestamptz,
           make_interval(secs => coalesce((value->>'wait_s')::float8, 0)),
           value->'data',
           nullif(value->'turns', 'null'),
           list.place
    from jsonb_array_elements(told) with ordinality as list (value, place)
    where (value->>'at')::timestamptz > now() - interval '29 days'
$$;

comment on function told_events is 'The list that `announce` is given, as rows with their ids.';

create function webhook_body(organization uuid, id text, type text, at timestamptz, data jsonb, turns jsonb) returns json
language sql stable
as $$
    select json_build_object(
        'id', id,
        'type', type,
        'timestamp', to_char(at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        'organization_id', organization,
        'data', case when turns is null then data else data || jsonb_build_object('turns', turns) end
    )
$$;

comment on function webhook_body is 'What is sent of an event. `turns` is null where the endpoint does not want them.';

-- Writes down what is to be told, for each endpoint of the organisation that listens. `told` is a list of
-- `{type, fact, subject, call_sid, at, wait_s, data, turns}`. The same fact told again is the same event: as long as nothing
-- of it was sent it says what is known now, its type included, and then it stays. Returns how many rows were written.
--
-- Waits for nobody: whoever writes what happened to a call must not fail because of who is told. An endpoint that is being
-- removed is told nothing any more, and a delivery that is being taken at this moment is sent as it is.
create or replace function announce(organization uuid, told jsonb) returns bigint
language plpgsql
as $$
declare
    rewritten bigint;
    written   bigint;
begin
    -- What would be told as something that the endpoint does not listen to is not told there at all.
    if exists (select from jsonb_array_elements(told) where value->>'fact' <> value->>'type') then
        delete from webhook_deliveries
        where id in (
            select delivery.id
            from told_events(organization, told) event
            join webhook_endpoints endpoint on endpoint.organization_id = organization
            join webhook_deliveries delivery on delivery.endpoint_id = endpoint.id and delivery.event_id = event.id
            where delivery.status = 'pending'
              and delivery.attempts = 0
              and delivery.event_type <> event.type
              and not event.type = any (endpoint.events)
            for update of delivery skip locked
        );
    end if;

    update webhook_deliveries
    set event_type = known.type,
        body = known.body,
        occurred_at = known.at,
        held_until = known.held,
        -- Nobody waits for what is not held back any more, as long as nothing comes before it.
        due_at = case
            when known.held is distinct from held_until
                 and not exists (
                     select
                     from webhook_deliveries earlier
                     where earlier.endpoint_id = webhook_deliveries.endpoint_id
                       and earlier.call_sid = webhook_deliveries.call_sid
                       and earlier.status = 'pending'
                       and earlier.position < webhook_deliveries.position
                 )
            then coalesce(known.held, now())
            else due_at
        end
    from (
        select delivery.id as delivery_id, event.type, event.at, latest.body, latest.held
        from told_events(organization, told) event
        join webhook_endpoints endpoint on endpoint.organization_id = organization and endpoint.enabled
        join webhook_deliveries delivery on delivery.endpoint_id = endpoint.id and delivery.event_id = event.id
        cross join lateral (
            select webhook_body(
                       organization, event.id, event.type, event.at, event.data,
                       case when endpoint.include_transcript then event.turns end
                   ) as body,
                   case
                       when event.wait > interval '0' and delivery.held_until is not null
                       then least(delivery.held_until, now() + event.wait)
                   end as held
        ) as latest
        where delivery.status = 'pending'
          and delivery.attempts = 0
          and (latest.body::text <> delivery.body::text or latest.held is distinct from delivery.held_until)
        for no key update of delivery skip locked
    ) as known
    where webhook_deliveries.id = known.delivery_id;
    get diagnostics rewritten = row_count;

    insert into webhook_deliveries (
        organization_id, endpoint_id, event_id, event_type, call_sid, body, occurred_at, due_at, held_until
    )
    select organization, endpoint_id, id, type, call_sid, webhook_body(organization, id, type, at, data, turns), at,
           now() + wait, case when wait > interval '0' then now() + wait end
    from (
        select endpoint.id as endpoint_id, event.id, event.type, event.call_sid, event.at, event.wait, event.data,
               case when endpoint.include_transcript then event.turns end as turns,
               event.place
        from told_events(organization, told) event
        join webhook_endpoints endpoint on endpoint.organization_id = organization
            and endpoint.enabled
            and event.type = any (endpoint.events)
            -- The clocks of servers differ a little.
            and event.at > greatest(
                endpoint.listens_since,
                endpoint.events_since[array_position(endpoint.events, event.type)]
            ) - interval '1 minute'
        -- Not left to the constraint, which waits for whoever changes the row that is there.
        where not exists (
            select
            from webhook_deliveries known
            where known.endpoint_id = endpoint.id and known.event_id = event.id
        )
        -- As the foreign key would, but without waiting.
        for key share of endpoint skip locked
    ) as missing
    order by place
    on conflict on constraint webhook_deliveries_event do nothing;
    get diagnostics written = row_count;

    if rewritten + written > 0 then
        notify webhooks;
    end if;
    return rewritten + written;
end
$$;

comment on column webhook_deliveries.round is 'Requests that something came of since it was first to be sent, or since somebody had it sent again: what the next pause depends on.';
