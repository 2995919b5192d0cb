-- Calls that an assistant at VAPI has answered, from its end-of-call reports.

alter table calls
    add column vapi_call_id     text,
    add column vapi_reported_at timestamptz,
    -- A report that is sent twice is one call, also where no carrier has an id of it.
    add constraint calls_vapi_call_id unique (vapi_call_id);

comment on column calls.call_sid is 'The carrier''s id of the call; null for calls that no carrier carried, such as those from a browser to VAPI. Their other records name them by `vapi_call_id`.';
comment on column calls.vapi_call_id is 'VAPI''s id of the call, once it has reported of it.';
comment on column calls.vapi_reported_at is 'When the report was made that is on record, by VAPI''s clock: an older one changes nothing any more.';
comment on column calls.data is 'The end-of-call report; {} while the call lives. `call.duration` (seconds) and `call.status` are always there at the end. VAPI''s is kept whole: what our members of `call` took the place of is under `call.vapi`, and the report of a call that one of our own agents carried is under `vapi`.';

-- A report names its assistant and no organisation. So an assistant is one agent, of one organisation.
create unique index agents_vapi_assistant on agents (vapi_assistant_id);

comment on column agents.vapi_assistant_id is 'The same agent at VAPI, for end-of-call reports that name it; no two agents share one.';
