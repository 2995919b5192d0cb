//! One call from ringing to its end: webhooks and TwiML around media streams.

use std::collections::VecDeque;

use tokio::time::Instant;

use super::actor::{Actor, prepare};
use super::ear::Ear;
use super::playout::ms;
use super::report::{CallReport, EndedBy};
use super::stream::{Line, Outcome, complain, run_stream};
use super::twiml::{Stream, Verb, parse};
use super::webhook::{Webhooks, absolute};
use super::{CallerOptions, Recording};
use crate::simulate::wav;

/// Twilio follows so many documents (error 11215).
const MOST_DOCUMENTS: u32 = 10;

/// Places one call and lives through it. Whatever goes wrong is in the report.
pub async fn run_call(options: CallerOptions) -> CallReport {
    let call_sid = options.call_sid.clone().unwrap_or_else(|| format!("CA{}", uuid::Uuid::new_v4().simple()));
    let mut report = CallReport {
        call_sid: call_sid.clone(),
        from: options.from.clone(),
        to: options.to.clone(),
        scenario: options.scenario.name.clone(),
        ..CallReport::default()
    };
    let parts = match prepare(&options.scenario) {
        Ok(parts) => parts,
        Err(error) => {
            report.violations.push(format!("the scenario cannot be played: {error}"));
            return report;
        }
    };
    let webhooks = match Webhooks::new(options.auth_token.clone(), options.connect_to) {
        Ok(webhooks) => webhooks,
        Err(error) => {
            report.violations.push(format!("no HTTP client: {error}"));
            return report;
        }
    };
    let mut call = Call {
        recording: Recording { on: options.record.is_some(), ..Recording::default() },
        options,
        sid: call_sid,
        webhooks,
        actor: Actor::new(parts),
        ear: Ear::default(),
        origin: None,
        documents: 0,
        report,
    };
    call.report.ended_by = call.live().await;
    call.finish().await
}

struct Call {
    options: CallerOptions,
    sid: String,
    webhooks: Webhooks,
    actor: Actor,
    ear: Ear,
    recording: Recording,
    /// When the first stream began.
    origin: Option<Instant>,
    documents: u32,
    report: CallReport,
}

/// A document and the URL it came from.
struct Document {
    url: String,
    verbs: VecDeque<Verb>,
}

impl Call {
    /// Carries out TwiML until there is no more or somebody hangs up.
    async fn live(&mut self) -> EndedBy {
        let before = Instant::now();
        let first = self.options.webhook_url.clone();
        let Some(mut document) = self.fetch(&first, "POST", "ringing", &[]).await else {
            return EndedBy::Error;
        };
        self.report.webhook_ms = ms(before.elapsed());
        while let Some(verb) = document.verbs.pop_front() {
            self.report.followed.push(verb.shown());
            let (next, extra) = match verb {
                Verb::Connect { action, method, stream } => {
                    let outcome = self.stream(&document.url, stream).await;
                    let over = match outcome {
                        Outcome::HungUp => Some(EndedBy::Caller),
                        Outcome::Impatient => Some(EndedBy::Patience),
                        Outcome::StreamOver => None,
                    };
                    if let Some(ended_by) = over {
                        // The answer cannot change anything any more.
                        if let Some(action) = action {
                            let url = absolute(&document.url, &action);
                            self.fetch(&url, &method, "completed", &[]).await;
                        }
                        return ended_by;
                    }
                    (action.map(|action| (action, method)), Vec::new())
                }
                Verb::Dial { action, method, whisper, .. } => {
                    let mut outcome = vec![field("DialCallStatus", &self.options.dial_status)];
                    if self.options.dial_status == "completed" {
                        let leg = format!("CA{}", uuid::Uuid::new_v4().simple());
                        if let Some((url, method)) = whisper {
                            self.whisper(&absolute(&document.url, &url), &method, &leg).await;
                        }
                        outcome.extend([field("DialCallSid", &leg), field("DialCallDuration", "7")]);
                    }
                    (action.map(|action| (action, method)), outcome)
                }
                Verb::Redirect { url, method } => (Some((url, method)), Vec::new()),
                Verb::Hangup | Verb::Reject => return EndedBy::Twiml,
                Verb::Say(_) | Verb::Pause(_) | Verb::Other(_) => continue,
            };
            if let Some((url, method)) = next {
                let url = absolute(&document.url, &url);
                match self.fetch(&url, &method, "in-progress", &extra).await {
                    Some(answer) => document = answer,
                    None => return EndedBy::Error,
                }
            }
        }
        EndedBy::Twiml
    }

    /// The person who answers hears what Twilio is told to say before the caller is connected.
    async fn whisper(&mut self, url: &str, method: &str, leg: &str) {
        let mut fields = self.fields("in-progress");
        fields.retain(|(name, _)| name != "CallSid" && name != "Direction");
        fields.extend([
            field("CallSid", leg),
            field("ParentCallSid", &self.sid),
            field("Direction", "outbound-dial"),
        ]);
        let heard = match self.webhooks.twiml(url, method, &fields).await {
            Ok(text) => parse(&text).map_err(|error| format!("12100: {error}")),
            Err(error) => Err(error.to_string()),
        };
        match heard {
            Ok(verbs) => {
                self.report.followed.extend(verbs.iter().map(|verb| format!("Whisper {}", verb.shown())));
            }
            Err(problem) => complain(&mut self.report.violations, problem),
        }
    }

    async fn stream(&mut self, document_url: &str, mut stream: Stream) -> Outcome {
        // A relative URL is on the same host, and a stream is a WebSocket.
        if !stream.url.contains("://") {
            let url = absolute(document_url, &stream.url);
            stream.url = url.replacen("http", "ws", 1);
        }
        for (name, value) in &stream.parameters {
            if name.len() + value.len() >= 500 {
                complain(
                    &mut self.report.violations,
                    format!("the parameter `{name}` is 500 characters or longer"),
                );
            }
        }
        let line = Line {
            options: &self.options,
            webhooks: &self.webhooks,
            call_sid: &self.sid,
            actor: &mut self.actor,
            ear: &mut self.ear,
            recording: &mut self.recording,
            origin: &mut self.origin,
            violations: &mut self.report.violations,
        };
        let (report, outcome) = run_stream(line, &stream).await;
        self.report.streams.push(report);
        outcome
    }

    /// Asks a webhook what to do. What is wrong with the answer is a violation.
    async fn fetch(
        &mut self,
        url: &str,
        method: &str,
        call_status: &str,
        extra: &[(String, String)],
    ) -> Option<Document> {
        self.documents += 1;
        if self.documents > MOST_DOCUMENTS {
            complain(&mut self.report.violations, "11215: too many documents".into());
            return None;
        }
        let fields = [self.fields(call_status), extra.to_vec()].concat();
        let text = match self.webhooks.twiml(url, method, &fields).await {
            Ok(text) => text,
            Err(error) => {
                complain(&mut self.report.violations, error.to_string());
                return None;
            }
        };
        let verbs = parse(&text);
        self.report.last_twiml = text;
        match verbs {
            Ok(verbs) => Some(Document { url: url.into(), verbs: verbs.into() }),
            Err(error) => {
                complain(&mut self.report.violations, format!("12100: {error}"));
                None
            }
        }
    }

    /// What every webhook is told.
    fn fields(&self, call_status: &str) -> Vec<(String, String)> {
        let options = &self.options;
        vec![
            field("CallSid", &self.sid),
            field("AccountSid", &options.account_sid),
            field("From", &options.from),
            field("To", &options.to),
            field("Caller", &options.from),
            field("Called", &options.to),
            field("CallStatus", call_status),
            field("Direction", "inbound"),
            field("ApiVersion", "2010-04-01"),
            field("FromCountry", "US"),
            // Twilio sends empty values too, and they count in the signature.
            field("FromCity", ""),
        ]
    }

    async fn finish(mut self) -> CallReport {
        let ended = self.report.streams.last().map_or(0.0, |stream| stream.ended_ms);
        self.report.duration_ms = ended;
        if let Some(url) = self.options.status_url.clone() {
            let seconds = (ended / 1000.0).ceil() as u64;
            let mut fields = self.fields("completed");
            let timestamp =
                jiff::fmt::rfc2822::to_string(&jiff::Zoned::now().with_time_zone(jiff::tz::TimeZone::UTC));
            fields.extend([
                field("CallDuration", &seconds.to_string()),
                field("Duration", &seconds.div_ceil(60).to_string()),
                field("SequenceNumber", "0"),
                field("CallbackSource", "call-progress-events"),
                field("Timestamp", &timestamp.unwrap_or_default()),
            ]);
            if let Err(error) = self.webhooks.notify(&url, &fields).await {
                complain(&mut self.report.violations, error.to_string());
            }
        }
        if let Some(path) = &self.options.record
            && let Err(error) = std::fs::write(path, wav::from_ulaw(&self.recording.ulaw))
        {
            self.report.violations.push(format!("cannot write {}: {error}", path.display()));
        }
        let (utterances, missed) = self.actor.into_report(&self.ear);
        self.report.utterances = utterances;
        self.report.missed = missed;
        self.report
    }
}

fn field(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}
