//! Fifty calls whose model sessions break again and again: nobody is dropped, nothing is lost, done twice or said twice.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use voicebridge::simulate::caller::{CallReport, run_many};
use voicebridge::simulate::model::script::{FunctionCall, Reply, Rule, Script, Speech, When};
use voicebridge::simulate::model::{
    Faults, ItemReport, ModelOptions, ModelReport, SessionReport, Transcripts,
};
use voicebridge::simulate::scenario::{Scenario, Step, Utterance};
use wiremock::matchers::path;
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::world::World;

const CALLS: usize = 50;
/// From the model to the bridge, on a busy machine.
const ON_ITS_WAY_MS: f64 = 200.0;
/// From the end of the caller's turn to its text.
const WRITTEN_AFTER_MS: f64 = 600.0;
/// So often each call loses its session, at least.
const CUTS: usize = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_calls_whose_sessions_break_five_times_each_at_random_moments_go_on_within_a_second() {
    let _alone = crate::ALONE.lock().await;
    let shop = MockServer::start().await;
    Mock::given(path("/orders"))
        .respond_with(
            ResponseTemplate::new(200).set_body_string("ready").set_delay(Duration::from_millis(200)),
        )
        .mount(&shop)
        .await;
    let faults = Faults { drop_after_ms: Some(3_000), drop_jitter_ms: 4_000, ..Faults::default() };
    let transcripts = Transcripts { delay_ms: WRITTEN_AFTER_MS as u64, ..Transcripts::default() };
    let model = ModelOptions { faults, transcripts, script: script(), ..ModelOptions::default() };
    let world = World::start(model, &[("AUDIO_FORMAT", "pcmu")]).await;
    let tool = json!([{
        "name": "order_status", "description": "Looks an order up.", "url": format!("{}/orders", shop.uri()),
        "parameters": {"type": "object"},
    }]);
    let change = format!("update agents set tools = '{tool}' where is_default");
    sqlx::query(AssertSqlSafe(change)).execute(world.running.store.pool()).await.unwrap();

    let calls = run_many(CALLS, Duration::from_millis(100), &world.call(conversation())).await;
    for call in &calls {
        assert_eq!(world.reason(&call.call_sid).await, "caller_hung_up", "{call:?}");
        assert_eq!((call.streams.len(), &call.violations), (1, &Vec::new()), "{call:?}");
    }
    let report = world.model.report();
    let numbers = world.running.metrics.encode();
    let count = |series: &str| -> u64 {
        let value = numbers.lines().find_map(|line| line.strip_prefix(&format!("voicebridge_{series} ")));
        value.unwrap_or_else(|| panic!("no {series}")).parse().unwrap()
    };

    // Everybody goes on, within a second in nineteen of twenty.
    let (gaps, short) = (count("model_gap_seconds_count"), count(r#"model_gap_seconds_bucket{le="1.0"}"#));
    assert_eq!(gaps, count("reconnects_total"));
    assert!(short * 100 >= gaps * 95, "{short} of {gaps} gaps are at most a second");
    eprintln!("{gaps} sessions were lost; {short} calls were without one for at most a second");
    for within in ["0.1", "0.2", "0.3", "0.5"] {
        eprintln!("{within} s: {}", count(&format!(r#"model_gap_seconds_bucket{{le="{within}"}}"#)));
    }
    for session in &report.sessions {
        assert_eq!(session.violations, Vec::<String>::new(), "{session:?}");
    }

    // No function runs twice, and none is forgotten.
    let requests: Vec<Value> =
        shop.received_requests().await.unwrap().iter().map(|request| request.body_json().unwrap()).collect();
    let asked: BTreeSet<&str> = requests.iter().map(|body| body["tool_call_id"].as_str().unwrap()).collect();
    assert_eq!(asked.len(), requests.len(), "a function was run twice");

    let owners = owners(&report);
    let (mut greeted, mut asked_in_all) = (0, 0);
    for call in &calls {
        let rows = world.transcript(&call.call_sid).await;
        let functions = rows.iter().filter(|row| row["role"] == "tool").count();
        let ran = requests.iter().filter(|body| body["call_sid"] == call.call_sid.as_str()).count();
        assert_eq!(functions, ran, "{rows:#?}");
        let questions = call.utterances.len();
        assert!(ran <= questions, "{ran} functions for {questions} questions");
        asked_in_all += questions;
        greeted += check_transcript(call, &rows, &report, &owners);
    }
    assert_eq!(greeted, CALLS, "nobody is greeted twice");
    let everything: BTreeSet<String> = on_record(&world).await;
    for session in &report.sessions {
        let certain = session.items.iter().filter(|item| is_turn(item) && has_arrived(item, session));
        let lost: Vec<_> = certain.filter(|item| !everything.contains(&item.id)).collect();
        assert!(lost.is_empty(), "not on record: {lost:?}");
    }
    // Of some the words are lost with the session that was writing them down, so that the answer needs no function.
    let ran = requests.len();
    assert!(ran * 2 >= asked_in_all, "{ran} functions for {asked_in_all} questions");
    world.stop().await;
}

/// Every turn of every call.
async fn on_record(world: &World) -> BTreeSet<String> {
    let items = "select item_id from conversation_transcripts";
    let items: Vec<String> = sqlx::query_scalar(items).fetch_all(world.running.store.pool()).await.unwrap();
    items.into_iter().collect()
}

/// What was on its way when the connection broke nobody has heard of, and the caller's words that are not written down by
/// then are heard again by the next session.
fn has_arrived(item: &ItemReport, session: &SessionReport) -> bool {
    let complete_ms = if item.role.as_deref() == Some("user") { WRITTEN_AFTER_MS } else { 0.0 };
    item.at_ms + complete_ms < session.lasted_ms - ON_ITS_WAY_MS
}

/// Which session an item is of; those that tell what was said before are of none.
fn owners(report: &ModelReport) -> BTreeMap<&str, usize> {
    let items = report.sessions.iter().enumerate();
    items
        .flat_map(|(number, session)| session.items.iter().map(move |item| (item.id.as_str(), number)))
        .filter(|(id, _)| id.starts_with("item_"))
        .collect()
}

/// Every turn of every session of the call is on record, in order. Returns how often the caller was greeted.
fn check_transcript(
    call: &CallReport,
    rows: &[Value],
    report: &ModelReport,
    owners: &BTreeMap<&str, usize>,
) -> usize {
    let sequence: Vec<i64> = rows.iter().map(|row| row["sequence"].as_i64().unwrap()).collect();
    assert!(sequence.is_sorted_by(|one, next| one < next), "{sequence:?}");
    let written: Vec<&str> = rows.iter().map(|row| row["item_id"].as_str().unwrap()).collect();
    // A turn that the connection broke into is of no session: it was not closed.
    let sessions: Vec<usize> = written.iter().filter_map(|item| owners.get(item).copied()).collect();
    assert!(sessions.is_sorted(), "turns of one session between those of another: {sessions:?}");
    let of_call: BTreeSet<usize> = sessions.into_iter().collect();
    assert!(of_call.len() > CUTS, "{} sessions in {:.1} s", of_call.len(), call.duration_ms / 1000.0);
    for session in of_call.iter().map(|number| &report.sessions[*number]) {
        let spoken: Vec<&str> =
            session.items.iter().filter(|item| is_turn(item)).map(|item| &*item.id).collect();
        let own: Vec<&str> = written.iter().copied().filter(|id| spoken.contains(id)).collect();
        assert!(
            own.is_sorted_by_key(|id| spoken.iter().position(|other| other == id)),
            "{own:?} of {spoken:?}"
        );
    }
    // Every word that the caller was heard to say is in some turn.
    let heard = rows.iter().filter(|row| row["role"] == "user").count();
    assert!(heard >= call.utterances.len(), "{heard} turns for {} questions", call.utterances.len());
    rows.iter().filter(|row| row["content"].as_str().is_some_and(|text| text.starts_with("Good day"))).count()
}

/// Items that somebody spoke, or functions that were called.
fn is_turn(item: &ItemReport) -> bool {
    let ours = item.id.starts_with("item_");
    ours && match item.kind.as_str() {
        "message" => item.role.as_deref() == Some("user") || item.generated_ms.is_some_and(|ms| ms > 0.0),
        "function_call" => item.status == "completed",
        _ => false,
    }
}

/// Asks for the order again and again.
fn conversation() -> Scenario {
    let listen = |silence_ms| Step::Listen { silence_ms, within_ms: 10_000 };
    let turn = || [Step::Say(Utterance::Phrase("hello".into())), listen(1_200)];
    let steps = [listen(500)].into_iter().chain((0..9).flat_map(|_| turn())).chain([Step::HangUp]);
    Scenario { name: "lost sessions".into(), voice: "anna".into(), steps: steps.collect() }
}

/// Every question is answered with the help of a function, also one that was asked in another session.
fn script() -> Script {
    let say =
        |text: &str| Reply { say: vec![Speech::Tone { ms: 1_200, text: text.into() }], ..Reply::default() };
    let rule = |when, reply| Rule { when, needs_tool: None, times: None, reply };
    let call = vec![FunctionCall { tool: "order".into(), arguments: "{}".into() }];
    let look_up = Reply { call, ..say("Let me see what there is of it.") };
    let rules = vec![
        rule(When::Greeting, say("Good day.")),
        rule(When::Heard("hello".into()), look_up.clone()),
        rule(When::Text("hello".into()), look_up),
        rule(When::FunctionOutput("order".into()), say("Your order is ready to be fetched.")),
        rule(When::Anything, say("And that is all there is to it.")),
    ];
    Script::default().with_rules_first(rules)
}
