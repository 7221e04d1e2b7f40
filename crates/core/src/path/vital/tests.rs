//! A connection looked at every 50 ms, as workers do, in virtual time: what stalls is not dead, and what is dead is seen in time.

use super::*;
use crate::time::Instant;
use proptest::prelude::*;

/// As often as connections are looked at.
const LOOK: Duration = Duration::from_millis(50);
const BUDGET: Duration = Duration::from_secs(5);

/// What a request meets that is sent at a time: how long its answer takes. None: none comes.
type Target<'t> = &'t dyn Fn(Duration) -> Option<Duration>;

struct Connection<'t> {
    target: Target<'t>,
    /// When the answers to what is outstanding come; the ping is one of them.
    due: Vec<Instant>,
    lost: u32,
    heard: Instant,
    asks: u32,
}

impl Connection<'_> {
    fn ask(&mut self, now: Instant) {
        if self.due.is_empty() && self.lost == 0 {
            self.heard = now;
        }
        self.asks += 1;
        match (self.target)(now.since(Instant::ZERO)) {
            Some(took) => self.due.push(now + took),
            None => self.lost += 1,
        }
    }

    fn hear(&mut self, now: Instant) {
        if let Some(last) = self.due.iter().copied().filter(|at| *at <= now).max() {
            self.heard = self.heard.max(last);
            self.due.retain(|at| *at > now);
        }
    }

    /// Looks at it for so long, with requests every so often. The fault, and when it was seen.
    fn watch(&mut self, length: Duration, every: Option<Duration>) -> Option<(Duration, Fault)> {
        let (mut now, mut next) = (Instant::ZERO, Instant::ZERO);
        while now.since(Instant::ZERO) < length {
            now += LOOK;
            self.hear(now);
            let outstanding = !self.due.is_empty() || self.lost > 0;
            let waits = match (outstanding, every) {
                (true, _) => Waits::ForAnswers,
                (false, Some(_)) => Waits::AmongOthers,
                (false, None) => Waits::Idle,
            };
            let silent = now.since(self.heard);
            if let Some(fault) = speechless(waits, silent, BUDGET) {
                return Some((now.since(Instant::ZERO), fault));
            }
            if !outstanding && silent >= ping_after(waits) {
                self.ask(now);
            }
            if let Some(every) = every.filter(|_| now >= next) {
                next = now + every;
                self.ask(now);
            }
        }
        None
    }
}

fn connection(target: Target<'_>) -> Connection<'_> {
    Connection { target, due: vec![], lost: 0, heard: Instant::ZERO, asks: 0 }
}

/// Everything that is asked while it stalls is answered when that is over.
fn stalls(length: Duration, every: Duration) -> impl Fn(Duration) -> Option<Duration> {
    move |at| {
        let into = Duration::from_nanos((at.as_nanos() % every.as_nanos()) as u64);
        Some(length.saturating_sub(into) + Duration::from_millis(1))
    }
}

#[test]
fn an_hour_of_stalls_of_two_seconds_is_no_loss() {
    let hour = Duration::from_secs(3600);
    for every in [Duration::from_millis(2050), Duration::from_secs(4), Duration::from_millis(3701)] {
        let target = stalls(Duration::from_secs(2), every);
        for load in [Some(Duration::from_millis(50)), Some(Duration::from_secs(1)), None] {
            let mut connection = connection(&target);
            assert_eq!(connection.watch(hour, load), None, "every {every:?}, load {load:?}");
            assert!(connection.asks > 600, "it was asked: {}", connection.asks);
        }
    }
}

#[test]
fn stalls_beyond_the_budget_are_a_loss() {
    let target = stalls(Duration::from_secs(6), Duration::from_secs(60));
    let (at, fault) = connection(&target).watch(Duration::from_secs(60), Some(LOOK)).expect("a hang");
    assert!(at <= BUDGET + Duration::from_millis(200), "{at:?}: {fault}");
}

/// What TCP acknowledges is not swallowed, however long the answer takes; what is not for long enough, is.
#[test]
fn the_networks_clock_needs_silence_and_timeouts() {
    let clock = |millis, timeouts| NetworkClock { since_last_ack: Duration::from_millis(millis), timeouts };
    for (clock, is_lost) in [
        (clock(3_600_000, 0), false),
        (clock(3_600_000, TIMEOUTS_MIN - 1), false),
        (clock(499, 9), false),
        (clock(500, TIMEOUTS_MIN), true),
    ] {
        assert_eq!(swallowed(clock).is_some(), is_lost, "{clock:?}");
    }
}

proptest! {
    /// A target that hangs from some moment on is seen within its ping budget and a tenth of a second, whatever was asked of it,
    /// if something is asked of it; idle, within the pause between its pings besides.
    #[test]
    fn a_hang_is_seen_within_the_budget(from in 0_u64..20_000, every in 10_u64..3_000, idle in any::<bool>()) {
        let from = Duration::from_millis(from);
        let target = move |at: Duration| (at < from).then_some(Duration::from_millis(3));
        let load = (!idle).then_some(Duration::from_millis(every));
        let mut connection = connection(&target);
        let (at, fault) = connection.watch(Duration::from_secs(60), load).expect("a hang");
        let pause = ping_after(if idle { Waits::Idle } else { Waits::AmongOthers }).min(load.unwrap_or(Duration::MAX));
        let bound = from + pause + BUDGET + Duration::from_millis(100);
        prop_assert!(at <= bound.max(BUDGET + pause + 2 * LOOK), "{at:?} after {from:?}: {fault}");
        prop_assert!(at >= from.max(BUDGET), "not before the budget is over: {at:?}");
    }

    /// Stalls of any length below the budget, any time apart, are none.
    #[test]
    fn stalls_within_the_budget_are_no_loss(stall in 1_u64..4_800, apart in 1_u64..10_000, every in 10_u64..3_000) {
        let stall = Duration::from_millis(stall);
        let target = stalls(stall, stall + Duration::from_millis(apart));
        let mut connection = connection(&target);
        prop_assert_eq!(connection.watch(Duration::from_secs(120), Some(Duration::from_millis(every))), None);
    }
}
