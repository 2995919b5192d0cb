//! A bridge's step beside the floor's of the same round.

use super::outcome::{AgainstFloor, Latency, Outcome, Step, TargetKind};

/// Compares the bridge's step of this round with the floor's, once both are there. Returns where the bridge's is.
pub(super) fn compare(outcome: &mut Outcome, calls: u32, round: u32) -> Option<usize> {
    let floor = outcome.targets.iter().find(|target| target.kind == TargetKind::Floor)?.name.clone();
    let same = |step: &Step| step.calls == calls && step.round == round;
    let low = outcome.steps.iter().find(|step| same(step) && step.target == floor)?;
    let bridge = outcome.steps.iter().position(|step| same(step) && step.target != floor)?;
    let ratios = against(&outcome.steps[bridge], low);
    outcome.steps[bridge].against_floor = Some(ratios);
    Some(bridge)
}

fn against(step: &Step, floor: &Step) -> AgainstFloor {
    let of = |latency: fn(&Step) -> &Latency, at: fn(&Latency) -> u64| {
        let known = latency(step).count > 0 && latency(floor).count > 0;
        ratio(known.then(|| at(latency(step)) as f64), Some(at(latency(floor)) as f64))
    };
    let (p50, p99) = (|latency: &Latency| latency.p50_us, |latency: &Latency| latency.p99_us);
    AgainstFloor {
        cpu: ratio(step.cpu.map(|cpu| cpu.ms_per_call_second), floor.cpu.map(|cpu| cpu.ms_per_call_second)),
        own_memory: ratio(
            step.memory.map(|memory| memory.own_per_call_bytes),
            floor.memory.map(|memory| memory.own_per_call_bytes),
        ),
        up_p50: of(|step| &step.up.latency, p50),
        up_p99: of(|step| &step.up.latency, p99),
        down_p50: of(|step| &step.down.latency, p50),
        down_p99: of(|step| &step.down.latency, p99),
        first_audio_p50: of(|step| &step.first_audio, p50),
        barge_in_p50: of(|step| &step.barge_in, p50),
    }
}

fn ratio(of: Option<f64>, to: Option<f64>) -> Option<f64> {
    to.filter(|to| *to > 0.0).and_then(|to| Some(of? / to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::sample;

    #[test]
    fn a_step_is_compared_with_the_floor_of_its_own_round() {
        let mut outcome = sample::outcome();
        let (calls, round) = (outcome.steps[0].calls, outcome.steps[0].round);
        outcome.steps.iter_mut().for_each(|step| step.against_floor = None);
        let bridge = compare(&mut outcome, calls, round).unwrap();
        let floor = outcome
            .steps
            .iter()
            .find(|step| step.target == "floor" && step.calls == calls && step.round == round)
            .unwrap();
        let (own, low) = (outcome.steps[bridge].cpu.unwrap(), floor.cpu.unwrap());
        let ratios = outcome.steps[bridge].against_floor.unwrap();
        assert_eq!(ratios.cpu, Some(own.ms_per_call_second / low.ms_per_call_second));
        assert!(ratios.up_p99.unwrap() > 1.0 && ratios.barge_in_p50.unwrap() > 1.0);
        assert_eq!(outcome.steps.iter().filter(|step| step.against_floor.is_some()).count(), 1);
        assert_eq!(compare(&mut outcome, calls, round + 100), None, "there is no such round");
    }

    #[test]
    fn what_one_of_the_two_lacks_has_no_ratio() {
        assert_eq!(ratio(Some(3.0), Some(2.0)), Some(1.5));
        assert_eq!(
            (ratio(None, Some(2.0)), ratio(Some(3.0), None), ratio(Some(3.0), Some(0.0))),
            (None, None, None)
        );
    }
}
