//! Turns: each once, the newest revision, in conversation order.

use jiff::Timestamp;
use voicebridge::call::transcript::{Entry, Evidence, Remembered, Role, Status};
use voicebridge::clock::CallTime;
use voicebridge::ids::{AgentId, ItemId, OrganizationId, ToolCallId};
use voicebridge::store::Store;
use voicebridge::store::leases::{self, FencingToken, Offer};
use voicebridge::store::transcripts::{Turns, by_call, history, replay, save};

use crate::{default_agent, digest, other_tenant, sid, support};

pub(crate) fn entry(item: &str, sequence: u32, revision: u32, content: &str) -> Entry {
    Entry {
        item: ItemId::parse(item).unwrap(),
        sequence,
        revision,
        role: Role::Assistant,
        content: content.into(),
        generated: None,
        interrupted: false,
        status: Status::Final,
        at: CallTime::from_millis(1_500),
        audio_start: None,
        audio_end: None,
        heard_until_ms: None,
        evidence: None,
        response_latency_ms: None,
        tool_name: None,
        tool_call: None,
    }
}

fn started() -> Timestamp {
    "2026-01-02T03:04:05Z".parse().unwrap()
}

/// Said on the first stream of the call.
fn turns(organization: OrganizationId, call: u32, entries: impl Into<Vec<Entry>>) -> Turns {
    let (call_sid, token) = (sid(call), FencingToken(1));
    Turns { organization, call_sid, token, stream_started: started(), entries: entries.into() }
}

/// A store with these calls of the default agent, whose organisation it returns.
async fn store_with(connections: u32, calls: impl IntoIterator<Item = u32>) -> (Store, OrganizationId) {
    let store = support::store(connections).await;
    let agent = default_agent(&store).await;
    for call in calls {
        assert_eq!(offer(&store, (agent.organization_id, agent.id), call).await, FencingToken(1));
    }
    (store, agent.organization_id)
}

async fn offer(store: &Store, (organization, agent): (OrganizationId, AgentId), call: u32) -> FencingToken {
    let call_sid = sid(call);
    let mut token_sha256 = digest(&call_sid);
    token_sha256[..16].copy_from_slice(uuid::Uuid::new_v4().as_bytes());
    let offer = Offer {
        call_sid: &call_sid,
        organization,
        agent,
        direction: None,
        from: None,
        to: None,
        token_sha256,
    };
    leases::offer(store, &offer).await.unwrap().expect("the call is ours")
}

async fn contents(store: &Store, organization: OrganizationId, call: u32) -> Vec<String> {
    let rows = by_call(store, organization, &sid(call), 50).await.unwrap();
    rows.into_iter().map(|row| row.content).collect()
}

#[tokio::test]
async fn every_part_of_a_turn_is_read_back() {
    let (store, organization) = store_with(2, [1]).await;
    let interrupted = Entry {
        generated: Some("Good morning, how are you?".into()),
        interrupted: true,
        audio_start: Some(CallTime::from_millis(100)),
        audio_end: Some(CallTime::from_millis(900)),
        heard_until_ms: Some(640),
        evidence: Some(Evidence::Mark),
        response_latency_ms: Some(480),
        ..entry("item_1", 1, 3, "Good mor\0ning,")
    };
    let tool = Entry {
        role: Role::Tool,
        status: Status::Unanswered,
        tool_name: Some("weather".into()),
        tool_call: Some(ToolCallId::parse("call_1").unwrap()),
        evidence: Some(Evidence::Clock),
        ..entry("item_2", 2, 1, "rain")
    };
    save(&store, &[turns(organization, 1, [interrupted, tool])]).await.unwrap();

    let rows = by_call(&store, organization, &sid(1), 50).await.unwrap();
    let row = &rows[0];
    assert_eq!(row.content, "Good morning,", "a database cannot hold NUL");
    assert_eq!(row.timestamp.to_string(), "2026-01-02T03:04:06.5Z");
    assert_eq!(row.generated_content.as_deref(), Some("Good morning, how are you?"));
    assert_eq!((row.sequence, row.revision, row.interrupted), (1, 3, true));
    assert_eq!((row.audio_start_ms, row.audio_end_ms, row.heard_until_ms), (Some(100), Some(900), Some(640)));
    assert_eq!(
        (row.role.as_str(), row.status.as_str(), row.evidence.as_deref()),
        ("assistant", "final", Some("mark"))
    );
    assert_eq!(row.response_latency_ms, Some(480));
    let row = &rows[1];
    assert_eq!((row.role.as_str(), row.status.as_str()), ("tool", "unanswered"));
    assert_eq!((row.tool_name.as_deref(), row.tool_call_id.as_deref()), (Some("weather"), Some("call_1")));
}

#[tokio::test]
async fn another_stream_is_told_the_last_turns_in_order_as_they_were_heard() {
    let (store, organization) = store_with(2, [1]).await;
    let function = |item: &str, sequence, status, output: &str| Entry {
        role: Role::Tool,
        status,
        generated: Some("{}".into()),
        tool_name: Some("book".into()),
        tool_call: Some(ToolCallId::parse(&format!("call_{sequence}")).unwrap()),
        ..entry(item, sequence, 1, output)
    };
    let unheard =
        Entry { role: Role::Assistant, generated: Some("Never mind.".into()), ..entry("item_2", 3, 1, "") };
    let turns_of_call = turns(
        organization,
        1,
        [
            function("item_4", 5, Status::Unanswered, ""),
            Entry { role: Role::User, ..entry("item_1", 2, 1, "Book a table.") },
            function("item_3", 4, Status::Final, ""),
            unheard,
            entry("item_0", 1, 1, "too long ago"),
        ],
    );
    save(&store, &[turns_of_call]).await.unwrap();
    let function = |number: u32, output: Option<&str>| Remembered::Function {
        call: ToolCallId::parse(&format!("call_{number}")).unwrap(),
        name: "book".into(),
        arguments: "{}".into(),
        output: output.map(Into::into),
    };
    let told = history(&store, organization, &sid(1), 4).await.unwrap();
    assert_eq!(told, [Remembered::Caller("Book a table.".into()), function(4, Some("")), function(5, None)]);
}

#[tokio::test]
async fn a_turn_is_replaced_by_a_newer_revision_only() {
    let (store, organization) = store_with(2, [1]).await;
    for (revision, content) in
        [(2, "second"), (1, "first"), (2, "other second"), (3, "third"), (3, "late third")]
    {
        save(&store, &[turns(organization, 1, [entry("item_1", 1, revision, content)])]).await.unwrap();
    }
    let rows = by_call(&store, organization, &sid(1), 50).await.unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0].revision, rows[0].content.as_str()), (3, "third"));
}

#[tokio::test]
async fn many_turns_go_in_one_statement_in_any_order_and_come_out_in_conversation_order() {
    let (store, organization) = store_with(2, [1]).await;
    let mut entries: Vec<Entry> = (1..=200).rev().map(|n| entry(&format!("item_{n}"), n, 1, "one")).collect();
    entries.push(entry("item_7", 7, 2, "two"));
    entries.push(entry("item_7", 7, 1, "one again"));
    save(&store, &[turns(organization, 1, entries)]).await.unwrap();
    save(&store, &[turns(organization, 1, [])]).await.unwrap();
    save::<Turns>(&store, &[]).await.unwrap();

    let rows = by_call(&store, organization, &sid(1), 500).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.sequence).collect::<Vec<_>>(), (1..=200).collect::<Vec<_>>());
    assert_eq!(rows[6].content, "two");
    assert_eq!(by_call(&store, organization, &sid(1), 3).await.unwrap().len(), 3);
}

#[tokio::test]
async fn one_statement_keeps_the_turns_of_many_calls_and_organisations_apart() {
    let (store, organization) = store_with(2, [1, 2]).await;
    let (other, agent) = other_tenant(&store).await;
    offer(&store, (other, agent), 3).await;
    let of_call = |owner, call, content: &str| turns(owner, call, [entry("item_1", 1, 1, content)]);
    let later =
        Turns { stream_started: "2026-02-02T03:04:05Z".parse().unwrap(), ..of_call(organization, 2, "two") };
    save(&store, &[of_call(organization, 1, "one"), later, of_call(other, 3, "three")]).await.unwrap();

    for (owner, call, content) in [(organization, 1, "one"), (organization, 2, "two"), (other, 3, "three")] {
        let rows = by_call(&store, owner, &sid(call), 50).await.unwrap();
        assert_eq!(rows.iter().map(|row| row.content.as_str()).collect::<Vec<_>>(), [content]);
    }
    let row = &by_call(&store, organization, &sid(2), 50).await.unwrap()[0];
    assert_eq!(row.timestamp.to_string(), "2026-02-02T03:04:06.5Z", "each call has its own clock");
    assert!(by_call(&store, organization, &sid(3), 50).await.unwrap().is_empty());
}

#[tokio::test]
async fn of_two_revisions_in_one_statement_the_newer_stands_with_the_clock_of_its_stream() {
    let (store, organization) = store_with(2, [1, 2]).await;
    let first = turns(organization, 1, [entry("item_1", 1, 1, "first")]);
    let second = Turns {
        stream_started: "2026-02-02T03:04:05Z".parse().unwrap(),
        ..turns(organization, 1, [entry("item_1", 1, 2, "second")])
    };
    for (call, order) in [(1, [&first, &second]), (2, [&second, &first])] {
        save(&store, &order.map(|turns| Turns { call_sid: sid(call), ..turns.clone() })).await.unwrap();
        let row = &by_call(&store, organization, &sid(call), 50).await.unwrap()[0];
        assert_eq!((row.content.as_str(), row.revision), ("second", 2));
        assert_eq!(row.timestamp.to_string(), "2026-02-02T03:04:06.5Z");
    }
}

#[tokio::test]
async fn a_conversation_belongs_to_its_organisation() {
    let (store, organization) = store_with(2, [1]).await;
    let (other, _) = other_tenant(&store).await;
    save(&store, &[turns(organization, 1, [entry("item_1", 1, 1, "ours")])]).await.unwrap();
    let theirs = turns(other, 1, [entry("item_1", 1, 9, "theirs")]);
    assert_eq!(save(&store, &[&theirs]).await.unwrap().len(), 1);
    let refused = replay(&store, &[&theirs]).await.unwrap();
    assert!(
        matches!(&refused[..], [unwritten] if unwritten.has_lease && unwritten.item.as_str() == "item_1")
    );
    assert_eq!(by_call(&store, organization, &sid(1), 50).await.unwrap()[0].content, "ours");
    assert!(by_call(&store, other, &sid(1), 50).await.unwrap().is_empty());
}

#[tokio::test]
async fn the_same_turns_from_many_writers_are_one_row_each() {
    let (store, organization) = store_with(4, [1]).await;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 1..=8 {
        let store = store.clone();
        writers.spawn(async move {
            let mut entries: Vec<Entry> =
                (1..=20).map(|n| entry(&format!("item_{n}"), n, writer, "x")).collect();
            if writer % 2 == 0 {
                entries.reverse();
            }
            save(&store, &[turns(organization, 1, entries)]).await.unwrap();
        });
    }
    writers.join_all().await;
    let rows = by_call(&store, organization, &sid(1), 50).await.unwrap();
    assert_eq!(rows.len(), 20);
    assert!(rows.iter().all(|row| row.revision == 8), "the newest revision stands");
}

#[tokio::test]
async fn who_has_lost_a_call_writes_no_turn_of_it_and_is_told_so() {
    let (store, organization) = store_with(2, [1, 2]).await;
    let agent = default_agent(&store).await;
    let said = |call, item: &str| turns(organization, call, [entry(item, 1, 1, item)]);
    assert!(save(&store, &[said(1, "before"), said(2, "other")]).await.unwrap().is_empty());
    let token = offer(&store, (organization, agent.id), 1).await;

    let rewritten = turns(organization, 1, [entry("before", 1, 2, "rewritten"), entry("late", 2, 1, "late")]);
    let lost = save(&store, &[rewritten, said(2, "company")]).await.unwrap();
    assert_eq!(lost, [(sid(1), FencingToken(1))].into());
    let never = Turns { token: FencingToken(3), ..said(1, "of_the_future") };
    assert_eq!(save(&store, &[never]).await.unwrap(), [(sid(1), FencingToken(3))].into());
    assert_eq!(save(&store, &[said(9, "unknown")]).await.unwrap(), [(sid(9), FencingToken(1))].into());
    assert_eq!(contents(&store, organization, 1).await, ["before"]);
    assert_eq!(contents(&store, organization, 2).await, ["other", "company"], "its company is not held back");
    let holder = Turns { token, ..turns(organization, 1, [entry("after", 10_001, 1, "after")]) };
    assert!(save(&store, &[holder]).await.unwrap().is_empty());
    assert_eq!(contents(&store, organization, 1).await, ["before", "after"]);
}

#[tokio::test]
async fn what_was_said_before_the_next_stream_was_offered_is_written_later_and_nothing_else() {
    let (store, organization) = store_with(2, [1]).await;
    let agent = default_agent(&store).await;
    for _ in 0..2 {
        offer(&store, (organization, agent.id), 1).await;
    }
    // The second stream was offered five seconds after the first began, the third ten seconds after.
    let offered = "update call_streams set offered_at = $1::timestamptz + make_interval(secs => 5 * (fencing_token - 1))";
    sqlx::query(offered).bind(started().to_string()).execute(store.pool()).await.unwrap();
    sqlx::query("update call_leases set offered_at = $1::timestamptz + make_interval(secs => 10)")
        .bind(started().to_string())
        .execute(store.pool())
        .await
        .unwrap();
    let said = |token: i64, second: u64, item: &str| {
        let entry = Entry { at: CallTime::from_millis(second * 1000), ..entry(item, second as u32, 1, item) };
        Turns { token: FencingToken(token), ..turns(organization, 1, [entry]) }
    };
    let all = [
        said(1, 4, "first_stream"),
        said(1, 5, "too_late_for_the_first"),
        said(1, 7, "in_the_time_of_the_second"),
        said(2, 8, "second_stream"),
        said(2, 11, "too_late_for_the_second"),
        said(3, 12, "third_stream"),
        said(4, 13, "of_a_stream_that_was_never_offered"),
    ];
    for _ in 0..2 {
        let late = replay(&store, &all).await.unwrap();
        assert_eq!(late.len(), 4, "each time the same: {late:?}");
        let expected = ["first_stream", "second_stream", "third_stream"];
        assert_eq!(contents(&store, organization, 1).await, expected);
    }
}

#[tokio::test]
async fn another_offer_of_a_call_waits_for_turns_that_are_being_written_and_a_heartbeat_does_not() {
    let (store, organization) = store_with(4, [1]).await;
    let agent = default_agent(&store).await;
    let slow = "create function wait_for_the_test() returns trigger language plpgsql
                as $$ begin perform pg_advisory_xact_lock_shared(1); return new; end $$;
                create trigger slow before insert on conversation_transcripts
                for each row execute function wait_for_the_test()";
    sqlx::raw_sql(slow).execute(store.pool()).await.unwrap();
    let mut holder = store.pool().acquire().await.unwrap();
    sqlx::raw_sql("select pg_advisory_lock(1)").execute(&mut *holder).await.unwrap();
    let until_one_waits_for = async |what: &str| {
        let waiting = "select count(*) from pg_stat_activity
                       where datname = current_database() and wait_event_type = 'Lock' and wait_event = $1";
        while sqlx::query_scalar::<_, i64>(waiting).bind(what).fetch_one(store.pool()).await.unwrap() != 1 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };

    let said = turns(organization, 1, [entry("item_1", 1, 1, "in time")]);
    let saving = async { save(&store, &[said]).await.unwrap() };
    let meanwhile = async {
        until_one_waits_for("advisory").await;
        let beat = leases::heartbeat(&store, &[(sid(1), FencingToken(1))]).await.unwrap();
        assert_eq!(beat.len(), 1, "signs of life go on meanwhile");
        let release = async {
            until_one_waits_for("transactionid").await;
            sqlx::raw_sql("select pg_advisory_unlock(1)").execute(&mut *holder).await.unwrap();
        };
        tokio::join!(offer(&store, (organization, agent.id), 1), release).0
    };
    let (lost, token) = tokio::join!(saving, meanwhile);
    assert!(lost.is_empty(), "it was written while the call was ours");
    assert_eq!(token, FencingToken(2));
    assert_eq!(contents(&store, organization, 1).await, ["in time"]);
}
