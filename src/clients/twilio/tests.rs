use std::net::TcpListener;

use serde_json::{Value, json};
use wiremock::matchers::{any, basic_auth, method, path, query_param};
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::*;
use crate::wire::twiml::say_and_hang_up;

const ACCOUNT: &str = "AC00000000000000000000000000000001";
const TOKEN: &str = "the-token";
const SID: &str = "CA00000000000000000000000000000007";

fn twilio(url: &str) -> Twilio {
    // A second time changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Twilio::new(url.parse().unwrap(), ACCOUNT, SecretString::from(TOKEN)).unwrap()
}

fn number(text: &str) -> PhoneNumber {
    PhoneNumber::parse(text).unwrap()
}

fn sid() -> CallSid {
    CallSid::parse(SID).unwrap()
}

async fn answering(status: u16, body: &str) -> MockServer {
    let server = MockServer::start().await;
    let answer = ResponseTemplate::new(status).set_body_string(body);
    Mock::given(any()).respond_with(answer).mount(&server).await;
    server
}

async fn create(twilio: &Twilio) -> Result<CallSid, RestError> {
    let (to, from) = (number("+14155550123"), number("+14155550100"));
    let call = NewCall {
        to: &to,
        from: &from,
        url: "https://voice.example.com/twiml?attempt=1",
        fallback_url: "https://voice.example.com/twiml?attempt=1&again",
        status_callback: "https://voice.example.com/status?attempt=1",
        ring_timeout: Duration::from_secs(25),
        detection: Some(Detection {
            callback: "https://voice.example.com/status?amd=1",
            until_the_beep: true,
        }),
    };
    twilio.create(&call).await
}

#[tokio::test]
async fn a_call_is_asked_for_once_with_its_callbacks_and_detection() {
    let server = MockServer::start().await;
    Mock::given(method("POST"))
        .and(path(format!("/2010-04-01/Accounts/{ACCOUNT}/Calls.json")))
        .and(basic_auth(ACCOUNT, TOKEN))
        .respond_with(ResponseTemplate::new(201).set_body_json(json!({"sid": SID, "status": "queued"})))
        .expect(1)
        .mount(&server)
        .await;
    assert_eq!(create(&twilio(&server.uri())).await, Ok(sid()));
    let requests = server.received_requests().await.unwrap();
    let form: Vec<(String, String)> = pairs(&requests[0].body);
    let values = |name: &str| -> Vec<&str> {
        form.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str()).collect()
    };
    assert_eq!(values("To"), ["+14155550123"]);
    assert_eq!(values("From"), ["+14155550100"]);
    assert_eq!(values("Url"), ["https://voice.example.com/twiml?attempt=1"]);
    assert_eq!(values("FallbackUrl"), ["https://voice.example.com/twiml?attempt=1&again"]);
    assert_eq!((values("Method"), values("FallbackMethod")), (vec!["POST"], vec!["POST"]));
    assert_eq!(values("StatusCallback"), ["https://voice.example.com/status?attempt=1"]);
    assert_eq!(values("StatusCallbackEvent"), ["initiated", "ringing", "answered", "completed"]);
    assert_eq!(values("Timeout"), ["25"]);
    assert_eq!((values("MachineDetection"), values("AsyncAmd")), (vec!["DetectMessageEnd"], vec!["true"]));
    assert_eq!(values("AsyncAmdStatusCallback"), ["https://voice.example.com/status?amd=1"]);
}

#[tokio::test]
async fn what_was_certainly_not_placed_is_told_from_what_may_have_been() {
    for (status, body, expected) in [
        (429, r#"{"code":20429,"message":"Too Many Requests","status":429}"#, "not processed"),
        (429, "", "not processed"),
        (401, r#"{"code":20003,"message":"Authenticate","status":401}"#, "not processed, account"),
        (400, r#"{"code":22005,"message":"queue is full"}"#, "not processed"),
        (400, r#"{"code":21211,"message":"bad To","status":400}"#, "refused"),
        (404, "", "not processed, account"),
        (404, r#"{"code":20404,"message":"not found"}"#, "not processed, account"),
        (400, r#"{"code":21205,"message":"bad Url"}"#, "not processed, account"),
        (400, r#"{"code":21609,"message":"bad StatusCallback"}"#, "not processed, account"),
        (400, r#"{"code":21210,"message":"not verified"}"#, "own number"),
        (400, r#"{"code":21212,"message":"bad From"}"#, "own number"),
        (400, r#"{"code":21213,"message":"no From"}"#, "own number"),
        (400, r#"{"code":21606,"message":"not yours"}"#, "own number"),
        (500, r#"{"code":20500,"message":"Internal"}"#, "unknown"),
        (503, "<html>", "unknown"),
        (201, "{\"sid\":", "unknown"),
        (201, "{}", "unknown"),
        (307, "", "unknown"),
        (408, "", "unknown"),
        (499, "", "unknown"),
        (400, "", "not processed, account"),
        (403, "<html>blocked", "not processed, account"),
        (413, r#"{"error":"too large"}"#, "not processed, account"),
    ] {
        let server = answering(status, body).await;
        let found = match create(&twilio(&server.uri())).await {
            Err(RestError::NotProcessed { about_account: false, .. }) => "not processed",
            Err(RestError::NotProcessed { about_account: true, .. }) => "not processed, account",
            Err(RestError::OwnNumber { .. }) => "own number",
            Err(RestError::Refused { .. }) => "refused",
            Err(RestError::Unknown { .. }) => "unknown",
            Ok(_) => "placed",
        };
        assert_eq!(found, expected, "{status} {body}");
        assert_eq!(server.received_requests().await.unwrap().len(), 1, "{status} is not asked again");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_has_placed_nothing_and_one_that_falls_silent_may_have() {
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let refused = create(&twilio(&format!("http://{unused}"))).await;
    assert!(matches!(refused, Err(RestError::NotProcessed { about_account: false, .. })), "{refused:?}");

    // It takes the request and closes the connection.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let silent = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut bytes = [0; 64];
        let read = tokio::io::AsyncReadExt::read(&mut socket, &mut bytes).await.unwrap();
        assert!(read > 0);
    };
    let client = twilio(&url);
    let (broken, ()) = tokio::join!(create(&client), silent);
    assert!(matches!(broken, Err(RestError::Unknown { .. })), "{broken:?}");
}

#[tokio::test]
async fn a_refusal_says_what_to_do_and_names_no_telephone() {
    let body = r#"{"code":21219,"message":"The number +14155550123 is unverified","status":400}"#;
    let error = create(&twilio(&answering(400, body).await.uri())).await.unwrap_err();
    assert_eq!(
        error.explanation(),
        "Twilio error 21219: a trial account may call verified numbers only; verify it or upgrade the account"
    );
    assert!(!format!("{error} {error:?}").contains("4155550123"), "{error:?}");
    let body = r#"{"code":99999,"message":"Calls to +14155550123 are odd","status":400}"#;
    let error = create(&twilio(&answering(400, body).await.uri())).await.unwrap_err();
    assert_eq!(error.explanation(), "Twilio error 99999: Calls to … are odd");
}

#[tokio::test]
async fn calls_between_two_telephones_are_listed_from_the_earliest_and_only_those_we_asked_for_since() {
    let call = |number: u32, direction: &str, created: &str| -> Value {
        json!({"sid": format!("CA{number}"), "status": "queued", "direction": direction, "date_created": created,
               "start_time": null, "duration": null})
    };
    let server = MockServer::start().await;
    Mock::given(method("GET"))
        .and(path(format!("/2010-04-01/Accounts/{ACCOUNT}/Calls.json")))
        .and(query_param("To", "+14155550123"))
        .and(query_param("From", "+14155550100"))
        .respond_with(ResponseTemplate::new(200).set_body_json(json!({"next_page_uri": null, "calls": [
            call(3, "outbound-api", "Sun, 01 Mar 2026 12:00:09 +0000"),
            call(2, "outbound-dial", "Sun, 01 Mar 2026 12:00:08 +0000"),
            call(1, "outbound-api", "Sun, 01 Mar 2026 12:00:05 +0000"),
            call(0, "outbound-api", "Sun, 01 Mar 2026 11:59:59 +0000"),
        ]})))
        .mount(&server)
        .await;
    let since = "2026-03-01T12:00:00Z".parse().unwrap();
    let (to, from) = (number("+14155550123"), number("+14155550100"));
    let calls = twilio(&server.uri()).list(&to, &from, since).await.unwrap();
    let sids: Vec<&str> = calls.iter().map(|call| call.sid.as_str()).collect();
    assert_eq!(sids, ["CA1", "CA3"]);
}

#[tokio::test]
async fn a_call_is_looked_up_and_told_what_to_do() {
    let body = json!({"sid": SID, "status": "completed", "duration": "61", "answered_by": "human",
                      "end_time": "Sun, 01 Mar 2026 12:01:01 +0000"});
    let server = answering(200, &body.to_string()).await;
    let twilio = twilio(&server.uri());
    let call = twilio.fetch(&sid()).await.unwrap();
    assert_eq!(
        (call.status.as_str(), call.duration_s, call.answered_by.as_deref()),
        ("completed", Some(61), Some("human"))
    );
    assert_eq!(call.ended_at, Some("2026-03-01T12:01:01Z".parse().unwrap()));
    for update in
        [Update::HangUp, Update::Twiml("<Response/>"), Update::Url("https://voice.example.com/a?b=c")]
    {
        twilio.update(&sid(), update).await.unwrap();
    }
    let bodies: Vec<String> = server.received_requests().await.unwrap()[1..]
        .iter()
        .map(|request| format!("{} {}", request.url.path(), String::from_utf8_lossy(&request.body)))
        .collect();
    let path = format!("/2010-04-01/Accounts/{ACCOUNT}/Calls/{SID}.json");
    assert_eq!(
        bodies,
        [
            format!("{path} Status=completed"),
            format!("{path} Twiml=%3CResponse%2F%3E"),
            format!("{path} Url=https%3A%2F%2Fvoice.example.com%2Fa%3Fb%3Dc"),
        ]
    );
}

#[tokio::test]
async fn a_call_that_is_over_is_told_from_one_that_cannot_be_told_anything() {
    for (status, body, is_over) in [
        (404, r#"{"code":20404}"#, true),
        (400, r#"{"code":21220}"#, true),
        (400, r#"{"code":21205}"#, false),
        (500, "", false),
    ] {
        let server = answering(status, body).await;
        let error = twilio(&server.uri()).update(&sid(), Update::HangUp).await.unwrap_err();
        assert_eq!(error.is_call_over(), is_over, "{status} {body}");
    }
}

#[test]
fn what_is_said_to_a_machine_is_cut_to_what_twilio_takes() {
    assert_eq!(short_document("Call us.", say_and_hang_up), say_and_hang_up("Call us."));
    for text in ["ü".repeat(9000), "<".repeat(5000), "a&".repeat(2100)] {
        let document = short_document(&text, say_and_hang_up);
        let length = document.chars().count();
        assert!((MAX_TWIML - 500..=MAX_TWIML).contains(&length), "{length}");
        assert!(document.ends_with("</Say><Hangup/></Response>"));
    }
}

fn pairs(body: &[u8]) -> Vec<(String, String)> {
    let mut url: Url = "http://localhost".parse().unwrap();
    url.set_query(Some(std::str::from_utf8(body).unwrap()));
    url.query_pairs().into_owned().collect()
}
