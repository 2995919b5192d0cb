//! How many frames pass and how long they stay here: counted with every frame of every call, and therefore without a
//! lock, and without a place in memory that two threads write to.

use std::array;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

use super::Directions;

/// Upper bounds in microseconds. 50 µs is what one frame costs, a 20 ms frame late by 20 ms is audible as a gap, 500 ms
/// is broken.
const BOUNDS_US: [u64; 13] =
    [50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000];
/// The place after the bounds: frames that took longer than all of them.
const BEYOND: usize = BOUNDS_US.len();
/// The last place: the sum of all latencies in microseconds.
const SUM: usize = BEYOND + 1;
/// Threads that count without meeting another; more of them share.
const SHARDS: usize = 16;

/// A histogram of latencies. Clones count into the same one.
#[derive(Debug, Clone, Default)]
pub struct FrameLatency(Arc<[Shard; SHARDS]>);

/// What one thread has counted. A processor fetches two lines of 64 bytes at once, and nobody else's is among them.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard([AtomicU64; SUM + 1]);

thread_local! {
    /// Which shard is this thread's.
    static SHARD: usize = {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        THREADS.fetch_add(1, Ordering::Relaxed) % SHARDS
    };
}

impl FrameLatency {
    /// So many frames took so long.
    pub fn observe(&self, latency: Duration, frames: u32) {
        if frames == 0 {
            return;
        }
        let (us, frames) = (latency.as_micros() as u64, u64::from(frames));
        let place = BOUNDS_US.iter().position(|bound| us <= *bound).unwrap_or(BEYOND);
        let Shard(counts) = &self.0[SHARD.with(|shard| *shard)];
        counts[place].fetch_add(frames, Ordering::Relaxed);
        counts[SUM].fetch_add(us * frames, Ordering::Relaxed);
    }

    /// Frames so far.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.totals()[..SUM].iter().sum()
    }

    fn totals(&self) -> [u64; SUM + 1] {
        array::from_fn(|place| self.0.iter().map(|shard| shard.0[place].load(Ordering::Relaxed)).sum())
    }
}

impl EncodeMetric for FrameLatency {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let totals = self.totals();
        let bounds = BOUNDS_US.iter().map(|us| *us as f64 / 1e6).chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(totals).collect();
        let count = totals[..SUM].iter().sum();
        encoder.encode_histogram::<NoLabelSet>(totals[SUM] as f64 / 1e6, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

impl TypedMetric for FrameLatency {
    const TYPE: MetricType = MetricType::Histogram;
}

/// Counts frames by counting their latencies.
#[derive(Debug)]
pub(super) struct FramesPassed(pub(super) Directions<FrameLatency>);

impl Collector for FramesPassed {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut frames =
            encoder.encode_descriptor("frames", "Frames of audio passed on", None, MetricType::Counter)?;
        for (direction, latency) in [("caller", &self.0.caller), ("agent", &self.0.agent)] {
            let labels = [("direction", direction)];
            frames.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&latency.frames(), None)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::encoding::text;
    use prometheus_client::registry::Registry;

    #[test]
    fn frames_are_counted_where_they_belong() {
        let latency = FrameLatency::default();
        latency.observe(Duration::from_micros(50), 2);
        latency.observe(Duration::from_micros(51), 1);
        latency.observe(Duration::from_secs(2), 0);
        let elsewhere = latency.clone();
        std::thread::spawn(move || elsewhere.observe(Duration::from_secs(1), 3)).join().unwrap();
        assert_eq!(latency.frames(), 6);
        let mut registry = Registry::default();
        registry.register("latency", "How long", latency);
        let mut told = String::new();
        text::encode(&mut told, &registry).unwrap();
        for line in [
            "latency_count 6",
            "latency_bucket{le=\"0.00005\"} 2",
            "latency_bucket{le=\"0.0001\"} 3",
            "latency_bucket{le=\"0.5\"} 3",
            "latency_bucket{le=\"+Inf\"} 6",
            "latency_sum 3.000151",
        ] {
            assert!(told.contains(line), "{line} is not in\n{told}");
        }
    }
}
