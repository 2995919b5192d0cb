//! What becomes of the many messages that a menu system sends about one call.

use axum::http::StatusCode;
use futures_util::future::join_all;
use proptest::prelude::{Just, Strategy as _};
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use crate::surface::Server;

fn mapping() -> Value {
    json!({
        "call_id": "id", "call_sid": "sid", "from_number": "caller", "to_number": "called", "status": "state",
        "started_at": "start", "ended_at": "end", "duration": "seconds", "digits": "digits", "recording_url": "recording",
        "updated_at": "at",
    })
}

/// Each says what the others leave out.
fn told() -> Vec<Value> {
    vec![
        json!({"id": 7, "at": "2024-10-30T09:00:01Z", "state": "ringing", "sid": "CA1", "caller": "+14155550123"}),
        json!({"id": 7, "at": "2024-10-30T09:00:05Z", "digits": "2", "called": "+14155550199"}),
        json!({"id": 7, "at": "2024-10-30T09:00:09Z", "recording": "https://example.com/7.wav", "state": null}),
        json!({"id": 7, "at": "2024-10-30T09:00:20Z", "state": "completed", "seconds": 19, "digits": " "}),
        json!({"id": 7, "at": null, "state": "queued", "start": "2024-10-30T09:00:00Z", "digits": "9"}),
    ]
}

#[tokio::test]
async fn what_a_message_leaves_out_an_older_one_has_said_in_whatever_order_they_come() {
    let server = Server::new().await;
    let lead = server.post("/api/leads", json!({"phone": "+14155550123"})).await.json()["data"]["id"].clone();
    let provider = server.provider("front-office", mapping()).await;
    let messages = told();
    let mut runner = TestRunner::deterministic();
    let shuffles = Just(messages.clone()).prop_shuffle();
    for _ in 0..40 {
        for body in shuffles.new_tree(&mut runner).unwrap().current() {
            server.told(&provider.secret, &body).await.data();
        }
        let call = server.ivr_call().await;
        for (member, value) in [
            ("call_sid", json!("CA1")),
            ("from_number", json!("+14155550123")),
            ("to_number", json!("+14155550199")),
            ("status", json!("completed")),
            ("started_at", json!("2024-10-30T09:00:00Z")),
            ("ended_at", Value::Null),
            ("duration", json!(19)),
            ("digits", json!("2")),
            ("recording_url", json!("https://example.com/7.wav")),
            ("lead_id", lead.clone()),
            ("occurred_at", json!("2024-10-30T09:00:20Z")),
            ("payload", messages[3].clone()),
        ] {
            assert_eq!(call[member], value, "{member}");
        }
        assert_eq!(server.count("ivr_messages").await, 5, "all are kept");
        server.execute("delete from ivr_calls").await;
        assert_eq!(server.count("ivr_messages").await, 0, "they go with their call");
    }
}

#[tokio::test]
async fn messages_that_come_at_once_are_all_kept_and_all_count() {
    let server = Server::new().await;
    let provider = server.provider("front-office", mapping()).await;
    let mut bodies: Vec<_> = (10..30)
        .map(|second| json!({"id": 7, "at": format!("2024-10-30T09:00:{second}Z"), "state": format!("at {second}")}))
        .collect();
    bodies.push(json!({"id": 7, "at": "2024-10-30T09:00:00Z", "digits": "2"}));
    join_all(bodies.iter().map(|body| server.told(&provider.secret, body))).await;
    let call = server.ivr_call().await;
    assert_eq!((&call["status"], &call["digits"]), (&json!("at 29"), &json!("2")));
    assert_eq!(server.count("ivr_messages").await, 21);
}

#[tokio::test]
async fn a_message_that_is_sent_again_is_on_record_once_and_changes_nothing() {
    let server = Server::new().await;
    let provider = server.provider("front-office", mapping()).await;
    for body in told() {
        server.told(&provider.secret, &body).await.data();
    }
    let before = server.ivr_call().await;
    for (nth, body) in told().iter().enumerate() {
        let again = server.told(&provider.secret, body).await.data();
        assert_eq!((&again["id"], &again["is_newest"]), (&before["id"], &json!(nth == 3)), "{body}");
    }
    // In another order it says the same.
    let headers = [("content-type", "application/json"), ("x-webhook-secret", provider.secret.as_str())];
    let other = r#"{"called": "+14155550199",  "digits": "2", "at": "2024-10-30T09:00:05Z", "id": 7}"#;
    server.raw(axum::http::Method::POST, "/api/ivr/front-office/webhook", &headers, other).await.data();
    assert_eq!((server.count("ivr_messages").await, server.ivr_call().await), (5, before));

    // What was kept for as long as was decided does not come back by it.
    server.execute("update ivr_messages set payload = '{}'; update ivr_calls set payload = '{}'").await;
    for body in told() {
        server.told(&provider.secret, &body).await.data();
    }
    assert_eq!((server.count("ivr_messages").await, &server.ivr_call().await["payload"]), (5, &json!({})));
}

#[tokio::test]
async fn nothing_is_kept_of_a_call_that_was_erased_whatever_is_told_of_it() {
    let server = Server::new().await;
    let provider = server.provider("front-office", mapping()).await;
    server.told(&provider.secret, &told()[0]).await.data();
    // Its row is still there: whoever erases it is about to remove it.
    let erase = |sid: String| {
        format!(
            "insert into erased_calls (call_sid_sha256, organization_id)
             select sha256('{sid}'), id from organisations"
        )
    };
    server.execute(&erase(format!("{}:7", provider.id))).await;
    let taken = server.told(&provider.secret, &told()[1]).await.data();
    assert_eq!((&taken["id"], &taken["is_newest"]), (&Value::Null, &json!(false)));
    assert_eq!(server.count("ivr_messages").await, 1);
    server.execute("delete from ivr_calls").await;
    // By the carrier's id.
    server.execute(&erase("CA9".to_owned())).await;
    for body in [told()[1].clone(), json!({"id": 8, "sid": "CA9"})] {
        let answer = server.told(&provider.secret, &body).await;
        assert_eq!((answer.status, &answer.json()["data"]["id"]), (StatusCode::OK, &Value::Null));
    }
    assert_eq!((server.count("ivr_calls").await, server.count("ivr_messages").await), (0, 0));
}

#[tokio::test]
async fn a_lead_stays_with_its_call_when_a_message_leaves_the_numbers_out_and_goes_with_another_number() {
    let server = Server::new().await;
    let lead = async |phone: &str| {
        server.post("/api/leads", json!({"phone": phone})).await.json()["data"]["id"].clone()
    };
    let (first, other) = (lead("+14155550123").await, lead("+14155550124").await);
    let provider = server.provider("front-office", mapping()).await;
    let tell = async |body: Value| {
        server.told(&provider.secret, &body).await.data();
        server.ivr_call().await["lead_id"].clone()
    };
    assert_eq!(tell(json!({"id": 7, "at": 1_730_278_801, "caller": "+14155550123"})).await, first);
    assert_eq!(tell(json!({"id": 7, "at": 1_730_278_802, "state": "menu"})).await, first);
    // They have another number by now.
    server.execute("update leads set phone = '+14155550177' where phone = '+14155550123'").await;
    assert_eq!(tell(json!({"id": 7, "at": 1_730_278_803, "state": "menu"})).await, first);
    assert_eq!(tell(json!({"id": 7, "at": 1_730_278_804, "called": "+14155550124"})).await, other);
    assert_eq!(tell(json!({"id": 7, "at": 1_730_278_805, "caller": "anonymous"})).await, other);
    assert_eq!(tell(json!({"id": 7, "at": 1_730_278_806, "called": "+14155550125"})).await, Value::Null);
}

/// All orders of these messages, as they are told; and what is on record then.
async fn in_all_orders(server: &Server, secret: &str, messages: &[Value]) -> Vec<Value> {
    let mut calls = Vec::new();
    for order in orders(messages.len()) {
        for &nth in &order {
            server.told(secret, &messages[nth]).await.data();
        }
        calls.push(server.ivr_call().await);
        server.execute("delete from ivr_calls").await;
    }
    calls
}

fn orders(many: usize) -> Vec<Vec<usize>> {
    if many == 0 {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for shorter in orders(many - 1) {
        for place in 0..many {
            let mut order = shorter.clone();
            order.insert(place, many - 1);
            all.push(order);
        }
    }
    all
}

#[tokio::test]
async fn without_moments_a_message_that_tells_of_the_end_is_newer_than_one_that_is_sent_late() {
    let server = Server::new().await;
    let mapping =
        json!({"call_id": "id", "status": "s", "ended_at": "end", "duration": "secs", "digits": "keys"});
    let provider = server.provider("front-office", mapping).await;
    for over in [
        json!({"id": 1, "s": "completed", "secs": 30}),
        json!({"id": 1, "s": "completed", "secs": 0}),
        json!({"id": 1, "s": "completed", "end": "2024-10-30T09:00:20Z"}),
    ] {
        let late = json!({"id": 1, "s": "ringing", "try": 2, "keys": "2"});
        let messages = [json!({"id": 1, "s": "ringing"}), over.clone(), late];
        for call in in_all_orders(&server, &provider.secret, &messages).await {
            assert_eq!((&call["status"], &call["payload"]), (&json!("completed"), &over));
            assert_eq!(call["digits"], "2", "and what it leaves out is not lost");
        }
    }
    // Of two that tell of the end the later one counts.
    for (status, body) in [("completed", json!({"secs": 1})), ("failed", json!({"secs": 1}))] {
        let mut body = body;
        (body["id"], body["s"]) = (json!(2), json!(status));
        assert_eq!(server.told(&provider.secret, &body).await.data()["is_newest"], true);
        assert_eq!(server.ivr_call().await["status"], status);
    }
}

#[tokio::test]
async fn a_status_that_the_provider_calls_final_changes_into_no_other_that_is_not() {
    let server = Server::new().await;
    let mapping = json!({"call_id": "id", "status": "s", "duration": "secs", "updated_at": "at"});
    let provider = server.provider("front-office", mapping).await;
    let path = format!("/api/ivr-providers/{}", provider.id);
    let words = json!(["completed", "No-Answer"]);
    let changed = server.patch(&path, json!({"final_statuses": words})).await.data();
    assert_eq!(changed["final_statuses"], words);

    let over = json!({"id": 1, "s": "COMPLETED"});
    let messages =
        [json!({"id": 1, "s": "ringing"}), over.clone(), json!({"id": 1, "s": "ringing", "try": 2})];
    for call in in_all_orders(&server, &provider.secret, &messages).await {
        assert_eq!((&call["status"], &call["payload"]), (&json!("COMPLETED"), &over));
    }
    // Not by a later moment either; and not by one that tells how long it took, which is on record all the same.
    let messages = [
        over,
        json!({"id": 1, "s": "menu", "at": "2024-10-30T09:00:20Z"}),
        json!({"id": 1, "s": "wrapping up", "secs": 7, "at": "2024-10-30T09:00:30Z"}),
    ];
    for call in in_all_orders(&server, &provider.secret, &messages).await {
        assert_eq!((&call["status"], &call["duration"]), (&json!("COMPLETED"), &json!(7)));
    }
    // From one final status to another.
    for status in ["completed", "no-answer"] {
        server.told(&provider.secret, &json!({"id": 1, "s": status})).await.data();
        assert_eq!(server.ivr_call().await["status"], status);
    }
}

#[tokio::test]
async fn final_statuses_are_words() {
    let server = Server::new().await;
    for bad in [
        json!([""]),
        json!([" completed"]),
        json!(["a\u{0}b"]),
        json!(["x".repeat(101)]),
        json!(vec!["x"; 51]),
    ] {
        let new = json!({"name": "front-office", "mapping": mapping(), "final_statuses": bad});
        let answer = server.post("/api/ivr-providers", new).await;
        let error = answer.is_error(StatusCode::UNPROCESSABLE_ENTITY, "invalid_value");
        assert_eq!(error["details"][0]["field"], "final_statuses", "{bad}");
    }
    let provider = server.provider("front-office", mapping()).await;
    let shown = server.get(&format!("/api/ivr-providers/{}", provider.id)).await.data();
    assert_eq!(shown["final_statuses"], json!([]));
}

#[tokio::test]
async fn national_numbers_are_those_of_the_providers_country() {
    let server = Server::new().await;
    let lead = async |phone: &str| {
        server.post("/api/leads", json!({"phone": phone})).await.json()["data"]["id"].clone()
    };
    let (indian, chinese) = (lead("+919812345678").await, lead("+8613612345678").await);
    let texan = lead("+13612345678").await;
    let provider = server.provider("front-office", mapping()).await;
    let path = format!("/api/ivr-providers/{}", provider.id);
    let in_country = async |code: Value| {
        server.patch(&path, json!({"country_code": code})).await.data()["country_code"].clone()
    };
    let whose = async |caller: &str| {
        server.told(&provider.secret, &json!({"id": 1, "caller": caller})).await.data();
        let call = server.ivr_call().await;
        assert_eq!(call["from_number"], caller, "as it was sent");
        server.execute("delete from ivr_calls").await;
        call["lead_id"].clone()
    };
    assert_eq!(whose("13612345678").await, Value::Null, "it may be anybody's");
    assert_eq!(in_country(json!("in")).await, "IN");
    assert_eq!(whose("09812345678").await, indian);
    assert_eq!(whose("9812345678").await, indian);
    assert_eq!(whose("13612345678").await, Value::Null);
    assert_eq!(whose("+13612345678").await, texan);
    in_country(json!("CN")).await;
    assert_eq!(whose("13612345678").await, chinese);
    // What is not named stays, and null is none.
    assert_eq!(server.patch(&path, json!({"active": true})).await.data()["country_code"], "CN");
    assert_eq!(in_country(Value::Null).await, Value::Null);
    assert_eq!(whose("13612345678").await, Value::Null);
    for bad in ["India", "ZZ", ""] {
        let answer = server.patch(&path, json!({"country_code": bad})).await;
        let error = answer.is_error(StatusCode::UNPROCESSABLE_ENTITY, "invalid_value");
        assert_eq!(error["details"][0]["field"], "country_code", "{bad}");
    }
}

#[tokio::test]
async fn of_a_call_a_thousand_messages_are_kept_and_the_next_is_refused_with_what_is_wrong() {
    let server = Server::new().await;
    let provider = server.provider("front-office", mapping()).await;
    let messages = told();
    server.told(&provider.secret, &messages[0]).await.data();
    server
        .execute(
            "insert into ivr_messages (organization_id, provider_id, provider_call_id, payload, payload_sha256, received_at)
             select organization_id, provider_id, provider_call_id, '{}', sha256(n::text::bytea), received_at
             from ivr_messages, generate_series(1, 998) as n",
        )
        .await;
    server.told(&provider.secret, &messages[1]).await.data();
    assert_eq!(server.count("ivr_messages").await, 1_000);
    let before = server.ivr_call().await;
    let refused = server.told(&provider.secret, &messages[3]).await;
    refused.is_error(StatusCode::CONFLICT, "too_many_messages");
    assert!(refused.text.contains("call_id names more than one call"), "{}", refused.text);
    assert_eq!((server.count("ivr_messages").await, server.ivr_call().await), (1_000, before.clone()));
    // What was sent before is known, and other calls are none of its business.
    let again = server.told(&provider.secret, &messages[1]).await.data();
    assert_eq!((&again["id"], server.ivr_call().await), (&before["id"], before.clone()));
    server.told(&provider.secret, &json!({"id": 8})).await.data();
}

#[tokio::test]
async fn a_country_that_is_set_later_says_whose_the_numbers_on_record_are() {
    let server = Server::new().await;
    let lead =
        server.post("/api/leads", json!({"phone": "+919812345678"})).await.json()["data"]["id"].clone();
    let provider = server.provider("front-office", mapping()).await;
    server.told(&provider.secret, &json!({"id": 1, "caller": "9812345678"})).await.data();
    server
        .told(&provider.secret, &json!({"id": 2, "caller": "+14155550123", "called": "09812345678"}))
        .await
        .data();
    // More than are read anew at a time; and another provider's.
    server
        .execute(
            "insert into ivr_calls (organization_id, provider_id, provider_call_id, from_number, payload, received_at)
             select organization_id, provider_id, 'x' || n, from_number, '{}', received_at
             from ivr_calls, generate_series(1, 1200) as n
             where provider_call_id = '1';
             insert into ivr_messages (
                 organization_id, provider_id, provider_call_id, from_number, payload, payload_sha256, received_at
             )
             select organization_id, provider_id, provider_call_id, from_number, '{}', sha256('x'), received_at
             from ivr_calls
             where provider_call_id like 'x%';
             insert into ivr_providers (organization_id, name, secret_sha256, mapping)
             select organization_id, 'other', sha256('other'), mapping from ivr_providers;
             insert into ivr_calls (organization_id, provider_id, provider_call_id, from_number, payload, received_at)
             select organization_id, id, 'other', '9812345678', '{}', now() from ivr_providers where name = 'other';
             insert into ivr_messages (
                 organization_id, provider_id, provider_call_id, from_number, payload, payload_sha256, received_at
             )
             select organization_id, provider_id, provider_call_id, from_number, '{}', sha256('x'), received_at
             from ivr_calls
             where provider_call_id = 'other'",
        )
        .await;
    let tied = async || {
        let path = format!("/api/ivr-calls?lead_id={lead}");
        server.get(&path).await.json()["pagination"]["total"].clone()
    };
    let found = async || {
        let sql = "select count(*) from ivr_messages where '+919812345678' in (from_phone, to_phone)";
        server.scalar::<i64>(sql).await
    };
    assert_eq!((tied().await, found().await), (json!(0), 0));
    let path = format!("/api/ivr-providers/{}", provider.id);
    server.patch(&path, json!({"active": true})).await.data();
    assert_eq!((tied().await, found().await), (json!(0), 0));
    server.patch(&path, json!({"country_code": "IN"})).await.data();
    assert_eq!((tied().await, found().await), (json!(1_202), 1_202));
    let plus = "select count(*) from ivr_messages where from_phone = '+14155550123'";
    assert_eq!(server.scalar::<i64>(plus).await, 1, "a number with a plus is what it was");
    // In Germany they are other telephones; a lead stays where no other is found.
    server.patch(&path, json!({"country_code": "DE"})).await.data();
    assert_eq!((tied().await, found().await), (json!(1_202), 0));
}
