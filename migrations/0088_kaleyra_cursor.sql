-- How far Kaleyra's log is on record without a gap: from there scheduled syncs go on.

alter table kaleyra_syncs
add column whole_to date;

comment on column kaleyra_syncs.whole_to is 'Set when it is completed: the last day up to which all days are on record as a whole, from the first day that was ever asked for. Days that were not over when a run began are not whole; a run behind a gap does not close it. The latest of an organisation is where scheduled syncs go on.';

-- Runs that were completed before: one after the other, as they would have been counted.
do $$
declare
    run record;
    base date;
begin
    for run in
        select id, organization_id, first_day, last_day, started_at
        from kaleyra_syncs
        where status = 'completed'
        order by finished_at, id
    loop
        select coalesce(
                   max(whole_to),
                   (array_agg(first_day order by started_at, id))[1] - 1
               )
        into base
        from kaleyra_syncs
        where organization_id = run.organization_id;
        if run.first_day <= base + 1 then
            update kaleyra_syncs
            set whole_to = greatest(base, least(run.last_day, (run.started_at at time zone 'Asia/Kolkata')::date - 1))
            where id = run.id;
        end if;
    end loop;
end
$$;
