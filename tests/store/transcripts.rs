//! Turns: each once, the newest revision, in conversation order.

use jiff::Timestamp;
use voicebridge::call::transcript::{Entry, Evidence, Role};
use voicebridge::clock::CallTime;
use voicebridge::ids::OrganizationId;
use voicebridge::ids::{ItemId, ToolCallId};
use voicebridge::store::transcripts::{Turns, by_call, save};

use crate::{default_agent, other_tenant, sid, support};

fn entry(item: &str, sequence: u32, revision: u32, content: &str) -> Entry {
    Entry {
        item: ItemId::parse(item).unwrap(),
        sequence,
        revision,
        role: Role::Assistant,
        content: content.into(),
        generated: None,
        interrupted: false,
        transcribed: true,
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

fn turns(organization: OrganizationId, call: u32, entries: impl Into<Vec<Entry>>) -> Turns {
    Turns { organization, call_sid: sid(call), stream_started: started(), entries: entries.into() }
}

#[tokio::test]
async fn every_part_of_a_turn_is_read_back() {
    let store = support::store(2).await;
    let organization = default_agent(&store).await.organization_id;
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
        transcribed: false,
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
    assert_eq!((row.role.as_str(), row.status.as_str()), ("tool", "not_transcribed"));
    assert_eq!((row.tool_name.as_deref(), row.tool_call_id.as_deref()), (Some("weather"), Some("call_1")));
}

#[tokio::test]
async fn a_turn_is_replaced_by_a_newer_revision_only() {
    let store = support::store(2).await;
    let organization = default_agent(&store).await.organization_id;
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
    let store = support::store(2).await;
    let organization = default_agent(&store).await.organization_id;
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
    let store = support::store(2).await;
    let organization = default_agent(&store).await.organization_id;
    let (other, _) = other_tenant(&store).await;
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
    let store = support::store(2).await;
    let organization = default_agent(&store).await.organization_id;
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
    let store = support::store(2).await;
    let organization = default_agent(&store).await.organization_id;
    let (other, _) = other_tenant(&store).await;
    save(&store, &[turns(organization, 1, [entry("item_1", 1, 1, "ours")])]).await.unwrap();
    save(&store, &[turns(other, 1, [entry("item_1", 1, 9, "theirs")])]).await.unwrap();
    assert_eq!(by_call(&store, organization, &sid(1), 50).await.unwrap()[0].content, "ours");
    assert!(by_call(&store, other, &sid(1), 50).await.unwrap().is_empty());
}

#[tokio::test]
async fn the_same_turns_from_many_writers_are_one_row_each() {
    let store = support::store(4).await;
    let organization = default_agent(&store).await.organization_id;
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
