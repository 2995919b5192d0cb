//! A whole server with a caller and a model: what it does for a call is told on the way.

use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use voicebridge::simulate::caller::run_call;
use voicebridge::simulate::model::ModelOptions;
use voicebridge::simulate::scenario::{Scenario, Step};

use crate::receiver::Receiver;
use crate::text;
use crate::world::World;

#[tokio::test]
async fn a_real_call_is_told_to_whom_was_registered_over_the_api() {
    let receiver = Receiver::new().await;
    let world = World::start(ModelOptions::default(), &[]).await;
    let events = [
        "call.started",
        "call.transferred",
        "call.completed",
        "call.failed",
        "transcript.completed",
        "lead.linked",
    ];
    let body = json!({"url": receiver.url, "events": events, "include_transcript": true});
    let request = world.http.post(world.running.public_url.join("/api/webhook-endpoints")).json(&body);
    let answer = request.bearer_auth(world.running.admin_key.expose_secret()).send().await.unwrap();
    assert_eq!(answer.status(), 201, "this server is reached by this machine only");
    let answer: Value = answer.json().await.unwrap();
    let secret = text(&answer["data"]["secret"]);

    let steps = vec![Step::Listen { silence_ms: 500, within_ms: 30_000 }, Step::HangUp];
    let scenario = Scenario { name: "test".into(), voice: "anna".into(), steps };
    let call = run_call(world.call(scenario)).await;
    let came = receiver.until(3).await;
    let kinds: Vec<_> = came.iter().map(crate::receiver::Received::kind).collect();
    assert_eq!(kinds, ["call.started", "call.completed", "transcript.completed"]);
    for it in &came {
        assert_eq!(it.signatures_of(secret), 1);
        assert_eq!(it.body["data"]["call_sid"], json!(call.call_sid));
    }
    assert_eq!(came[1].body["data"]["disconnect_reason"], "caller_hung_up");
    let said = &came[2].body["data"];
    assert_eq!(said["turn_count"], said["turns"].as_array().unwrap().len());
    assert_eq!(said["turns"][0]["role"], "assistant");
    world.stop().await;
    assert_eq!(receiver.received().len(), 3);
}
