-- Who may see what, held by the database itself: a request sees the rows of one organisation and no others, whatever its
-- queries say.
--
-- Two roles that nobody signs in as. `voicebridge_service` sees all; the server works for calls as the owner of the tables,
-- which no policy holds back either. `voicebridge_api` sees what belongs to the organisation of `app.organization_id`; a
-- request of the API becomes it, by `set local`, for as long as its transaction lasts.

-- Roles are of the whole server: another database of ours may have made them, at this very moment even.
do $$
declare
    wanted text;
begin
    foreach wanted in array array['voicebridge_service', 'voicebridge_api'] loop
        if not exists (select from pg_roles where rolname = wanted) then
            begin
                execute format('create role %I nologin', wanted);
            exception
                when duplicate_object or unique_violation then
                    null;
                when insufficient_privilege then
                    raise exception 'the role % is missing, and % may not create it', wanted, current_user
                        using hint = format('as a superuser: create role %I nologin; grant %I to %I;', wanted, wanted, current_user);
            end;
        end if;
        if not pg_has_role(current_user, wanted, 'member') then
            begin
                execute format('grant %I to %I', wanted, current_user);
            exception
                when unique_violation then
                    null;
                when insufficient_privilege then
                    raise exception '% may not become %', current_user, wanted
                        using hint = format('as a superuser: grant %I to %I;', wanted, current_user);
            end;
        end if;
    end loop;
end
$$;

-- Whose rows this transaction may see. Without the setting: nobody's.
create function current_organization() returns uuid
language sql stable
as $$
    select nullif(current_setting('app.organization_id', true), '')::uuid
$$;

comment on function current_organization is 'The organisation that this transaction works for, from `app.organization_id`; null is none.';

-- The one way to make a table one of tenants. `allowed`: what the API may do to the rows it sees.
create function protect_tenant_table(tenant_table regclass, allowed text default 'select') returns void
language plpgsql
as $$
begin
    execute format('alter table %s enable row level security', tenant_table);
    execute format(
        'create policy "Allow all for service role" on %s to voicebridge_service using (true) with check (true)',
        tenant_table
    );
    execute format(
        'create policy "Allow own organization" on %s to voicebridge_api '
        'using (organization_id = (select current_organization())) '
        'with check (organization_id = (select current_organization()))',
        tenant_table
    );
    execute format('grant select, insert, update, delete on %s to voicebridge_service', tenant_table);
    execute format('grant %s on %s to voicebridge_api', allowed, tenant_table);
end
$$;

comment on function protect_tenant_table is 'Turns row-level security on for a table with `organization_id`. To be called by the migration that makes the table.';

-- Records of calls are read by the API and written by call events alone.
select protect_tenant_table(name::regclass)
from unnest(array[
    'calls', 'call_events', 'call_logs', 'call_leases', 'call_streams', 'conversation_transcripts', 'routing_decisions',
    'dial_turns'
]) as name;

-- What people say of them afterwards is a change.
select protect_tenant_table(name::regclass, 'select, insert, update, delete')
from unnest(array[
    'agents', 'phone_numbers', 'teams', 'team_members', 'schedules', 'schedule_spans', 'schedule_holidays', 'projects',
    'campaigns', 'leads', 'do_not_call', 'call_queue', 'call_attempts', 'interactions', 'agent_calls', 'call_commands'
]) as name;

-- Tenants themselves: each sees itself.
alter table organisations enable row level security;
create policy "Allow all for service role" on organisations to voicebridge_service using (true) with check (true);
create policy "Allow own organization" on organisations to voicebridge_api
    using (id = (select current_organization()))
    with check (id = (select current_organization()));
grant select, insert, update, delete on organisations to voicebridge_service;
grant select, update (name) on organisations to voicebridge_api;

-- Of the servers, not of tenants.
grant select, insert, update, delete on nodes, dial_pace to voicebridge_service;
grant select on nodes to voicebridge_api;
