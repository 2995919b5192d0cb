//! Logging set-up, the numbers we count, and their text for `/metrics`.

mod frames;
mod labels;
mod logging;

use std::fmt::Write as _;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

pub use frames::FrameLatency;
use frames::FramesPassed;
use labels::{
    DialLabel, DirectionLabel, EndpointLabel, JudgementLabel, OutcomeLabel, ReasonLabel, ReportLabel,
    ResultLabel, SessionLabel, StatusLabel, WhyLabel,
};
pub use labels::{DialOutcome, FrameDrop, ToolOutcome};
pub use logging::{LogFormat, LoggingError, check_filter, init_logging};

/// Content type of [`Metrics::encode`].
pub const METRICS_CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

// Set-up of a model session and waits of a caller: below 0.2 s nobody notices, above 10 s the call is given up.
const WAITING_S: [f64; 12] = [0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0];
// Calls that are due wait for the pace of the carrier, or for others to end: seconds on a quiet day, hours in a large campaign.
const DUE_S: [f64; 12] = [0.5, 1.0, 2.0, 5.0, 15.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 86_400.0];
// A turn has to be durable within a second.
const SAVING_S: [f64; 10] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0];

/// What this process counts. Clones count into the same numbers; every `Metrics` made by [`Metrics::new`] has its own.
///
/// The fields of [`Counters`] are reached directly: `metrics.barge_ins.inc()`.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<Counters>);

/// One of a thing for each direction of the audio.
#[derive(Debug, Clone, Default)]
pub struct Directions<T> {
    /// From the caller to the model.
    pub caller: T,
    /// From the model to the caller.
    pub agent: T,
}

/// What is counted of one endpoint of the model.
#[derive(Debug, Clone)]
pub struct EndpointMetrics {
    /// Sessions it gave.
    pub opened: Counter,
    /// Tries that failed and might have worked.
    pub failed: Counter,
    /// Sessions it refused.
    pub refused: Counter,
    /// Sessions it gave that did what they are for.
    pub served: Counter,
    /// Sessions it gave that were lost before.
    pub lost_early: Counter,
    /// 0: it is asked; 1: it is being tested; 2: it is left alone.
    pub breaker: Gauge,
}

/// The handles behind [`Metrics`]: counting one is an atomic addition, no look-up.
#[derive(Debug)]
pub struct Counters {
    /// Calls whose media stream started.
    pub calls_started: Counter,
    /// Calls that are live.
    pub calls_live: Gauge,
    /// Background tasks that run: one or two for each live call. Set when it is asked for.
    pub tasks: Gauge,
    /// Twilio messages that were malformed or unknown.
    pub twilio_messages_ignored: Counter,
    /// Times a caller spoke over the agent.
    pub barge_ins: Counter,
    /// Times the agent was paused because of a sound over it.
    pub pauses: Counter,
    /// Seconds the agent was paused until it was known what the sound was.
    pub pause_seconds: Histogram,
    /// Times unheard audio was taken out of the model's memory.
    pub truncations: Counter,
    /// Times a model session was replaced during a call.
    pub reconnects: Counter,
    /// Times a model session was replaced before its time was over.
    pub renewals: Counter,
    /// Seconds that a call was without a model session that it had had.
    pub model_gap_seconds: Histogram,
    /// Seconds between receiving a frame and handing it to the other socket. Waiting on purpose does not count. Counts
    /// the frames, too.
    pub added_latency: Directions<FrameLatency>,
    /// Seconds from asking for a model session to its being ready.
    pub model_ready_seconds: Histogram,
    /// Seconds from the caller's last sound to the first sound of the answer.
    pub turn_response_seconds: Histogram,
    /// Turns that became durable.
    pub transcript_turns_saved: Counter,
    /// Seconds from the end of a turn to its being durable.
    pub transcript_save_seconds: Histogram,
    /// Writes to the store that had to be tried again.
    pub store_retries: Counter,
    /// 1 while the database cannot be reached.
    pub database_away: Gauge,
    /// Records that are kept on disk because the database does not have them yet.
    pub spool_records: Gauge,
    /// Bytes of those.
    pub spool_bytes: Gauge,
    /// Age of the oldest of those, in seconds. Set when it is asked for.
    pub spool_oldest_seconds: Gauge,
    /// Commits to the disk.
    pub spool_commits: Counter,
    /// Records that were put on record from the disk, not by their call.
    pub spool_replayed: Counter,
    /// Records that came too late: somebody else carried the call by then.
    pub spool_late: Counter,
    /// Records that the database will never take; they are set aside.
    pub spool_refused: Counter,
    /// Records that could not be kept on disk.
    pub spool_unkept: Counter,
    /// Seconds from the moment a call of the queue was due to the one at which it was taken to be asked for.
    pub dial_wait_seconds: Histogram,
    /// Requests for calls that the carrier has not answered yet.
    pub dial_requests_open: Gauge,
    /// Calls of the queue that go on, on all servers together, when this one last looked.
    pub dial_calls: Gauge,
    /// 1 while no server asks for calls, because the carrier had no time or the account is not good.
    pub dial_backing_off: Gauge,
    /// Webhooks that wait to be sent, of all servers together, when this one last counted.
    pub webhooks_waiting: Gauge,
    webhooks_sent: Family<ResultLabel, Counter>,
    dial_requests: Family<DialLabel, Counter>,
    dial_errors: Family<StatusLabel, Counter>,
    reports: Family<ReportLabel, Counter>,
    calls_ended: Family<ReasonLabel, Counter>,
    frames_dropped: Family<WhyLabel, Counter>,
    tool_calls: Family<OutcomeLabel, Counter>,
    model_sessions: Family<SessionLabel, Counter>,
    model_breakers: Family<EndpointLabel, Gauge>,
    judgements: Family<JudgementLabel, Counter>,
    registry: Registry,
}

impl Deref for Metrics {
    type Target = Counters;

    fn deref(&self) -> &Counters {
        &self.0
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All numbers at zero, in a registry of their own.
    #[must_use]
    #[expect(clippy::too_many_lines, reason = "one entry for each number")]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("voicebridge");
        let added_latency: Family<DirectionLabel, FrameLatency> = Family::default();
        registry.register_with_unit(
            "added_latency",
            "Time between receiving a frame and handing it to the other socket",
            Unit::Seconds,
            added_latency.clone(),
        );
        let latencies = both(|direction| added_latency.get_or_create(&DirectionLabel { direction }).clone());
        registry.register_collector(Box::new(FramesPassed(latencies.clone())));
        let counters = Counters {
            calls_started: counter(&mut registry, "calls_started", "Calls whose media stream started"),
            calls_live: gauge(&mut registry, "calls_live", "Calls that are live"),
            tasks: gauge(&mut registry, "tasks", "Background tasks that run"),
            twilio_messages_ignored: counter(
                &mut registry,
                "twilio_messages_ignored",
                "Twilio messages that were malformed or unknown",
            ),
            barge_ins: counter(&mut registry, "barge_ins", "Times a caller spoke over the agent"),
            pauses: counter(&mut registry, "pauses", "Times the agent was paused because of a sound over it"),
            pause_seconds: seconds(
                &mut registry,
                "pause",
                "Time the agent was paused until it was known what the sound was",
                &WAITING_S,
            ),
            truncations: counter(
                &mut registry,
                "truncations",
                "Times unheard audio was taken out of the model's memory",
            ),
            reconnects: counter(
                &mut registry,
                "reconnects",
                "Times a model session was replaced during a call",
            ),
            renewals: counter(
                &mut registry,
                "renewals",
                "Times a model session was replaced before its time was over",
            ),
            model_gap_seconds: seconds(
                &mut registry,
                "model_gap",
                "Time that a call was without a model session that it had had",
                &WAITING_S,
            ),
            added_latency: latencies,
            model_ready_seconds: seconds(
                &mut registry,
                "model_ready",
                "Time from asking for a model session to its being ready",
                &WAITING_S,
            ),
            turn_response_seconds: seconds(
                &mut registry,
                "turn_response",
                "Time from the caller's last sound to the first sound of the answer",
                &WAITING_S,
            ),
            transcript_turns_saved: counter(
                &mut registry,
                "transcript_turns_saved",
                "Turns that became durable",
            ),
            transcript_save_seconds: seconds(
                &mut registry,
                "transcript_save",
                "Time from the end of a turn to its being durable",
                &SAVING_S,
            ),
            store_retries: counter(
                &mut registry,
                "store_retries",
                "Writes to the store that had to be tried again",
            ),
            database_away: gauge(&mut registry, "database_away", "1 while the database cannot be reached"),
            spool_records: gauge(&mut registry, "spool_records", "Records the database does not have yet"),
            spool_bytes: gauge(&mut registry, "spool_bytes", "Size of those that are on disk"),
            spool_oldest_seconds: gauge(&mut registry, "spool_oldest_seconds", "Age of the oldest record"),
            spool_commits: counter(&mut registry, "spool_commits", "Commits to the disk"),
            spool_replayed: counter(
                &mut registry,
                "spool_replayed",
                "Records put on record from the disk, not by their call",
            ),
            spool_late: counter(
                &mut registry,
                "spool_late",
                "Records that came when somebody else carried the call",
            ),
            spool_refused: counter(&mut registry, "spool_refused", "Records the database will never take"),
            spool_unkept: counter(&mut registry, "spool_unkept", "Records that could not be kept on disk"),
            dial_wait_seconds: seconds(
                &mut registry,
                "dial_wait",
                "Time from when a call of the queue was due to when it was taken",
                &DUE_S,
            ),
            dial_requests_open: gauge(
                &mut registry,
                "dial_requests_open",
                "Requests for calls that the carrier has not answered yet",
            ),
            dial_calls: gauge(
                &mut registry,
                "dial_calls",
                "Calls of the queue that go on, on all servers together",
            ),
            dial_backing_off: gauge(
                &mut registry,
                "dial_backing_off",
                "1 while no server asks for calls, because the carrier had no time or the account is not good",
            ),
            webhooks_waiting: gauge(
                &mut registry,
                "webhooks_waiting",
                "Webhooks that wait to be sent, of all servers together",
            ),
            webhooks_sent: family(
                &mut registry,
                "webhooks_sent",
                "Requests to webhook endpoints, by result: `delivered`, `retried`, `dead`",
            ),
            dial_requests: family(
                &mut registry,
                "dial_requests",
                "Tries to have the carrier place a call, by outcome",
            ),
            dial_errors: family(
                &mut registry,
                "dial_carrier_errors",
                "Requests for calls that failed, by status: `429`, `4xx`, `5xx`, `none` without an answer, `other`",
            ),
            reports: family(
                &mut registry,
                "reports",
                "What other systems told of their calls, by source and what came of it",
            ),
            calls_ended: family(&mut registry, "calls_ended", "Calls that ended, by their one reason"),
            frames_dropped: family(&mut registry, "frames_dropped", "Frames of audio not passed on, and why"),
            tool_calls: family(&mut registry, "tool_calls", "Functions the model called, by outcome"),
            model_sessions: family(
                &mut registry,
                "model_sessions",
                "Model sessions asked for, by endpoint and outcome; one that was opened may have a second one, `served` or `lost_early`",
            ),
            model_breakers: family(
                &mut registry,
                "model_breaker",
                "Whether an endpoint is asked (0), tested (1) or left alone (2)",
            ),
            judgements: family(
                &mut registry,
                "sounds_judged",
                "Sounds over the agent, by what they were taken for and why",
            ),
            registry,
        };
        Self(Arc::new(counters))
    }

    /// Counts a call that ended. `reason` is one of the closed list of stored words.
    pub fn call_ended(&self, reason: &'static str) {
        self.calls_ended.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// Counts something that another system told of a call. `source` and `outcome` are of closed lists.
    pub fn reported(&self, source: &'static str, outcome: &'static str) {
        self.reports.get_or_create(&ReportLabel { source, outcome }).inc();
    }

    /// Counts a try to have the carrier place a call.
    pub fn dialed(&self, outcome: DialOutcome) {
        self.dial_requests.get_or_create(&DialLabel { outcome }).inc();
    }

    /// Counts a request for a call that failed with this HTTP status, or without one.
    pub fn dial_failed(&self, status: Option<u16>) {
        let status = match status {
            None => "none",
            Some(429) => "429",
            Some(400..=499) => "4xx",
            Some(500..=599) => "5xx",
            Some(_) => "other",
        };
        self.dial_errors.get_or_create(&StatusLabel { status }).inc();
    }

    /// Counts a request to a webhook endpoint. `result` is one of a closed list.
    pub fn webhook_sent(&self, result: &'static str) {
        self.webhooks_sent.get_or_create(&ResultLabel { result }).inc();
    }

    /// Counts a frame that was not passed on.
    pub fn frame_dropped(&self, why: FrameDrop) {
        self.frames_dropped.get_or_create(&WhyLabel { why }).inc();
    }

    /// Counts a sound over the agent. `verdict` and `why` are of closed lists.
    pub fn judged(&self, verdict: &'static str, why: &'static str, pause: Option<Duration>) {
        self.judgements.get_or_create(&JudgementLabel { verdict, why }).inc();
        if let Some(pause) = pause {
            self.pause_seconds.observe_duration(pause);
        }
    }

    /// Counts a function the model called.
    pub fn tool_called(&self, outcome: ToolOutcome) {
        self.tool_calls.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// What is counted of one endpoint of the model. `endpoint` is one of a closed list.
    #[must_use]
    pub fn endpoint(&self, endpoint: &'static str) -> EndpointMetrics {
        let sessions =
            |outcome| self.model_sessions.get_or_create(&SessionLabel { endpoint, outcome }).clone();
        EndpointMetrics {
            opened: sessions("opened"),
            failed: sessions("failed"),
            refused: sessions("refused"),
            served: sessions("served"),
            lost_early: sessions("lost_early"),
            breaker: self.model_breakers.get_or_create(&EndpointLabel { endpoint }).clone(),
        }
    }

    /// All numbers as `OpenMetrics` text, which Prometheus reads.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::with_capacity(8 * 1024);
        if text::encode(&mut text, &self.registry).is_err() {
            // Writing to a String cannot fail; if a metric ever refuses to be written, the scrape says so.
            let _ = writeln!(text, "# a metric could not be written");
        }
        text
    }
}

fn counter(registry: &mut Registry, name: &str, help: &str) -> Counter {
    let counter = Counter::default();
    registry.register(name, help, counter.clone());
    counter
}

fn gauge(registry: &mut Registry, name: &str, help: &str) -> Gauge {
    let gauge = Gauge::default();
    registry.register(name, help, gauge.clone());
    gauge
}

fn seconds(registry: &mut Registry, name: &str, help: &str, buckets: &[f64]) -> Histogram {
    let histogram = Histogram::new(buckets.iter().copied());
    registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
    histogram
}

fn family<L, M>(registry: &mut Registry, name: &str, help: &str) -> Family<L, M>
where
    Family<L, M>: Default + Clone + prometheus_client::registry::Metric,
    L: Clone + std::hash::Hash + Eq + EncodeLabelSet + std::fmt::Debug + Send + Sync + 'static,
{
    let family = Family::default();
    registry.register(name, help, family.clone());
    family
}

fn both<T>(make: impl Fn(&'static str) -> T) -> Directions<T> {
    Directions { caller: make("caller"), agent: make("agent") }
}

/// Observes a duration in seconds.
pub trait ObserveDuration {
    /// Adds one observation.
    fn observe_duration(&self, duration: Duration);
}

impl ObserveDuration for Histogram {
    fn observe_duration(&self, duration: Duration) {
        self.observe(duration.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line<'a>(text: &'a str, start: &str) -> &'a str {
        text.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("no {start} in\n{text}"))
    }

    #[test]
    fn counts_are_written_under_prometheus_names() {
        let metrics = Metrics::new();
        metrics.calls_started.inc();
        metrics.calls_live.inc();
        metrics.call_ended("agent_ended");
        metrics.call_ended("agent_ended");
        metrics.added_latency.caller.observe(Duration::from_micros(300), 50);
        metrics.added_latency.agent.observe(Duration::from_micros(300), 1);
        metrics.frame_dropped(FrameDrop::NotAudio);
        metrics.tool_called(ToolOutcome::TimedOut);
        metrics.dialed(DialOutcome::OwnNumber);
        for status in [Some(429), Some(503), Some(500), None] {
            metrics.dial_failed(status);
        }
        let text = metrics.encode();
        for expected in [
            "voicebridge_calls_started_total 1",
            "voicebridge_calls_live 1",
            "voicebridge_calls_ended_total{reason=\"agent_ended\"} 2",
            "voicebridge_frames_total{direction=\"caller\"} 50",
            "voicebridge_frames_total{direction=\"agent\"} 1",
            "voicebridge_frames_dropped_total{why=\"not_audio\"} 1",
            "voicebridge_tool_calls_total{outcome=\"timed_out\"} 1",
            "voicebridge_dial_requests_total{outcome=\"own_number\"} 1",
            "voicebridge_dial_carrier_errors_total{status=\"429\"} 1",
            "voicebridge_dial_carrier_errors_total{status=\"5xx\"} 2",
            "voicebridge_dial_carrier_errors_total{status=\"none\"} 1",
        ] {
            assert_eq!(line(&text, expected), expected);
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn every_number_is_there_from_the_start() {
        let text = Metrics::new().encode();
        for name in [
            "calls_started_total 0",
            "calls_live 0",
            "frames_total{direction=\"caller\"} 0",
            "frames_total{direction=\"agent\"} 0",
            "twilio_messages_ignored_total 0",
            "barge_ins_total 0",
            "pauses_total 0",
            "truncations_total 0",
            "reconnects_total 0",
            "renewals_total 0",
            "model_gap_seconds_count 0",
            "transcript_turns_saved_total 0",
            "store_retries_total 0",
            "database_away 0",
            "spool_records 0",
            "spool_bytes 0",
            "spool_oldest_seconds 0",
            "spool_replayed_total 0",
            "spool_late_total 0",
            "spool_refused_total 0",
            "spool_unkept_total 0",
            "added_latency_seconds_count{direction=\"caller\"} 0",
            "added_latency_seconds_count{direction=\"agent\"} 0",
            "model_ready_seconds_count 0",
            "turn_response_seconds_count 0",
            "transcript_save_seconds_count 0",
            "dial_wait_seconds_count 0",
            "dial_requests_open 0",
            "dial_calls 0",
            "dial_backing_off 0",
        ] {
            line(&text, &format!("voicebridge_{name}"));
        }
    }

    #[test]
    fn added_latency_is_told_apart_from_fifty_microseconds_to_half_a_second() {
        let metrics = Metrics::new();
        metrics.added_latency.caller.observe(Duration::from_micros(40), 1);
        metrics.added_latency.caller.observe(Duration::from_millis(400), 1);
        metrics.added_latency.caller.observe(Duration::from_secs(1), 1);
        let text = metrics.encode();
        let bucket = |le: &str| {
            let prefix =
                format!("voicebridge_added_latency_seconds_bucket{{le=\"{le}\",direction=\"caller\"}} ");
            line(&text, &prefix).rsplit(' ').next().unwrap().to_owned()
        };
        assert_eq!(bucket("0.00005"), "1");
        assert_eq!(bucket("0.2"), "1");
        assert_eq!(bucket("0.5"), "2");
        assert_eq!(bucket("+Inf"), "3");
    }

    #[test]
    fn two_sets_of_metrics_do_not_share_numbers_and_clones_do() {
        let (one, other) = (Metrics::new(), Metrics::new());
        one.clone().barge_ins.inc();
        assert_eq!((one.barge_ins.get(), other.barge_ins.get()), (1, 0));
    }

    #[test]
    fn a_log_format_is_text_or_json() {
        assert_eq!("text".parse(), Ok(LogFormat::Text));
        assert_eq!("json".parse(), Ok(LogFormat::Json));
        assert!("xml".parse::<LogFormat>().is_err());
    }

    #[test]
    fn a_filter_that_cannot_be_read_is_refused() {
        assert!(matches!(init_logging(LogFormat::Text, "voicebridge=loudest"), Err(LoggingError::Filter(_))));
    }
}
