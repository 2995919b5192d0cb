-- When people answer a number themselves, who they are, and why each call went where it did.

create table teams (
    id              uuid        primary key default gen_random_uuid(),
    organization_id uuid        not null
        constraint teams_organization references organisations on delete cascade,
    name            text        not null,
    ring_timeout_s  integer     not null default 25
        constraint teams_ring_timeout check (ring_timeout_s between 5 and 600),
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(),
    constraint teams_of_organization unique (id, organization_id)
);

create index teams_organization_id on teams (organization_id);

comment on table teams is 'People whose telephones ring together; the first to answer has the call.';
comment on column teams.ring_timeout_s is 'Seconds to ring; 25 are about five rings, before most voice mails.';

create table team_members (
    id              uuid        primary key default gen_random_uuid(),
    organization_id uuid        not null
        constraint team_members_organization references organisations on delete cascade,
    team_id         uuid        not null,
    name            text        not null,
    number          text        not null
        constraint team_members_e164 check (number ~ '^\+[1-9][0-9]{1,17}$'),
    enabled         boolean     not null default true,
    created_at      timestamptz not null default now(),
    constraint team_members_number unique (team_id, number),
    constraint team_members_team foreign key (team_id, organization_id)
        references teams (id, organization_id) on delete cascade
);

create index team_members_organization_id on team_members (organization_id);

comment on table team_members is 'A person of a team and the telephone that rings.';
comment on column team_members.number is 'In E.164.';
comment on column team_members.enabled is 'False: does not ring.';

create table schedules (
    id              uuid        primary key default gen_random_uuid(),
    organization_id uuid        not null
        constraint schedules_organization references organisations on delete cascade,
    name            text        not null,
    time_zone       text        not null,
    enabled         boolean     not null default true,
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(),
    constraint schedules_of_organization unique (id, organization_id)
);

create index schedules_organization_id on schedules (organization_id);

comment on table schedules is 'When a team answers. Outside of it, and while it is off, the agent does.';
comment on column schedules.time_zone is 'IANA name, such as Europe/Berlin; the hours are those of a clock on a wall there.';

create table schedule_spans (
    id              bigint      generated always as identity primary key,
    organization_id uuid        not null
        constraint schedule_spans_organization references organisations on delete cascade,
    schedule_id     uuid        not null,
    weekday         smallint    not null
        constraint schedule_spans_weekday check (weekday between 1 and 7),
    opens           time        not null,
    closes          time        not null,
    constraint schedule_spans_order check (opens < closes),
    constraint schedule_spans_schedule foreign key (schedule_id, organization_id)
        references schedules (id, organization_id) on delete cascade
);

create index schedule_spans_schedule_id on schedule_spans (schedule_id);
create index schedule_spans_organization_id on schedule_spans (organization_id);

comment on table schedule_spans is 'Hours of a weekday; a day may have several, as with a lunch break.';
comment on column schedule_spans.weekday is '1 is Monday, 7 is Sunday (ISO 8601).';
comment on column schedule_spans.closes is 'Not included. 24:00 is the end of the day.';

create table schedule_holidays (
    id              bigint      generated always as identity primary key,
    organization_id uuid        not null
        constraint schedule_holidays_organization references organisations on delete cascade,
    schedule_id     uuid        not null,
    day             date        not null,
    name            text        not null default '',
    opens           time,
    closes          time,
    constraint schedule_holidays_day unique (schedule_id, day),
    constraint schedule_holidays_hours check ((opens is null) = (closes is null) and opens < closes),
    constraint schedule_holidays_schedule foreign key (schedule_id, organization_id)
        references schedules (id, organization_id) on delete cascade
);

create index schedule_holidays_organization_id on schedule_holidays (organization_id);

comment on table schedule_holidays is 'Days that are not like their weekday.';
comment on column schedule_holidays.opens is 'Hours of that day instead of the weekday''s; null is closed all day.';

alter table phone_numbers
    add column schedule_id uuid,
    add column team_id     uuid,
    -- Only the reference goes with what it points at, not the organisation.
    add constraint phone_numbers_schedule foreign key (schedule_id, organization_id)
        references schedules (id, organization_id),
    add constraint phone_numbers_team foreign key (team_id, organization_id)
        references teams (id, organization_id);

create index phone_numbers_schedule_id on phone_numbers (schedule_id);
create index phone_numbers_team_id on phone_numbers (team_id);

comment on column phone_numbers.schedule_id is 'When the team answers; null is never.';
comment on column phone_numbers.team_id is 'Who answers by the schedule, and when the agent cannot.';

alter table agents
    add column team_id uuid,
    add constraint agents_team foreign key (team_id, organization_id)
        references teams (id, organization_id);

create index agents_team_id on agents (team_id);

comment on column agents.team_id is 'People to put the caller through to; null leaves it to the transfer number.';

create table routing_decisions (
    id              bigint      generated always as identity primary key,
    organization_id uuid        not null
        constraint routing_decisions_organization references organisations on delete cascade,
    call_sid        varchar(50) not null,
    step            text        not null
        constraint routing_decisions_step check (step in ('incoming', 'fallback', 'agent', 'handoff', 'handoff_fallback')),
    decision        text        not null
        constraint routing_decisions_decision check (decision in ('team', 'agent', 'sentence', 'hang_up')),
    reason          text        not null,
    details         jsonb       not null default '{}',
    decided_at      timestamptz not null default now(),
    constraint routing_decisions_once unique (call_sid, step, decided_at)
);

create index routing_decisions_organization_id on routing_decisions (organization_id);

comment on table routing_decisions is 'Where each call was sent, and why: what somebody asks who wonders the next day.';
comment on column routing_decisions.reason is 'A word for it, such as `in_business_hours`, `holiday`, `schedule_off`, `agent_disabled`, `team_no_answer`.';
comment on column routing_decisions.details is 'What was looked at: zone, time there, span, holiday.';
