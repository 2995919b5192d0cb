-- What is told of a call says what is known when it is sent, in the order in which it happened, and each thing once: also
-- when a call gets another name, and when what was sent is not kept any more.

alter table webhook_deliveries
    add column also_id text;

comment on column webhook_deliveries.also_id is 'The `event_id` that the same event would have by the other name of its call: it is told as this one, and not again.';
comment on column webhook_deliveries.position is 'Events of one call go to an endpoint in this order, the next when the one before is delivered or dead. What was not sent yet goes back behind what becomes known later and happened before.';
comment on column webhook_deliveries.body is 'Sent as it is here, byte by byte; {} once it is too old to be kept: the row stays, so that it is not told again.';

comment on column call_logs.transcript_revision is 'Sum of the revisions of the turns that conversation_transcript was made of: it grows with every turn. -1: the log is to be made again.';

-- Calls seldom have two names.
create index webhook_deliveries_also_id on webhook_deliveries (endpoint_id, also_id) where also_id is not null;

-- What is held back is not put off any further by what is tried again before it.
update webhook_deliveries
set due_at = held_until
where status = 'pending'
  and lease is null
  and held_until > now()
  and due_at > held_until;

create function told_event_id(organization uuid, fact text, subject text) returns text
language sql immutable
as $$
    select 'evt_' || left(encode(sha256(convert_to(organization::text || ' ' || fact || ' ' || subject, 'UTF8')), 'hex'), 32)
$$;

comment on function told_event_id is 'The id of an event: the same for the same fact and subject.';

create or replace function told_events(organization uuid, told jsonb)
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
    select told_event_id(organization, coalesce(value->>'fact', value->>'type'), value->>'subject'),
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

-- What nothing was sent of yet, and does not say what is known now.
create function outdated_events(organization uuid, told jsonb)
returns table (
    delivery_id uuid,
    type        text,
    at          timestamptz,
    is_wanted   boolean,
    body        json,
    held        timestamptz
)
language sql stable
as $$
    select delivery.id, event.type, event.at,
           event.type = delivery.event_type or event.type = any (endpoint.events), latest.body, latest.held
    from told_events(organization, told) event
    join webhook_endpoints endpoint on endpoint.organization_id = organization and endpoint.enabled
    cross join lateral (
        select id from webhook_deliveries where endpoint_id = endpoint.id and event_id = event.id
        union
        select id from webhook_deliveries where endpoint_id = endpoint.id and also_id = event.id
    ) as known
    join webhook_deliveries delivery on delivery.id = known.id
    cross join lateral (
        select webhook_body(
                   organization, delivery.event_id, event.type, event.at, event.data,
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
$$;

comment on function outdated_events is 'What is to be told of it now. `is_wanted`: the endpoint listens to what it is told as.';

-- Writes down what is to be told, for each endpoint of the organisation that listens. `told` is a list of
-- `{type, fact, subject, call_sid, at, wait_s, data, turns}`, in the order in which it happened. The same fact told again is
-- the same event: as long as nothing of it was sent it says what is known now, its type included, and then it stays. Returns
-- how many rows were written.
--
-- Waits for nobody who takes their time: whoever writes what happened to a call must not fail because of who is told. An
-- endpoint that is being removed is told nothing any more, and a delivery that is under way is sent as it is. Who takes a
-- delivery, or says when it is due, does so in a moment, and knows nothing of what is known now: they are waited for, or
-- what they did not hear of is told again.
create or replace function announce(organization uuid, told jsonb) returns bigint
language plpgsql
as $$
declare
    unsent    uuid[];
    inserted  uuid[];
    later     uuid;
    patience  text := current_setting('lock_timeout');
    rewritten bigint := 0;
begin
    unsent := array(select delivery_id from outdated_events(organization, told));
    if cardinality(unsent) > 0 then
        begin
            perform set_config('lock_timeout', '1s', true);
            perform from webhook_deliveries where id = any (unsent) order by position for no key update;
            perform set_config('lock_timeout', patience, true);
        exception
            -- With this, the setting is as it was.
            when lock_not_available or deadlock_detected then null;
        end;
        unsent := array(
            select id
            from webhook_deliveries
            where id = any (unsent) and status = 'pending' and attempts = 0
            for no key update skip locked
        );
        -- Somebody takes their time: the call is not finished, and its records say all of this again within a minute.
        if exists (select from outdated_events(organization, told) where delivery_id <> all (unsent) and type <> 'lead.linked') then
            update call_logs
            set transcript_revision = -1
            where organization_id = organization
              and call_sid in (select event.call_sid from told_events(organization, told) event);
        end if;

        -- What would be told as something that the endpoint does not listen to is not told there at all.
        if exists (select from outdated_events(organization, told) where not is_wanted) then
            delete from webhook_deliveries
            using outdated_events(organization, told) as known
            where webhook_deliveries.id = known.delivery_id
              and webhook_deliveries.id = any (unsent)
              and not known.is_wanted;
        end if;

        update webhook_deliveries
        set event_type = known.type,
            body = known.body,
            occurred_at = known.at,
            held_until = known.held,
            -- Nobody waits for what is not held back any more, as long as nothing that is tried again comes before it. What is
            -- being sent before it says when it has been.
            due_at = case
                when known.held is distinct from held_until
                     and not exists (
                         select
                         from webhook_deliveries earlier
                         where earlier.endpoint_id = webhook_deliveries.endpoint_id
                           and earlier.call_sid = webhook_deliveries.call_sid
                           and earlier.status = 'pending'
                           and earlier.lease is null
                           and earlier.due_at > now()
                           and earlier.position < webhook_deliveries.position
                     )
                then coalesce(known.held, now())
                else due_at
            end
        from outdated_events(organization, told) as known
        where webhook_deliveries.id = known.delivery_id
          and webhook_deliveries.id = any (unsent);
        get diagnostics rewritten = row_count;
    end if;

    with new as (
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
            and not exists (
                select
                from webhook_deliveries known
                where known.endpoint_id = endpoint.id and known.also_id = event.id
            )
            -- As the foreign key would, but without waiting.
            for key share of endpoint skip locked
        ) as missing
        order by place
        on conflict on constraint webhook_deliveries_event do nothing
        returning id
    )
    select array_agg(id) into inserted from new;

    -- What comes after it is sent after it, and what is held back after what is told meanwhile.
    if inserted is not null then
        for later in
            select delivery.id
            from webhook_deliveries new
            join told_events(organization, told) event on event.id = new.event_id
            join webhook_deliveries delivery on delivery.endpoint_id = new.endpoint_id
                and delivery.call_sid = new.call_sid
                and delivery.status = 'pending'
                and delivery.position < new.position
            left join told_events(organization, told) own on own.id in (delivery.event_id, delivery.also_id)
            where new.id = any (inserted)
              and delivery.attempts = 0
              and (own.place > event.place or own.place is null and delivery.held_until > now())
            group by delivery.id, delivery.position, own.place
            order by own.place, delivery.position
        loop
            update webhook_deliveries
            set position = default
            where id in (
                select id
                from webhook_deliveries
                where id = later and status = 'pending' and attempts = 0
                for no key update skip locked
            );
        end loop;
    end if;

    if rewritten > 0 or inserted is not null then
        notify webhooks;
    end if;
    return rewritten + coalesce(cardinality(inserted), 0);
end
$$;

-- Whoever links a lead to a call, and by whatever way, has that told. Linked again is told once, and so is the link to a
-- call that gets another name.
create or replace function announce_linked_lead() returns trigger
language plpgsql
as $$
begin
    if current_setting('app.renames_call', true) = 'on' then
        return null;
    end if;
    perform announce(new.organization_id, jsonb_build_array(jsonb_build_object(
        'type', 'lead.linked',
        'subject', new.call_sid || ' ' || new.id,
        'call_sid', new.call_sid,
        'at', now(),
        'data', jsonb_build_object(
            'call_sid', new.call_sid,
            'lead_id', new.id,
            'lead_status', new.lead_status,
            'links', jsonb_build_object('lead', '/api/leads/' || new.id, 'call', '/api/calls/' || new.call_sid)
        )
    )));
    return null;
end
$$;

-- What was told of a call by one name goes on by another, as the same events.
create function rename_told_call(organization uuid, old_name text, new_name text) returns void
language sql
as $$
    update webhook_deliveries
    set call_sid = new_name,
        also_id = told_event_id(
            organization,
            case when event_type in ('call.completed', 'call.failed') then 'call.ended' else event_type end,
            new_name || coalesce(
                ' ' || case event_type
                    when 'call.transferred' then body->'data'->>'handoff'
                    when 'lead.linked' then body->'data'->>'lead_id'
                end,
                ''
            )
        ),
        -- Nobody tells of it again; of the other events the call's records do.
        body = case
            when event_type = 'lead.linked' and status = 'pending' and attempts = 0
            then webhook_body(
                organization, event_id, event_type, occurred_at,
                (body->'data')::jsonb || jsonb_build_object(
                    'call_sid', new_name,
                    'links', (body->'data'->'links')::jsonb || jsonb_build_object('call', '/api/calls/' || new_name)
                ),
                null
            )
            else body
        end
    where organization_id = organization and call_sid = old_name
$$;

comment on function rename_told_call is 'Has what was told of a call by one name be what is told of it by another.';

-- What receivers have answered is not kept longer than what they were sent.
create function forget_webhook_attempts() returns trigger
language plpgsql
as $$
begin
    delete from webhook_attempts where delivery_id = new.id;
    return null;
end
$$;

create trigger forget_webhook_attempts
after update of body on webhook_deliveries
for each row
when (new.body::text = '{}')
execute function forget_webhook_attempts();

grant execute on function told_event_id, outdated_events, rename_told_call to voicebridge_api, voicebridge_service;
