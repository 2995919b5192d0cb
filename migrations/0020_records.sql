-- Turns may be on record a moment after the end of their call; what was made of them is made again then.

alter table call_logs
    add column transcript_revision bigint not null default 0;

comment on column call_logs.transcript_revision is 'Sum of the revisions of the turns that conversation_transcript was made of: it grows with every turn.';

create index call_logs_lately_over on call_logs (updated_at) where ended_at is not null;

-- Lists by what they are filtered by.
create index interactions_status on interactions (organization_id, status, "startTime" desc);
