-- What the agent does when somebody makes a sound while it speaks.

alter table agents
    add column reversible_barge_in boolean not null default true;

comment on column agents.reversible_barge_in is 'A sound over the agent pauses it; only an interruption stops it. False: any sound that the model takes for speech stops it.';
