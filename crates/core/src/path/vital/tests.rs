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
    let millis = Duration::from_millis;
    // Milliseconds since the last acknowledgement and of waiting for one; resent, so long ago; probes.
    for ((since_last_ack, unacked_for, retransmits, since_last_sent, probes), is_lost) in [
        ((3_600_000, 3_600_000, 0, 3_600_000, 0), false),
        ((399, 3_600_000, 9, 399, 9), false),
        ((3_600_000, 399, 9, 399, 9), false),
        ((400, 400, 1, 51, 0), false),
        ((400, 400, 1, 52, 0), true),
        ((400, 400, 2, 0, 0), true),
        ((400, 400, 0, 400, 1), false),
        ((400, 400, 0, 400, 2), true),
    ] {
        let clock = NetworkClock {
            since_last_ack: millis(since_last_ack),
            unacked_for: millis(unacked_for),
            retransmits,
            since_last_sent: millis(since_last_sent),
            round_trip: millis(1),
            probes,
        };
        assert_eq!(swallowed(clock).is_some(), is_lost, "{clock:?}");
    }
}

/// The kernel's sender with something to be acknowledged, and a network that swallows the first so many times that it is sent.
#[derive(Clone, Copy, Debug)]
struct Sender {
    round_trip: Duration,
    ack_delay: Duration,
    /// A tail loss probe goes out first (RFC 8985), which is no timeout.
    probes_tail: bool,
    /// Of its packets alone: the probe waits for a delayed acknowledgement.
    is_single: bool,
    swallowed: u32,
    /// When it was looked at for the first time; then every 50 ms, and every 10 ms from the first timeout on.
    first_look: Duration,
}

impl Sender {
    /// When it sends, and how many timeouts that makes.
    fn sends(&self) -> Vec<(Duration, u32)> {
        let rto = Duration::from_millis(200) + self.round_trip;
        let mut sends = vec![(Duration::ZERO, 0)];
        if self.probes_tail {
            let patience = if self.is_single { Duration::from_millis(200) } else { Duration::from_millis(4) };
            sends.push(((self.round_trip * 2 + patience).min(rto), 0));
        }
        for timeouts in 1..6 {
            let (last, _) = sends[sends.len() - 1];
            sends.push((last + rto * (1 << (timeouts - 1)), timeouts));
        }
        sends
    }

    /// When it is called dead, if it is before the first acknowledgement comes.
    fn called_dead(&self) -> Option<Duration> {
        let sends = self.sends();
        let arrives = sends.get(self.swallowed as usize);
        let acked = arrives.map_or(Duration::MAX, |(at, _)| *at + self.round_trip + self.ack_delay);
        let mut now = self.first_look;
        while now < acked {
            let (last, timeouts) = sends.iter().rev().find(|(at, _)| *at <= now).copied()?;
            let clock = NetworkClock {
                since_last_ack: Duration::from_secs(9),
                unacked_for: now - self.first_look,
                retransmits: timeouts,
                since_last_sent: now - last,
                round_trip: self.round_trip,
                probes: 0,
            };
            if swallowed(clock).is_some() {
                return Some(now);
            }
            now += if timeouts > 0 { LOOK / 5 } else { LOOK };
            if timeouts > 4 {
                return None;
            }
        }
        None
    }
}

fn sender() -> impl Strategy<Value = Sender> {
    (0..150_000_u64, 0..=40_u64, any::<bool>(), any::<bool>(), 0..50_u64).prop_map(
        |(micros, delay, probes_tail, is_single, look)| Sender {
            round_trip: Duration::from_micros(micros),
            ack_delay: Duration::from_millis(delay),
            probes_tail,
            is_single,
            swallowed: 0,
            first_look: Duration::from_millis(look),
        },
    )
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

    /// As long as the first retransmission that a timeout brings arrives, nobody calls it dead, near or far.
    #[test]
    fn what_gets_through_again_is_no_loss(sender in sender()) {
        let swallowed = 1 + u32::from(sender.probes_tail);
        for swallowed in 0..=swallowed {
            let sender = Sender { swallowed, ..sender };
            prop_assert_eq!(sender.called_dead(), None, "{:?}", sender);
        }
    }

    /// Within half a second where round trips are short, and within two timeouts wherever.
    #[test]
    fn a_network_that_swallows_is_seen_in_time(sender in sender(), near in any::<bool>()) {
        let round_trip = if near { sender.round_trip / 100 } else { sender.round_trip };
        let sender = Sender { swallowed: u32::MAX, round_trip, ..sender };
        let at = sender.called_dead().expect("it is dead");
        let (second_timeout, _) = sender.sends()[2 + usize::from(sender.probes_tail)];
        let bound = if near { Duration::from_millis(500) } else { second_timeout.max(UNACKED_MIN) + LOOK };
        prop_assert!(at <= bound && at >= UNACKED_MIN, "{:?}: {:?}", at, sender);
    }
}

/// Several flows of one path, each over a member of its own: when a request goes out or a ping is due, its answer comes a round trip
/// later, unless the member is dead by then. What the first judged connection says of the path.
fn verdict(dead_at: &[Option<u64>], now: u64, swallowed_since: u64) -> bool {
    const PING_EVERY: u64 = 200;
    const ROUND_TRIP: u64 = 2;
    let sign = |(at, dead): (usize, &Option<u64>)| {
        let phase = 7 * at as u64 % PING_EVERY;
        let last_sent = dead.map_or(now - ROUND_TRIP, |dead| dead - ROUND_TRIP);
        let last_heard = (last_sent - phase) / PING_EVERY * PING_EVERY + phase + ROUND_TRIP;
        Duration::from_millis(now - last_heard.min(now))
    };
    is_only_a_flow(Duration::from_millis(now - swallowed_since), dead_at.iter().enumerate().map(sign))
}

proptest! {
    /// Whatever the number of connections and their turns: a path that is gone is condemned by the first that sees it, and one of
    /// which a single member is gone is not.
    #[test]
    fn a_path_is_condemned_if_all_its_flows_are_dead_and_only_then(
        others in 1..8_usize,
        at in 10_000..20_000_u64,
        sent_after in 0..150_u64,
        seen_after in 400..470_u64,
        alive in 0..8_usize,
    ) {
        let (swallowed_since, now) = (at + sent_after, at + sent_after + seen_after);
        let gone = vec![Some(at); others];
        prop_assert!(!verdict(&gone, now, swallowed_since));
        let mut one_left = gone;
        one_left[alive % others] = None;
        prop_assert!(verdict(&one_left, now, swallowed_since));
    }
}

#[test]
fn a_connection_without_others_is_the_path() {
    assert!(!is_only_a_flow(UNACKED_MIN, std::iter::empty()));
    assert!(!is_only_a_flow(UNACKED_MIN, [UNACKED_MIN, Duration::MAX].into_iter()));
    assert!(is_only_a_flow(UNACKED_MIN, [Duration::MAX, UNACKED_MIN - Duration::from_millis(1)].into_iter()));
}
