-- A webhook that the carrier repeats is decided once, and gets the same answer again.

create unique index routing_decisions_step on routing_decisions (call_sid, step)
where step in ('incoming', 'fallback', 'agent');
