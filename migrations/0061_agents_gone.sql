-- A try outlives its agent: it says whom we called, and its row of the queue goes by it.

alter table call_attempts
    drop constraint call_attempts_agent,
    alter column agent_id drop not null,
    add constraint call_attempts_agent foreign key (agent_id) references agents on delete set null;

-- Whoever deletes an agent asks for these.
create index call_attempts_agent_id on call_attempts (agent_id);
create index call_queue_agent_id on call_queue (agent_id) where agent_id is not null;

comment on column call_attempts.agent_id is 'Who was to speak; null once that agent is deleted, which is refused while the try goes on.';
