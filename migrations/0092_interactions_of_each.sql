-- A platform around us gives its interactions ids. What one organisation's is called is nothing to another: neither can it take a
-- name that the other needs, nor learn that it is taken.

alter table call_queue
    drop constraint call_queue_interaction;

alter table interactions
    drop constraint interactions_pkey,
    add constraint interactions_pkey primary key (organization_id, id);

-- `on delete set null` would empty the organisation as well, before PostgreSQL 15.
alter table call_queue
    add constraint call_queue_interaction foreign key (organization_id, interaction_id)
        references interactions (organization_id, id);

-- As its owner: whoever may delete an interaction need not see the queue.
create function leave_calls_without_interaction() returns trigger
language plpgsql security definer set search_path = public, pg_temp
as $$
begin
    update call_queue
    set interaction_id = null
    where organization_id = old.organization_id
      and interaction_id = old.id;
    return old;
end
$$;

comment on function leave_calls_without_interaction is 'Calls stay in the queue when the interaction goes that they were made for.';

revoke execute on function leave_calls_without_interaction from public;

create trigger leave_calls_without_interaction
before delete on interactions
for each row execute function leave_calls_without_interaction();

comment on column interactions.id is 'Given by the platform, or ours; unique in its organisation.';
