//! Calls that the agent cannot take.

use serde_json::json;
use voicebridge::shutdown::Tasks;

use crate::server::{Line, Server};
use crate::support;

/// Outside of the team's hours.
const NIGHT: &str = "2024-10-30T23:00:00Z";

#[tokio::test]
async fn where_the_agent_cannot_take_a_call_people_are_called_at_any_hour() {
    let store = support::store(6).await;
    let server = Server::on(store.clone(), |_| {});
    let full = Server::on(store, |settings| settings.max_calls = 0);
    let line = server.line().await;
    let by_night = async |server: &Server, sid: &str, reason: &str| {
        server.at(NIGHT);
        assert_eq!(server.rings(&line, sid).await.text, line.rings_the_team(), "{reason}");
        assert_eq!(server.decisions(sid).await, [format!("incoming team {reason}")]);
        assert_eq!(server.routing_status(sid).await, "transferred_to_team");
    };
    by_night(&full, "CA1", "max_calls").await;
    // Their telephones are not rung a second time.
    full.rang(&line, "CA1", "no-answer", "in-progress").await.speaks("All our lines are busy right now.");
    assert_eq!(full.decisions("CA1").await[1], "fallback sentence max_calls");
    assert_eq!(full.events("CA1").await, ["incoming_call", "team_no_answer"]);

    server.patch(&format!("/api/agents/{}", line.agent), json!({"enabled": false})).await.data();
    by_night(&server, "CA2", "agent_disabled").await;
    // Well again by the time that nobody has answered.
    server.patch(&format!("/api/agents/{}", line.agent), json!({"enabled": true})).await.data();
    server.rang(&line, "CA2", "no-answer", "in-progress").await.connects();

    stop(&server.tasks);
    by_night(&server, "CA3", "draining").await;
}

fn stop(tasks: &Tasks) {
    tasks.begin_stop();
}

#[tokio::test]
async fn people_are_those_of_the_number_else_of_the_agent_else_its_transfer_number_else_there_is_a_sentence()
{
    let server = Server::new().await;
    let line = server.line().await;
    server.at(NIGHT);
    let (number, agent) =
        (format!("/api/phone-numbers/{}", line.number), format!("/api/agents/{}", line.agent));
    let other_team = server.team(&["+14155550104"]).await;
    let all = json!({"enabled": false, "team_id": other_team, "transfer_number": "+1 415 555 0177"});
    server.patch(&agent, all).await.data();
    assert_eq!(server.rings(&line, "CA1").await.text, line.rings_the_team());
    server.patch(&number, json!({"team_id": null})).await.data();
    assert_eq!(server.rings(&line, "CA2").await.text, line.dials("20", &["+14155550104"]));
    server.patch(&agent, json!({"team_id": null})).await.data();
    assert_eq!(server.rings(&line, "CA3").await.text, line.dials("25", &["+14155550177"]));
    server.patch(&agent, json!({"transfer_number": null})).await.data();
    server.rings(&line, "CA4").await.speaks("This number cannot take calls right now.");
    assert_eq!(server.decisions("CA4").await, ["incoming sentence agent_disabled"]);
    assert_eq!(server.routing_status("CA4").await, "direct_to_agent");
}

#[tokio::test]
async fn a_call_for_an_agent_that_cannot_take_it_goes_to_its_team() {
    let server = Server::new().await;
    let agent = server.default_agent().await.id.to_string();
    let team = server.team(&["+14155550104", "+14155550105"]).await;
    let line = Line { number: String::new(), schedule: String::new(), team, agent };
    let path = format!("/api/agent/{}/call-incoming", line.agent);
    let edit = json!({"team_id": line.team, "transfer_number": "+14155550177"});
    server.patch(&format!("/api/agents/{}", line.agent), edit).await.data();
    server.twilio(&path, &[("CallSid", "CA1")]).await.connects();
    assert_eq!(server.decisions("CA1").await, ["agent agent agent_called"]);

    server.tasks.begin_stop();
    for (sid, path) in [("CA2", &*path), ("CA3", "/media-stream-twiml")] {
        for _ in 0..2 {
            let twiml = server.twilio(path, &[("CallSid", sid)]).await.text;
            assert!(twiml.contains("<Say>One moment please"), "{twiml}");
            assert!(twiml.contains("/twiml/stream-ended\" timeout=\"20\""), "{twiml}");
            assert!(twiml.contains("<Number>+14155550104</Number><Number>+14155550105</Number>"), "{twiml}");
        }
        assert_eq!(server.decisions(sid).await, ["agent team draining"]);
        assert_eq!(server.events(sid).await, ["incoming_call", "transferred"], "once");
    }
    server.execute("update agents set team_id = null").await;
    let twiml = server.twilio(&path, &[("CallSid", "CA4")]).await.text;
    assert!(twiml.contains("<Number>+14155550177</Number></Dial>"), "{twiml}");
}

#[tokio::test]
async fn with_no_model_that_works_people_are_called_and_without_people_the_agent_speaks_for_itself() {
    // Nobody listens there.
    let server = Server::with_model(support::store(4).await, "ws://127.0.0.1:9", |_| {});
    let line = server.line().await;
    server.at(NIGHT);
    let mut called = None;
    for number in 0..2_000 {
        let sid = format!("CA{number}");
        if server.rings(&line, &sid).await.text == line.rings_the_team() {
            called = Some(sid);
            break;
        }
        tokio::task::yield_now().await;
    }
    let sid = called.expect("after some calls it is known that the model does not work");
    assert_eq!(server.decisions(&sid).await, ["incoming team model_down"]);
    server.patch(&format!("/api/phone-numbers/{}", line.number), json!({"team_id": null})).await.data();
    server.rings(&line, "CA9999").await.connects();
}
