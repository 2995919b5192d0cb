//! Calls that we make, and a database that is away when somebody answers.

use voicebridge::simulate::model::ModelOptions;

use crate::brief;
use crate::look::until;
use crate::records::Cable;
use crate::world::World;

/// A try whose call the carrier has placed, and nobody has put that on record.
const TRY: &str = "
    with row as (
        insert into call_queue (organization_id, to_number, next_retry_at, status, attempt_count)
        select organization_id, '+14155550123', now(), 'processing', 1 from agents
        returning id, organization_id
    )
    insert into call_attempts
        (id, organization_id, queue_id, agent_id, attempt_number, to_number, from_number, node, requested_at)
    select '00000000-0000-0000-0000-000000000007', row.organization_id, row.id, agents.id, 1, '+14155550123',
           '+14155550100', 'node', now()
    from row, agents";

#[tokio::test]
async fn who_answers_our_call_without_the_database_waits_and_is_on_record_later_as_called_and_not_as_a_caller()
 {
    let cable = Cable::plug_in().await;
    let database = secrecy::ExposeSecret::expose_secret(&cable.url);
    let model = ModelOptions { script: brief([]), ..ModelOptions::default() };
    let world = World::start(model, &[("AUDIO_FORMAT", "pcmu"), ("DATABASE_URL", database)]).await;
    // The agent is known, and would be connected to somebody who calls.
    world.offer("CA-known").await;
    sqlx::raw_sql(TRY).execute(world.running.store.pool()).await.unwrap();
    let agent: String = world.value("select id::text from agents").await;
    let attempt = "attempt=00000000-0000-0000-0000-000000000007";
    let path = format!("/api/agent/{agent}/call-incoming?{attempt}");
    let says = |status, number| {
        [
            ("CallSid", "CA1"),
            ("From", "+14155550100"),
            ("To", "+14155550123"),
            ("Direction", "outbound-api"),
            ("CallStatus", status),
            ("SequenceNumber", number),
        ]
    };
    cable.unplug();
    let answered = says("in-progress", "1");
    for (waits, expected) in
        [("", "&amp;waits=1</Redirect>"), ("&waits=1", "&amp;waits=2</Redirect>"), ("&waits=2", "<Hangup/>")]
    {
        let twiml = world.webhook(&format!("{path}{waits}"), &answered).await;
        assert!(twiml.contains(expected) && !twiml.contains("<Stream"), "{waits}: {twiml}");
    }
    world.webhook(&format!("/api/twilio/call-status?{attempt}"), &says("completed", "2")).await;
    assert!(world.metric("spool_records") >= 2, "what the carrier has said is kept");
    cable.plug_in_again();
    until("nothing waits any more", async || world.metric("spool_records") == 0).await;
    let known = "select count(*) from calls where call_sid = 'CA1'";
    assert_eq!(world.value::<i64>(known).await, 0, "nobody has said which try it is, and no call has come");
    // Whatever names the try next; without that the dialer asks the carrier.
    world.webhook(&format!("/api/twilio/call-status?{attempt}"), &says("completed", "2")).await;
    let types = "
        select string_agg(event->>'type', ' ' order by event->>'type' desc)
        from calls, jsonb_array_elements(event_sequence) as event
        where call_sid = 'CA1'";
    assert_eq!(world.value::<String>(types).await, "outbound_dispatched call_failed");
    let log = "select concat_ws(' ', direction, caller_number, callee_number) from call_logs where call_sid = 'CA1'";
    assert_eq!(world.value::<String>(log).await, "outbound +14155550100 +14155550123");
    let tried = "select concat_ws(' ', status, call_sid) from call_attempts";
    assert_eq!(world.value::<String>(tried).await, "ended CA1");
    world.settled().await;
    world.stop().await;
}
