//! How long frames stay here: counted with every frame of every call, and therefore without a lock.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// Upper bounds in microseconds. 50 µs is what one frame costs, a 20 ms frame late by 20 ms is audible as a gap, 500 ms
/// is broken.
const BOUNDS_US: [u64; 13] =
    [50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000];

/// A histogram of latencies. Clones count into the same one.
#[derive(Debug, Clone, Default)]
pub struct FrameLatency(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    buckets: [AtomicU64; BOUNDS_US.len()],
    beyond: AtomicU64,
    sum_us: AtomicU64,
}

impl FrameLatency {
    /// So many frames took so long.
    pub fn observe(&self, latency: Duration, frames: u32) {
        let (us, frames) = (latency.as_micros() as u64, u64::from(frames));
        let bucket = BOUNDS_US.iter().position(|bound| us <= *bound);
        bucket.map_or(&self.0.beyond, |bucket| &self.0.buckets[bucket]).fetch_add(frames, Ordering::Relaxed);
        self.0.sum_us.fetch_add(us * frames, Ordering::Relaxed);
    }
}

impl EncodeMetric for FrameLatency {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let bounds = BOUNDS_US.iter().map(|us| *us as f64 / 1e6).chain([f64::INFINITY]);
        let counts = self.0.buckets.iter().chain([&self.0.beyond]).map(load);
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        encoder.encode_histogram::<NoLabelSet>(load(&self.0.sum_us) as f64 / 1e6, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

impl TypedMetric for FrameLatency {
    const TYPE: MetricType = MetricType::Histogram;
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
        latency.observe(Duration::from_secs(1), 3);
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
