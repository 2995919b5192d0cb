-- What is forgotten is forgotten for its organisation, completely, and nobody learns of calls that are not theirs.

-- As its owner, since whoever asks sees no call of another; and no more than that it is another's.
create function call_is_of_another(sid text, of_organization uuid) returns boolean
language sql stable security definer set search_path = public, pg_temp
as $$
    select coalesce(organization_of_call(sid), of_organization) <> of_organization
$$;

comment on function call_is_of_another is 'Whether a call is on record as that of another organisation.';

revoke execute on function call_is_of_another from public;
grant execute on function call_is_of_another to voicebridge_api, voicebridge_service;

-- What one organisation has erased others may have on record.
alter table erased_calls
    drop constraint erased_calls_pkey,
    add constraint erased_calls_pkey primary key (organization_id, call_sid_sha256);

create index erased_calls_sha256 on erased_calls (call_sid_sha256);

-- Volatile: asked by a trigger that has waited, it sees what was done meanwhile.
create function call_is_erased(sid text, of_organization uuid) returns boolean
language sql volatile security definer set search_path = public, pg_temp
as $$
    select exists (
        select
        from erased_calls
        where organization_id = of_organization
          and call_sid_sha256 = sha256(convert_to(sid, 'UTF8'))
    )
$$;

comment on function call_is_erased(text, uuid) is 'Whether this organisation has erased the call: it puts nothing on record of it any more.';

revoke execute on function call_is_erased(text), call_is_erased(text, uuid) from public;
grant execute on function call_is_erased(text, uuid) to voicebridge_api, voicebridge_service;

-- A callback that comes before its call is known is the default organisation's, whose it is or not.
create or replace function refuse_erased_call() returns trigger
language plpgsql
as $$
declare
    sid text := to_jsonb(new)->>tg_argv[0];
begin
    if sid is null then
        return new;
    end if;
    if call_is_erased(sid, new.organization_id) or tg_table_name = 'call_events' and call_is_erased(sid) then
        return null;
    end if;
    return new;
end
$$;

-- Nothing else has those wait that write down what menu systems and Kaleyra tell. `erase` holds the lock alone.
create function wait_for_erasure(of_organization uuid) returns void
language sql volatile
as $$
    select pg_advisory_xact_lock_shared(hashtextextended('erasure ' || of_organization, 0))
$$;

comment on function wait_for_erasure is 'Waits until no erasure of this organisation goes on, and keeps the next one waiting until the transaction is over.';

create or replace function refuse_erased_ivr_call() returns trigger
language plpgsql
as $$
begin
    perform wait_for_erasure(new.organization_id);
    if call_is_erased(new.provider_id || ':' || new.provider_call_id, new.organization_id) then
        return null;
    end if;
    return new;
end
$$;

create function refuse_erased_kaleyra_leg() returns trigger
language plpgsql
as $$
begin
    perform wait_for_erasure(new.organization_id);
    if call_is_erased(new.id, new.organization_id) then
        return null;
    end if;
    return new;
end
$$;

comment on function refuse_erased_kaleyra_leg is 'Leaves out a leg of Kaleyra''s log that was erased.';

drop trigger refuse_erased_id on kaleyra_call_logs;

create trigger refuse_erased_kaleyra_leg
before insert on kaleyra_call_logs
for each row execute function refuse_erased_kaleyra_leg();

-- Members of a report that hold what was said, at its top and in its `call`; with `vapi`, a report that is kept beside ours.
create function without_words(report jsonb) returns jsonb
language sql immutable
as $$
    select case
               when jsonb_typeof(report) <> 'object' then report
               when jsonb_typeof(report->'call') = 'object'
                   then (report - words) || jsonb_build_object('call', (report->'call') - array_remove(words, 'vapi'))
               else report - words
           end
    from (
        values (array['transcript', 'messages', 'messagesOpenAIFormatted', 'summary', 'analysis', 'artifact', 'vapi'])
    ) as members (words)
$$;

comment on function without_words is 'A report without what was said and what was written from it.';

grant execute on function without_words to voicebridge_service;
