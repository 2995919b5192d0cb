//! People who are to be forgotten.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;
use voicebridge::call::end::EndReason;
use voicebridge::ids::{CallSid, PhoneNumber};
use voicebridge::lifecycle::{self, CallEvent, Recorded};
use voicebridge::store::audit::Actor;
use voicebridge::store::leases::FencingToken;
use voicebridge::store::privacy::Patience;
use voicebridge::store::privacy::erasure::{self, Erased, Subject};
use voicebridge::store::transcripts;

use crate::life::{OWN, Office, Person};

const THEIRS: &str = "+14155550123";
const OTHERS: &str = "+442079460958";

impl Office {
    async fn erase(&self, who: Value) -> Value {
        self.post("/api/privacy/erasures", who).await.data()
    }

    async fn counters(&self) -> (i32, i32, i32) {
        let counters = "select total_calls, answered_calls, transferred_calls from campaigns where id = $1";
        sqlx::query_as(counters).bind(self.campaign).fetch_one(self.store.pool()).await.unwrap()
    }
}

/// What is left of everything when what an erasure itself leaves is put aside: its own record, the digests, the audit log,
/// and the bare number on the do-not-call list.
fn without_traces(mut all: BTreeMap<String, Vec<String>>, person: &str) -> BTreeMap<String, Vec<String>> {
    for table in ["erasures", "erased_calls", "audit_log"] {
        all.remove(table);
    }
    all.get_mut("do_not_call").unwrap().retain(|row| !row.contains(person));
    // When a campaign was changed is no business of its calls: a counter that came and went leaves no other trace.
    all
}

#[tokio::test]
async fn after_an_erasure_the_database_is_what_it_was_before_the_person_came() {
    let office = Office::open().await;
    let other = office.life(OTHERS, "Quixotic", 2).await;
    let (before, counters) = (office.everything().await, office.counters().await);
    let person = office.life(THEIRS, "Zebulon", 1).await;
    assert_ne!(office.counters().await, counters);
    let held = office.places_of(&person).await;
    for table in [
        "agent_calls",
        "call_attempts",
        "call_commands",
        "call_events",
        "call_leases",
        "call_logs",
        "call_queue",
        "calls",
        "call_streams",
        "conversation_transcripts",
        "do_not_call",
        "interactions",
        "leads",
        "routing_decisions",
    ] {
        assert!(
            held.iter().any(|place| place.starts_with(&format!("{table}: "))),
            "nothing of theirs is in {table}"
        );
    }

    let told = office.erase(json!({"phone": "+1 (415) 555-0123"})).await;
    assert_eq!((&told["dry_run"], &told["id"]), (&json!(true), &Value::Null), "unless it is said otherwise");
    assert_eq!(office.places_of(&person).await, held, "a dry run changes nothing");
    let done = office.erase(json!({"phone": THEIRS, "dry_run": false})).await;
    assert_eq!(done["counts"], told["counts"], "and its figures are those of the real one");
    // Three calls, and the legs to the people that two of them were handed to.
    assert_eq!((&done["calls"], &done["kept_do_not_call"]), (&json!(5), &json!(true)));
    let rows = |table: &str| {
        let counts = done["counts"].as_array().unwrap();
        counts.iter().find(|count| count["table"] == table).map_or(0, |count| count["rows"].as_u64().unwrap())
    };
    assert_eq!(
        (rows("conversation_transcripts"), rows("calls"), rows("leads"), rows("interactions")),
        (9, 3, 1, 1)
    );

    let left = office.places_of(&person).await;
    assert_eq!(left.len(), 1, "{left:?}");
    let entry: Value = serde_json::from_str(left[0].strip_prefix("do_not_call: ").unwrap()).unwrap();
    assert_eq!(
        (&entry["number"], &entry["reason"], &entry["call_sid"]),
        (&json!(THEIRS), &json!(""), &Value::Null)
    );
    assert_eq!(without_traces(office.everything().await, THEIRS), without_traces(before, THEIRS));
    assert_eq!(office.counters().await, counters, "what is counted is what is on record");
    assert!(!office.places_of(&other).await.is_empty());

    let again = office.erase(json!({"phone": THEIRS, "dry_run": false})).await;
    assert_eq!((&again["calls"], &again["counts"]), (&json!(0), &json!([])));
    let list = office.get("/api/privacy/erasures").await.json();
    assert_eq!((&list["pagination"]["total"], &list["data"][1]["id"]), (&json!(2), &done["id"]));
    assert_eq!(
        (&list["data"][1]["asked_by"], &list["data"][1]["subject"]),
        (&json!("administrator"), &json!("phone"))
    );
    let digests: Vec<(Vec<u8>, Vec<u8>)> = sqlx::query_as("select salt, number_sha256 from erasures")
        .fetch_all(office.store.pool())
        .await
        .unwrap();
    assert_ne!(digests[0], digests[1], "the same number is not told by its digest");
}

#[tokio::test]
async fn a_lead_goes_with_whoever_has_its_number() {
    let office = Office::open().await;
    let person = office.life(THEIRS, "Zebulon", 1).await;
    // The same person once more.
    office.post("/api/leads", json!({"name": "Zebulon again", "phone": THEIRS})).await;
    let done = office.erase(json!({"lead_id": person.lead, "dry_run": false})).await;
    assert_eq!(done["calls"], 5);
    let left = office.places_of(&person).await;
    assert_eq!(left.len(), 1, "{left:?}");
    office
        .post("/api/privacy/erasures", json!({"lead_id": person.lead}))
        .await
        .is_error(StatusCode::NOT_FOUND, "not_found");
}

#[tokio::test]
async fn nothing_that_comes_late_brings_a_person_back() {
    let office = Office::open().await;
    let person = office.life(THEIRS, "Zebulon", 1).await;
    office.erase(json!({"phone": THEIRS, "dry_run": false})).await;
    let before = without_traces(office.everything().await, THEIRS);
    let token = FencingToken(1);
    for call in &person.calls {
        for (sequence, status) in [(0, "ringing"), (7, "completed")] {
            office.carrier_says(&office.callback(call, status, THEIRS, OWN, sequence)).await;
        }
        let incoming =
            CallEvent::Incoming { phone_number: None, from: THEIRS.into(), to: OWN.into(), to_team: false };
        let handed =
            CallEvent::Transferred { token, to: None, reason: "Zebulon".into(), summary: "Zebulon".into() };
        let ended = CallEvent::Ended {
            token,
            reason: EndReason::AgentEnded,
            duration: std::time::Duration::ZERO,
            report: serde_json::Map::new(),
        };
        for event in [incoming, handed, ended] {
            let call = office.reference(call);
            let replayed = lifecycle::replay(&office.store, &call, Timestamp::now(), &event).await.unwrap();
            assert_eq!(replayed, Recorded::Known, "there is nothing more to be done about it");
        }
        assert_eq!(office.offered(call, THEIRS, OWN, "inbound").await, None);
        let words = ["Zebulon".to_owned()];
        transcripts::replay(&office.store, &[office.turns(call, token, &words)]).await.unwrap();
        let late = office
            .twilio("/media-stream-twiml", &[("CallSid", call.as_str()), ("From", THEIRS), ("To", OWN)])
            .await;
        assert!(late.status.is_success(), "{}", late.text);
    }
    lifecycle::finish(&office.store, 100).await.unwrap();
    assert_eq!(without_traces(office.everything().await, THEIRS), before);
    // Somebody who calls again is a new person.
    let fresh = CallSid::parse("CA00000009000000000000000000000001").unwrap();
    let incoming =
        CallEvent::Incoming { phone_number: None, from: THEIRS.into(), to: OWN.into(), to_team: false };
    office.happens(&fresh, incoming).await;
    assert_eq!(office.count("calls").await, 1);
    assert_eq!(office.erase(json!({"phone": THEIRS, "dry_run": false})).await["calls"], 1);
    assert_eq!(office.count("calls").await, 0);
}

#[tokio::test]
async fn nobody_is_erased_without_its_being_on_record() {
    let office = Office::open().await;
    office.life(THEIRS, "Zebulon", 1).await;
    let before = without_traces(office.everything().await, "none");
    let subject = Subject::Phone(PhoneNumber::parse(THEIRS).unwrap());
    let organization: Uuid =
        sqlx::query_scalar("select id from organisations").fetch_one(office.store.pool()).await.unwrap();
    let command = Actor::command_line();
    let erase = async || {
        let by = (&command, Uuid::nil());
        erasure::erase(&office.store, organization.into(), &subject, false, by, Patience::Command).await
    };
    office
        .execute(
            "create function refuse() returns trigger language plpgsql as $$ begin raise exception 'no'; end $$",
        )
        .await;
    office
        .execute("create trigger refuse after insert on audit_log for each row execute function refuse()")
        .await;
    erase().await.unwrap_err();
    assert_eq!(without_traces(office.everything().await, "none"), before);
    office.execute("drop trigger refuse on audit_log").await;
    let Erased::Done(report) = erase().await.unwrap() else { panic!("there is nobody to stop it") };
    let deed: (String, String) =
        sqlx::query_as("select actor, subject from audit_log where action = 'erasure.done'")
            .fetch_one(office.store.pool())
            .await
            .unwrap();
    assert_eq!(deed, ("command line".to_owned(), report.id.unwrap().to_string()));
}

#[tokio::test]
async fn a_person_on_the_telephone_is_not_erased_and_nor_is_one_who_is_being_called() {
    let office = Office::open().await;
    let person = office.life(THEIRS, "Zebulon", 1).await;
    let live = CallSid::parse("CA00000001000000000000000000000009").unwrap();
    office.offered(&live, THEIRS, OWN, "inbound").await.unwrap();
    let before = office.everything().await;
    let refused = async |dry_run: bool| {
        let answer = office.post("/api/privacy/erasures", json!({"phone": THEIRS, "dry_run": dry_run})).await;
        answer.is_error(StatusCode::CONFLICT, "live_call");
    };
    refused(true).await;
    refused(false).await;
    let mut after = office.everything().await;
    // That it was asked for is on record.
    let asked = after.remove("audit_log").unwrap_or_default();
    assert!(asked.iter().any(|row| row.contains("erasure.asked_for")), "{asked:?}");
    assert_eq!(after, before.into_iter().filter(|(table, _)| table != "audit_log").collect());
    office.carrier_says(&office.callback(&live, "completed", THEIRS, OWN, 3)).await;
    office.execute("update call_attempts set status = 'dialing', outcome = null").await;
    refused(false).await;
    office.execute("update call_attempts set status = 'ended', outcome = 'answered'").await;
    assert_eq!(office.erase(json!({"phone": THEIRS, "dry_run": false})).await["calls"], 6);
    assert_eq!(office.places_of(&person).await.len(), 1);
}

#[tokio::test]
async fn a_number_is_known_however_the_carrier_spells_it() {
    for spelling in [
        "+14155550123",
        "14155550123",
        "0014155550123",
        "sip:+14155550123@carrier.example",
        "+1 415-555-0123",
        "4155550123",
    ] {
        let office = Office::open().await;
        let call = CallSid::parse("CA00000001000000000000000000000001").unwrap();
        let incoming =
            CallEvent::Incoming { phone_number: None, from: spelling.into(), to: OWN.into(), to_team: false };
        office.happens(&call, incoming).await;
        assert_eq!(office.erase(json!({"phone": THEIRS, "dry_run": false})).await["calls"], 1, "{spelling}");
        assert_eq!(office.count("calls").await, 0);
    }
    let office = Office::open().await;
    for (number, other) in
        ["+44155550123", "+34155550123", "141555501234", "+4155550123", "anonymous"].into_iter().enumerate()
    {
        let call = CallSid::parse(&format!("CA0000000100000000000000000000000{number}")).unwrap();
        let incoming =
            CallEvent::Incoming { phone_number: None, from: other.into(), to: OWN.into(), to_team: false };
        office.happens(&call, incoming).await;
    }
    assert_eq!(office.erase(json!({"phone": THEIRS, "dry_run": false})).await["calls"], 0);
    assert_eq!(office.count("calls").await, 5);
}

#[tokio::test]
async fn an_organisations_own_numbers_are_in_all_its_calls_and_are_not_erased() {
    let office = Office::open().await;
    office.life(THEIRS, "Zebulon", 1).await;
    let refused = async |number: &str| {
        let answer = office.post("/api/privacy/erasures", json!({"phone": number, "dry_run": false})).await;
        answer.is_error(StatusCode::CONFLICT, "own_number");
    };
    refused(OWN).await;
    office
        .execute(
            "with team as (
                 insert into teams (organization_id, name) select id, 'Desk' from organisations returning id, organization_id
             )
             insert into team_members (organization_id, team_id, name, number)
             select organization_id, id, 'Ada', '+15005550077' from team",
        )
        .await;
    refused("+15005550077").await;
    for bad in [json!({}), json!({"phone": THEIRS, "lead_id": 1}), json!({"phone": "4155550123"})] {
        let answer = office.post("/api/privacy/erasures", bad).await;
        answer.is_error(StatusCode::UNPROCESSABLE_ENTITY, "invalid_value");
    }
}

#[tokio::test]
async fn what_another_organisation_has_of_the_same_person_is_theirs_to_keep() {
    let office = Office::open().await;
    let person: Person = office.life(THEIRS, "Zebulon", 1).await;
    let other: Uuid =
        sqlx::query_scalar("insert into organisations (slug, name) values ('other', 'Other') returning id")
            .fetch_one(office.store.pool())
            .await
            .unwrap();
    let subject = Subject::Phone(PhoneNumber::parse(THEIRS).unwrap());
    let before = office.everything().await;
    let them = (&Actor { key: None, name: "them".to_owned() }, Uuid::nil());
    let erased =
        erasure::erase(&office.store, other.into(), &subject, false, them, Patience::Command).await.unwrap();
    let Erased::Done(report) = erased else { panic!("{erased:?}") };
    assert_eq!((report.calls, report.counts), (0, Vec::new()));
    let by_lead = erasure::erase(
        &office.store,
        other.into(),
        &Subject::Lead(person.lead),
        false,
        them,
        Patience::Command,
    )
    .await;
    assert_eq!(by_lead.unwrap(), Erased::NoLead);
    assert_eq!(without_traces(office.everything().await, "none"), without_traces(before, "none"));
}
