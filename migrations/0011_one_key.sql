-- Of two first offers of a call at the same moment, `on conflict (call_sid)` lets the later one wait and decide again; any
-- other unique key of the table makes it fail where their values are equal, as first fencing tokens are. The digest is
-- different with every offer, so it alone serves what the constraint was for: an offer waits for whoever writes about the
-- call with its lease held `for key share`.
alter table call_leases
    drop constraint call_leases_holder;

comment on column call_leases.stream_token_sha256 is 'Digest of the one-time secret in the stream''s address, new with every offer; of a secret that nobody knows when our TwiML did not bring the stream, null when the call was given up.';
