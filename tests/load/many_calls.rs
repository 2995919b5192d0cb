//! A hundred conversations at a time.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use voicebridge::simulate::caller::{CallReport, CallerOptions, StreamEnd, run_many};
use voicebridge::simulate::model::{ItemReport, ModelOptions, Replies, SessionReport};
use voicebridge::simulate::scenario::Scenario;

use crate::world::World;

const CALLS: usize = 100;
const FRAME_MS: f64 = 20.0;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_calls_of_a_minute_leave_every_turn_once_in_order_with_the_right_lead() {
    let _alone = crate::ALONE.lock().await;
    let replies = Replies::Tones { min_ms: 1000, max_ms: 5000 };
    let model = ModelOptions { replies, ..ModelOptions::default() };
    let world = World::start(model, &[("AUDIO_FORMAT", "pcmu")]).await;
    let any = world.call(Scenario::named("short").unwrap());
    let options = CallerOptions { random_ms: Some(60_000), ..any };
    let mut leads = BTreeMap::new();
    for number in 0..CALLS as u64 {
        let phone = options.numbered(number).from;
        leads.insert(phone.clone(), world.create_lead(&phone).await);
    }
    let calls = run_many(CALLS, Duration::from_millis(40), &options).await;
    for call in &calls {
        assert_eq!(call.streams.len(), 1, "{call:?}");
        world.reason(&call.call_sid).await;
    }
    let report = world.model.report();
    assert_eq!((report.sessions.len(), &report.refused), (CALLS, &Vec::new()));
    let by_item: BTreeMap<&str, &SessionReport> = report
        .sessions
        .iter()
        .flat_map(|session| session.items.iter().map(move |item| (item.id.as_str(), session)))
        .collect();
    for call in &calls {
        let rows = world.transcript(&call.call_sid).await;
        let session = by_item[rows[0]["item_id"].as_str().unwrap()];
        check_ends(call, session);
        check_turns(&rows, session);
        let lead = world.get(&format!("/api/leads/{}", leads[&call.from])).await;
        assert_eq!(lead["data"]["call_sid"], call.call_sid.as_str());
    }
    let numbers = world.running.metrics.encode();
    let dropped = numbers
        .lines()
        .filter(|line| line.starts_with("voicebridge_frames_dropped_total") && !line.contains("interrupted"));
    assert_eq!(dropped.collect::<Vec<_>>(), Vec::<&str>::new());
    world.stop().await;
}

/// Both far ends are content and every frame has arrived.
fn check_ends(call: &CallReport, session: &SessionReport) {
    assert_eq!((&call.violations, &session.violations), (&Vec::new(), &Vec::new()));
    // Who hangs up while the last word of an answer is on its way has it cancelled when it is over: once, at the end.
    let crossed = session.errors == ["response_cancel_not_active"];
    assert!(session.errors.is_empty() || crossed, "{:?}", session.errors);
    let [stream] = &call.streams[..] else { panic!("one stream: {call:?}") };
    // A caller who hangs up has said everything before; of a stream that the agent ends, all that the agent had read.
    let is_whole = stream.ended_by == StreamEnd::Stop;
    let frames = if is_whole { stream.frames_sent } else { stream.frames_before_last_event };
    let missing_ms = frames as f64 * 20.0 - session.received_audio_ms;
    assert!(missing_ms < FRAME_MS, "{missing_ms} ms of the caller's audio are missing");
    assert_eq!(stream.frames_discarded, 0);
}

/// Every turn of the conversation is one row, and the rows stand in the conversation's order.
fn check_turns(rows: &[Value], session: &SessionReport) {
    let written: Vec<(&str, String)> =
        rows.iter().map(|row| (row["item_id"].as_str().unwrap(), text_of(row))).collect();
    let turns: Vec<&ItemReport> = session.items.iter().filter(|item| is_turn(item)).collect();
    let spoken: Vec<(&str, String)> = turns.iter().map(|item| (item.id.as_str(), words(item))).collect();
    // What the model began to say as the caller hung up was on its way: not on record, or the beginning of it.
    let interrupted = turns
        .last()
        .is_some_and(|item| item.role.as_deref() == Some("assistant") && item.status != "completed");
    let whole = if interrupted { spoken.len() - 1 } else { spoken.len() };
    let (written, beginning) = written.split_at_checked(whole).expect("no turn is missing");
    assert_eq!(written, &spoken[..whole]);
    match beginning {
        [] => {}
        [(item, text)] => assert!(spoken[whole].0 == *item && spoken[whole].1.starts_with(text.as_str())),
        more => panic!("{more:?} are too many: {spoken:?}"),
    }
    let sequence: Vec<i64> = rows.iter().map(|row| row["sequence"].as_i64().unwrap()).collect();
    assert!(sequence.is_sorted_by(|one, next| one < next), "{sequence:?}");
}

/// Items that somebody spoke, pressed or called; a function's answer stands in the row of its call.
fn is_turn(item: &ItemReport) -> bool {
    match item.kind.as_str() {
        "message" => {
            item.role.as_deref() != Some("assistant") || item.generated_ms.is_some_and(|ms| ms > 0.0)
        }
        "function_call" => item.status == "completed",
        _ => false,
    }
}

fn words(item: &ItemReport) -> String {
    match item.role.as_deref() {
        Some("user") => item.transcript.clone().unwrap_or_else(|| item.text.clone()),
        Some(_) => item.text.trim().to_owned(),
        None => item.name.clone().unwrap_or_default(),
    }
}

/// All that was generated, which is more than was heard where the caller spoke over it.
fn text_of(row: &Value) -> String {
    let text = if row["role"] == "tool" { &row["tool_name"] } else { &row["generated_content"] };
    text.as_str().or(row["content"].as_str()).unwrap_or_default().trim().to_owned()
}
