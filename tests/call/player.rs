//! An independent player, as Twilio is one, and a network between it and the call: what did the caller really hear?

use std::collections::VecDeque;
use std::time::Duration;

use voicebridge::audio::AudioFormat;
use voicebridge::call::settings::Settings;
use voicebridge::clock::CallTime;
use voicebridge::wire::model::TurnTaking;

use crate::support::*;

/// Microseconds of one byte of mu-law.
const BYTE_US: u64 = 125;

/// Plays 8 bytes a millisecond in the order received, sends marks back when they are reached, all at once on `clear`.
#[derive(Debug, Default)]
struct Player {
    queue: VecDeque<Sent>,
    /// Up to when it has played.
    clock_us: u64,
    played: u64,
    /// Where in all audio that was sent what is at the front of the queue begins, and what was played of it.
    arrived: u64,
    ranges: Vec<(u64, u64)>,
    echoes: Vec<(u64, String)>,
}

impl Player {
    fn advance(&mut self, to_us: u64) {
        while let Some(first) = self.queue.front_mut() {
            match first {
                Sent::Media(left) => {
                    let bytes = (*left as u64).min((to_us - self.clock_us) / BYTE_US);
                    self.played += bytes;
                    self.ranges.push((self.arrived, bytes));
                    self.arrived += bytes;
                    self.clock_us += bytes * BYTE_US;
                    *left -= bytes as usize;
                    if *left > 0 {
                        return;
                    }
                }
                Sent::Mark(name) => self.echoes.push((self.clock_us, std::mem::take(name))),
                Sent::Clear => unreachable!("it is not queued"),
            }
            self.queue.pop_front();
        }
        self.clock_us = to_us;
    }

    fn receive(&mut self, now_us: u64, message: Sent) {
        self.advance(now_us);
        if message == Sent::Clear {
            for waiting in self.queue.drain(..) {
                match waiting {
                    Sent::Mark(name) => self.echoes.push((now_us, name)),
                    Sent::Media(bytes) => self.arrived += bytes as u64,
                    Sent::Clear => {}
                }
            }
            self.clock_us = now_us;
        } else {
            self.queue.push_back(message);
            self.advance(now_us);
        }
    }

    fn next_mark_us(&self) -> Option<u64> {
        let mut at = self.clock_us;
        for message in &self.queue {
            match message {
                Sent::Media(left) => at += *left as u64 * BYTE_US,
                _ => return Some(at),
            }
        }
        None
    }
}

/// Numbers that look random and are the same every time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end.max(1)
    }
}

/// A call, a player, and the way between them.
struct World {
    call: TestCall,
    player: Player,
    dice: Dice,
    delay_us: u64,
    jitter_us: u64,
    /// Messages under way, with the time they arrive; they do not overtake each other.
    down: VecDeque<(u64, Sent)>,
    up: VecDeque<(u64, String)>,
    down_last: u64,
    up_last: u64,
}

impl World {
    fn new(format: AudioFormat, delay_us: u64, jitter_us: u64, seed: u64) -> Self {
        Self::with(settings(format), delay_us, jitter_us, seed)
    }

    fn with(settings: Settings, delay_us: u64, jitter_us: u64, seed: u64) -> Self {
        let mut call = TestCall::new(settings, ABLE);
        call.at(0, model_ready());
        Self {
            call,
            player: Player::default(),
            dice: Dice(seed),
            delay_us,
            jitter_us,
            down: VecDeque::new(),
            up: VecDeque::new(),
            down_last: 0,
            up_last: 0,
        }
    }

    fn at(&mut self, us: u64, event: Event) {
        self.run_until(us);
        self.call.at_time(time(us), event);
        self.carry();
    }

    fn run_until(&mut self, target_us: u64) {
        loop {
            let timeout = self.call.poll_timeout().since_start().as_nanos().div_ceil(1000) as u64;
            let down = self.down.front().map_or(u64::MAX, |(at, _)| *at);
            let up = self.up.front().map_or(u64::MAX, |(at, _)| *at);
            let mark = self.player.next_mark_us().unwrap_or(u64::MAX);
            let next = timeout.min(down).min(up).min(mark);
            if next > target_us {
                break;
            }
            if next == timeout {
                self.call.until_time(time(next));
            } else if next == down {
                let (at, message) = self.down.pop_front().unwrap();
                self.player.receive(at, message);
            } else if next == up {
                let (at, name) = self.up.pop_front().unwrap();
                self.call.until_time(time(at));
                self.call.mark_back(&name);
            } else {
                self.player.advance(next);
            }
            self.carry();
        }
        self.call.until_time(time(target_us));
        self.player.advance(target_us);
        self.carry();
    }

    /// Puts what was just sent on its way.
    fn carry(&mut self) {
        for (at, message) in std::mem::take(&mut self.call.sent) {
            let way = self.delay_us + self.dice.below(self.jitter_us + 1);
            self.down_last = self.down_last.max(at.since_start().as_micros() as u64 + way);
            self.down.push_back((self.down_last, message));
        }
        for (at, name) in std::mem::take(&mut self.player.echoes) {
            let way = self.delay_us + self.dice.below(self.jitter_us + 1);
            self.up_last = self.up_last.max(at + way);
            self.up.push_back((self.up_last, name));
        }
    }
}

fn time(us: u64) -> CallTime {
    CallTime::from(Duration::from_micros(us))
}

/// How far the call's word is from the truth, in milliseconds, for a number of barge-ins at random times.
fn barge_ins(format: AudioFormat, delay_us: u64, jitter_us: u64, seed: u64, rounds: u64) -> Vec<u64> {
    let mut world = World::new(format, delay_us, jitter_us, seed);
    let mut now = 1_000_000;
    let mut errors = Vec::new();
    for round in 0..rounds {
        let (of, id, user) = (format!("resp_{round}"), format!("item_{round}"), format!("user_{round}"));
        let played_before = world.player.played;
        let truncated_before = world.call.count("model truncate");
        world.at(now, response_started(&of));
        // Deltas of any size, several times faster than they play, sometimes slower.
        let total_ms = 300 + world.dice.below(6_000);
        let hurry = 1 + world.dice.below(6);
        let barge_in_at = now + world.dice.below(total_ms + 300) * 1_000;
        let (mut given_ms, mut at) = (0, now + world.dice.below(200_000));
        while given_ms < total_ms && at < barge_in_at {
            let ms = (10 + world.dice.below(400)).min(total_ms - given_ms);
            world.at(at, audio_bytes(&of, &id, vec![round as u8; ms as usize * format.bytes_per_ms()]));
            given_ms += ms;
            at += ms * 1_000 / hurry + world.dice.below(20_000);
        }
        if given_ms == total_ms && at < barge_in_at {
            world.at(at, response_done(&of));
        }
        world.at(barge_in_at, speech_starts(&user, 0));
        let done = world.dice.below(2) == 0;
        now = barge_in_at + 400_000; // Whatever was on its way has arrived by then.
        if done {
            world.at(barge_in_at + 50_000, response_cancelled(&of));
        }
        world.at(now, speech_stops(&user, 0));
        let heard_ms = (world.player.played - played_before) / 8;
        let said = world.call.lines.iter().rev().find_map(|line| {
            let text = line.text.strip_prefix(&format!("model truncate {id} at "))?;
            text.strip_suffix("ms")?.parse::<u64>().ok()
        });
        if let Some(said) = said {
            assert_eq!(world.call.count("model truncate"), truncated_before + 1);
            errors.push(said.abs_diff(heard_ms));
        } else {
            errors.push(given_ms.abs_diff(heard_ms)); // The model believes that all of it was heard.
        }
        now += 600_000;
    }
    errors
}

fn share_within(errors: &[u64], ms: u64) -> f64 {
    errors.iter().filter(|error| **error <= ms).count() as f64 / errors.len() as f64
}

#[test]
fn the_model_is_told_what_the_caller_heard_within_20_ms_on_a_steady_network() {
    for format in [AudioFormat::Pcmu, AudioFormat::Pcm24k] {
        let errors: Vec<u64> = (0..16).flat_map(|n| barge_ins(format, n * 10_000, 0, n + 1, 10)).collect();
        let share = share_within(&errors, 20);
        assert!(share >= 0.95, "{format}: {share} of {} within 20 ms: {errors:?}", errors.len());
    }
}

#[test]
fn the_model_is_told_what_the_caller_heard_within_the_jitter_of_an_unsteady_network() {
    for format in [AudioFormat::Pcmu, AudioFormat::Pcm24k] {
        let errors: Vec<u64> =
            (0..16).flat_map(|n| barge_ins(format, n * 9_000, 20_000, n + 1, 10)).collect();
        let share = share_within(&errors, 40);
        assert!(share >= 0.95, "{format}: {share} of {} within 40 ms: {errors:?}", errors.len());
    }
}

#[test]
fn an_uninterrupted_answer_is_heard_to_its_last_byte_and_known_to_be() {
    for delay_us in [0, 40_000, 150_000] {
        let mut world = World::new(AudioFormat::Pcmu, delay_us, 5_000, 7);
        world.at(0, response_started("resp_1"));
        world.at(10_000, agent_text("item_1", "Hello."));
        world.at(10_000, audio_bytes("resp_1", "item_1", vec![0x55; 20_003]));
        world.at(20_000, response_done("resp_1"));
        world.run_until(4_000_000);
        assert_eq!(world.player.played, 20_003);
        world.call.expect_saved(r#"1r1 assistant "Hello." heard 2500ms by mark"#);
    }
}

/// How many milliseconds of an answer the caller's ear missed or had twice, at each of the pauses in it.
fn slips_at_pauses(delay_us: u64, jitter_us: u64, seed: u64) -> Vec<u64> {
    let mut settings = settings(AudioFormat::Pcmu);
    settings.session.turn_taking = TurnTaking::ByUs;
    let mut world = World::with(settings, delay_us, jitter_us, seed);
    let said: Vec<u8> = (0..20_000 * 8).map(|_| world.dice.below(256) as u8).collect();
    world.at(1_000_000, response_started("resp_1"));
    world.at(1_000_000, audio_bytes("resp_1", "item_1", said.clone()));
    world.at(1_000_000, audio_done("item_1"));
    world.at(1_000_000, response_done("resp_1"));
    let mut now = 2_000_000;
    for n in 0..6 {
        now += 500_000 + world.dice.below(1_500_000);
        let id = format!("user_{n}");
        world.at(now, speech_starts(&id, 0)); // Nobody can be measured on this line: that is believed.
        now += 300_000 + world.dice.below(1_000_000);
        world.at(now, speech_stops(&id, 0));
    }
    world.run_until(60_000_000);
    assert_eq!(world.call.count("note Paused"), 6);
    let heard: Vec<u8> = world
        .player
        .ranges
        .iter()
        .flat_map(|(from, bytes)| &world.call.media[*from as usize..(from + bytes) as usize])
        .copied()
        .collect();
    // What is heard is what was said, but for a jump at each pause.
    let (mut at, mut slips) = (0, Vec::new());
    for byte in 0..heard.len() {
        if at < said.len() && heard[byte] == said[at] {
            at += 1;
            continue;
        }
        let piece = &heard[byte..heard.len().min(byte + 64)];
        let near = at.saturating_sub(800)..(at + 800).min(said.len());
        let found = near.clone().find(|place| said[*place..].starts_with(piece));
        let place =
            found.unwrap_or_else(|| panic!("at byte {byte} of the ear is something else than around {at}"));
        slips.push(place.abs_diff(at) as u64 / 8);
        at = place + 1;
    }
    assert_eq!(at, said.len(), "it is heard to its end");
    slips
}

#[test]
fn a_pause_loses_and_doubles_nothing_at_the_ear_on_a_steady_network() {
    for n in 0..8 {
        let slips = slips_at_pauses(n * 15_000, 0, n + 1);
        assert!(slips.iter().all(|ms| *ms <= 1), "{slips:?} ms with {} ms of network", n * 15);
    }
}

#[test]
fn a_pause_loses_or_doubles_no_more_than_the_jitter_of_an_unsteady_network() {
    for n in 0..8 {
        let slips = slips_at_pauses(n * 15_000, 20_000, n + 1);
        assert!(slips.iter().all(|ms| *ms <= 40), "{slips:?} ms with {} ms of network", n * 15);
    }
}
