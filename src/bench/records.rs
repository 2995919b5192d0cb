//! What the bridge wrote down, compared with what was said.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::calls::{Call, Said, lock};
use super::target::Running;

/// A transcript is complete so long after the call.
const COMPLETE_WITHIN: Duration = Duration::from_secs(10);

/// Asks a bridge that was started here.
#[derive(Debug)]
pub(super) struct Records {
    http: Option<reqwest::Client>,
    origin: String,
    key: String,
}

/// What the comparisons found.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    pub(super) compared: u64,
    pub(super) wrong: Vec<String>,
}

impl Verdict {
    pub(super) fn add(&mut self, call: &str, found: Result<(), String>) {
        self.compared += 1;
        if let Err(what) = found {
            self.wrong.push(format!("{call}: {what}"));
        }
    }
}

/// One row of a transcript.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Row {
    role: String,
    content: String,
    item_id: String,
    interrupted: bool,
    generated_content: Option<String>,
    heard_until_ms: Option<u64>,
}

impl Records {
    pub(super) fn of(running: &Running) -> Self {
        let key = running.admin_key.clone();
        let http = key.as_ref().and_then(|_| reqwest::Client::builder().no_proxy().build().ok());
        let origin = running.target.url.trim_end_matches("/media-stream-twiml").to_owned();
        Self { http, origin, key: key.unwrap_or_default() }
    }

    /// Whether there is a bridge that tells.
    pub(super) const fn can_be_asked(&self) -> bool {
        self.http.is_some()
    }

    /// Tasks that the bridge runs.
    pub(super) async fn tasks(&self) -> Option<u64> {
        let text = self.get("/metrics").await?.text().await.ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("voicebridge_tasks "))?;
        line.trim().parse().ok()
    }

    /// Waits until the transcript of a call that has ended is complete, and compares it.
    pub(super) async fn compare(&self, call: &Call) -> Result<(), String> {
        let started = Instant::now();
        loop {
            sleep(Duration::from_millis(500)).await;
            let found = match self.rows(&call.sid).await {
                Some(rows) => {
                    let said = call.said.as_ref().map(|said| lock(said).clone()).unwrap_or_default();
                    compare(&said, &rows)
                }
                None => Err("there is no transcript".to_owned()),
            };
            if found.is_ok() || started.elapsed() > COMPLETE_WITHIN {
                return found;
            }
        }
    }

    async fn rows(&self, call_sid: &str) -> Option<Vec<Row>> {
        let mut answer: Value = self.get(&format!("/transcripts/{call_sid}")).await?.json().await.ok()?;
        serde_json::from_value(answer["transcripts"].take()).ok()
    }

    async fn get(&self, path: &str) -> Option<reqwest::Response> {
        let request = self.http.as_ref()?.get(format!("{}{path}", self.origin)).bearer_auth(&self.key);
        request.send().await.ok()?.error_for_status().ok()
    }
}

/// The turns as they were said must be there, in order, as they were heard. The last one was being said when the caller
/// hung up, so anything may have become of it.
fn compare(said: &[Said], rows: &[Row]) -> Result<(), String> {
    let complete = said.len().saturating_sub(1);
    if rows.len() < complete || rows.len() > said.len() {
        return Err(format!("{} turns were said, {} are written down", said.len(), rows.len()));
    }
    for (said, row) in said.iter().zip(rows).take(complete) {
        if row.item_id != said.item {
            return Err(format!("{} is where {} was said", row.item_id, said.item));
        }
        if row.role != if said.by_agent { "assistant" } else { "user" } {
            return Err(format!("{} is of the {}", row.item_id, row.role));
        }
        match said.truncated_ms {
            Some(cut) if row.interrupted && row.heard_until_ms == Some(cut) => {
                if row.generated_content.as_deref() != Some(said.text.as_str()) {
                    return Err(format!("{} has other words than were generated", row.item_id));
                }
                if !said.text.starts_with(row.content.trim_end()) {
                    return Err(format!("{} has words that were not heard", row.item_id));
                }
            }
            Some(cut) => {
                return Err(format!("{} was cut at {cut} ms, not at {:?}", row.item_id, row.heard_until_ms));
            }
            None if row.interrupted => return Err(format!("{} was not interrupted", row.item_id)),
            None if row.content != said.text => return Err(format!("{} has other words", row.item_id)),
            None => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(item: &str, by_agent: bool, truncated_ms: Option<u64>) -> Said {
        Said { item: item.into(), by_agent, text: "word0 word1".into(), truncated_ms }
    }

    fn row(item: &str, role: &str, heard_until_ms: Option<u64>) -> Row {
        Row {
            role: role.into(),
            content: if heard_until_ms.is_some() { "word0" } else { "word0 word1" }.into(),
            item_id: item.into(),
            interrupted: heard_until_ms.is_some(),
            generated_content: Some("word0 word1".into()),
            heard_until_ms,
        }
    }

    #[test]
    fn a_transcript_is_right_only_if_every_turn_is_there_in_order_as_it_was_heard() {
        let spoken = [
            said("a", true, None),
            said("b", false, None),
            said("c", true, Some(700)),
            said("d", false, None),
        ];
        let right = [row("a", "assistant", None), row("b", "user", None), row("c", "assistant", Some(700))];
        assert_eq!(compare(&spoken, &right), Ok(()), "the last one was being said");
        assert_eq!(compare(&spoken, &[&right[..], &[row("d", "user", None)]].concat()), Ok(()));
        let wrong = |change: fn(&mut Vec<Row>)| {
            let mut rows = right.to_vec();
            change(&mut rows);
            compare(&spoken, &rows).unwrap_err()
        };
        assert!(wrong(|rows| drop(rows.pop())).contains("4 turns were said, 2"));
        assert!(wrong(|rows| rows.swap(0, 1)).contains("b is where a"));
        assert!(wrong(|rows| rows[1].role = "assistant".into()).contains("of the assistant"));
        assert!(wrong(|rows| rows[1].content = "word0".into()).contains("other words"));
        assert!(wrong(|rows| rows[2].heard_until_ms = Some(720)).contains("cut at 700"));
        assert!(wrong(|rows| rows[2].content = "word1".into()).contains("not heard"));
        assert!(wrong(|rows| rows[0].interrupted = true).contains("not interrupted"));
    }
}
