//! The steps of a run by target and number of calls, all rounds together.

use crate::bench::outcome::{Direction, Latency, Outcome, Step, Target, TargetKind};

use super::figures::{Spread, spread};
use super::scale::PERCENTILES;

/// One of the times that are measured in a step.
pub(super) type LatencyOf = fn(&Step) -> &Latency;

/// One of the two directions of a call.
pub(super) struct Way {
    pub(super) name: &'static str,
    pub(super) of: fn(&Step) -> &Direction,
}

/// Both directions, in the order in which they are shown.
pub(super) const WAYS: [Way; 2] = [
    Way { name: "caller to model", of: |step| &step.up },
    Way { name: "model to caller", of: |step| &step.down },
];

/// All rounds of one target under one number of calls.
pub(super) struct Rounds<'a> {
    pub(super) calls: u32,
    pub(super) steps: Vec<&'a Step>,
}

impl Rounds<'_> {
    /// A figure of each round that has it, summed up.
    pub(super) fn spread(&self, figure: impl Fn(&Step) -> Option<f64>) -> Option<Spread> {
        spread(self.steps.iter().filter_map(|step| figure(step)))
    }

    /// The median over the rounds that have the figure.
    pub(super) fn median(&self, figure: impl Fn(&Step) -> Option<f64>) -> Option<f64> {
        self.spread(figure).map(|spread| spread.median)
    }

    /// A count of both directions and all rounds together.
    pub(super) fn total(&self, number: impl Fn(&Direction) -> u64) -> u64 {
        self.steps.iter().flat_map(|step| [&step.up, &step.down]).map(number).sum()
    }

    pub(super) fn within_limit(&self) -> bool {
        self.steps.iter().all(|step| step.within_limit)
    }

    /// The distribution that lies in the middle of the rounds': (share, microseconds), rising.
    pub(super) fn quantiles(&self, latency: impl Fn(&Step) -> &Latency) -> Vec<(f64, f64)> {
        let rounds: Vec<Vec<(f64, f64)>> =
            self.steps.iter().map(|step| distribution(latency(step))).filter(|all| !all.is_empty()).collect();
        // The axis' own percentiles too, so that each has a value.
        let mut shares: Vec<f64> =
            rounds.iter().flatten().map(|&(share, _)| share).chain(PERCENTILES).collect();
        shares.sort_by(f64::total_cmp);
        shares.dedup();
        let at =
            |all: &[(f64, f64)], share| all.iter().find(|&&(known, _)| known >= share).map(|&(_, us)| us);
        shares
            .into_iter()
            .filter_map(|share| {
                let us = spread(rounds.iter().filter_map(|all| at(all, share)))?;
                Some((share, us.median))
            })
            .collect()
    }
}

/// All that is known of how a latency is distributed: (share, microseconds), rising.
fn distribution(latency: &Latency) -> Vec<(f64, f64)> {
    if latency.count == 0 {
        return Vec::new();
    }
    let named = [
        (0.5, latency.p50_us),
        (0.9, latency.p90_us),
        (0.99, latency.p99_us),
        (0.999, latency.p999_us),
        (1.0, latency.max_us),
    ];
    let mut all: Vec<(f64, f64)> = named
        .into_iter()
        .chain(latency.quantiles.iter().copied())
        .filter(|(share, _)| (0.0..=1.0).contains(share))
        .map(|(share, us)| (share, us as f64))
        .collect();
    // Stable, so that a figure of the table comes before what the distribution says of the same share.
    all.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    all
}

/// A time of a latency, where there was anything to measure.
pub(super) fn known(latency: &Latency, us: u64) -> Option<f64> {
    (latency.count > 0).then_some(us as f64)
}

/// A target and its rounds.
pub(super) struct Series<'a> {
    pub(super) target: &'a Target,
    /// With the number of calls rising.
    pub(super) rounds: Vec<Rounds<'a>>,
}

impl<'a> Series<'a> {
    pub(super) fn at(&self, calls: u32) -> Option<&Rounds<'a>> {
        self.rounds.iter().find(|rounds| rounds.calls == calls)
    }

    pub(super) fn is_floor(&self) -> bool {
        self.target.kind == TargetKind::Floor
    }
}

/// All of a run.
pub(super) struct Run<'a> {
    pub(super) outcome: &'a Outcome,
    /// The targets that were measured at all, as they were named.
    pub(super) series: Vec<Series<'a>>,
}

impl<'a> Run<'a> {
    pub(super) fn new(outcome: &'a Outcome) -> Self {
        let series = outcome
            .targets
            .iter()
            .map(|target| Series { target, rounds: rounds_of(outcome, &target.name) })
            .filter(|series| !series.rounds.is_empty())
            .collect();
        Self { outcome, series }
    }

    pub(super) fn floor(&self) -> Option<&Series<'a>> {
        self.series.iter().find(|series| series.is_floor())
    }

    /// What the page is about: the bridges, or the floor if it was measured alone.
    pub(super) fn subjects(&self) -> Vec<&Series<'a>> {
        let bridges: Vec<_> = self.series.iter().filter(|series| !series.is_floor()).collect();
        if bridges.is_empty() { self.series.iter().collect() } else { bridges }
    }

    /// The numbers of calls that were measured, rising.
    pub(super) fn loads(&self) -> Vec<u32> {
        let mut loads: Vec<u32> =
            self.series.iter().flat_map(|series| series.rounds.iter().map(|rounds| rounds.calls)).collect();
        loads.sort_unstable();
        loads.dedup();
        loads
    }

    /// The number of calls at which the targets are compared: the largest that all of them ran.
    ///
    /// A search for the most calls ends beyond the limit by design, so there it is the largest within.
    pub(super) fn compared_at(&self) -> Option<u32> {
        let mut common = self.loads();
        common.retain(|&calls| self.series.iter().all(|series| series.at(calls).is_some()));
        let within = |&&calls: &&u32| {
            self.series.iter().all(|series| series.at(calls).is_some_and(Rounds::within_limit))
        };
        if !self.outcome.most_calls.is_empty()
            && let Some(&calls) = common.iter().rev().find(within)
        {
            return Some(calls);
        }
        // Targets with no number in common are shown each where it was, from the first one's largest.
        common.last().copied().or_else(|| Some(self.subjects().first()?.rounds.last()?.calls))
    }
}

fn rounds_of<'a>(outcome: &'a Outcome, target: &str) -> Vec<Rounds<'a>> {
    let mut all: Vec<Rounds<'a>> = Vec::new();
    for step in outcome.steps.iter().filter(|step| step.target == target) {
        match all.iter_mut().find(|rounds| rounds.calls == step.calls) {
            Some(rounds) => rounds.steps.push(step),
            None => all.push(Rounds { calls: step.calls, steps: vec![step] }),
        }
    }
    all.sort_by_key(|rounds| rounds.calls);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::sample;

    #[test]
    fn targets_are_compared_at_the_most_calls_that_all_of_them_ran() {
        let mut outcome = sample::outcome();
        assert_eq!(Run::new(&outcome).compared_at(), Some(300));
        outcome.steps.retain(|step| step.target == "voicebridge" || step.calls < 200);
        assert_eq!(Run::new(&outcome).compared_at(), Some(100));
        outcome.steps.retain(|step| step.target == "voicebridge");
        assert_eq!(Run::new(&outcome).compared_at(), Some(300), "a target without steps is not waited for");
        outcome.steps.clear();
        assert_eq!(Run::new(&outcome).compared_at(), None);
    }

    #[test]
    fn the_distribution_of_rounds_has_the_tables_figures_and_lies_between_the_rounds() {
        let mut outcome = sample::outcome();
        for step in &mut outcome.steps {
            let latency = &mut step.up.latency;
            (latency.p50_us, latency.p99_us) = if step.round == 1 { (200, 900) } else { (300, 1000) };
            latency.quantiles = vec![(0.0, 100), (0.99, 950), (1.0, latency.max_us)];
        }
        let run = Run::new(&outcome);
        let quantiles = run.series[0].rounds[0].quantiles(|step| &step.up.latency);
        let at = |share: f64| quantiles.iter().find(|known| known.0 >= share).map(|known| known.1);
        assert_eq!((at(0.0), at(0.5), at(0.99)), (Some(100.0), Some(250.0), Some(950.0)));
        assert!(quantiles.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{quantiles:?}");
        assert!(run.series[0].rounds[0].quantiles(|step| &step.barge_in).len() > 5);
    }
}
