-- Records from elsewhere, and what was told to others, are about people as well: what was erased does not come back by them.

select refuse_erased_calls('calls', 'vapi_call_id');
select refuse_erased_calls('ivr_calls');
select refuse_erased_calls('kaleyra_call_logs', 'id');
select refuse_erased_calls('webhook_deliveries');

-- Ids that a menu system gives its calls may be small numbers, which others give as well.
create function refuse_erased_ivr_call() returns trigger
language plpgsql
as $$
begin
    return case when not call_is_erased(new.provider_id || ':' || new.provider_call_id) then new end;
end
$$;

comment on function refuse_erased_ivr_call is 'Leaves out what is told again of a call of a menu system that was erased.';

create trigger refuse_erased_ivr_call
before insert on ivr_calls
for each row execute function refuse_erased_ivr_call();

create index ivr_calls_age on ivr_calls (organization_id, received_at) where payload <> '{}';
