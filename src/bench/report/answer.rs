//! The main answer in a few large figures, and what a reader must know before believing them.

use crate::bench::outcome::{Direction, Latency, Outcome, Step};

use super::figures::{UNKNOWN, bytes, count, listed, micros, millis, percent, plural, ratio};
use super::rounds::{Rounds, Run, Series, WAYS, Way, known};
use super::scale::micros_tick;

/// Far ends that send later than this at their 99th percentile measure themselves: it is as much as what is measured.
const FAR_ENDS_LATE_US: u64 = 2000;

/// Sound that lies later in its messages by more than this has been through a filter, which delays it by so much.
const FILTER_US: f64 = 100.0;

/// What one target was found to do.
pub(super) struct Answer {
    pub(super) heading: String,
    pub(super) how: String,
    pub(super) cards: Vec<Card>,
}

/// Large figures that belong together.
pub(super) struct Card {
    pub(super) title: String,
    pub(super) figures: Vec<Large>,
}

/// A large figure and the small words after and below it.
pub(super) struct Large {
    pub(super) value: String,
    pub(super) words: String,
    pub(super) below: String,
}

impl Large {
    fn new(value: String, words: impl Into<String>) -> Self {
        Self { value, words: words.into(), below: String::new() }
    }

    fn with(self, below: String) -> Self {
        Self { below, ..self }
    }
}

/// An answer for each bridge, or for the floor if it was measured alone.
pub(super) fn answers(run: &Run<'_>) -> Vec<Answer> {
    let Some(calls) = run.compared_at() else { return Vec::new() };
    run.subjects().into_iter().filter_map(|series| answer(run, series, calls)).collect()
}

fn answer(run: &Run<'_>, series: &Series<'_>, calls: u32) -> Option<Answer> {
    let rounds = series.at(calls).or_else(|| series.rounds.last())?;
    let floor = run
        .floor()
        .filter(|_| !series.is_floor())
        .and_then(|floor| Some((floor.target.name.as_str(), floor.at(rounds.calls)?)));
    let mut cards: Vec<Card> = WAYS.iter().map(|way| latency(way, rounds, floor)).collect();
    cards.extend(cpu(rounds, floor));
    cards.extend(memory(rounds, floor));
    cards.push(lost(rounds));
    cards.extend(interruptions(rounds, floor));
    cards.extend(most_calls(run, series));
    let compared = if floor.is_some() {
        "Added latency is what the bridge takes beyond the floor, a relay that only moves bytes."
    } else if series.is_floor() {
        "The floor is a relay that only moves bytes: what follows is what machine and far ends take by themselves."
    } else {
        "There is no floor to compare with, so latency includes what machine and far ends take by themselves."
    };
    let over = match rounds.steps.len() {
        1 => "One round.".to_owned(),
        n => format!("Medians over {}, counts summed up.", plural(n, "round")),
    };
    let beyond = if rounds.within_limit() { "" } else { " Under this load it is beyond the limit." };
    Some(Answer {
        heading: format!("{} at {}", series.target.name, plural(rounds.calls as usize, "call")),
        how: format!("{compared} {over}{beyond}"),
        cards,
    })
}

type Floor<'a> = Option<(&'a str, &'a Rounds<'a>)>;

fn latency(way: &Way, rounds: &Rounds<'_>, floor: Floor<'_>) -> Card {
    let large = |name: &str, of: fn(&Latency) -> u64| {
        let median = |rounds: &Rounds<'_>| {
            rounds.median(|step| known(&(way.of)(step).latency, of(&(way.of)(step).latency)))
        };
        let own = median(rounds)?;
        let Some((floor_name, floor)) = floor.and_then(|(name, floor)| Some((name, median(floor)?))) else {
            return Some(Large::new(micros(own), name));
        };
        let below = format!("{} less {floor_name}’s {}", micros(own), micros(floor));
        Some(Large::new(micros(own - floor), name).with(below))
    };
    let p50 = large("p50", |latency| latency.p50_us);
    let p99 = large("p99", |latency| latency.p99_us);
    let mut figures: Vec<Large> = p50.into_iter().chain(p99).collect();
    let shift = |rounds: &Rounds<'_>| rounds.median(|step| Some((way.of)(step).shift_us));
    let beyond_floor =
        |shift_us: f64| shift_us - floor.and_then(|(_, floor)| shift(floor)).unwrap_or_default();
    if let Some(shift) = shift(rounds).map(beyond_floor).filter(|shift_us| *shift_us >= FILTER_US) {
        figures
            .push(Large::new(micros(shift), "more").with("later in its messages, as filters do".to_owned()));
    }
    let title =
        if figures.iter().all(|figure| figure.below.is_empty()) { "Latency" } else { "Added latency" };
    if figures.is_empty() {
        figures.push(Large::new(UNKNOWN.to_owned(), "no frame arrived"));
    }
    Card { title: format!("{title}, {}", way.name), figures }
}

fn cpu(rounds: &Rounds<'_>, floor: Floor<'_>) -> Option<Card> {
    let total = |step: &Step| step.cpu.map(|cpu| cpu.ms_per_call_second);
    let (all, name, floor) = against(rounds, floor, total)?;
    let own = rounds.median(|step| step.cpu.map(|cpu| cpu.own_ms_per_call_second));
    let own = own.map(|own| format!("own process {}", millis(own))).unwrap_or_default();
    let mut figures = vec![Large::new(millis(all), "per call-second").with(own)];
    if let Some((ratio, floor)) = floor.and_then(|floor| Some((ratio(all, floor)?, floor))) {
        figures.push(Large::new(ratio, format!("of {name}")).with(format!("{name} {}", millis(floor))));
    }
    Some(Card { title: "CPU".to_owned(), figures })
}

fn memory(rounds: &Rounds<'_>, floor: Floor<'_>) -> Option<Card> {
    let per_call = |step: &Step| step.memory.map(|memory| memory.per_call_bytes);
    let (each, name, floor) = against(rounds, floor, per_call)?;
    let own = rounds.median(|step| step.memory.map(|memory| memory.own_per_call_bytes));
    let own = own.map(|own| format!("own process {}", bytes(own)));
    let floor = floor.map(|floor| format!("{name} {}", bytes(floor)));
    let below: Vec<String> = own.into_iter().chain(floor).collect();
    let mut figures = vec![Large::new(bytes(each), "per call").with(below.join(", "))];
    let total = rounds.median(|step| step.memory.map(|memory| memory.total_bytes as f64));
    let own = rounds.median(|step| step.memory.map(|memory| memory.own_bytes as f64));
    if let (Some(total), Some(own)) = (total, own) {
        figures.push(Large::new(bytes(total), "in all").with(format!("own process {}", bytes(own))));
    }
    Some(Card { title: "Memory".to_owned(), figures })
}

/// A figure of the target, the floor's name and its same figure.
fn against<'a>(
    rounds: &Rounds<'_>,
    floor: Floor<'a>,
    figure: impl Fn(&Step) -> Option<f64>,
) -> Option<(f64, &'a str, Option<f64>)> {
    let own = rounds.median(&figure)?;
    Some((own, floor.map_or("", |(name, _)| name), floor.and_then(|(_, floor)| floor.median(&figure))))
}

fn lost(rounds: &Rounds<'_>) -> Card {
    let total = |number: fn(&Direction) -> u64| rounds.total(number);
    let (sent, lost) = (total(|way| way.sent), total(|way| way.lost));
    let share = if lost > 0 && sent > 0 { percent(lost as f64 / sent as f64) } else { String::new() };
    Card {
        title: "Frames lost".to_owned(),
        figures: vec![
            Large::new(count(lost), format!("of {}", count(sent))).with(share),
            Large::new(count(total(|way| way.reordered)), "reordered"),
            Large::new(count(total(|way| way.late)), "late").with("by more than 20 ms".to_owned()),
        ],
    }
}

/// Nothing if nobody was interrupted.
fn interruptions(rounds: &Rounds<'_>, floor: Floor<'_>) -> Option<Card> {
    let total = |number: fn(&Step) -> u64| rounds.steps.iter().map(|step| number(step)).sum::<u64>();
    let (all, not_cleared) = (total(|step| step.interruptions), total(|step| step.not_cleared));
    let clear = |step: &Step| known(&step.barge_in, step.barge_in.p50_us);
    let mut figures = Vec::new();
    if let Some((own, name, floor)) = against(rounds, floor, clear) {
        let floor = floor.map(|floor| format!("{name} {}", micros(floor))).unwrap_or_default();
        figures.push(Large::new(micros(own), "to clear, p50").with(floor));
    }
    figures.push(Large::new(count(not_cleared), "not cleared").with(format!("of {}", count(all))));
    (all > 0).then(|| Card { title: "Interruptions".to_owned(), figures })
}

fn most_calls(run: &Run<'_>, series: &Series<'_>) -> Option<Card> {
    let most = &run.outcome.most_calls;
    let (how, own) = run.outcome.most(&series.target.name)?;
    let mut figures =
        vec![Large::new(count(u64::from(own)), format!("at once, {how}")).with(limit(run.outcome))];
    let others = most.iter().filter(|(name, _)| **name != series.target.name);
    figures.extend(others.map(|(name, calls)| Large::new(count(u64::from(*calls)), name)));
    Some(Card { title: "Most calls within the limit".to_owned(), figures })
}

/// That there should be more.
pub(super) fn stopped_early(outcome: &Outcome) -> Option<&'static str> {
    outcome.stopped_early.then_some("It was stopped before all was measured: this is what there was by then.")
}

/// The limit in words.
pub(super) fn limit(outcome: &Outcome) -> String {
    let limit = outcome.load.limit;
    format!("p99 below {}, at most {} lost", micros_tick(limit.p99_ms * 1000.0), percent(limit.lost))
}

/// How late the far ends may be in a step that is within the limit, in words.
pub(super) fn far_ends_limit(outcome: &Outcome) -> String {
    micros_tick(outcome.load.limit.far_ends_ms() * 1000.0)
}

/// Steps whose figures are about the far ends, each once; nothing if the far ends kept up.
pub(super) fn far_ends_late(outcome: &Outcome) -> Option<String> {
    let late = |step: &&Step| step.far_ends.lateness.p99_us > FAR_ENDS_LATE_US;
    let worst = outcome.steps.iter().filter(late).map(|step| step.far_ends.lateness.p99_us).max()?;
    let beyond = if worst as f64 > outcome.load.limit.far_ends_ms() * 1000.0 {
        format!(" With more than {}, a step does not count as within the limit.", far_ends_limit(outcome))
    } else {
        String::new()
    };
    Some(format!(
        "In {}, the far ends sent frames late: 99 % of them within {} of their time at worst. The figures of such \
         steps say more about the far ends than about what was measured.{beyond}",
        steps(outcome, late),
        micros(worst as f64)
    ))
}

/// Steps beyond the limit; nothing if all are within.
pub(super) fn beyond_limit(outcome: &Outcome) -> Option<String> {
    let beyond = |step: &&Step| !step.within_limit;
    outcome.steps.iter().find(beyond)?;
    Some(format!("Beyond the limit ({}), or with problems: {}.", limit(outcome), steps(outcome, beyond)))
}

/// Names steps by target and number of calls.
fn steps(outcome: &Outcome, which: impl FnMut(&&Step) -> bool) -> String {
    let mut names: Vec<String> = Vec::new();
    for step in outcome.steps.iter().filter(which) {
        let name = format!("{} at {}", step.target, plural(step.calls as usize, "call"));
        if !names.contains(&name) {
            names.push(name);
        }
    }
    listed(&names)
}
