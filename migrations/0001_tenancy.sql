-- Who owns the data, which agents answer, and on which numbers.
--
-- Numbers are in E.164. Its fifteen digits are exceeded by numbers in real use (Germany), hence the longer pattern.

create table organisations (
    id         uuid        primary key default gen_random_uuid(),
    slug       text        not null,
    name       text        not null,
    created_at timestamptz not null default now(),
    constraint organisations_slug unique (slug),
    constraint organisations_slug_form check (slug ~ '^[a-z0-9][a-z0-9-]{0,62}$')
);

comment on table organisations is 'Tenants. Everything else belongs to one and goes when it goes.';
comment on column organisations.slug is 'Short name in addresses and settings; `default` is the one that exists after migration.';

create table agents (
    id                  uuid        primary key default gen_random_uuid(),
    organization_id     uuid        not null
        constraint agents_organization references organisations on delete cascade,
    name                text        not null,
    vapi_assistant_id   text,
    is_default          boolean     not null default false,
    instructions        text        not null,
    greeting            text,
    voice               text        not null default 'marin',
    model               text,
    transcription_model text,
    languages           text[]      not null default '{}',
    keywords            text[]      not null default '{}',
    audio_format        text
        constraint agents_audio_format check (audio_format in ('pcm24k', 'pcmu')),
    turn_detection      jsonb
        constraint agents_turn_detection check (turn_detection->>'type' in ('server_vad', 'semantic_vad')),
    tools               jsonb       not null default '[]'
        constraint agents_tools check (jsonb_typeof(tools) = 'array'),
    transfer_number     text
        constraint agents_transfer_number check (transfer_number ~ '^\+[1-9][0-9]{1,17}$'),
    fallback_sentence   text        not null default 'Sorry, something went wrong on our side. Please call again later.',
    max_duration_s      integer     not null default 1800
        constraint agents_max_duration check (max_duration_s between 1 and 14400),
    nudge_after_s       integer     not null default 12
        constraint agents_nudge_after check (nudge_after_s between 1 and 3600),
    max_nudges          integer     not null default 2
        constraint agents_max_nudges check (max_nudges between 0 and 100),
    enabled             boolean     not null default true,
    created_at          timestamptz not null default now(),
    updated_at          timestamptz not null default now(),
    constraint agents_of_organization unique (id, organization_id)
);

-- At most one default agent per organisation.
create unique index agents_one_default on agents (organization_id) where is_default;

comment on table agents is 'Voice agents: what the model is told and what one call may do.';
comment on column agents.vapi_assistant_id is 'The same agent at VAPI, for end-of-call reports that name it.';
comment on column agents.is_default is 'Answers calls that name no agent; at most one per organisation.';
comment on column agents.greeting is 'How to open the call, as an instruction; null waits for the caller to speak first.';
comment on column agents.model is 'Name of the speech-to-speech model; null is the server''s default.';
comment on column agents.transcription_model is 'Name of the model that writes down the caller''s words; null is the server''s default.';
comment on column agents.languages is 'ISO 639-1 codes the caller may speak; empty leaves it to the model.';
comment on column agents.keywords is 'Names and terms likely to be said, as a hint for transcription.';
comment on column agents.audio_format is 'Audio towards the model; null is the server''s default.';
comment on column agents.turn_detection is 'How turns end, tagged by `type`; null is the server''s default.';
comment on column agents.tools is 'HTTP functions on offer: [{name, description, parameters (JSON Schema), url, timeout_ms, secret_header: {name, value}}].';
comment on column agents.transfer_number is 'People to put the caller through to, in E.164.';
comment on column agents.fallback_sentence is 'Spoken when the agent cannot go on.';
comment on column agents.max_duration_s is 'Longest call in seconds; a carrier ends calls at four hours.';
comment on column agents.nudge_after_s is 'Seconds of silence of both sides after which the agent asks whether anybody is there.';
comment on column agents.max_nudges is 'How often it asks before the call is ended.';
comment on column agents.enabled is 'False: takes no new calls.';

create table phone_numbers (
    id              uuid        primary key default gen_random_uuid(),
    organization_id uuid        not null
        constraint phone_numbers_organization references organisations on delete cascade,
    agent_id        uuid        not null,
    number          text        not null
        constraint phone_numbers_e164 check (number ~ '^\+[1-9][0-9]{1,17}$'),
    label           text        not null default '',
    created_at      timestamptz not null default now(),
    constraint phone_numbers_number unique (number),
    -- The agent is of the same organisation. An agent that still has numbers cannot be deleted alone.
    constraint phone_numbers_agent foreign key (agent_id, organization_id) references agents (id, organization_id)
);

create index phone_numbers_organization_id on phone_numbers (organization_id);
create index phone_numbers_agent_id on phone_numbers (agent_id);

comment on table phone_numbers is 'The organisation''s own numbers and the agent that answers each.';
comment on column phone_numbers.number is 'In E.164; belongs to one organisation only.';

-- A single-tenant user never meets the concept: one organisation with one agent that can take calls at once.
insert into organisations (slug, name)
values ('default', 'Default organisation');

insert into agents (organization_id, name, is_default, instructions, greeting)
select
    id,
    'Receptionist',
    true,
    'You answer the telephone of a small company. Speak in short, friendly sentences, one thought at a time, as '
    'people do on the telephone. Answer in the language the caller speaks. Numbers, dates and names are repeated '
    'back so that the caller can correct them. When you do not know something, say so; never invent prices, dates or '
    'promises. Ask for a person when the caller wants one. Say goodbye before you end the call.',
    'Greet the caller in one short sentence and ask how you can help.'
from organisations
where slug = 'default';
