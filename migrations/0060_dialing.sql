-- What the servers that dial look for, and who is looking.

alter table call_attempts
    add column looked_for_at timestamptz;

comment on column call_attempts.looked_for_at is 'When the carrier was last asked what became of it, by whichever server; so that not all ask.';

-- Also those without a campaign, which come first.
create index call_queue_due_of_campaign on call_queue (campaign_id, priority desc, next_retry_at) where status = 'queued';
create index call_attempts_running on call_attempts (campaign_id) where status <> 'ended';

-- Servers that wait for something to dial need not ask all the time.
create function tell_dialers() returns trigger
language plpgsql
as $$
begin
    notify dialing;
    return null;
end
$$;

comment on function tell_dialers is 'Wakes the servers that dial: there may be something to do now.';

create trigger tell_dialers_of_new_rows
after insert on call_queue
for each statement execute function tell_dialers();

create trigger tell_dialers_of_active_campaign
after update of status on campaigns
for each row
when (new.status = 'active' and old.status <> 'active')
execute function tell_dialers();
