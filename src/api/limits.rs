//! How often may be asked: each key so many times a minute of each server, a tenth of them at once; and with secrets that
//! nobody has, less often, so that guessing costs no query each.
//!
//! A secret that was found is remembered by its hash, so that a key that asks too often is told so without the database. Whether
//! it still holds is asked anew each time it is let through.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use crate::keys::KeyPrint;

/// Secrets, keys and peers that are remembered, of each.
const MOST: usize = 10_000;
/// Requests at once that even a slow key may make: a page of a program asks for a handful.
const LEAST_BURST: u32 = 10;
/// Secrets that one peer may show without anybody having them. A proxy is one peer.
const OF_PEER: Rate = Rate { per_minute: 120.0, burst: 20.0 };
/// The same of all peers together.
const OF_ALL: Rate = Rate { per_minute: 1200.0, burst: 200.0 };

/// What has been asked of late.
#[derive(Debug, Default)]
pub struct Limits(Mutex<Asked>);

/// A secret that may be looked up.
#[derive(Debug)]
#[must_use]
pub struct Look {
    sha256: [u8; 32],
    /// Whose it was when it was last looked up: that one's request is taken already.
    known: Option<Uuid>,
    peer: Option<IpAddr>,
}

#[derive(Debug, Default)]
struct Asked {
    secrets: HashMap<[u8; 32], Known>,
    keys: HashMap<Uuid, Spent>,
    peers: HashMap<IpAddr, Spent>,
    strangers: Spent,
}

/// What a secret was when it was last looked up.
#[derive(Debug, Clone, Copy)]
struct Known {
    key: Uuid,
    per_minute: u32,
    at: Instant,
}

/// How often something may be done.
#[derive(Debug, Clone, Copy)]
struct Rate {
    per_minute: f64,
    burst: f64,
}

/// What has been taken and has not come back yet, at some time. At whatever rate: it stays when that is changed.
#[derive(Debug, Clone, Copy, Default)]
struct Spent {
    taken: f64,
    at: Option<Instant>,
}

impl Limits {
    /// Whether this secret may be looked up now, for somebody at this address. A secret that was found before takes a request of
    /// its key, whatever others have guessed. `Err`: not before so long.
    pub fn ask(&self, print: &KeyPrint, peer: Option<IpAddr>) -> Result<Look, Duration> {
        self.asked(|asked, now| asked.ask(print.sha256, peer.map(network), now))
    }

    /// The secret is that of this key, which may ask so often. `Err`: it has, and may not before so long.
    pub fn found(&self, look: Look, key: Uuid, per_minute: u32) -> Result<(), Duration> {
        self.asked(|asked, now| asked.found(look, Known { key, per_minute, at: now }))
    }

    /// Nobody has the secret, any more or at all.
    pub fn not_found(&self, Look { sha256, .. }: Look) {
        self.asked(|asked, _| asked.secrets.remove(&sha256));
    }

    /// Nobody knows whose it is: that was no guess.
    pub fn not_known(&self, look: Look) {
        self.asked(|asked, _| asked.not_known(look));
    }

    fn asked<T>(&self, what: impl FnOnce(&mut Asked, Instant) -> T) -> T {
        what(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner), Instant::now())
    }
}

impl Asked {
    fn ask(&mut self, sha256: [u8; 32], peer: Option<IpAddr>, now: Instant) -> Result<Look, Duration> {
        if let Some(Known { key, per_minute, .. }) = self.secrets.get(&sha256).copied() {
            self.take_of(key, per_minute, now)?;
            return Ok(Look { sha256, known: Some(key), peer: None });
        }
        if let Some(peer) = peer {
            make_room(&mut self.peers, &peer, |spent| spent.is_some_left(OF_PEER, now));
            self.peers.entry(peer).or_default().take(OF_PEER, now)?;
        }
        if let Err(wait) = self.strangers.take(OF_ALL, now) {
            self.give_back_to(peer);
            return Err(wait);
        }
        Ok(Look { sha256, known: None, peer })
    }

    fn found(&mut self, Look { sha256, known, peer }: Look, is: Known) -> Result<(), Duration> {
        if known.is_none() {
            self.give_back(peer);
        }
        make_room(&mut self.secrets, &sha256, |known| {
            is.at.saturating_duration_since(known.at) < Duration::from_secs(60)
        });
        self.secrets.insert(sha256, is);
        if known == Some(is.key) { Ok(()) } else { self.take_of(is.key, is.per_minute, is.at) }
    }

    fn not_known(&mut self, Look { known, peer, .. }: Look) {
        if known.is_none() {
            self.give_back(peer);
        }
    }

    fn take_of(&mut self, key: Uuid, per_minute: u32, now: Instant) -> Result<(), Duration> {
        // A minute brings back more than can be taken at once, at any rate.
        make_room(&mut self.keys, &key, |spent| spent.was_within_a_minute(now));
        self.keys.entry(key).or_default().take(Rate::of_key(per_minute), now)
    }

    fn give_back(&mut self, peer: Option<IpAddr>) {
        self.strangers.give_back();
        self.give_back_to(peer);
    }

    fn give_back_to(&mut self, peer: Option<IpAddr>) {
        if let Some(spent) = peer.and_then(|peer| self.peers.get_mut(&peer)) {
            spent.give_back();
        }
    }
}

impl Rate {
    fn of_key(per_minute: u32) -> Self {
        let whole = per_minute.max(1);
        let burst = (whole / 10).max(LEAST_BURST).min(whole);
        Self { per_minute: whole.into(), burst: burst.into() }
    }

    fn per_second(self) -> f64 {
        self.per_minute / 60.0
    }
}

impl Spent {
    fn take(&mut self, rate: Rate, now: Instant) -> Result<(), Duration> {
        let left = self.left(rate, now);
        self.at = Some(now);
        // What was taken when more could be is not owed for longer than all that can be now.
        self.taken = left.min(rate.burst);
        // Sums of fractions are not exact.
        let missing = self.taken + 1.0 - rate.burst;
        if missing > 1e-6 {
            return Err(Duration::from_secs_f64(missing / rate.per_second()));
        }
        self.taken += 1.0;
        Ok(())
    }

    fn give_back(&mut self) {
        self.taken = (self.taken - 1.0).max(0.0);
    }

    /// What has not come back.
    fn left(&self, rate: Rate, now: Instant) -> f64 {
        let past = self.at.map_or(Duration::MAX, |at| now.saturating_duration_since(at));
        (self.taken - past.as_secs_f64() * rate.per_second()).max(0.0)
    }

    fn is_some_left(&self, rate: Rate, now: Instant) -> bool {
        self.left(rate, now) > 0.0
    }

    fn was_within_a_minute(&self, now: Instant) -> bool {
        self.at.is_some_and(|at| now.saturating_duration_since(at) < Duration::from_secs(60))
    }
}

/// Forgets what need not be remembered where there is no room for another one, and all where that is not enough, which lets each
/// of them ask a little more.
fn make_room<K: Eq + Hash, V>(of: &mut HashMap<K, V>, another: &K, matters: impl Fn(&V) -> bool) {
    if of.len() < MOST || of.contains_key(another) {
        return;
    }
    of.retain(|_, value| matters(value));
    if of.len() > MOST / 2 {
        of.clear();
    }
}

/// Whoever has an address of version 6 has all of its network's.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        version_4 @ IpAddr::V4(_) => version_4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Uuid = Uuid::from_u128(1);
    const OTHER: Uuid = Uuid::from_u128(2);
    const SECRET: [u8; 32] = [1; 32];

    fn guess(number: u32) -> [u8; 32] {
        let mut sha256 = [0xff; 32];
        sha256[..4].copy_from_slice(&number.to_be_bytes());
        sha256
    }

    fn peer(number: u32) -> IpAddr {
        IpAddr::from(number.to_be_bytes())
    }

    /// One request, as the database would answer it.
    fn request(asked: &mut Asked, secret: [u8; 32], is: Known) -> Result<(), Duration> {
        let look = asked.ask(secret, None, is.at)?;
        asked.found(look, is)
    }

    fn at_once(asked: &mut Asked, secret: [u8; 32], is: Known) -> usize {
        (0..1000).take_while(|_| request(asked, secret, is).is_ok()).count()
    }

    fn guesses(asked: &mut Asked, peer: IpAddr, now: Instant) -> usize {
        (0..1000).take_while(|number| asked.ask(guess(number + 1_000_000), Some(peer), now).is_ok()).count()
    }

    fn start() -> (Asked, Instant) {
        (Asked::default(), Instant::now())
    }

    #[test]
    fn a_key_asks_as_often_at_once_as_its_limit_says_and_is_told_when_to_come_back() {
        let (mut asked, now) = start();
        let slow = Known { key: KEY, per_minute: 3, at: now };
        assert_eq!(at_once(&mut asked, SECRET, slow), 3);
        let wait = request(&mut asked, SECRET, slow).unwrap_err();
        assert!(wait > Duration::from_secs(19) && wait <= Duration::from_secs(20), "{wait:?}");
        assert_eq!(at_once(&mut asked, SECRET, Known { at: now + wait, ..slow }), 1);
        assert_eq!(at_once(&mut asked, SECRET, Known { at: now + Duration::from_secs(3600), ..slow }), 3);
        let other = Known { key: OTHER, per_minute: 60, at: now };
        assert_eq!(at_once(&mut asked, [2; 32], other), 10, "another key has its own");
    }

    #[test]
    fn a_key_over_its_limit_is_refused_before_it_is_looked_up() {
        let (mut asked, now) = start();
        at_once(&mut asked, SECRET, Known { key: KEY, per_minute: 3, at: now });
        let wait = asked.ask(SECRET, None, now).unwrap_err();
        assert!(asked.ask(SECRET, None, now + wait).is_ok());
    }

    #[test]
    fn two_secrets_of_a_key_have_one_limit() {
        let (mut asked, now) = start();
        let key = Known { key: KEY, per_minute: 3, at: now };
        assert_eq!(at_once(&mut asked, SECRET, key), 3);
        assert_eq!(at_once(&mut asked, [2; 32], key), 0);
    }

    #[test]
    fn a_limit_that_was_changed_holds_from_the_next_look_up_on_and_what_was_spent_stays_spent() {
        let (mut asked, now) = start();
        let of = |per_minute, at| Known { key: KEY, per_minute, at };
        assert_eq!(at_once(&mut asked, SECRET, of(10, now)), 10);
        let later = now + Duration::from_secs(6);
        // One has come back; that one tells of the new limit.
        assert_eq!(at_once(&mut asked, SECRET, of(600, later)), 51, "10 of the new 60 were spent");
        assert_eq!(at_once(&mut asked, SECRET, of(10, later)), 0, "nor does a lower limit give more");
        let look = asked.ask(SECRET, None, later + Duration::from_millis(100)).unwrap();
        asked.found(look, of(1, later)).unwrap();
        let wait = asked.ask(SECRET, None, later + Duration::from_millis(100)).unwrap_err();
        assert!(wait <= Duration::from_secs(60), "{wait:?}: a debt is never more than the new limit");
    }

    #[test]
    fn guesses_of_a_peer_are_looked_up_a_few_times_and_hold_up_nobody_else() {
        let (mut asked, now) = start();
        assert_eq!(guesses(&mut asked, peer(1), now), 20);
        assert_eq!(guesses(&mut asked, peer(1), now + Duration::from_secs(1)), 2);
        assert_eq!(guesses(&mut asked, peer(2), now), 20);
        let look = asked.ask(SECRET, Some(peer(3)), now).unwrap();
        asked.found(look, Known { key: KEY, per_minute: 600, at: now }).unwrap();
    }

    #[test]
    fn a_secret_that_was_found_is_asked_for_whatever_others_have_guessed() {
        let (mut asked, now) = start();
        let key = Known { key: KEY, per_minute: 600, at: now };
        request(&mut asked, SECRET, key).unwrap();
        assert_eq!((0..1000).filter(|n| asked.ask(guess(*n), Some(peer(*n)), now).is_ok()).count(), 200);
        assert!(asked.ask(guess(5000), Some(peer(5000)), now).is_err());
        assert_eq!(at_once(&mut asked, SECRET, key), 59);
    }

    #[test]
    fn only_a_secret_that_nobody_has_is_a_guess() {
        let (mut asked, now) = start();
        for number in 0..1000 {
            let key = Known { key: Uuid::from_u128(number.into()), per_minute: 1, at: now };
            let look = asked.ask(guess(number), Some(peer(1)), now).unwrap();
            asked.found(look, key).unwrap();
            let look = asked.ask(guess(number + 1000), Some(peer(1)), now).unwrap();
            asked.not_known(look);
        }
        assert_eq!(guesses(&mut asked, peer(1), now), 20, "of those no secret was found before");
    }

    #[test]
    fn a_secret_that_nobody_has_any_more_is_a_guess() {
        let limits = Limits::default();
        let print = KeyPrint { prefix: String::new(), sha256: SECRET };
        let look = limits.ask(&print, Some(peer(1))).unwrap();
        limits.found(look, KEY, 60_000).unwrap();
        let mut looked = 0;
        while let Ok(look) = limits.ask(&print, Some(peer(1))) {
            limits.not_found(look);
            looked += 1;
            assert!(looked < 100, "it is looked up whenever somebody asks");
        }
        assert!(looked >= 20);
    }

    #[test]
    fn no_more_is_remembered_than_there_is_room_for() {
        let (mut asked, now) = start();
        for number in 0..25_000 {
            let key = Known { key: Uuid::from_u128(number.into()), per_minute: 600, at: now };
            request(&mut asked, guess(number), key).unwrap();
        }
        for number in 0..25_000 {
            let _ = asked.ask(guess(number + 100_000), Some(peer(number)), now);
        }
        for remembered in [asked.secrets.len(), asked.keys.len(), asked.peers.len()] {
            assert!(remembered > 0 && remembered <= MOST, "{remembered}");
        }
    }

    #[test]
    fn a_network_of_version_6_is_one_peer() {
        let network = |text: &str| network(text.parse().unwrap());
        assert_eq!(network("2001:db8::1"), network("2001:db8::ffff:1"));
        assert_ne!(network("2001:db8::1"), network("2001:db8:0:1::1"));
        assert_eq!(network("::ffff:192.0.2.1"), network("192.0.2.1"));
        assert_ne!(network("192.0.2.1"), network("192.0.2.2"));
    }
}
