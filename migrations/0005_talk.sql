-- What was said, in conversation order. `sequence` is given by the call, not by arrival.

create table conversation_transcripts (
    id                  bigint      generated always as identity primary key,
    organization_id     uuid        not null
        constraint conversation_transcripts_organization references organisations on delete cascade,
    call_sid            varchar(50) not null,
    sequence            integer     not null
        constraint conversation_transcripts_sequence check (sequence > 0),
    item_id             text        not null,
    revision            integer     not null
        constraint conversation_transcripts_revision check (revision > 0),
    role                text        not null
        constraint conversation_transcripts_role check (role in ('user', 'assistant', 'system', 'tool')),
    content             text        not null,
    generated_content   text,
    interrupted         boolean     not null default false,
    status              text        not null default 'final'
        constraint conversation_transcripts_status check (status in ('final', 'not_transcribed')),
    "timestamp"         timestamptz not null,
    audio_start_ms      bigint,
    audio_end_ms        bigint,
    heard_until_ms      bigint,
    evidence            text
        constraint conversation_transcripts_evidence check (evidence in ('mark', 'clock')),
    response_latency_ms bigint,
    tool_name           text,
    tool_call_id        text,
    created_at          timestamptz not null default now(),
    constraint conversation_transcripts_item unique (call_sid, item_id)
);

create index conversation_transcripts_conversation on conversation_transcripts (organization_id, call_sid, sequence);

-- Callers speak any language: words are compared as they are, without stemming.
create index conversation_transcripts_content on conversation_transcripts using gin (to_tsvector('simple', content));

comment on table conversation_transcripts is 'Turns of conversations, cut to what was heard.';
comment on column conversation_transcripts.sequence is 'Place in the conversation, from 1.';
comment on column conversation_transcripts.item_id is 'The model''s id of the item, or ours; one row each.';
comment on column conversation_transcripts.revision is 'A row is rewritten only by a higher revision of the same item.';
comment on column conversation_transcripts.content is 'What was heard.';
comment on column conversation_transcripts.generated_content is 'What the model wrote, where that is more than was heard. For a function: its arguments.';
comment on column conversation_transcripts.interrupted is 'The caller spoke over it.';
comment on column conversation_transcripts.status is '`not_transcribed`: there was sound, but no text could be made of it.';
comment on column conversation_transcripts."timestamp" is 'When the turn took its place in the conversation.';
comment on column conversation_transcripts.audio_start_ms is 'First sound, in milliseconds since the media stream started.';
comment on column conversation_transcripts.audio_end_ms is 'Last sound, in milliseconds since the media stream started.';
comment on column conversation_transcripts.heard_until_ms is 'How much of the agent''s turn was heard, in milliseconds from its start.';
comment on column conversation_transcripts.evidence is 'How that is known: `mark` is the carrier''s word, `clock` our own reckoning.';
comment on column conversation_transcripts.response_latency_ms is 'From the caller''s last sound to the first sound of this answer.';
