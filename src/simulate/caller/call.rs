//! One call from ringing to its end: webhooks and TwiML around media streams.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::actor::{Actor, prepare};
use super::ear::Ear;
use super::leg::{DialWish, Leg, News, Order, Orders, Source};
use super::playout::ms;
use super::report::{CallReport, EndedBy, SaidReport};
use super::stream::{Line, Outcome, complain, run_stream};
use super::twiml::{Dial, Gather, Stream, Verb, parse};
use super::webhook::{Webhooks, absolute};
use super::{CallerOptions, Recording};
use crate::simulate::wav;

/// Twilio follows so many documents (error 11215).
const MOST_DOCUMENTS: u32 = 10;
/// A character of spoken text: 150 words a minute.
const CHARACTER: Duration = Duration::from_millis(65);
/// How a call stands that was taken.
const IN_PROGRESS: &str = "in-progress";
/// What is played is not fetched; it is taken to be so long.
const PLAYED: Duration = Duration::from_secs(2);

/// Places one call and lives through it. Whatever goes wrong is in the report.
pub async fn run_call(options: CallerOptions) -> CallReport {
    // A call is large, and whoever waits for it need not be.
    Box::pin(run(options, None)).await
}

/// Lives through a call that a carrier stands behind: texts and pauses take their time, other telephones really ring,
/// and the carrier may interfere.
pub(in crate::simulate) async fn run_leg(options: CallerOptions, leg: Leg) -> CallReport {
    Box::pin(run(options, Some(leg))).await
}

async fn run(options: CallerOptions, leg: Option<Leg>) -> CallReport {
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
    let mut first = Source::Url { url: options.webhook_url.clone(), method: "POST".into(), fallback: None };
    let mut orders = Orders::default();
    let carrier = leg.map(|leg| {
        first = leg.source;
        orders = Orders::new(leg.orders, leg.leaves, leg.limit);
        Carrier {
            direction: leg.direction,
            status: leg.status,
            extra: leg.extra,
            news: leg.news,
            pace: leg.pace,
        }
    });
    let mut call = Call {
        recording: Recording { on: options.record.is_some(), ..Recording::default() },
        options,
        sid: call_sid,
        webhooks,
        actor: Actor::new(parts),
        ear: Ear::default(),
        origin: None,
        began: Instant::now(),
        documents: 0,
        taken: carrier.as_ref().is_some_and(|carrier| carrier.status == IN_PROGRESS),
        carrier,
        orders,
        report,
    };
    call.report.ended_by = call.live(first).await;
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
    began: Instant,
    documents: u32,
    /// Somebody has taken the call.
    taken: bool,
    /// Who stands behind this call, if anybody does.
    carrier: Option<Carrier>,
    orders: Orders,
    report: CallReport,
}

/// The carrier as a call knows it.
struct Carrier {
    direction: &'static str,
    status: &'static str,
    extra: Vec<(String, String)>,
    news: mpsc::Sender<News>,
    pace: f64,
}

/// A document and the URL it came from.
struct Document {
    url: String,
    verbs: VecDeque<Verb>,
}

/// What a call does after a verb.
enum Then {
    Next,
    Ask { url: String, method: String, extra: Vec<(String, String)> },
    Obey(Order),
    End(EndedBy),
}

impl Call {
    /// Carries out TwiML until there is no more or somebody hangs up.
    async fn live(&mut self, first: Source) -> EndedBy {
        let before = Instant::now();
        let Some(mut document) = self.open(first, self.status()).await else { return EndedBy::Error };
        self.report.webhook_ms = ms(before.elapsed());
        loop {
            let then = if let Some(order) = self.orders.ready() {
                Then::Obey(order)
            } else if let Some(verb) = document.verbs.pop_front() {
                self.report.followed.push(verb.shown());
                if !self.taken && verb.takes_the_call() {
                    self.taken = true;
                    self.tell(News::Answered).await;
                }
                self.carry_out(verb, &document.url).await
            } else {
                return EndedBy::Twiml;
            };
            let next = match then {
                Then::Next => continue,
                Then::Ask { url, method, extra } => {
                    let url = absolute(&document.url, &url);
                    self.fetch(&url, &method, self.status(), &extra).await
                }
                Then::Obey(Order::Follow(source)) => {
                    self.documents = 0;
                    self.open(source, self.status()).await
                }
                Then::Obey(Order::End(ended_by)) | Then::End(ended_by) => return ended_by,
            };
            document = match next {
                Some(document) => document,
                None => return EndedBy::Error,
            };
        }
    }

    async fn carry_out(&mut self, verb: Verb, base: &str) -> Then {
        let obey = |order: Option<Order>| order.map_or(Then::Next, Then::Obey);
        match verb {
            Verb::Connect { action, method, stream } => self.connect(action, method, stream, base).await,
            Verb::Dial(dial) => self.dial(dial, base).await,
            Verb::Gather(gather) => self.gather(gather, base).await,
            Verb::Redirect { url, method } => Then::Ask { url, method, extra: Vec::new() },
            Verb::Hangup | Verb::Reject { .. } => Then::End(EndedBy::Twiml),
            Verb::Say(_) | Verb::Play(_) | Verb::Pause(_) => obey(self.play(&verb).await),
            Verb::Other(_) => Then::Next,
        }
    }

    async fn connect(&mut self, action: Option<String>, method: String, stream: Stream, base: &str) -> Then {
        let ended_by = match self.stream(base, stream).await {
            Outcome::StreamOver => {
                return action.map_or(Then::Next, |url| Then::Ask { url, method, extra: Vec::new() });
            }
            Outcome::HungUp => EndedBy::Caller,
            Outcome::Impatient => EndedBy::Patience,
            Outcome::Ordered => match self.orders.ready() {
                Some(Order::End(ended_by)) => ended_by,
                Some(order) => return Then::Obey(order),
                None => EndedBy::Carrier,
            },
        };
        // The answer cannot change anything any more.
        if let Some(action) = action {
            let url = absolute(base, &action);
            self.fetch(&url, &method, "completed", &[]).await;
        }
        Then::End(ended_by)
    }

    /// Says or plays something, or is silent, for as long as that takes.
    async fn play(&mut self, verb: &Verb) -> Option<Order> {
        let since_ms = ms(self.began.elapsed());
        let length = match verb {
            Verb::Say(text) => CHARACTER * text.chars().count() as u32,
            Verb::Play(_) => PLAYED,
            Verb::Pause(seconds) => Duration::from_secs(*seconds),
            _ => Duration::ZERO,
        };
        let order = self.pass(length).await;
        if let Verb::Say(text) = verb {
            self.report.said.push(SaidReport { text: text.clone(), since_ms, whole: order.is_none() });
        }
        order
    }

    /// Lets time pass, none without a carrier.
    async fn pass(&mut self, length: Duration) -> Option<Order> {
        let pace = self.carrier.as_ref()?.pace;
        tokio::select! {
            order = self.orders.next() => Some(order),
            () = sleep(length.mul_f64(pace)) => None,
        }
    }

    async fn dial(&mut self, dial: Dial, base: &str) -> Then {
        let bridged = Arc::new(AtomicBool::new(false));
        let (wish, answer) = DialWish::new(&dial, base, &bridged);
        let dialed = if self.tell(News::Dial(wish)).await {
            tokio::select! {
                order = self.orders.next() => Err(order),
                dialed = answer => Ok(dialed.ok()),
            }
        } else {
            Ok(None)
        };
        self.documents = 0;
        let mut extra = Vec::new();
        let over = match dialed {
            Ok(Some(dialed)) => {
                self.taken |= dialed.bridged;
                extra.push(field("DialCallStatus", dialed.status));
                extra.extend(dialed.call_sid.map(|sid| field("DialCallSid", &sid)));
                extra.extend(dialed.seconds.map(|seconds| field("DialCallDuration", &seconds.to_string())));
                extra.push(field("DialBridged", &dialed.bridged.to_string()));
                None
            }
            Ok(None) => {
                extra = self.put_through(&dial, base).await;
                None
            }
            Err(order @ Order::Follow(_)) => return Then::Obey(order),
            Err(Order::End(ended_by)) => {
                let bridged = bridged.load(Ordering::Acquire);
                extra.push(field("DialCallStatus", if bridged { "completed" } else { "canceled" }));
                extra.push(field("DialBridged", &bridged.to_string()));
                Some(ended_by)
            }
        };
        match (over, dial.action) {
            (None, Some(url)) => Then::Ask { url, method: dial.method, extra },
            (None, None) => Then::Next,
            (Some(ended_by), action) => {
                if let Some(action) = action {
                    self.fetch(&absolute(base, &action), &dial.method, "completed", &extra).await;
                }
                Then::End(ended_by)
            }
        }
    }

    async fn gather(&mut self, gather: Gather, base: &str) -> Then {
        for prompt in &gather.prompts {
            self.report.followed.push(prompt.shown());
            if let Some(order) = self.play(prompt).await {
                return Then::Obey(order);
            }
        }
        let keys = gather.digits.then(|| self.actor.take_keys()).flatten();
        let words = (gather.speech && keys.is_none()).then(|| self.actor.take_words()).flatten();
        let extra = match (keys, words) {
            (Some(keys), _) => vec![field("Digits", &gather.cut(&keys))],
            (None, Some(words)) => vec![field("SpeechResult", &words), field("Confidence", "0.9")],
            (None, None) => {
                let order = self.pass(gather.timeout).await;
                return order.map_or(Then::Next, Then::Obey);
            }
        };
        Then::Ask { url: gather.action.unwrap_or_else(|| base.to_owned()), method: gather.method, extra }
    }

    /// How the call stands, as webhooks are told.
    const fn status(&self) -> &'static str {
        if self.taken { IN_PROGRESS } else { "ringing" }
    }

    /// False when nobody wants to know.
    async fn tell(&self, news: News) -> bool {
        match &self.carrier {
            Some(carrier) => carrier.news.send(news).await.is_ok(),
            None => false,
        }
    }

    /// What becomes of a `<Dial>` without a carrier: as the options say, and at once.
    async fn put_through(&mut self, dial: &Dial, base: &str) -> Vec<(String, String)> {
        let mut outcome = vec![field("DialCallStatus", &self.options.dial_status)];
        if self.options.dial_status == "completed" {
            let leg = format!("CA{}", uuid::Uuid::new_v4().simple());
            if let Some((url, method)) = dial.numbers.first().and_then(|number| number.whisper.clone()) {
                self.whisper(&absolute(base, &url), &method, &leg).await;
            }
            outcome.extend([field("DialCallSid", &leg), field("DialCallDuration", "7")]);
        }
        outcome
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
            orders: &mut self.orders,
            origin: &mut self.origin,
            violations: &mut self.report.violations,
        };
        let (report, outcome) = run_stream(line, &stream).await;
        self.report.streams.push(report);
        outcome
    }

    /// The document to follow, wherever it comes from.
    async fn open(&mut self, source: Source, status: &str) -> Option<Document> {
        match source {
            Source::Text(text) => self.read(String::new(), text),
            Source::Url { url, method, fallback } => {
                let document = self.fetch(&url, &method, status, &[]).await;
                match (document, fallback) {
                    (None, Some((other, method))) => {
                        let extra = [field("ErrorCode", "11200"), field("ErrorUrl", &url)];
                        self.fetch(&other, &method, status, &extra).await
                    }
                    (document, _) => document,
                }
            }
        }
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
        match self.webhooks.twiml(url, method, &fields).await {
            Ok(text) => self.read(url.into(), text),
            Err(error) => {
                complain(&mut self.report.violations, error.to_string());
                None
            }
        }
    }

    fn read(&mut self, url: String, text: String) -> Option<Document> {
        let verbs = parse(&text);
        self.report.last_twiml = text;
        match verbs {
            Ok(verbs) => Some(Document { url, verbs: verbs.into() }),
            Err(error) => {
                complain(&mut self.report.violations, format!("12100: {error}"));
                None
            }
        }
    }

    /// What every webhook is told.
    fn fields(&self, call_status: &str) -> Vec<(String, String)> {
        let options = &self.options;
        let mut fields = vec![
            field("CallSid", &self.sid),
            field("AccountSid", &options.account_sid),
            field("From", &options.from),
            field("To", &options.to),
            field("Caller", &options.from),
            field("Called", &options.to),
            field("CallStatus", call_status),
            field("Direction", self.carrier.as_ref().map_or("inbound", |carrier| carrier.direction)),
            field("ApiVersion", "2010-04-01"),
            field("FromCountry", "US"),
            // Twilio sends empty values too, and they count in the signature.
            field("FromCity", ""),
        ];
        fields.extend(self.carrier.iter().flat_map(|carrier| carrier.extra.clone()));
        fields
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

impl Gather {
    /// What of these keys is the input.
    fn cut(&self, keys: &str) -> String {
        let most = self.most_digits.unwrap_or(usize::MAX);
        keys.chars().take_while(|key| Some(*key) != self.finish_on_key).take(most).collect()
    }
}

fn field(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}
