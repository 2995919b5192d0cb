-- Whose turn it is to be dialed: nobody waits because somebody else has more to be called.

create table dial_turns (
    whose           uuid        primary key,
    organization_id uuid        not null
        constraint dial_turns_organization references organisations on delete cascade,
    campaign_id     uuid
        constraint dial_turns_campaign references campaigns on delete cascade,
    last_at         timestamptz not null,
    constraint dial_turns_whose check (whose = coalesce(campaign_id, organization_id))
);

comment on table dial_turns is 'When a campaign, or an organisation for calls of none, was last dialed for. The one that waits longest is next.';
comment on column dial_turns.whose is 'The campaign, or the organisation for calls of none.';
comment on column dial_turns.last_at is 'Also where the carrier refused: whatever holds up the calls of one holds up no others.';

-- The calls of an organisation that are of no campaign and due, of each priority; 0060 has the same of a campaign. Without
-- one for all of them, which nobody asks any more and every change of the queue paid for.
create index call_queue_due_of_organization on call_queue (organization_id, priority, next_retry_at)
    where status = 'queued' and campaign_id is null;
drop index call_queue_due;
