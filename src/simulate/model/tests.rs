//! The server over a real loopback socket, seen from a client that shares no code with it.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::*;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn serve(options: ModelOptions) -> ModelServer {
    ModelServer::bind(options, "127.0.0.1:0".parse().unwrap()).await.unwrap()
}

async fn with_faults(faults: Faults) -> ModelServer {
    serve(ModelOptions { faults, ..ModelOptions::default() }).await
}

/// Connects with these headers to this path and query after the host.
async fn open(server: &ModelServer, target: &str, headers: &[(&'static str, &str)]) -> Result<Socket, Error> {
    let mut request = format!("ws://{}{target}", server.addr()).into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    Ok(connect_async(request).await?.0)
}

const TARGET: &str = "/v1/realtime?model=gpt-realtime-2.1";
const KEY: (&str, &str) = ("authorization", "Bearer sk-test");

async fn client(server: &ModelServer) -> Socket {
    open(server, TARGET, &[KEY]).await.unwrap()
}

/// The next event, or `None` when the connection is over.
async fn next(socket: &mut Socket) -> Option<Value> {
    loop {
        match timeout(Duration::from_secs(10), socket.next()).await.expect("a message within ten seconds") {
            Some(Ok(Message::Text(text))) => return Some(serde_json::from_str(&text).unwrap()),
            Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
            Some(Ok(_)) => {}
        }
    }
}

async fn next_of(socket: &mut Socket, kind: &str) -> Value {
    loop {
        let event = next(socket).await.unwrap_or_else(|| panic!("the connection ended before {kind}"));
        if event["type"] == kind {
            return event;
        }
    }
}

async fn send(socket: &mut Socket, event: Value) {
    socket.send(Message::text(event.to_string())).await.unwrap();
}

/// The close code, and the codes of errors before it.
async fn close_of(socket: &mut Socket) -> (u16, Vec<String>) {
    let mut errors = Vec::new();
    loop {
        match timeout(Duration::from_secs(10), socket.next()).await.expect("a message within ten seconds") {
            Some(Ok(Message::Text(text))) => {
                let event: Value = serde_json::from_str(&text).unwrap();
                errors.extend(event["error"]["code"].as_str().map(ToOwned::to_owned));
            }
            Some(Ok(Message::Close(frame))) => return (frame.map_or(0, |frame| frame.code.into()), errors),
            Some(Ok(_)) => {}
            other => panic!("no close frame: {other:?}"),
        }
    }
}

#[tokio::test]
async fn the_upgrade_wants_a_path_a_key_and_a_model() {
    let server = serve(ModelOptions::default()).await;
    for (target, headers, status) in [
        (TARGET, &[][..], 401),
        (TARGET, &[("authorization", "Basic abc")][..], 401),
        ("/v1/realtime", &[KEY][..], 400),
        ("/v1/chat?model=x", &[KEY][..], 404),
    ] {
        let Err(Error::Http(response)) = open(&server, target, headers).await else {
            panic!("{target} was let in")
        };
        assert_eq!(response.status(), status, "{target}");
    }
    assert_eq!(server.stop().await.refused.len(), 4);
    let server = with_faults(Faults { refuse_upgrade: Some(429), ..Faults::default() }).await;
    let Err(Error::Http(response)) = open(&server, TARGET, &[KEY]).await else { panic!("let in") };
    assert_eq!(response.status(), 429);
}

#[tokio::test]
async fn a_wrong_key_a_beta_client_and_a_wrong_model_are_let_in_and_thrown_out() {
    let server = serve(ModelOptions { api_key: Some("sk-right".into()), ..ModelOptions::default() }).await;
    let mut socket = client(&server).await;
    assert_eq!(close_of(&mut socket).await, (3000, vec!["invalid_api_key".into()]));
    let right = ("authorization", "Bearer sk-right");
    let mut socket = open(&server, TARGET, &[right, ("openai-beta", "realtime=v1")]).await.unwrap();
    assert_eq!(close_of(&mut socket).await, (4000, vec!["beta_api_shape_disabled".into()]));
    let mut socket = open(&server, "/v1/realtime?model=gpt-transcribe", &[right]).await.unwrap();
    assert_eq!(close_of(&mut socket).await, (3000, vec!["model_not_found".into()]));
    let mut socket = open(&server, TARGET, &[right]).await.unwrap();
    next_of(&mut socket, "session.created").await;
}

#[tokio::test]
async fn a_session_greets_and_is_reported() {
    let server = serve(ModelOptions { speed: 50.0, think_ms: 1, ..ModelOptions::default() }).await;
    let mut socket = client(&server).await;
    next_of(&mut socket, "session.created").await;
    let format = json!({"format": {"type": "audio/pcmu"}});
    let session =
        json!({"type": "realtime", "instructions": "Hi.", "audio": {"input": format, "output": format}});
    send(&mut socket, json!({"type": "session.update", "session": session})).await;
    let updated = next_of(&mut socket, "session.updated").await;
    assert_eq!(updated["session"]["audio"]["output"]["format"]["type"], "audio/pcmu");
    send(&mut socket, json!({"type": "response.create"})).await;
    let delta = next_of(&mut socket, "response.output_audio.delta").await;
    assert!(delta["delta"].as_str().is_some_and(|delta| !delta.is_empty()));
    next_of(&mut socket, "response.done").await;
    assert!(server.report().sessions[0].open);
    socket.close(None).await.unwrap();
    while next(&mut socket).await.is_some() {}
    let report = server.stop().await;
    let session = &report.sessions[0];
    assert_eq!((session.open, session.model.as_str(), session.updates), (false, "gpt-realtime-2.1", 1));
    assert_eq!(session.items[0].text, "Hello, this is Northgate Bakery. How can I help you?");
    assert_eq!(session.session["instructions"], "Hi.");
    assert_eq!(session.violations, [""; 0]);
    assert!(serde_json::to_string(&report).unwrap().contains("\"generated_ms\""));
}

#[tokio::test]
async fn stopping_closes_live_sessions() {
    let server = serve(ModelOptions::default()).await;
    let mut socket = client(&server).await;
    next_of(&mut socket, "session.created").await;
    let (report, (code, _)) = tokio::join!(server.stop(), close_of(&mut socket));
    assert_eq!((code, report.sessions.len()), (1001, 1));
}

#[tokio::test]
async fn a_connection_can_break_or_freeze() {
    let server = with_faults(Faults { drop_after_ms: Some(20), ..Faults::default() }).await;
    let mut socket = client(&server).await;
    next_of(&mut socket, "session.created").await;
    match timeout(Duration::from_secs(10), socket.next()).await.unwrap() {
        None | Some(Err(_)) => {}
        other => panic!("{other:?}"),
    }

    let server = with_faults(Faults { freeze_after_ms: Some(0), ..Faults::default() }).await;
    let mut socket = client(&server).await;
    send(&mut socket, json!({"type": "response.create"})).await;
    socket.send(Message::Ping("x".into())).await.unwrap();
    // Nothing but what was sent before it froze; above all no pong.
    while let Ok(message) = timeout(Duration::from_millis(100), socket.next()).await {
        match message.unwrap().unwrap() {
            Message::Text(text) => assert!(text.contains("session.created"), "{text}"),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn connections_can_be_broken_and_the_next_ones_made_to_fail() {
    let server = serve(ModelOptions::default()).await;
    let (mut one, mut other) = (client(&server).await, client(&server).await);
    next_of(&mut one, "session.created").await;
    next_of(&mut other, "session.created").await;
    server.cut();
    assert_eq!((next(&mut one).await, next(&mut other).await), (None, None));
    let mut third = client(&server).await;
    next_of(&mut third, "session.created").await;
    server.set_faults(Faults { refuse_upgrade: Some(503), ..Faults::default() });
    let Err(Error::Http(response)) = open(&server, TARGET, &[KEY]).await else { panic!("let in") };
    assert_eq!(response.status(), 503);
    server.set_faults(Faults::default());
    let mut fourth = client(&server).await;
    next_of(&mut fourth, "session.created").await;
    send(&mut third, json!({"type": "nonsense"})).await;
    next_of(&mut third, "error").await;
    assert_eq!(server.stop().await.sessions.len(), 4);
}

#[tokio::test]
async fn everything_can_come_late_and_in_the_same_order() {
    let server = with_faults(Faults { delay_ms: 300, ..Faults::default() }).await;
    let mut socket = client(&server).await;
    let began = tokio::time::Instant::now();
    send(&mut socket, json!({"type": "response.create"})).await;
    assert_eq!(next(&mut socket).await.unwrap()["type"], "session.created");
    assert_eq!(next(&mut socket).await.unwrap()["type"], "response.created");
    let late = began.elapsed();
    assert!((Duration::from_millis(290)..Duration::from_secs(2)).contains(&late), "{late:?}");
}

#[tokio::test]
async fn a_session_says_when_it_will_be_over() {
    let lasts = async |faults: Faults| {
        let server = with_faults(faults).await;
        let created = next_of(&mut client(&server).await, "session.created").await;
        created["session"]["expires_at"].as_i64().unwrap() - jiff::Timestamp::now().as_second()
    };
    let hour = lasts(Faults::default()).await;
    assert!((3590..=3600).contains(&hour), "{hour}");
    let minute = lasts(Faults { expire_after_ms: Some(60_000), ..Faults::default() }).await;
    assert!((50..=60).contains(&minute), "{minute}");
}

#[tokio::test]
async fn sessions_are_apart_from_each_other() {
    let server = serve(ModelOptions::default()).await;
    let (mut a, mut b) = (client(&server).await, client(&server).await);
    let (first, second) = (next(&mut a).await.unwrap(), next(&mut b).await.unwrap());
    assert_ne!(first["session"]["id"], second["session"]["id"]);
    send(&mut a, json!({"type": "nonsense"})).await;
    next_of(&mut a, "error").await;
    let report = server.report();
    let mut violations: Vec<_> = report.sessions.iter().map(|session| session.violations.len()).collect();
    violations.sort_unstable();
    assert_eq!(violations, [0, 1]);
}
