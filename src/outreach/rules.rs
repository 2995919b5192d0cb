//! Who may be called now.
//!
//! Asked inside the transaction that claims the try, with what that transaction reads: what this says is then true at the
//! moment of dialing. That transaction holds the row of the campaign `for share`, so that nobody changes it in between.

use jiff::{SignedDuration, Timestamp};

use crate::outreach::campaign::CampaignStatus;
use crate::outreach::window::{Window, zone};

/// Longest from the decision to call until the telephone rings: a server may be held up before it asks, and the carrier dials
/// what it was asked for one after the other. Whoever is called must be within the hours then as well.
const RINGS_WITHIN: SignedDuration = SignedDuration::from_secs(30);

/// A row of the queue whose turn it may be, and all that the rules ask about it.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// `leads.time_zone`; `None` where there is no lead or its zone is not known. Asked for by campaigns only.
    pub zone: Option<&'a str>,
    /// The campaign the row is of. Without one, neither days nor hours nor the calls of a day are limited.
    pub campaign: Option<Campaign>,
    /// Tries of this row so far: `call_queue.attempt_count` without those with outcome `not_placed`.
    pub attempts: u32,
    /// Tries this row may have: `call_queue.max_attempts`.
    pub max_attempts: u32,
    /// `call_queue.next_retry_at`.
    pub not_before: Timestamp,
    /// When this lead was called of late, whatever for: `call_attempts.requested_at` of the lead's last two days at least, in
    /// any order, those with outcome `not_placed` left out, since nothing rang.
    pub recent_attempts: &'a [Timestamp],
    /// Whether `to_number` is in `do_not_call`.
    pub is_on_do_not_call: bool,
}

/// What the rules ask about a campaign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Campaign {
    /// Where it is in its life.
    pub status: CampaignStatus,
    /// Its days and hours.
    pub window: Window,
    /// Most calls to one lead within one day of the lead's own calendar; none is as one.
    pub max_attempts_per_day: u32,
    /// Its tries that go on now: dialing or placed.
    pub running: u32,
    /// Most tries at a time.
    pub max_concurrent: u32,
}

/// What the rules say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Call now.
    Dial,
    /// Not yet; this is the first moment at which it may be, as things are. May be stored as `next_retry_at`: whoever changes
    /// the campaign's hours or the lead's zone takes it back.
    NotBefore {
        /// When.
        at: Timestamp,
        /// Why not now.
        why: Wait,
    },
    /// Not now, and nobody knows when: the row stays as it is and is looked at again.
    Hold {
        /// What has to happen first.
        why: Hold,
    },
    /// Not at all: the row fails, with [`Refusal`]'s text as `last_error`.
    Never {
        /// Why.
        why: Refusal,
    },
}

/// Why a call has to wait until a known moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// It was asked for at that time, or the delay after the last try is not over.
    NotDue,
    /// It is not a day or an hour of the campaign where the lead is, or will not be when the telephone rings.
    OutsideWindow,
    /// The lead has had the calls of its day.
    EnoughForToday,
}

/// Why a call has to wait until something happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// The campaign is a draft or paused.
    CampaignNotActive,
    /// As many of its calls go on as may.
    CampaignBusy,
}

/// Why a call is not made at all. The text is what `call_queue.last_error` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Somebody does not want it.
    #[error("blocked_by_rule: the number is on the do-not-call list")]
    DoNotCall,
    /// It has been tried often enough.
    #[error("blocked_by_rule: all tries are used up")]
    NoTryLeft,
    /// It is completed, or its last day is over where the lead is.
    #[error("blocked_by_rule: the campaign is over")]
    CampaignOver,
    /// Nobody can say what time it is where the lead is.
    #[error("blocked_by_rule: the lead has no known time zone")]
    NoTimeZone,
}

impl Candidate<'_> {
    /// Whether to call at `now`. What forbids the call for good comes first, then what only delays it.
    #[must_use]
    pub fn verdict(&self, now: Timestamp) -> Verdict {
        if self.is_on_do_not_call {
            return Verdict::Never { why: Refusal::DoNotCall };
        }
        if self.attempts >= self.max_attempts {
            return Verdict::Never { why: Refusal::NoTryLeft };
        }
        match &self.campaign {
            Some(campaign) => self.verdict_of(campaign, now),
            None if self.not_before > now => Verdict::NotBefore { at: self.not_before, why: Wait::NotDue },
            None => Verdict::Dial,
        }
    }

    fn verdict_of(&self, campaign: &Campaign, now: Timestamp) -> Verdict {
        match campaign.status {
            CampaignStatus::Active => {}
            CampaignStatus::Draft | CampaignStatus::Paused => {
                return Verdict::Hold { why: Hold::CampaignNotActive };
            }
            CampaignStatus::Completed => return Verdict::Never { why: Refusal::CampaignOver },
        }
        match self.first_moment(campaign, now) {
            Err(why) => Verdict::Never { why },
            Ok((at, why)) if at > now => Verdict::NotBefore { at, why },
            Ok(_) if campaign.running >= campaign.max_concurrent => Verdict::Hold { why: Hold::CampaignBusy },
            Ok(_) => Verdict::Dial,
        }
    }

    /// The first moment from `now` on that is due, within the window, and on a day that is not full; and what made it late.
    fn first_moment(&self, campaign: &Campaign, now: Timestamp) -> Result<(Timestamp, Wait), Refusal> {
        let zone = self.zone.and_then(|name| zone(name).ok()).ok_or(Refusal::NoTimeZone)?;
        let day_of = |moment: Timestamp| zone.to_datetime(moment).date();
        let (mut window, mut why) = (campaign.window, Wait::NotDue);
        let most_a_day = campaign.max_attempts_per_day.max(1) as usize;
        let due = now.max(self.not_before);
        loop {
            let at = window.next_opening_for(RINGS_WITHIN, &zone, due).ok_or(Refusal::CampaignOver)?;
            let day = day_of(at);
            let calls = self.recent_attempts.iter().filter(|attempt| day_of(**attempt) == day).count();
            if calls < most_a_day {
                let is_late = why == Wait::NotDue && at > due;
                return Ok((at, if is_late { Wait::OutsideWindow } else { why }));
            }
            window = window.from_day(day.tomorrow().map_err(|_| Refusal::CampaignOver)?);
            why = Wait::EnoughForToday;
        }
    }
}
