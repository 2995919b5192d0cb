//! What the bridge wrote down, compared with what was said.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::calls::{Call, Said};
use super::target::Running;

/// A transcript is complete so long after the call.
const COMPLETE_WITHIN: Duration = Duration::from_secs(10);
/// Until then it is asked for so often.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// The last turn may have become anything, so there must be one before it.
const LEAST_TURNS: usize = 2;
/// A bridge answers from memory how many tasks it has; one that takes longer is left alone until the next time.
const TASKS_WITHIN: Duration = Duration::from_secs(2);
/// A transcript is read from a database that hundreds of calls write to.
const TRANSCRIPT_WITHIN: Duration = Duration::from_secs(5);
/// How long a word is to be heard: the model's end writes one with every 25 frames of 20 ms.
const WORD_MS: u64 = 500;

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
    /// Calls in which too little was said.
    pub(super) too_short: u64,
    pub(super) wrong: Vec<String>,
}

/// What one comparison found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    Right,
    /// Too little was said for anything to be certain about it.
    TooShort,
    Wrong(String),
}

impl Verdict {
    pub(super) fn add(&mut self, call: &str, found: Found) {
        match found {
            Found::TooShort => self.too_short += 1,
            Found::Right => self.compared += 1,
            Found::Wrong(what) => {
                self.compared += 1;
                self.wrong.push(format!("{call}: {what}"));
            }
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
        // Connections that are kept are descriptors of the bridge, which are counted.
        let http = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(1);
        let http = key.as_ref().and_then(|_| http.build().ok());
        let origin = running.target.url.trim_end_matches("/media-stream-twiml").to_owned();
        Self { http, origin, key: key.unwrap_or_default() }
    }

    /// Whether there is a bridge that tells.
    pub(super) const fn can_be_asked(&self) -> bool {
        self.http.is_some()
    }

    /// Tasks that the bridge runs.
    pub(super) async fn tasks(&self) -> Option<u64> {
        let text = self.get("/metrics", TASKS_WITHIN).await?.text().await.ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("voicebridge_tasks "))?;
        line.trim().parse().ok()
    }

    /// Waits until the transcript of a call that has ended is complete, and compares it.
    pub(super) async fn compare(&self, call: &Call) -> Found {
        let started = Instant::now();
        loop {
            sleep(ASK_EVERY).await;
            let (said, in_time) = call.all_said();
            if in_time < LEAST_TURNS {
                return Found::TooShort;
            }
            let found = match self.rows(&call.sid).await {
                Some(rows) => compare(&said, in_time, &rows),
                None => Err("there is no transcript".to_owned()),
            };
            match found {
                Ok(()) => return Found::Right,
                Err(what) if started.elapsed() > COMPLETE_WITHIN => return Found::Wrong(what),
                Err(_) => {}
            }
        }
    }

    async fn rows(&self, call_sid: &str) -> Option<Vec<Row>> {
        let answer = self.get(&format!("/transcripts/{call_sid}"), TRANSCRIPT_WITHIN).await?;
        let mut answer: Value = answer.json().await.ok()?;
        serde_json::from_value(answer["transcripts"].take()).ok()
    }

    /// `within` is the time for the whole answer.
    async fn get(&self, path: &str, within: Duration) -> Option<reqwest::Response> {
        let request = self.http.as_ref()?.get(format!("{}{path}", self.origin)).bearer_auth(&self.key);
        request.timeout(within).send().await.ok()?.error_for_status().ok()
    }
}

/// The turns as they were said must be there, in order, as they were heard. Of those `in_time` the last one was being
/// said when the caller was about to hang up, so anything may have become of it and of those after it.
fn compare(said: &[Said], in_time: usize, rows: &[Row]) -> Result<(), String> {
    let complete = in_time.saturating_sub(1);
    if rows.len() < complete || rows.len() > said.len() {
        return Err(format!("{} turns were said, {} are written down", said.len(), rows.len()));
    }
    if let Some((said, row)) = said.iter().zip(rows).find(|(said, row)| row.item_id != said.item) {
        return Err(format!("{} is where {} was said", row.item_id, said.item));
    }
    for (said, row) in said.iter().zip(rows).take(complete) {
        if row.role != if said.by_agent { "assistant" } else { "user" } {
            return Err(format!("{} is of the {}", row.item_id, row.role));
        }
        match said.truncated_ms {
            Some(cut) if row.interrupted && row.heard_until_ms == Some(cut) => {
                if row.generated_content.as_deref() != Some(said.text.as_str()) {
                    return Err(format!("{} has other words than were generated", row.item_id));
                }
                heard(&said.text, &row.content, cut).map_err(|what| format!("{} {what}", row.item_id))?;
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

/// The words of a turn that was cut must be the first that were said, and as many as there was time for: a word more or
/// less, because a bridge knows where words end from the length of the text only.
fn heard(said: &str, written: &str, cut_ms: u64) -> Result<(), String> {
    let words: Vec<&str> = written.split_whitespace().collect();
    if !said.split_whitespace().take(words.len()).eq(words.iter().copied()) {
        return Err("has words that were not said".to_owned());
    }
    let (count, expected) = (words.len() as u64, cut_ms.div_ceil(WORD_MS));
    if count.abs_diff(expected) > 1 {
        return Err(format!("has {count} words where {expected} were heard in {cut_ms} ms"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::calls::Shared;
    use super::*;

    /// Seven words of half a second each.
    const TEXT: &str = "word0 word1 word2 word3 word4 word5 word6";

    fn said(item: &str, by_agent: bool, truncated_ms: Option<u64>) -> Said {
        Said { item: item.into(), by_agent, text: TEXT.into(), truncated_ms }
    }

    fn row(item: &str, role: &str, heard_until_ms: Option<u64>) -> Row {
        Row {
            role: role.into(),
            content: if heard_until_ms.is_some() { "word0 word1 word2" } else { TEXT }.into(),
            item_id: item.into(),
            interrupted: heard_until_ms.is_some(),
            generated_content: Some(TEXT.into()),
            heard_until_ms,
        }
    }

    #[test]
    fn a_transcript_is_right_only_if_every_turn_is_there_in_order_as_it_was_heard() {
        let spoken = [
            said("a", true, None),
            said("b", false, None),
            said("c", true, Some(1500)),
            said("d", false, None),
        ];
        let right = [row("a", "assistant", None), row("b", "user", None), row("c", "assistant", Some(1500))];
        assert_eq!(compare(&spoken, 4, &right), Ok(()), "the last one was being said");
        assert_eq!(compare(&spoken, 4, &[&right[..], &[row("d", "user", None)]].concat()), Ok(()));
        assert_eq!(
            compare(&spoken, 3, &right[..2]),
            Ok(()),
            "the last two came when the caller was hanging up"
        );
        assert!(compare(&spoken, 3, &right[..1]).unwrap_err().contains("4 turns were said, 1"));
        let lost_between = [&right[..2], &[row("d", "user", None)]].concat();
        assert!(compare(&spoken, 3, &lost_between).unwrap_err().contains("d is where c"));
        let wrong = |change: fn(&mut Vec<Row>)| {
            let mut rows = right.to_vec();
            change(&mut rows);
            compare(&spoken, 4, &rows).unwrap_err()
        };
        assert!(wrong(|rows| drop(rows.pop())).contains("4 turns were said, 2"));
        assert!(wrong(|rows| rows.swap(0, 1)).contains("b is where a"));
        assert!(wrong(|rows| rows[1].role = "assistant".into()).contains("of the assistant"));
        assert!(wrong(|rows| rows[1].content = "word0".into()).contains("other words"));
        assert!(wrong(|rows| rows[2].heard_until_ms = Some(1520)).contains("cut at 1500"));
        assert!(wrong(|rows| rows[2].generated_content = None).contains("than were generated"));
        assert!(wrong(|rows| rows[2].content = TEXT.into()).contains("c has 7 words where 3 were heard"));
        assert!(wrong(|rows| rows[2].content = String::new()).contains("c has 0 words where 3 were heard"));
        assert!(wrong(|rows| rows[0].interrupted = true).contains("not interrupted"));
    }

    #[test]
    fn of_a_turn_that_was_cut_the_words_until_then_are_written_down_give_or_take_one() {
        let words = |count| TEXT.split_whitespace().take(count).collect::<Vec<_>>().join(" ");
        for (cut_ms, right) in
            [(0, 0..=1), (1, 0..=2), (500, 0..=2), (501, 1..=3), (1500, 2..=4), (3200, 6..=7)]
        {
            for count in 0..=7 {
                let found = heard(TEXT, &words(count), cut_ms);
                assert_eq!(found.is_ok(), right.contains(&count), "{count} words, {cut_ms} ms: {found:?}");
            }
        }
        for other in ["word1 word2 word3", "word0 word2 word3", "word0 word1 wor", "word0 word1 word20"] {
            assert_eq!(heard(TEXT, other, 1500), Err("has words that were not said".to_owned()), "{other}");
        }
        assert!(heard("word0", "word0 word1", 900).is_err(), "more words than there were");
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_in_which_too_little_was_said_is_not_compared() {
        let silent = Records { http: None, origin: String::new(), key: String::new() };
        let call = Shared::new().add_call(7, "CA7".into(), true);
        let mut verdict = Verdict::default();
        for turn in ["a", "b"] {
            call.note(|all| all.push(said(turn, true, None)));
            verdict.add(&call.sid, silent.compare(&call).await);
        }
        verdict.add("CA8", Found::Right);
        assert_eq!((verdict.compared, verdict.too_short), (2, 1));
        assert_eq!(verdict.wrong, ["CA7: there is no transcript"]);
    }
}
