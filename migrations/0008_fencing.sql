-- Whoever writes about a call holds its lease with `for key share` meanwhile. Only a change of what is unique conflicts
-- with that: another offer waits for the write, and a sign of life does not.
alter table call_leases
    add constraint call_leases_holder unique (call_sid, fencing_token);
