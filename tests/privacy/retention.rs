//! What grows old.

use std::collections::BTreeMap;

use axum::http::{Method, StatusCode};
use jiff::civil::time;
use serde_json::{Value, json};
use voicebridge::app::retention::run_now;
use voicebridge::ids::CallSid;
use voicebridge::lifecycle;
use voicebridge::store::privacy::retention::{self, Days, Decided, Reached, Removed, Trigger};

use crate::life::{Office, Person, days_ago};
use crate::surface::KEY;

const OLD: &str = "+14155550123";
const NEW: &str = "+442079460958";
const LATE: &str = "CA00000000000000000000000000000099";

impl Office {
    async fn put(&self, body: Value) -> crate::surface::Answer {
        self.send(Method::PUT, "/api/retention", Some(body)).await
    }

    async fn dry_run(&self) -> Value {
        let answer = self.post("/api/retention/runs", json!({"dry_run": true})).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
        answer.json()["data"].clone()
    }

    /// Keeps everything for so long, and has looked at what that removes.
    async fn keep(&self, transcript_days: Option<i32>, payload_days: Option<i32>) -> Value {
        let mut wanted = json!({"transcript_days": transcript_days, "payload_days": payload_days});
        assert_eq!(self.put(wanted.clone()).await.status, StatusCode::OK);
        let looked_at = self.dry_run().await;
        wanted["confirm"] = looked_at["id"].clone();
        let policy = self.put(wanted).await.data();
        assert!(policy["confirmed_at"].is_string(), "{policy}");
        self.execute("update retention_policies set confirmed_at = now() - interval '1 day'").await;
        looked_at
    }

    async fn remove(&self) -> Option<Vec<Removed>> {
        let run = run_now(&self.store, self.agent.organization_id, |_| {}).await.unwrap()?;
        assert!(run.finished_at.is_some() && run.error.is_none());
        Some(run.counts)
    }

    /// Texts of theirs that were said in calls or written from them.
    async fn words_of(&self, person: &Person) -> Vec<String> {
        let tables = ["leads", "do_not_call", "interactions"]; // Of these the rows stay, and their names.
        let mut places = self.places_of(person).await;
        places.retain(|place| {
            let row: Value = serde_json::from_str(place.split_once(": ").unwrap().1).unwrap();
            let is_word = row.to_string().to_lowercase().contains(&person.word.to_lowercase());
            let is_kept = tables.iter().any(|table| place.starts_with(table)) && row["transcript"].is_null();
            let is_briefing_id = place.starts_with("call_queue") && row["message"].is_null();
            let is_dispatch = (place.starts_with("calls: ") || place.starts_with("call_briefs: "))
                && !row
                    .to_string()
                    .replace(&format!("interaction-{}", person.word), "")
                    .contains(person.word);
            is_word && !is_kept && !is_briefing_id && !is_dispatch && !place.starts_with("audit_log")
        });
        places
    }
}

fn rows(counts: &Value) -> Vec<(String, String, i64)> {
    let counts: Vec<Removed> = serde_json::from_value(counts.clone()).unwrap();
    of(&counts)
}

fn of(counts: &[Removed]) -> Vec<(String, String, i64)> {
    counts.iter().map(|count| (count.table.clone(), count.what.clone(), count.rows)).collect()
}

#[tokio::test]
async fn exactly_what_is_too_old_goes_and_a_dry_run_has_said_so() {
    let office = Office::open().await;
    let (old, new) = (office.life(OLD, "Zebulon", 1).await, office.life(NEW, "Quixotic", 2).await);
    office.grow_old(&old.calls, 40).await;
    office.grow_old(&new.calls, 29).await;
    let (words_old, words_new) = (office.words_of(&old).await, office.words_of(&new).await);
    assert!(words_old.len() > 20 && words_new.len() == words_old.len());

    let before = office.everything().await;
    let looked_at = office.keep(Some(30), None).await;
    let mut after = office.everything().await;
    for own in ["retention_policies", "retention_runs", "audit_log"] {
        after.insert(own.to_owned(), before[own].clone());
    }
    assert_eq!(after, before, "a dry run changes nothing");
    let oldest: jiff::Timestamp = looked_at["counts"][0]["oldest"].as_str().unwrap().parse().unwrap();
    assert!(oldest < days_ago(39) && oldest > days_ago(41));

    let removed = office.remove().await.unwrap();
    assert_eq!(of(&removed), rows(&looked_at["counts"]), "its figures are those of the run");
    let expected = [
        ("conversation_transcripts", 9),
        ("calls", 3),
        ("call_logs", 3),
        ("interactions", 1),
        ("agent_calls", 2),
        ("call_commands", 2),
        ("call_queue", 1),
    ];
    let expected: Vec<_> =
        expected.map(|(table, rows)| (table.to_owned(), "words".to_owned(), rows)).to_vec();
    assert_eq!(of(&removed), expected);
    assert_eq!(office.words_of(&old).await, Vec::<String>::new());
    assert_eq!(office.words_of(&new).await, words_new, "what is younger is untouched");
    // What is known of the call without its words is still there.
    let log = office.get(&format!("/api/call-logs/{}", old.calls[0])).await.data();
    assert_eq!(
        (&log["duration"], &log["transferred"], &log["transfer_reason"]),
        (&json!(90), &json!(true), &json!(""))
    );

    assert_eq!(office.remove().await.unwrap(), Vec::new(), "twice is as good as once");
    assert_eq!(office.dry_run().await["counts"], json!([]));
    let list = office.get("/api/retention/runs").await.json();
    assert_eq!(list["pagination"]["total"], 4);
}

#[tokio::test]
async fn payloads_go_by_their_own_age_and_leave_what_records_are_made_of() {
    let office = Office::open().await;
    let old = office.life(OLD, "Zebulon", 1).await;
    // Two callbacks that are told apart by what they say alone.
    for url in ["a", "b"] {
        let callback = office.callback(&old.calls[0], "completed", OLD, "+15005550000", 9);
        let callback = voicebridge::store::call_events::CarrierEvent {
            call_status: None,
            sequence_number: None,
            payload: json!({"RecordingUrl": format!("https://{url}.example.com"), "From": OLD}),
            ..callback
        };
        office.carrier_says(&callback).await;
    }
    office
        .execute(
            "update call_events set created_at = now() - interval '40 days';
             update calls set created_at = now() - interval '40 days'",
        )
        .await;
    let looked_at = office.keep(None, Some(30)).await;
    let removed = office.remove().await.unwrap();
    assert_eq!(of(&removed), rows(&looked_at["counts"]));
    assert_eq!(
        of(&removed).iter().map(|row| (&*row.0, row.2)).collect::<Vec<_>>(),
        [("call_events", 8), ("calls", 3)]
    );
    assert_eq!(
        office.scalar::<i64>("select count(*) from call_events where payload::text like '%+1%'").await,
        0
    );
    let data: Value =
        office.scalar(&format!("select data from calls where call_sid = '{}'", old.calls[0])).await;
    assert_eq!((&data["call"]["duration"], &data["soundsOverAgent"]), (&json!(90), &Value::Null));
    assert_eq!(data["summary"], "about Zebulon", "words go by their own age");
    // Whoever derives the records again finds the same.
    let before = office.everything().await;
    for call in &old.calls {
        lifecycle::callback::catch_up(&office.store, call).await.unwrap();
    }
    let mut after = office.everything().await;
    let call_logs = |all: &BTreeMap<String, Vec<String>>| -> Vec<Value> {
        let rows = all["call_logs"].iter().map(|row| serde_json::from_str(row).unwrap());
        rows.map(|mut row: Value| {
            row.as_object_mut().unwrap().remove("updated_at");
            row
        })
        .collect()
    };
    assert_eq!(call_logs(&after), call_logs(&before));
    after.insert("call_logs".into(), before["call_logs"].clone());
    for stamped in ["interactions", "agent_calls"] {
        after.insert(stamped.into(), before[stamped].clone()); // When they were written.
    }
    assert_eq!(after, before);
}

#[tokio::test]
async fn words_that_are_gone_are_not_made_again_of_anything() {
    let office = Office::open().await;
    let old = office.life(OLD, "Zebulon", 1).await;
    office.grow_old(&old.calls, 40).await;
    office.keep(Some(30), Some(30)).await;
    office.remove().await.unwrap();
    for call in &old.calls {
        office.carrier_says(&office.callback(call, "completed", OLD, "+15005550000", 99)).await;
        lifecycle::callback::catch_up(&office.store, call).await.unwrap();
    }
    lifecycle::finish(&office.store, 100).await.unwrap();
    assert_eq!(office.words_of(&old).await, Vec::<String>::new());
    let handoff: String = office
        .scalar(&format!("select status from agent_calls where parent_call_sid = '{}'", old.calls[0]))
        .await;
    assert_eq!(handoff, "completed");
}

#[tokio::test]
async fn rows_go_a_few_at_a_time_and_a_run_that_was_broken_off_is_gone_on_with() {
    let office = Office::open().await;
    let old = office.life(OLD, "Zebulon", 1).await;
    office.grow_old(&old.calls, 40).await;
    office.keep(Some(30), None).await;
    let organization = office.agent.organization_id;
    let mut begun = retention::claim_nightly(&office.store, time(0, 0, 0, 0)).await.unwrap().unwrap();
    let removed = retention::step(&office.store, &mut begun, 4).await.unwrap().unwrap();
    assert_eq!((removed.table.as_str(), removed.rows), ("conversation_transcripts", 4));
    assert_eq!(office.count("conversation_transcripts").await, 5);
    // One server has tonight, and nobody else begins it again.
    assert_eq!(retention::claim_nightly(&office.store, time(0, 0, 0, 0)).await.unwrap(), None);
    office.execute("update retention_runs set seen_at = now() - interval '11 minutes'").await;
    let mut taken = retention::claim_nightly(&office.store, time(0, 0, 0, 0)).await.unwrap().unwrap();
    assert_eq!((taken.id, taken.days), (begun.id, begun.days));
    assert_eq!(taken.reached, Reached::default(), "whoever takes it begins anew");
    assert_eq!(retention::claim_nightly(&office.store, time(0, 0, 0, 0)).await.unwrap(), None);
    while retention::step(&office.store, &mut taken, 4).await.unwrap().is_some() {}
    let run = retention::run(&office.store, organization, begun.id).await.unwrap().unwrap();
    assert_eq!(of(&run.counts)[0], ("conversation_transcripts".to_owned(), "words".to_owned(), 9));
    assert!(run.finished_at.is_some());
    assert_eq!(retention::claim_nightly(&office.store, time(0, 0, 0, 0)).await.unwrap(), None);
    office.execute("update retention_runs set day = day - 1").await;
    assert!(
        retention::claim_nightly(&office.store, time(0, 0, 0, 0)).await.unwrap().is_some(),
        "another night"
    );
}

#[tokio::test]
async fn a_live_call_and_the_last_day_are_never_touched() {
    let office = Office::open().await;
    let person = office.life(OLD, "Zebulon", 1).await;
    office.keep(Some(1), Some(1)).await;
    let words = office.words_of(&person).await;
    assert_eq!(office.remove().await.unwrap(), Vec::new(), "less than a day old");
    office.grow_old(&person.calls, 40).await;
    // All of them go on again.
    office
        .execute(
            "delete from call_events where call_status = 'completed';
             update call_leases set ended_at = null, offered_at = now(), heartbeat_at = now()",
        )
        .await;
    let kept = office.words_of(&person).await;
    assert_eq!(kept.len(), words.len());
    let removed = office.remove().await.unwrap();
    // A briefing is of the queue, whose row is done; nothing of the calls themselves went.
    assert!(removed.iter().all(|removed| removed.table == "call_queue"), "{removed:?}");
    office.execute("update call_leases set ended_at = now()").await;
    assert!(office.remove().await.unwrap().len() > 5);
    assert_eq!(office.words_of(&person).await, Vec::<String>::new());
}

#[tokio::test]
async fn keeping_less_than_before_waits_until_somebody_has_looked_at_what_goes() {
    let office = Office::open().await;
    let old = office.life(OLD, "Zebulon", 1).await;
    office.grow_old(&old.calls, 40).await;
    let organization = office.agent.organization_id;
    let nothing = office.get("/api/retention").await.data();
    assert_eq!(
        nothing,
        json!({"transcript_days": null, "payload_days": null, "confirmed_at": null, "wanted": null})
    );
    let policy = office.put(json!({"transcript_days": 30, "payload_days": null})).await.data();
    assert_eq!((&policy["transcript_days"], &policy["confirmed_at"]), (&Value::Null, &Value::Null));
    assert_eq!(policy["wanted"], json!({"transcript_days": 30, "payload_days": null}));
    assert_eq!(office.get("/api/retention").await.data(), policy);
    assert_eq!(office.remove().await, None);
    assert_eq!(retention::claim_nightly(&office.store, time(0, 0, 0, 0)).await.unwrap(), None);
    let confirm = async |days: i32, run: &Value| {
        office.put(json!({"transcript_days": days, "payload_days": null, "confirm": run})).await
    };
    let looked_at = office.dry_run().await["id"].clone();
    confirm(29, &looked_at).await.is_error(StatusCode::CONFLICT, "not_looked_at");
    confirm(30, &json!(uuid::Uuid::nil())).await.is_error(StatusCode::CONFLICT, "not_looked_at");
    office.execute("update retention_runs set finished_at = now() - interval '25 hours'").await;
    confirm(30, &looked_at).await.is_error(StatusCode::CONFLICT, "not_looked_at");
    let looked_at = office.dry_run().await["id"].clone();
    let confirmed = confirm(30, &looked_at).await.data();
    assert!(confirmed["confirmed_at"].is_string());
    assert_eq!((&confirmed["transcript_days"], &confirmed["wanted"]), (&json!(30), &Value::Null));
    // Keeping more needs nobody to look.
    let longer = office.put(json!({"transcript_days": 60, "payload_days": null})).await.data();
    assert_eq!((&longer["transcript_days"], &longer["wanted"]), (&json!(60), &Value::Null));
    // Of what keeps more here and less there the first counts at once; what was in force goes on removing meanwhile.
    let both = office.put(json!({"transcript_days": 90, "payload_days": 3650})).await.data();
    assert_eq!((&both["transcript_days"], &both["payload_days"]), (&json!(90), &Value::Null));
    assert_eq!(both["wanted"], json!({"transcript_days": 90, "payload_days": 3650}));
    office.grow_old(&old.calls, 60).await;
    assert!(!office.remove().await.unwrap().is_empty(), "it is over 90 days old");
    office.put(json!({"transcript_days": 60, "payload_days": null})).await;
    // Another organisation's dry run is nobody's business here.
    let other: uuid::Uuid =
        sqlx::query_scalar("insert into organisations (slug, name) values ('other', 'Other') returning id")
            .fetch_one(office.store.pool())
            .await
            .unwrap();
    let days = Days { transcript_days: Some(60), payload_days: Some(3650) };
    let theirs = retention::dry_run(&office.store, other.into(), days, Trigger::Api).await.unwrap();
    let decided = retention::decide(&office.store, organization, days, Some(theirs.id)).await.unwrap();
    assert_eq!(decided, Decided::NotLookedAt);
    for bad in [
        json!({"transcript_days": 0, "payload_days": null}),
        json!({"transcript_days": null, "payload_days": 3651}),
    ] {
        office.put(bad).await.is_error(StatusCode::UNPROCESSABLE_ENTITY, "invalid_value");
    }
    for bad in
        [json!({"transcript_days": 30}), json!({}), json!({"transcript_days": "x", "payload_days": null})]
    {
        office.put(bad).await.is_error(StatusCode::UNPROCESSABLE_ENTITY, "invalid_body");
    }
    let now = office.post("/api/retention/runs", json!({"dry_run": false})).await;
    now.is_error(StatusCode::UNPROCESSABLE_ENTITY, "invalid_value");
}

#[tokio::test]
async fn a_policy_counts_from_the_night_after_it_was_decided() {
    let office = Office::open().await;
    let midnight = time(0, 0, 0, 0);
    office.keep(Some(30), None).await;
    office.execute("update retention_policies set confirmed_at = now()").await;
    assert_eq!(retention::claim_nightly(&office.store, midnight).await.unwrap(), None);
    office.execute("update retention_policies set confirmed_at = now() - interval '24 hours'").await;
    assert!(retention::claim_nightly(&office.store, midnight).await.unwrap().is_some());
}

#[tokio::test]
async fn what_a_late_report_tells_is_as_old_as_its_call_and_does_not_come_back() {
    let office = Office::open().await;
    office.execute("update agents set vapi_assistant_id = 'asst_1' where is_default").await;
    let call =
        json!({"id": "v1", "assistantId": "asst_1", "type": "inboundPhoneCall", "phoneCallProviderId": LATE});
    let report = json!({"message": {
        "type": "end-of-call-report", "timestamp": 1_730_279_105_000_i64, "endedReason": "customer-ended-call",
        "startedAt": "2024-10-30T09:00:00Z", "endedAt": "2024-10-30T09:05:00Z", "call": call,
        "artifact": {"messages": [{"role": "user", "message": "I am Zebulon", "time": 1_730_278_801_500_i64,
                                   "secondsFromStart": 1.5}]},
    }});
    let headers = [("content-type", "application/json"), ("x-vapi-secret", KEY)];
    let taken = office.raw(Method::POST, "/api/vapi/webhook", &headers, report.to_string()).await;
    assert_eq!(taken.status, StatusCode::OK, "{}", taken.text);
    let words = async || -> i64 {
        let in_logs = "select count(*) from call_logs where conversation_transcript like '%Zebulon%'";
        let in_turns = "select count(*) from conversation_transcripts";
        office.scalar::<i64>(in_logs).await + office.scalar::<i64>(in_turns).await
    };
    assert_eq!(words().await, 2);
    office.keep(Some(90), None).await;
    office.remove().await.unwrap();
    assert_eq!(words().await, 0);
    lifecycle::finish(&office.store, 100).await.unwrap();
    lifecycle::callback::catch_up(&office.store, &CallSid::parse(LATE).unwrap()).await.unwrap();
    assert_eq!(words().await, 0);
}

#[tokio::test]
async fn a_copy_of_a_message_is_as_old_as_the_message_however_late_others_of_its_call_came() {
    let office = Office::open().await;
    // Of each call the newest message, of which its row has a copy, and one that came after it and tells of something older.
    office
        .execute(
            r#"insert into ivr_providers (organization_id, name, secret_sha256, mapping)
             select id, 'menu', sha256('x'), '{"call_id": "id"}' from organisations;
             insert into ivr_calls (organization_id, provider_id, provider_call_id, payload, received_at)
             select organization_id, id, call, jsonb_build_object('newest', call), now()
             from ivr_providers, unnest(array['old', 'young', 'emptied']) as call;
             insert into ivr_messages (
                 organization_id, provider_id, provider_call_id, payload, payload_sha256, received_at
             )
             select organization_id, provider_id, provider_call_id,
                    case when provider_call_id = 'emptied' then '{}' else payload end,
                    sha256(convert_to(payload::text, 'UTF8')),
                    now() - case when provider_call_id = 'young' then interval '29 days' else interval '40 days' end
             from ivr_calls
             union all
             select organization_id, provider_id, provider_call_id, '{"late": true}', sha256('late'), now()
             from ivr_calls"#,
        )
        .await;
    let looked_at = office.keep(None, Some(30)).await;
    let removed = office.remove().await.unwrap();
    assert_eq!(of(&removed), rows(&looked_at["counts"]));
    assert_eq!(
        of(&removed).iter().map(|row| (&*row.0, row.2)).collect::<Vec<_>>(),
        [("ivr_calls", 2), ("ivr_messages", 1)]
    );
    let calls = "select string_agg(provider_call_id, ' ') from ivr_calls where payload <> '{}'";
    assert_eq!(office.scalar::<String>(calls).await, "young");
    let messages = "select count(*) from ivr_messages where payload <> '{}'";
    assert_eq!(office.scalar::<i64>(messages).await, 4, "what came late is young");
    assert_eq!(office.remove().await.unwrap(), Vec::new());
}
