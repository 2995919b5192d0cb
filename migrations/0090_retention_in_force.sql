-- What is decided for less time than before waits beside what is in force; and what is ours of a report stays, nothing else.

alter table retention_policies
    add column wanted_transcript_days integer
        constraint retention_policies_wanted_transcript_days check (wanted_transcript_days between 1 and 3650),
    add column wanted_payload_days    integer
        constraint retention_policies_wanted_payload_days check (wanted_payload_days between 1 and 3650),
    add column wanted_at              timestamptz;

-- What was not confirmed was never in force.
update retention_policies
set wanted_transcript_days = transcript_days,
    wanted_payload_days = payload_days,
    wanted_at = updated_at,
    transcript_days = null,
    payload_days = null
where confirmed_at is null;

alter table retention_policies
    add constraint retention_policies_in_force
        check (confirmed_at is not null or coalesce(transcript_days, payload_days) is null),
    add constraint retention_policies_wanted
        check (wanted_at is not null or coalesce(wanted_transcript_days, wanted_payload_days) is null);

comment on column retention_policies.confirmed_at is 'Since when `transcript_days` and `payload_days` are in force; null while everything is kept.';
comment on column retention_policies.wanted_at is 'When the wanted days were decided, which keep less than those in force; they wait until a dry run of them was looked at. Null: nothing waits.';

-- The figures of the call and what came of it, which our records are made of; what else a report says, be it ours, goes. Words have an age of their own, so they stay here; of a
-- report that is kept beside ours there is what it says of the call.
create function without_payload(report jsonb) returns jsonb
language sql immutable
as $$
    select case
        when jsonb_typeof(report) <> 'object' then report
        else (
            select coalesce(jsonb_object_agg(name, kept), '{}')
            from (
                select name,
                       case
                           when name = 'vapi' then case when jsonb_typeof(member->'call') = 'object' then
                               jsonb_build_object('call', (
                                   select coalesce(jsonb_object_agg(inner_name, inner_member), '{}')
                                   from jsonb_each(member->'call') as inside (inner_name, inner_member)
                                   where inner_name = any (ours)
                               ))
                           end
                           when name = 'call' and jsonb_typeof(member) = 'object' then (
                               select coalesce(jsonb_object_agg(inner_name, inner_member), '{}')
                               from jsonb_each(member) as inside (inner_name, inner_member)
                               where inner_name = any (ours || words)
                           )
                           else member
                       end as kept
                from jsonb_each(report) as members (name, member)
                where name = any (array['call', 'disposition', 'carrier_status', 'token', 'reason', 'vapi'] || words)
            ) as what_stays
            where kept is not null
        )
    end
    from (
        values (
            array['sid', 'status', 'duration', 'startedAt', 'endedAt', 'endedReason', 'direction', 'from', 'to',
                  'recordingUrl', 'reportedBy', 'reportedReason'],
            array['transcript', 'messages', 'messagesOpenAIFormatted', 'summary', 'analysis', 'artifact']
        )
    ) as members_of (ours, words)
$$;

comment on function without_payload is 'A report without what others put into it, but with its words.';

grant execute on function without_payload to voicebridge_service;

-- Steps of a run go on where the one before has stopped.
create index call_logs_age on call_logs (organization_id, coalesce(ended_at, started_at));
create index interactions_age on interactions (organization_id, coalesce("endTime", "startTime")) where transcript is not null;
create index agent_calls_age on agent_calls (organization_id, coalesce(ended_at, created_at));
create index call_queue_age on call_queue (organization_id, finished_at)
    where status in ('completed', 'failed') and message is not null;
