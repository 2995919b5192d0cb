//! Receivers that are slow, broken, gone or hostile, and servers that die while they send.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Mutex;
use std::time::Duration;

use jiff::Timestamp;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use voicebridge::store::webhooks::{deliveries, tidy, work};

use crate::receiver::{Receiver, Reply};
use crate::{Town, ended, incoming, text};
use voicebridge::call::end::EndReason;

#[tokio::test]
async fn every_event_arrives_in_the_order_of_its_call_whatever_receivers_and_servers_do() {
    for seed in 0..3 {
        let town = Town::new().await;
        let random = Mutex::new(StdRng::seed_from_u64(seed));
        // Half of the requests fail in some way, and some take a while.
        let receiver = Receiver::that(move |_, _| {
            let mut random = random.lock().unwrap();
            let status = [204, 500, 200, 404, 202, 302][random.random_range(0..6)];
            Reply { after: Duration::from_millis(random.random_range(0..40)), ..status.into() }
        })
        .await;
        let listener = town.listener(&receiver.url, &["call.started", "call.completed"]).await;
        let mut servers = vec![town.sender(), town.sender(), town.sender()];
        for number in 0..12 {
            town.whole_call(&format!("CA{number}")).await;
        }
        let deadline = Instant::now() + crate::SOON * 2;
        let mut rounds = 0;
        while town.http.count("webhook_deliveries where status = 'pending'").await > 0 {
            assert!(Instant::now() < deadline, "deliveries are left");
            rounds += 1;
            if rounds == 5 {
                // Gone in the middle of what it sends; the others take that over.
                drop(servers.pop());
            }
            if rounds % 5 == 0 {
                town.expire_leases().await;
            }
            town.hurry().await;
            sleep(Duration::from_millis(30)).await;
        }
        let mut taken: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut ids: HashMap<String, String> = HashMap::new();
        let mut seen = HashSet::new();
        for it in receiver.received() {
            assert_eq!(it.signatures_of(&listener.secret), 1);
            let event = format!("{} {}", it.body["data"]["call_sid"], it.kind());
            assert_eq!(*ids.entry(event).or_insert_with(|| it.id().to_owned()), it.id());
            if it.status < 300 && seen.insert(it.id().to_owned()) {
                taken
                    .entry(text(&it.body["data"]["call_sid"]).to_owned())
                    .or_default()
                    .push(it.kind().to_owned());
            }
        }
        // What was given up may have arrived, or not.
        let sql = "select call_sid || ' ' || event_type from webhook_deliveries where status = 'dead'";
        let dead: HashSet<String> =
            sqlx::query_scalar(sql).fetch_all(town.store().pool()).await.unwrap().into_iter().collect();
        assert!(dead.len() < 12, "hardly anything arrives");
        for number in 0..12 {
            let call = format!("CA{number}");
            let is_owed = |kind: &&str| !dead.contains(&format!("{call} {kind}"));
            let owed: Vec<_> = ["call.started", "call.completed"].into_iter().filter(is_owed).collect();
            let mut kinds = taken.remove(&call).unwrap_or_default();
            kinds.retain(|kind| is_owed(&kind.as_str()));
            assert_eq!(kinds, owed, "{call}, seed {seed}");
        }
        let all: HashSet<_> = ids.values().collect();
        assert_eq!(all.len(), ids.len(), "no two events share an id");
    }
}

#[tokio::test]
async fn what_comes_later_in_a_call_waits_and_other_calls_do_not() {
    let town = Town::new().await;
    let receiver = Receiver::that(|body, _| {
        let fails = body["data"]["call_sid"] == "CA1" && body["type"] == "call.started";
        (if fails { 500 } else { 204 }).into()
    })
    .await;
    town.listener(&receiver.url, &[]).await;
    town.whole_call("CA1").await;
    town.whole_call("CA2").await;
    let sending = town.sender();
    town.until("select count(*) = 2 from webhook_deliveries where call_sid = 'CA2' and status = 'delivered'")
        .await;
    for attempt in 1..=4 {
        town.until(&format!(
            "select attempts >= {attempt} and lease is null from webhook_deliveries
             where call_sid = 'CA1' and event_type = 'call.started'"
        ))
        .await;
        let later = "select attempts from webhook_deliveries where call_sid = 'CA1' and event_type = 'call.completed'";
        assert_eq!(town.http.scalar::<i32>(later).await, 0);
        // Both are due, and one is sent.
        town.hurry().await;
    }
    let of_one = |it: &crate::receiver::Received| it.body["data"]["call_sid"] == "CA1";
    let came = receiver.received();
    assert!(came.iter().filter(|it| of_one(it)).all(|it| it.kind() == "call.started"));
    // Once the first one is given up, the next is sent.
    town.until_settled().await;
    sending.stop().await;
    let kinds: Vec<_> =
        receiver.received().into_iter().filter(of_one).map(|it| it.kind().to_owned()).collect();
    assert_eq!(kinds.len(), 10, "nine times the one, then the other: {kinds:?}");
    assert_eq!(kinds[9], "call.completed");
}

#[tokio::test]
async fn what_waits_for_an_event_is_sent_right_after_it_whatever_pause_that_one_had() {
    for outcome in [work::Outcome::Delivered, work::Outcome::Dead] {
        let town = Town::new().await;
        town.whole_call_waits_for_hours().await;
        let due = "update webhook_deliveries set due_at = now() where event_type = 'call.started'";
        town.http.execute(due).await;
        let first = town.claim_one().await;
        work::settle(town.store(), &first, &refused(), outcome).await.unwrap();
        assert!(town.claim_one().await.body.contains("call.completed"), "{outcome:?}");
    }
}

#[tokio::test]
async fn who_has_an_event_sent_again_has_the_later_ones_of_its_call_sent_right_after_it() {
    let town = Town::new().await;
    let first = town.whole_call_waits_for_hours().await;
    town.http.execute("update webhook_deliveries set round = 7").await;
    let path = format!("/api/webhook-deliveries/{}/replay", first.id);
    assert_eq!(town.http.post(&path, Value::Null).await.status, 202);
    town.is_as_for_the_first_time().await;
    assert_eq!(town.deliver_what_is_due().await, ["call.started", "call.completed"]);
}

#[tokio::test]
async fn who_enables_an_endpoint_or_says_where_it_is_now_has_what_waits_sent_at_once() {
    for change in [json!({"enabled": true}), json!({"url": "https://example.com/new"})] {
        let town = Town::new().await;
        let first = town.whole_call_waits_for_hours().await;
        town.http.execute("update webhook_deliveries set round = 7").await;
        let path = format!("/api/webhook-endpoints/{}", first.endpoint);
        town.http.patch(&path, change).await.data();
        town.is_as_for_the_first_time().await;
        assert_eq!(town.deliver_what_is_due().await, ["call.started", "call.completed"]);
    }
}

#[tokio::test]
async fn what_is_given_up_is_on_record_with_every_request_and_is_sent_again_with_the_same_id() {
    let town = Town::new().await;
    let receiver = Receiver::that(|_, number| match number {
        0..9 => Reply { body: "é".repeat(2000), ..500.into() },
        _ => 204.into(),
    })
    .await;
    let listener = town.listener(&receiver.url, &["call.completed"]).await;
    let sending = town.sender();
    town.whole_call("CA1").await;
    town.until_settled().await;
    let dead = town.http.get("/api/webhook-deliveries?status=dead&call_sid=CA1").await.data();
    let [dead] = &dead.as_array().unwrap()[..] else { panic!("not one: {dead}") };
    let path = format!("/api/webhook-deliveries/{}", text(&dead["id"]));
    let details = town.http.get(&path).await.data();
    assert_eq!((&details["attempts"], &details["body"]["type"]), (&9.into(), &"call.completed".into()));
    let requests = details["requests"].as_array().unwrap();
    assert_eq!(requests.len(), 9);
    for (request, number) in requests.iter().zip(1..) {
        assert_eq!((&request["attempt"], &request["status_code"]), (&number.into(), &500.into()));
        assert!((1..=1026).contains(&text(&request["response"]).len()), "a kilobyte is kept");
    }
    let endpoint = town.endpoint(listener.id).await;
    assert!(endpoint["failing_since"].is_null(), "nothing waits any more: {endpoint}");
    assert_eq!(endpoint["enabled"], true);

    let replayed = town.http.post(&format!("{path}/replay"), Value::Null).await;
    assert_eq!(replayed.status, 202, "{}", replayed.text);
    town.until("select status = 'delivered' from webhook_deliveries").await;
    sending.stop().await;
    let came = receiver.received();
    assert_eq!(came.len(), 10);
    assert!(came.iter().all(|it| it.id() == came[0].id() && it.raw == came[0].raw));
    let works = town.endpoint(listener.id).await;
    assert!(works["failing_since"].is_null() && works["last_delivered_at"].is_string());
    assert_eq!(town.http.get(&path).await.data()["requests"][9]["status_code"], 204);
}

#[tokio::test]
async fn all_that_an_endpoint_missed_is_sent_again_at_once() {
    let town = Town::new().await;
    let receiver = Receiver::that(|_, number| (if number < 18 { 500 } else { 200 }).into()).await;
    let listener = town.listener(&receiver.url, &["call.completed"]).await;
    let sending = town.sender();
    town.whole_call("CA1").await;
    town.whole_call("CA2").await;
    town.until_settled().await;
    let path = format!("/api/webhook-endpoints/{}/replay-dead", listener.id);
    let answer = town.http.post(&path, Value::Null).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["data"]["replayed"]), (202, &2.into()));
    town.until("select bool_and(status = 'delivered') from webhook_deliveries").await;
    sending.stop().await;
    assert_eq!(receiver.received().len(), 20);
    assert_eq!(town.http.post(&path, Value::Null).await.json()["data"]["replayed"], 0);
}

#[tokio::test]
async fn a_slow_endpoint_holds_up_itself_and_nobody_else() {
    let town = Town::new().await;
    let slow = Receiver::that(|_, _| Reply { after: Duration::from_secs(3), ..204.into() }).await;
    let quick = Receiver::new().await;
    town.listener(&slow.url, &["call.started"]).await;
    town.listener(&quick.url, &["call.started"]).await;
    for number in 0..12 {
        town.record(&town.call(&format!("CA{number}")), Timestamp::now(), &incoming()).await;
    }
    let sending = [town.sender(), town.sender()];
    slow.until(4).await;
    let began = Instant::now();
    quick.until(12).await;
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert!(slow.received().len() <= 4);
    slow.until(12).await;
    assert_eq!(slow.most_at_once(), 4, "of all servers together");
    for sending in sending {
        sending.stop().await;
    }
}

#[tokio::test]
async fn what_a_server_does_not_live_to_finish_is_taken_over() {
    let town = Town::new().await;
    let receiver = Receiver::that(|_, number| {
        let after = if number == 0 { Duration::from_secs(600) } else { Duration::ZERO };
        Reply { after, ..204.into() }
    })
    .await;
    town.listener(&receiver.url, &["call.started"]).await;
    let dies = town.sender();
    town.record(&town.call("CA1"), Timestamp::now(), &incoming()).await;
    receiver.until(1).await;
    drop(dies);
    let _lives = town.sender();
    // Whoever lives has looked since, and has taken what there is to be taken.
    town.record(&town.call("CA2"), Timestamp::now(), &incoming()).await;
    town.until("select status = 'delivered' from webhook_deliveries where call_sid = 'CA2'").await;
    let sql = "select attempts = 1 and due_at between now() + interval '10 seconds' and now() + interval '45 seconds'
               from webhook_deliveries where call_sid = 'CA1'";
    assert!(town.http.scalar::<bool>(sql).await, "its time is not up");
    town.expire_leases().await;
    let came = receiver.until(3).await;
    assert_eq!(came[0].id(), came[2].id());
    town.until("select status = 'delivered' and attempts = 2 from webhook_deliveries where call_sid = 'CA1'")
        .await;
}

#[tokio::test]
async fn who_was_taken_for_dead_changes_nothing_any_more() {
    let town = Town::new().await;
    town.listener("http://127.0.0.1:9/", &["call.started"]).await;
    town.record(&town.call("CA1"), Timestamp::now(), &incoming()).await;
    let first = work::claim(town.store(), 5).await.unwrap().remove(0);
    assert_eq!(work::claim(town.store(), 5).await.unwrap().len(), 0);
    town.expire_leases().await;
    let second = work::claim(town.store(), 5).await.unwrap().remove(0);
    assert_eq!((second.id, second.attempt), (first.id, 2));
    let request = refused();
    let late = work::settle(town.store(), &first, &request, work::Outcome::Dead).await.unwrap();
    assert_eq!(late, work::Settled::Lost);
    let now = work::settle(town.store(), &second, &request, work::Outcome::Delivered).await.unwrap();
    assert_eq!(now, work::Settled::Yes { endpoint_disabled: false });
    assert_eq!(town.http.scalar::<String>("select status from webhook_deliveries").await, "delivered");
}

#[tokio::test]
async fn servers_that_die_while_they_send_do_not_use_up_what_a_receiver_may_refuse() {
    let town = Town::new().await;
    town.listener("http://127.0.0.1:9/", &["call.started"]).await;
    town.record(&town.call("CA1"), Timestamp::now(), &incoming()).await;
    for attempt in 1..=20 {
        let claimed = work::claim(town.store(), 1).await.unwrap().remove(0);
        assert_eq!((claimed.attempt, claimed.round), (attempt, 1));
        town.expire_leases().await;
    }
    let claimed = work::claim(town.store(), 1).await.unwrap().remove(0);
    let retry = work::Outcome::Retry(Duration::ZERO);
    work::settle(town.store(), &claimed, &refused(), retry).await.unwrap();
    let claimed = work::claim(town.store(), 1).await.unwrap().remove(0);
    assert_eq!((claimed.attempt, claimed.round), (22, 2));
}

#[tokio::test]
async fn what_waits_at_an_endpoint_that_is_disabled_is_dead_and_can_be_sent_again() {
    let town = Town::new().await;
    let first = town.whole_call_waits_for_hours().await;
    let path = format!("/api/webhook-endpoints/{}", first.endpoint);
    let count =
        async |status: &str| town.http.count(&format!("webhook_deliveries where status = '{status}'")).await;
    town.http.patch(&path, json!({"enabled": false})).await.data();
    assert_eq!((count("pending").await, count("dead").await), (0, 2));
    // What waits at one that works is left alone.
    town.listener("https://example.com/works", &["call.started"]).await;
    town.record(&town.call("CA2"), Timestamp::now(), &incoming()).await;
    assert_eq!(tidy::give_up(town.store(), 100).await.unwrap(), 0);
    town.http.execute("delete from webhook_deliveries where call_sid = 'CA2'").await;
    // Enabled, it does not come by itself.
    town.http.patch(&path, json!({"enabled": true})).await.data();
    assert_eq!(town.deliver_what_is_due().await, [""; 0]);
    let replayed = town.http.post(&format!("{path}/replay-dead"), Value::Null).await;
    assert_eq!(replayed.json()["data"]["replayed"], 2);
    assert_eq!(town.deliver_what_is_due().await, ["call.started", "call.completed"]);
}

#[tokio::test]
async fn a_request_that_was_under_way_when_its_endpoint_was_disabled_is_the_last() {
    for (outcome, status) in
        [(work::Outcome::Delivered, "delivered"), (work::Outcome::Retry(Duration::from_secs(5)), "dead")]
    {
        let town = Town::new().await;
        let listener = town.listener("https://example.com/", &["call.started", "call.completed"]).await;
        town.whole_call("CA1").await;
        let claimed = town.claim_one().await;
        let path = format!("/api/webhook-endpoints/{}", listener.id);
        town.http.patch(&path, json!({"enabled": false})).await.data();
        let settled = work::settle(town.store(), &claimed, &refused(), outcome).await.unwrap();
        assert_eq!(settled, work::Settled::Yes { endpoint_disabled: false });
        let statuses: Vec<String> =
            sqlx::query_scalar("select status from webhook_deliveries order by position")
                .fetch_all(town.store().pool())
                .await
                .unwrap();
        assert_eq!(statuses, [status, "dead"]);
    }
}

#[tokio::test]
async fn what_a_server_did_not_live_to_send_before_the_endpoint_was_disabled_is_given_up_by_another() {
    let town = Town::new().await;
    let listener = town.listener("https://example.com/", &["call.started"]).await;
    town.record(&town.call("CA1"), Timestamp::now(), &incoming()).await;
    town.claim_one().await;
    town.http
        .patch(&format!("/api/webhook-endpoints/{}", listener.id), json!({"enabled": false}))
        .await
        .data();
    assert_eq!(tidy::give_up(town.store(), 100).await.unwrap(), 0, "it may be under way");
    town.expire_leases().await;
    assert_eq!(tidy::give_up(town.store(), 100).await.unwrap(), 1);
    assert_eq!(town.http.count("webhook_deliveries where status = 'dead'").await, 1);
}

#[tokio::test]
async fn an_endpoint_that_is_gone_is_sent_nothing_more_and_says_why() {
    let (town, receiver) = (Town::new().await, Receiver::that(|_, _| 410.into()).await);
    let listener = town.listener(&receiver.url, &["call.started"]).await;
    let sending = town.sender();
    town.record(&town.call("CA1"), Timestamp::now(), &incoming()).await;
    town.until("select not enabled from webhook_endpoints").await;
    town.record(&town.call("CA2"), Timestamp::now(), &incoming()).await;
    sending.stop().await;
    assert_eq!(receiver.received().len(), 1);
    assert_eq!(town.http.count("webhook_deliveries").await, 1);
    let endpoint = town.endpoint(listener.id).await;
    assert!(text(&endpoint["disabled_reason"]).contains("410"));
    let delivery: uuid::Uuid =
        town.http.scalar("select id from webhook_deliveries where status = 'dead'").await;
    let refused = town.http.post(&format!("/api/webhook-deliveries/{delivery}/replay"), Value::Null).await;
    refused.is_error(409, "endpoint_disabled");
    let refused =
        town.http.post(&format!("/api/webhook-endpoints/{}/replay-dead", listener.id), Value::Null).await;
    refused.is_error(409, "endpoint_disabled");
}

#[tokio::test]
async fn an_endpoint_that_took_nothing_for_three_days_is_disabled_and_not_before() {
    let town = Town::new().await;
    let listener = town.listener("https://example.com/", &["call.started"]).await;
    for (number, hours, last_hours, is_disabled) in [
        (1, 71, 1, false),
        // Nothing was tried meanwhile: it begins anew.
        (2, 73, 25, false),
        (3, 73, 23, true),
    ] {
        town.has_failed(hours, last_hours).await;
        town.record(&town.call(&format!("CA{number}")), Timestamp::now(), &incoming()).await;
        let claimed = town.claim_one().await;
        let retry = work::Outcome::Retry(Duration::from_secs(3600));
        let settled = work::settle(town.store(), &claimed, &refused(), retry).await.unwrap();
        assert_eq!(
            settled,
            work::Settled::Yes { endpoint_disabled: is_disabled },
            "{hours} h, {last_hours} h"
        );
        assert_eq!(town.endpoint(listener.id).await["enabled"], !is_disabled, "{hours} h, {last_hours} h");
        let anew = "select failing_since > now() - interval '1 minute' from webhook_endpoints";
        assert_eq!(town.http.scalar::<bool>(anew).await, last_hours > 24, "{hours} h, {last_hours} h");
    }
    assert!(text(&town.endpoint(listener.id).await["disabled_reason"]).contains("three days"));
    let left = town.http.count("webhook_deliveries where status = 'pending'").await;
    assert_eq!(left, 0, "nobody would ever send it");
}

#[tokio::test]
async fn a_quiet_endpoint_that_fails_twice_in_a_week_goes_on() {
    let town = Town::new().await;
    let listener = town.listener("https://example.com/", &["call.started"]).await;
    for number in 0..2 {
        // The one before was given up, and nothing came since.
        town.http
            .execute(
                "update webhook_endpoints
                 set failing_since = failing_since - interval '4 days', last_failed_at = last_failed_at - interval '4 days'",
            )
            .await;
        town.record(&town.call(&format!("CA{number}")), Timestamp::now(), &incoming()).await;
        let retried = town.claim_one().await;
        let retry = work::Outcome::Retry(Duration::ZERO);
        work::settle(town.store(), &retried, &refused(), retry).await.unwrap();
        assert!(town.endpoint(listener.id).await["failing_since"].is_string(), "it is known to fail");
        let given_up = town.claim_one().await;
        let settled = work::settle(town.store(), &given_up, &refused(), work::Outcome::Dead).await.unwrap();
        assert_eq!(settled, work::Settled::Yes { endpoint_disabled: false });
        let endpoint = town.endpoint(listener.id).await;
        assert_eq!((&endpoint["enabled"], &endpoint["failing_since"]), (&json!(true), &Value::Null));
    }
}

#[tokio::test]
async fn an_endpoint_that_has_moved_is_not_judged_by_its_old_address() {
    let town = Town::new().await;
    let listener = town.listener("https://example.com/old", &["call.started"]).await;
    let path = format!("/api/webhook-endpoints/{}", listener.id);
    town.has_failed(100, 1).await;
    let same = town.http.patch(&path, json!({"url": "https://example.com/old"})).await.data();
    assert!(same["failing_since"].is_string());
    let moved = town.http.patch(&path, json!({"url": "https://example.com/new"})).await.data();
    assert!(moved["failing_since"].is_null());
}

#[tokio::test]
async fn a_receiver_that_asks_for_time_is_given_it() {
    let town = Town::new().await;
    let receiver =
        Receiver::that(|_, _| Reply { headers: vec![("retry-after", "600".to_owned())], ..429.into() }).await;
    town.listener(&receiver.url, &["call.started"]).await;
    let sending = town.sender();
    town.record(&town.call("CA1"), Timestamp::now(), &incoming()).await;
    receiver.until(1).await;
    town.until("select lease is null and attempts = 1 from webhook_deliveries").await;
    sending.stop().await;
    let sql = "select due_at between now() + interval '9 minutes' and now() + interval '11 minutes' from webhook_deliveries";
    assert!(town.http.scalar::<bool>(sql).await);
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_a_long_answer_not_read_to_its_end() {
    let (town, elsewhere) = (Town::new().await, Receiver::new().await);
    let to = elsewhere.url.clone();
    let receiver = Receiver::that(move |_, number| {
        if number == 0 {
            Reply { headers: vec![("location", to.clone())], ..307.into() }
        } else {
            Reply { body: "x".repeat(32 << 20), ..200.into() }
        }
    })
    .await;
    town.listener(&receiver.url, &["call.started"]).await;
    let sending = town.sender();
    town.record(&town.call("CA1"), Timestamp::now(), &incoming()).await;
    receiver.until(1).await;
    town.until_settled().await;
    sending.stop().await;
    assert_eq!((receiver.received().len(), elsewhere.received().len()), (2, 0));
    let kept: Vec<i32> = sqlx::query_scalar(
        "select octet_length(coalesce(response, '')) from webhook_attempts order by attempt",
    )
    .fetch_all(town.store().pool())
    .await
    .unwrap();
    assert_eq!(kept, [0, 1024]);
}

#[tokio::test]
async fn what_was_delivered_a_month_ago_is_forgotten_and_never_told_again() {
    let town = Town::new().await;
    town.listener("https://example.com/", &["call.completed"]).await;
    for number in 0..3 {
        town.whole_call(&format!("CA{number}")).await;
    }
    town.http
        .execute(
            "update webhook_deliveries set status = 'delivered', settled_at = now() - interval '31 days' where call_sid = 'CA0';
             update webhook_deliveries set status = 'delivered', settled_at = now() - interval '29 days' where call_sid = 'CA1'",
        )
        .await;
    assert_eq!(tidy::forget(town.store(), 100).await.unwrap(), 1);
    assert_eq!(town.http.count("webhook_deliveries").await, 2);
    // The same call, as if it had been then: its event is known to nobody any more.
    let then = Timestamp::now().checked_sub(jiff::SignedDuration::from_hours(30 * 24)).unwrap();
    town.http.execute("update webhook_endpoints set listens_since = now() - interval '1 year'").await;
    let call = town.call("CA9");
    town.record(&call, then, &incoming()).await;
    town.record(&call, then, &ended(EndReason::AgentEnded)).await;
    assert_eq!(town.http.count("webhook_deliveries").await, 2);
}

#[tokio::test]
async fn all_that_nobody_waits_for_goes_however_little_is_done_at_a_time() {
    let town = Town::new().await;
    let removed = town.listener("https://example.com/removed", &["call.started"]).await;
    let disabled = town.listener("https://example.com/disabled", &["call.started"]).await;
    let works = town.listener("https://example.com/works", &["call.started"]).await;
    for number in 0..3 {
        town.record(&town.call(&format!("CA{number}")), Timestamp::now(), &incoming()).await;
    }
    town.http.delete(&format!("/api/webhook-endpoints/{}", removed.id)).await;
    // As when more waited than is given up at once.
    let sql = format!(
        "update webhook_endpoints set enabled = false, disabled_at = now() where id = '{}';
         update webhook_deliveries set status = 'delivered', settled_at = now() - interval '31 days' where endpoint_id = '{}'",
        disabled.id, works.id
    );
    town.http.execute(&sql).await;
    let rotate = format!("/api/webhook-endpoints/{}/rotate-secret", works.id);
    town.http.post(&rotate, Value::Null).await.data();
    tidy::all(town.store(), 1).await.unwrap();
    let previous = "webhook_endpoints where previous_secret is not null";
    assert_eq!(town.http.count(previous).await, 1, "it still signs");
    town.http
        .execute(
            "update webhook_endpoints set previous_secret_until = now() where previous_secret is not null",
        )
        .await;
    tidy::all(town.store(), 1).await.unwrap();
    assert_eq!(town.http.count(previous).await, 0);
    assert_eq!(town.http.count("webhook_endpoints").await, 2);
    assert_eq!(town.http.count("webhook_deliveries").await, 3);
    let left = format!("webhook_deliveries where status = 'dead' and endpoint_id = '{}'", disabled.id);
    assert_eq!(town.http.count(&left).await, 3);
}

#[tokio::test]
async fn a_server_that_is_stopped_finishes_what_it_has_begun_and_begins_nothing() {
    let town = Town::new().await;
    let receiver = Receiver::that(|_, _| Reply { after: Duration::from_millis(400), ..204.into() }).await;
    town.listener(&receiver.url, &["call.started", "call.completed"]).await;
    let sending = town.sender();
    town.whole_call("CA1").await;
    receiver.until(1).await;
    sending.stop().await;
    let statuses: Vec<String> = sqlx::query_scalar("select status from webhook_deliveries order by position")
        .fetch_all(town.store().pool())
        .await
        .unwrap();
    assert_eq!(statuses, ["delivered", "pending"]);
    assert!(town.http.metrics.encode().contains("voicebridge_webhooks_sent_total{result=\"delivered\"} 1"));
}

#[tokio::test]
async fn whoever_waits_for_a_delivery_that_is_under_way_is_told_so() {
    let town = Town::new().await;
    town.listener("http://127.0.0.1:9/", &["call.started"]).await;
    town.record(&town.call("CA1"), Timestamp::now(), &incoming()).await;
    let claimed = work::claim(town.store(), 1).await.unwrap().remove(0);
    let replayed = deliveries::replay(town.store(), town.organization(), claimed.id).await.unwrap();
    assert_eq!(replayed, Err(deliveries::Refused::UnderWay));
}

#[tokio::test]
async fn an_endpoint_that_is_removed_is_seen_no_more_and_its_rows_are_deleted_a_part_at_a_time() {
    let town = Town::new().await;
    let removed = town.listener("https://example.com/removed", &["call.started"]).await;
    let stays = town.listener("https://example.com/stays", &["call.started"]).await;
    for number in 0..5 {
        town.record(&town.call(&format!("CA{number}")), Timestamp::now(), &incoming()).await;
    }
    let sql = format!("select id from webhook_deliveries where endpoint_id = '{}' limit 1", removed.id);
    let delivery: uuid::Uuid = town.http.scalar(&sql).await;
    let path = format!("/api/webhook-endpoints/{}", removed.id);
    assert_eq!(town.http.delete(&path).await.status, 204);

    let kept = town.http.scalar::<bool>("select bool_or(secret = '') from webhook_endpoints").await;
    assert!(kept, "its secret is gone at once");
    let endpoints = town.http.get("/api/webhook-endpoints").await.json();
    assert_eq!(
        (&endpoints["pagination"]["total"], &endpoints["data"][0]["id"]),
        (&1.into(), &json!(stays.id))
    );
    let deliveries = town.http.get("/api/webhook-deliveries").await.json();
    assert_eq!(deliveries["pagination"]["total"], 5);
    let delivery = format!("/api/webhook-deliveries/{delivery}");
    for answer in [
        town.http.get(&path).await,
        town.http.patch(&path, json!({"enabled": true})).await,
        town.http.delete(&path).await,
        town.http.post(&format!("{path}/rotate-secret"), Value::Null).await,
        town.http.post(&format!("{path}/ping"), Value::Null).await,
        town.http.post(&format!("{path}/replay-dead"), Value::Null).await,
        town.http.get(&delivery).await,
        town.http.post(&format!("{delivery}/replay"), Value::Null).await,
    ] {
        answer.is_error(404, "not_found");
    }
    town.record(&town.call("CA9"), Timestamp::now(), &incoming()).await;
    assert_eq!(town.http.count("webhook_deliveries").await, 11, "nothing is told there");

    let mut deleted = Vec::new();
    while deleted.last() != Some(&0) {
        deleted.push(tidy::delete(town.store(), 2).await.unwrap());
    }
    assert_eq!(deleted, [2, 2, 1, 0]);
    assert_eq!(town.http.count("webhook_endpoints").await, 1);
    assert_eq!(town.http.count("webhook_deliveries").await, 6, "those of the other one stay");
}

#[tokio::test]
async fn what_happens_to_a_call_is_on_record_whatever_is_done_to_who_is_told() {
    let town = Town::new().await;
    let removed = town.listener("https://example.com/removed", &["call.started", "call.completed"]).await;
    town.listener("https://example.com/stays", &["call.started", "call.completed"]).await;
    let call = town.call("CA1");
    town.record(&call, Timestamp::now(), &incoming()).await;
    // Somebody removes one, and changes all that is to be sent, and takes their time.
    let mut slow = town.store().pool().begin().await.unwrap();
    sqlx::query("select from webhook_endpoints where id = $1 for update")
        .bind(removed.id)
        .execute(&mut *slow)
        .await
        .unwrap();
    sqlx::query("update webhook_deliveries set round = 1").execute(&mut *slow).await.unwrap();
    town.record(&call, Timestamp::now(), &ended(EndReason::AgentEnded)).await;
    slow.rollback().await.unwrap();
    assert_eq!(town.http.scalar::<String>("select status from call_logs").await, "completed");
    let sql = "select count(*) from webhook_deliveries where event_type = 'call.completed'";
    assert_eq!(town.http.scalar::<i64>(sql).await, 1, "the one that nobody removes is told");
}

/// A request that the receiver did not take.
fn refused() -> work::Request {
    work::Request {
        at: Timestamp::now(),
        took: Duration::from_secs(1),
        status_code: Some(500),
        error: None,
        response: None,
    }
}

impl Town {
    /// Nothing was taken for so long, and the last try was then.
    async fn has_failed(&self, hours: u32, last_hours: u32) {
        let sql = format!(
            "update webhook_endpoints
             set failing_since = now() - interval '{hours} hours', last_failed_at = now() - interval '{last_hours} hours'"
        );
        self.http.execute(&sql).await;
    }

    async fn claim_one(&self) -> work::Claimed {
        let mut claimed = work::claim(self.store(), 10).await.unwrap();
        assert_eq!(claimed.len(), 1);
        claimed.remove(0)
    }

    /// A call whose first event was refused, so that all of them wait for half a day.
    async fn whole_call_waits_for_hours(&self) -> work::Claimed {
        self.listener("https://example.com/", &["call.started", "call.completed"]).await;
        self.whole_call("CA1").await;
        let first = self.claim_one().await;
        let retry = work::Outcome::Retry(Duration::from_secs(12 * 3600));
        work::settle(self.store(), &first, &refused(), retry).await.unwrap();
        let sql = "select count(*) from webhook_deliveries where due_at > now() + interval '11 hours'";
        assert_eq!(self.http.scalar::<i64>(sql).await, 2);
        first
    }

    async fn is_as_for_the_first_time(&self) {
        let sql = "select bool_and(due_at <= now() and round = 0) from webhook_deliveries";
        assert!(self.http.scalar::<bool>(sql).await);
    }

    async fn endpoint(&self, id: uuid::Uuid) -> Value {
        self.http.get(&format!("/api/webhook-endpoints/{id}")).await.data()
    }
}
