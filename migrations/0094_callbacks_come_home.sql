-- A callback that came before its call was known is the default organisation's. It is its call's as soon as there is one, so that
-- whose call it is sees it, and nobody else.

-- As its owner: a callback is a record that nobody changes otherwise.
create function bring_callbacks_home() returns trigger
language plpgsql security definer set search_path = public, pg_temp
as $$
begin
    -- Of a call that has two records the first one counts.
    update call_events
    set organization_id = organization_of_call(new.call_sid)
    where call_sid = new.call_sid
      and organization_id <> organization_of_call(new.call_sid);
    return null;
end
$$;

comment on function bring_callbacks_home is 'Gives the callbacks of a call to its organisation once that is known.';

revoke execute on function bring_callbacks_home from public;

create trigger bring_callbacks_home
after insert or update of call_sid, organization_id on calls
for each row when (new.call_sid is not null)
execute function bring_callbacks_home();

create trigger bring_callbacks_home
after insert or update of call_sid, organization_id on call_leases
for each row execute function bring_callbacks_home();

update call_events
set organization_id = known.organization_id
from (
    select call_sid, organization_id from calls where call_sid is not null
    union all
    select call_sid, organization_id
    from call_leases
    where not exists (select from calls where calls.call_sid = call_leases.call_sid)
) as known
where call_events.call_sid = known.call_sid
  and call_events.organization_id <> known.organization_id;

comment on table call_events is 'Callbacks of the carrier (status, answering machine, recording), append-only: they change hands once, to the organisation of their call, when that is known. A repeated one is one row.';
