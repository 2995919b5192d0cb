//! Three nodes work off a campaign, and one of them dies in the middle of it. What was dialed is told by the carrier.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Time;
use jiff::tz::TimeZone;
use secrecy::SecretString;
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::time::{Instant, sleep};
use voicebridge::app::install_tls;
use voicebridge::simulate::balancer::Balancer;
use voicebridge::simulate::carrier::{
    CallLog, Carrier, CarrierOptions, CarrierReport, Fault, Faults, People, Person,
};
use voicebridge::simulate::model::{ModelOptions, ModelServer, Replies};
use voicebridge::store::Store;
use voicebridge::store::cluster::PrivateCluster;

use crate::node::{Node, TOKEN};

const LEADS: usize = 500;
const ACCOUNT: &str = "AC00000000000000000000000000000001";
const OUR_NUMBER: &str = "+14155550100";
/// Calls a second, and at a time.
const CPS: u32 = 20;
const MOST_CALLS: usize = 25;
/// Of one lead on one day of its own.
const MOST_A_DAY: usize = 2;
/// Hours of the campaign, where the lead is.
const OPENS: Time = Time::constant(10, 0, 0, 0);
const CLOSES: Time = Time::constant(15, 0, 0, 0);
/// Of those who do not want to be called, so many have said so before the campaign is filled.
const EARLY: usize = 8;
/// Of all calls, when a node dies.
const FAULT_AFTER: usize = 150;
/// A try whose node died is looked for at the carrier after half a minute, and given up after a minute and a half.
const DONE_WITHIN: Duration = Duration::from_secs(420);

/// What is known of a lead outside the system.
struct Lead {
    phone: String,
    zone: Option<String>,
    is_on_do_not_call: bool,
    /// It is noon where it is, and it may be called.
    is_due: bool,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_campaign_of_500_leads_dials_each_try_once_at_most_although_one_of_three_nodes_dies() {
    let _alone = crate::ALONE.lock().await;
    let mut house = House::start().await;
    let leads = leads(Timestamp::now());
    let campaign = house.create_campaign(&leads).await;
    house.post(&format!("/api/campaigns/{campaign}/activate"), json!({})).await;

    house
        .until("the campaign is in full swing", async |house| {
            house.carrier.report().calls.len() >= FAULT_AFTER
        })
        .await;
    house.balancer.cut(house.nodes[0].server.addr);
    house.nodes[0].server.kill().await.unwrap();
    let killed_at = Timestamp::now();
    house.until("nothing is left to do today", async |house| house.open_rows().await == 0).await;
    house
        .until("no call goes on", async |house| {
            house.count("select count(*) from call_attempts where status <> 'ended'").await == 0
        })
        .await;

    let report = house.carrier.report();
    check_what_was_dialed(&report, &leads);
    let after = report.outbound().filter(|call| call.asked_at > killed_at).count();
    assert!(after > 100, "the other nodes go on: {after} calls");
    house.check_records(&report, campaign, &leads).await;
    house.stop().await;
}

/// By the carrier's own log: each try once, every lead in its hours and not too often, nobody who must not be called.
fn check_what_was_dialed(report: &CarrierReport, leads: &[Lead]) {
    // Of the node that died: what it could not answer, and streams that broke, whole or while they opened.
    let is_of_dead_node = |violation: &&String| violation.starts_with("11200") || violation.contains(": 319");
    let (of_dead_node, others): (Vec<_>, Vec<_>) = report.violations.iter().partition(is_of_dead_node);
    assert_eq!(others, Vec::<&String>::new());
    assert!(of_dead_node.len() <= 2 * MOST_CALLS, "{of_dead_node:?}");
    assert_eq!(report.repeated_attempts(), BTreeMap::new(), "each try is dialed at most once");
    assert!(report.most_at_once() <= MOST_CALLS, "{} at once", report.most_at_once());
    let known: BTreeMap<&str, &Lead> = leads.iter().map(|lead| (lead.phone.as_str(), lead)).collect();
    let mut a_day = BTreeMap::<(&str, jiff::civil::Date), usize>::new();
    for call in report.outbound() {
        let lead = known[call.to.as_str()];
        assert!(!lead.is_on_do_not_call, "{call:?}");
        let zone = TimeZone::get(lead.zone.as_deref().expect("nobody knows what time it is there")).unwrap();
        let there = zone.to_datetime(call.asked_at);
        assert!(there.time() >= OPENS && there.time() < CLOSES, "{there} for {call:?}");
        *a_day.entry((&call.to, there.date())).or_default() += 1;
    }
    assert!(a_day.values().all(|calls| *calls <= MOST_A_DAY), "{a_day:?}");
    let reached: BTreeSet<&str> = report.outbound().map(|call| call.to.as_str()).collect();
    let due = leads.iter().filter(|lead| lead.is_due).map(|lead| lead.phone.as_str());
    assert_eq!(reached, due.collect(), "everybody who may be called was, and nobody else");
}

/// A zone in which it is noon now, or a little later.
fn home(now: Timestamp) -> String {
    zone(12 - i32::from(now.to_zoned(TimeZone::UTC).hour()))
}

/// The zone so many hours east of Greenwich.
// Their names have the sign of POSIX: Etc/GMT-2 is two hours ahead.
fn zone(east: i32) -> String {
    match east {
        0 => "Etc/GMT".into(),
        east => format!("Etc/GMT{:+}", -east),
    }
}

/// Most are where it is noon. For some it is too late or too early, of some nobody knows, and some do not want it.
fn leads(now: Timestamp) -> Vec<Lead> {
    let hour = i32::from(now.to_zoned(TimeZone::UTC).hour());
    let home = home(now);
    // Five hours on or back, whichever there is a zone for.
    let elsewhere = zone(if hour <= 10 { 12 - hour - 5 } else { 12 - hour + 5 });
    let lead = |n| {
        let zone = match n % 20 {
            0 | 10 => Some(elsewhere.clone()),
            1 => None,
            _ => Some(home.clone()),
        };
        let is_on_do_not_call = n % 25 == 7;
        let is_due = zone.as_ref() == Some(&home) && !is_on_do_not_call;
        Lead { phone: format!("+1415556{n:04}"), zone, is_on_do_not_call, is_due }
    };
    (0..LEADS).map(lead).collect()
}

struct House {
    balancer: Balancer,
    nodes: Vec<Node>,
    carrier: Carrier,
    model: ModelServer,
    pool: PgPool,
    cluster: PrivateCluster,
    http: reqwest::Client,
}

impl House {
    async fn start() -> Self {
        install_tls();
        let model =
            ModelOptions { replies: Replies::Tones { min_ms: 500, max_ms: 1000 }, ..ModelOptions::default() };
        let model = ModelServer::on_any_port(model).await.unwrap();
        let cluster = PrivateCluster::start_throwaway().await.unwrap();
        let store = Store::connect(cluster.connect_options(), 2).await.unwrap();
        store.migrate().await.unwrap();
        store.close().await;
        let carrier = Carrier::bind(carrier_options(), ([127, 0, 0, 1], 0).into()).await.unwrap();
        let balancer = Balancer::start().await.unwrap();
        let mut nodes = Vec::new();
        for _ in 0..3 {
            let settings = vec![
                ("TWILIO_ACCOUNT_SID", ACCOUNT.to_owned()),
                ("TWILIO_API_URL", carrier.url()),
                ("VOICEBRIDGE_DIAL_CPS", CPS.to_string()),
                ("VOICEBRIDGE_DIAL_MAX_CALLS", MOST_CALLS.to_string()),
            ];
            let public_url = format!("http://{}", balancer.addr());
            let node = Node::start_with(Some(public_url), cluster.url(), model.url(), settings).await;
            balancer.add(node.server.addr);
            nodes.push(node);
        }
        let pool = PgPool::connect_with(cluster.connect_options()).await.unwrap();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { balancer, nodes, carrier, model, pool, cluster, http }
    }

    async fn create_campaign(&self, leads: &[Lead]) -> String {
        let agents = self.get("/api/agents").await;
        let agent = agents["data"][0]["id"].clone();
        self.post(
            "/api/phone-numbers",
            json!({"number": OUR_NUMBER, "agent_id": agent, "label": "outbound"}),
        )
        .await;
        let created = self
            .post(
                "/api/campaigns",
                json!({
                    "name": "Spring",
                    "agent_id": agent,
                    "time_start": "10:00",
                    "time_end": "15:00",
                    "max_attempts": 3,
                    "max_attempts_per_day": MOST_A_DAY,
                    "max_concurrent_calls": MOST_CALLS,
                    "retry_delays_s": {"busy": 5, "no_answer": 5, "failed": 5, "not_placed": 5},
                    "voicemail_policy": "hang_up",
                    "ring_timeout_s": 20,
                }),
            )
            .await;
        let campaign = created["data"]["id"].as_str().unwrap().to_owned();
        // Some have said so before the campaign was filled, the others at the last moment, so that only whoever dials finds out.
        let mut unwilling = leads.iter().filter(|lead| lead.is_on_do_not_call);
        for lead in unwilling.by_ref().take(EARLY) {
            self.post("/api/do-not-call", json!({"number": lead.phone, "reason": "asked us"})).await;
        }
        let mut csv = "name,phone,time_zone\n".to_owned();
        for (n, lead) in leads.iter().enumerate() {
            writeln!(csv, "Lead {n},{},{}", lead.phone, lead.zone.as_deref().unwrap_or_default()).unwrap();
        }
        let request = self.request(reqwest::Method::POST, &format!("/api/campaigns/{campaign}/leads.csv"));
        let answer = request.header("content-type", "text/csv").body(csv).send().await.unwrap();
        let answer: Value = answer.error_for_status().unwrap().json().await.unwrap();
        let zoneless = leads.iter().filter(|lead| lead.zone.is_none()).count();
        let skipped = &answer["data"]["skipped_total"];
        assert_eq!(
            *skipped,
            EARLY + zoneless,
            "who must not be called is not taken into the queue: {answer}"
        );
        let late: Vec<&str> = unwilling.map(|lead| lead.phone.as_str()).collect();
        sqlx::query("insert into do_not_call (organization_id, number) select organisations.id, unnest($1::text[]) from organisations")
            .bind(&late)
            .execute(&self.pool)
            .await
            .unwrap();
        campaign
    }

    /// What the records say is what the carrier says.
    async fn check_records(&self, report: &CarrierReport, campaign: String, leads: &[Lead]) {
        assert_eq!(self.count("select count(*) from call_queue where status = 'processing'").await, 0);
        let rows: Vec<(Option<String>, String, String)> =
            sqlx::query_as("select call_sid, outcome, to_number from call_attempts where status = 'ended'")
                .fetch_all(&self.pool)
                .await
                .unwrap();
        let outcomes: BTreeMap<&str, &str> =
            rows.iter().filter_map(|(sid, outcome, _)| Some((sid.as_deref()?, outcome.as_str()))).collect();
        for call in report.outbound() {
            let on_record = outcomes.get(call.sid.as_str()).copied();
            assert_eq!(on_record, Some(outcome(call)), "{call:?}");
        }
        assert_eq!(outcomes.len(), report.outbound().count(), "no call is on record that was not made");
        let blocked =
            "select count(*) from call_queue where status = 'failed' and last_error like 'blocked_by_rule%'";
        let late = leads.iter().filter(|lead| lead.is_on_do_not_call).skip(EARLY).count();
        assert_eq!(
            self.count(blocked).await as usize,
            late,
            "who said so later is not called either, and why"
        );

        let shown = self.get(&format!("/api/campaigns/{campaign}")).await["data"].clone();
        let answered = report.outbound().filter(|call| call.answered_at.is_some()).count();
        assert_eq!(shown["total_calls"], report.outbound().count(), "{shown}");
        assert_eq!(shown["answered_calls"], answered, "{shown}");
        let recount = "select count(*) from call_logs where campaign_id is not null";
        assert_eq!(self.count(recount).await as usize, report.outbound().count());
    }

    /// Rows that may still be dialed today.
    async fn open_rows(&self) -> i64 {
        self.count("select count(*) from call_queue where status = 'processing' or (status = 'queued' and next_retry_at < now() + interval '10 minutes')").await
    }

    async fn count(&self, query: &'static str) -> i64 {
        sqlx::query_scalar(query).fetch_one(&self.pool).await.unwrap()
    }

    async fn until(&self, what: &str, mut is_so: impl AsyncFnMut(&Self) -> bool) {
        let deadline = Instant::now() + DONE_WITHIN;
        while !is_so(self).await {
            assert!(Instant::now() < deadline, "not so in time: {what}");
            sleep(Duration::from_millis(200)).await;
        }
    }

    fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        // The first one dies; this one does not.
        let server = &self.nodes[1].server;
        self.http.request(method, format!("http://{}{path}", server.addr)).bearer_auth(&server.admin_key)
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        let answer = self.request(reqwest::Method::POST, path).json(&body).send().await.unwrap();
        let (status, body) = (answer.status(), answer.text().await.unwrap());
        assert!(status.is_success(), "{path}: {status} {body}");
        serde_json::from_str(&body).unwrap()
    }

    async fn get(&self, path: &str) -> Value {
        let answer = self.request(reqwest::Method::GET, path).send().await.unwrap();
        answer.error_for_status().unwrap().json().await.unwrap()
    }

    async fn stop(self) {
        for node in self.nodes.into_iter().skip(1) {
            node.stop().await;
        }
        self.pool.close().await;
        drop(self.carrier.stop());
        self.model.stop().await;
        self.cluster.stop().await.unwrap();
    }
}

fn carrier_options() -> CarrierOptions {
    let people = People {
        rules: Vec::new(),
        mix: vec![
            (5, Person::HangsUp { after_ms: 1500 }),
            (2, Person::Busy),
            (2, Person::NoAnswer),
            (1, Person::Voicemail { greeting_ms: 3000 }),
            (1, Person::Failed { sip: 404 }),
        ],
    };
    CarrierOptions {
        cps: f64::from(CPS) * 2.0,
        pace: 0.1,
        people,
        faults: Faults {
            shares: vec![
                (0.01, Fault::TooMany),
                (0.02, Fault::LostAfter),
                (0.01, Fault::ErrorAfter),
                (0.01, Fault::LostBefore),
            ],
            ..Faults::default()
        },
        ..CarrierOptions::new(ACCOUNT, SecretString::from(TOKEN))
    }
}

/// What a try that ended so is on record as.
fn outcome(call: &CallLog) -> &'static str {
    match (call.status, call.answered_by) {
        ("completed", Some(by)) if by.starts_with("machine") => "voicemail",
        ("completed", _) => "answered",
        ("busy", _) => "busy",
        ("no-answer", _) => "no_answer",
        ("canceled", _) => "canceled",
        _ => "failed",
    }
}
