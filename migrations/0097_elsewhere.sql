-- Records from elsewhere: numbers that are read anew, and what goes by age.

-- Whoever sets a provider's country has the numbers it has sent read anew, and calls tied to whose they are.
grant update (from_phone, to_phone) on ivr_messages to voicebridge_api;
grant update (lead_id) on ivr_calls to voicebridge_api;

comment on table ivr_messages is 'Messages of menu systems about calls, as they were read and as they were sent. Rows are added only, and go with their call; a message that is sent again is the row that is there. Of each call a thousand at most: more are refused.';
comment on column ivr_messages.from_phone is '`from_number` in E.164, if it is a telephone number; by it leads are looked for, and people who are to be forgotten. Read anew when the provider''s country changes.';

-- The copy of a message in its call goes when the message is too old, however late others of the call came.
create index ivr_messages_received on ivr_messages (organization_id, received_at);

comment on column kaleyra_syncs.reasons is 'Why records were rejected, of the first hundred; and which members of rows could not be read and are left out, of fifty at most: a list of {id, reason}.';
comment on column kaleyra_syncs.whole_to is 'Set when it is completed: the last day up to which all days are on record as a whole, from the first day of the first run that was completed or that asked for days within the year before it. Days that were not over when a run began are not whole; a run behind a gap does not close it. What lies between the latest of an organisation and the last two days is what scheduled syncs still have to fetch.';
