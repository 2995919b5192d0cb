//! What the log may not hold: telephone numbers, names, words.

use std::io::Write;
use std::sync::{Arc, Mutex};

use serde_json::json;
use tracing::Level;

use crate::operations::{document, furnished, operations, there};

/// What is personal in what the test sends.
const PERSONAL: [&str; 6] =
    ["4155550123", "4155550177", "Zacharias", "quillfeather@", "the blue folder", "0123456789abcdef"];

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

// The subscriber is the whole process's, so that what other threads say is seen as well.
#[tokio::test]
async fn the_log_holds_no_number_name_or_word_whatever_is_asked() {
    let server = furnished().await;
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let person = json!({
        "name": "Zacharias Quillfeather",
        "phone": "+14155550177",
        "email": "quillfeather@example.com",
        "notes": "wants the blue folder",
    });
    // Once more than the tables let in, so that the database refuses as well.
    server.post("/api/leads", person.clone()).await;
    server.post("/api/leads", json!({"phone": "Zacharias", "name": "the blue folder"})).await;
    server.post("/api/do-not-call", json!({"number": "+14155550177", "reason": "the blue folder"})).await;
    server
        .twilio(
            "/media-stream-twiml",
            &[("CallSid", "CA7"), ("From", "+14155550177"), ("CallerName", "Zacharias")],
        )
        .await;
    let document = document();
    for operation in operations(&document) {
        let path = there(&server, &document, &operation.path).await;
        let (media_type, body) = operation.sent();
        let body = body
            .replace("Ada Lovelace", "Zacharias")
            .replace("Remind of the open invoice.", "the blue folder");
        server.keyed(operation.method.clone(), &path, &media_type, body).await;
        server
            .keyed(
                operation.method.clone(),
                &format!("{path}?q=Zacharias"),
                &media_type,
                "{\"the blue folder\": 1}",
            )
            .await;
    }
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(text.lines().count() > 200, "something was logged");
    let found: Vec<_> = text
        .lines()
        .filter(|line| PERSONAL.iter().any(|personal| line.contains(personal)))
        .take(10)
        .collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}
