-- A request of the API may do what its routes do, and nothing else: records of calls are written by the calls, and go by
-- retention and erasure, which work as the owner of the tables.

revoke insert, update, delete on call_attempts from voicebridge_api;
-- That no other try follows, when its call is canceled.
grant update (will_retry, next_retry_at, retry_reason) on call_attempts to voicebridge_api;

revoke update, delete on interactions from voicebridge_api;
-- That its call was asked for, or will not be made.
grant update (status, outcome, "endTime", "callDisposition", "dispatchedAt", "updatedAt") on interactions to voicebridge_api;

revoke insert, update, delete on agent_calls from voicebridge_api;
-- What people say of it afterwards.
grant update (outcome, next_action, next_action_date, agent_notes, interest_level, objections, updated_at)
    on agent_calls to voicebridge_api;

-- Taken and answered by the servers.
revoke update, delete on call_commands from voicebridge_api;

revoke delete on call_queue, leads, webhook_endpoints from voicebridge_api;
revoke update on do_not_call, schedule_spans, schedule_holidays from voicebridge_api;

-- A key stays its organisation's and says who made it; of a secret only the end is changed.
revoke update on api_keys, api_key_secrets from voicebridge_api;
grant update (name, scopes, requests_per_minute, expires_at, revoked_at) on api_keys to voicebridge_api;
grant update (expires_at) on api_key_secrets to voicebridge_api;
