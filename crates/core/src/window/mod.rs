//! How much may be in flight on a path: steered so that queueing happens here, where priorities act, and the path stays busy.
//!
//! Each reply's latency is judged against the least lately seen in its size class, so that large requests, which honestly
//! take longer, make nothing collapse. Above target the window shrinks, below it grows if somebody waited for it. Latency
//! that does not fall with the window is not our queue, and becomes the base. Invariant: floor <= window <= cap. Rejected: a static
//! window (one number for all arrays), Vegas on all latencies alike, BBR's probing. It does not know VMs or priorities.
//!
//! The words: *base* what a request takes with no queue before it; *target* base, noise and allowance; *step* one control decision.

mod capacity;
mod latency;
#[cfg(test)]
mod tests;

pub use capacity::{Capacity, RATE_UNKNOWN};

use crate::time::{Duration, Instant};
use latency::{Base, Classes, Seen, nanos};

/// The window is never below this, or two of the largest requests lately seen and a few small ones between them: the path has
/// work while an answer is on its way. Two of 128 KiB, the largest that guests usually send, each with its base cost.
pub const FLOOR: u64 = 272 << 10;
/// Requests in flight. Not steered: each costs a base of device bytes whatever its size, so that the bytes count requests
/// too; a count that had learnt from a phase of large requests would throttle the small ones after it. It bounds memory and an
/// array's tags; 20 ms at 200,000 requests a second fit.
pub const REQUESTS_MAX: u32 = 4096;

/// What is sent within at least this is judged in one step; and within as long as requests of the slowest size take, because large
/// ones tend to come in bunches, one latency apart.
const STEP: Duration = Duration::from_millis(50);
/// Slower ones are not waited for.
const SLOWEST_MAX: Duration = Duration::from_secs(1);
/// So many replies make a step;
const STEP_REPLIES: u32 = 8;
/// or after some patience two. With fewer, later requests are judged instead.
const STEP_REPLIES_MIN: u32 = 2;
const STEP_PATIENCE: Duration = Duration::from_millis(200);
/// Idle for this long, a path may have changed: the window starts again.
const IDLE: Duration = Duration::from_secs(1);
/// Busy for this long without having been nearly empty, a path is drained once: the bases would be forgotten otherwise.
const DRAIN_AFTER: Duration = Duration::from_secs(5);
/// and for so many times its latency: a drain takes about one.
const DRAIN_LATENCIES: u32 = 32;
/// Nearly empty: an eighth of the window in flight. A drain goes no further.
const DRAIN_SHIFT: u32 = 3;
/// After a step the first requests fill what was freed and see a queue that still grows: those sent within this do not count.
const SETTLE: Duration = Duration::from_millis(1);
/// The path is asked again after this whether a window at its floor is too small.
const TRIAL_EVERY: Duration = Duration::from_secs(1);

/// The answer to one request.
#[derive(Clone, Copy, Debug)]
pub struct Reply {
    /// Moved.
    pub bytes: u64,
    /// Its cost: [`crate::schedule::Cost::device_bytes`].
    pub device_bytes: u64,
    /// From dispatch to reply.
    pub took: Duration,
    /// Device bytes in flight on the path just before, this one included. A worker that has a part of the window tells its own,
    /// scaled up as the window is divided.
    pub pending: u64,
    pub now: Instant,
}

/// One path's window.
#[derive(Clone, Debug)]
pub struct Window {
    start: u64,
    max: u64,
    bytes: u64,
    classes: Classes,
    step: Step,
    course: Course,
    /// When a reply last came.
    heard: Instant,
    /// When the path was last seen nearly empty.
    emptied: Instant,
    /// Whether some base fell since the path was last drained: it may not be the path's own yet.
    bases: Base,
    /// When a window at its floor may be tried larger.
    next_trial: Instant,
    /// As of the last step: what was aimed at, for displays.
    target: u64,
    base: u64,
}

/// What was gathered since the last decision.
#[derive(Clone, Copy, Debug)]
struct Step {
    /// Only what was sent from here on counts: older requests tell of the window before.
    since: Instant,
    /// Nor does what was sent later: of that only the fast ones are back when the step is over.
    until: Instant,
    due: Instant,
    replies: u32,
    pending: u64,
    demand: Demand,
}

/// Whether a request found the window full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Demand {
    Below,
    Full,
}

/// ```text
/// Steady ---above target---> Cutting ---within target---> Steady
///                               |--latency stays or less is carried: not our queue---> Steady, new bases
///                               '--at the floor, once a second: twice as much---> Trial
/// Trial --latency stays or more is carried: the floor is too small---> Steady, new bases
///       '--latency rises---> Cutting
/// any ---not nearly empty for long, or a base fell---> Drain ---replies from an empty path---> Steady
/// ```
#[derive(Clone, Copy, Debug)]
enum Course {
    Steady,
    /// What was seen before the cuts.
    Cutting(Seen),
    /// What was seen at the floor.
    Trial(Seen),
    Drain(Drain),
}

#[derive(Clone, Copy, Debug)]
struct Drain {
    /// The window to go back to.
    restore: u64,
    /// What requests took before.
    latency: Duration,
    /// When the queue had drained.
    low: Option<Instant>,
    /// Whatever comes.
    end: Instant,
    /// Replies to what was sent since.
    replies: u32,
}

impl Window {
    /// `start` is the window before anything is known of the path's latency, `max` its cap, both in device bytes.
    #[must_use]
    pub fn new(start: u64, max: u64) -> Self {
        let mut window = Self {
            start,
            max,
            bytes: start,
            classes: Classes::default(),
            step: Step::new(Instant::ZERO, Duration::ZERO),
            course: Course::Steady,
            heard: Instant::ZERO,
            emptied: Instant::ZERO,
            bases: Base::Held,
            next_trial: Instant::ZERO,
            target: 0,
            base: 0,
        };
        window.set(start);
        window
    }

    /// Takes over changed settings; what is known of the path stays.
    pub fn configure(&mut self, start: u64, max: u64) {
        self.start = start;
        self.max = max;
        self.set(self.bytes);
    }

    /// Device bytes that may be in flight. An empty path takes any request.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Requests that may be in flight.
    #[must_use]
    pub const fn requests(&self) -> u32 {
        REQUESTS_MAX
    }

    /// The window is never below this; more than [`FLOOR`] when large requests were seen lately.
    #[must_use]
    pub fn floor(&self) -> u64 {
        let largest = self.classes.largest();
        FLOOR.max(2 * largest + (largest >> 3)).min(self.max)
    }

    /// The latency that the last step aimed at, for the requests as they were mixed then. Zero before the first.
    #[must_use]
    pub const fn target(&self) -> Duration {
        Duration::from_nanos(self.target)
    }

    /// The part of [`Self::target`] that is taken to be the path's own.
    #[must_use]
    pub const fn base(&self) -> Duration {
        Duration::from_nanos(self.base)
    }

    /// To be told of each reply, on the I/O path.
    pub fn served(&mut self, reply: Reply) {
        let took = nanos(reply.took);
        if reply.device_bytes > self.classes.largest() || reply.now >= self.classes.turns_at() {
            self.noted(&reply);
        }
        self.heard = reply.now;
        let sent = reply.now - reply.took;
        if reply.pending <= self.bytes >> DRAIN_SHIFT {
            self.emptied(reply.now);
        }
        let class = self.classes.of(reply.bytes);
        if class.note(took) == Base::Fell {
            self.bases = Base::Fell;
        }
        if let Course::Drain(_) = self.course {
            self.drained(&reply, sent);
            return;
        }
        if (self.step.since..=self.step.until).contains(&sent) {
            class.add(took, reply.device_bytes);
            self.step.replies += 1;
            self.step.pending += reply.pending;
        }
        if reply.now >= self.step.due {
            self.control(reply.now);
        }
    }

    /// To be told when a request found no room, or only room that is kept for others.
    pub fn found_full(&mut self) {
        self.step.demand = Demand::Full;
    }

    /// To be told when a request is sent on the path while nothing is in flight there.
    pub fn resumed(&mut self, now: Instant) {
        self.emptied(now);
        if let Course::Drain(_) = self.course {
            self.restart(now);
        }
        if now.since(self.heard) >= IDLE {
            self.restart(now);
            self.set(self.start);
        }
    }

    /// A connection was lost: what was measured while the path was dying says nothing of it now.
    pub fn forget(&mut self, now: Instant) {
        self.classes = Classes::default();
        self.restart(now);
        self.set(self.start);
        self.emptied = now;
    }

    fn emptied(&mut self, now: Instant) {
        self.emptied = now;
        self.classes.may_age();
    }

    fn set(&mut self, bytes: u64) {
        self.bytes = bytes.min(self.max).max(self.floor());
    }

    /// Goes on from here as if nothing had been under way.
    fn restart(&mut self, now: Instant) {
        if let Course::Drain(drain) = self.course {
            self.set(drain.restore);
        }
        self.course = Course::Steady;
        self.next_step(now);
    }

    fn next_step(&mut self, now: Instant) {
        self.step = Step::new(now, self.classes.slowest().min(SLOWEST_MAX));
        self.classes.start_step();
    }

    /// The rare part of each reply: a larger request than any lately, or time for the bases to age.
    #[cold]
    fn noted(&mut self, reply: &Reply) {
        if self.classes.age(reply.now) == latency::Known::Nothing {
            self.restart(reply.now);
        }
        self.classes.saw(reply.device_bytes);
        self.set(self.bytes);
    }

    /// One control decision, if enough was gathered.
    #[cold]
    fn control(&mut self, now: Instant) {
        if self.step.replies < STEP_REPLIES {
            if now < self.step.due + STEP_PATIENCE {
                return;
            }
            if self.step.replies < STEP_REPLIES_MIN {
                self.next_step(now);
                return;
            }
        }
        let seen = self.classes.seen(self.step.pending / u64::from(self.step.replies));
        (self.target, self.base) = (seen.target, seen.base);
        self.classes.calm(seen.spread);
        self.course = if seen.latency <= seen.target { self.within(&seen) } else { self.above(seen, now) };
        let drain_after = DRAIN_AFTER.max(Duration::from_nanos(seen.latency) * DRAIN_LATENCIES);
        let due = self.bases == Base::Fell || now.since(self.emptied) >= drain_after;
        if due && self.bytes > self.floor() {
            self.start_drain(&seen, now);
        }
        self.next_step(now);
    }

    /// The queue is as short as it should be: more is allowed if more was asked for.
    fn within(&mut self, seen: &Seen) -> Course {
        if self.step.demand == Demand::Full {
            self.set(seen.scaled(self.bytes).min(self.bytes.saturating_mul(2)));
        }
        Course::Steady
    }

    fn above(&mut self, seen: Seen, now: Instant) -> Course {
        let before = match self.course {
            Course::Cutting(before) => before,
            // It was too small if the latency stays, or if more is carried.
            Course::Trial(before)
                if self.classes.stays(&before, &seen, latency::Slack::Rise)
                    || before.carries_less_than(&seen) =>
            {
                self.classes.rebase();
                return Course::Steady;
            }
            Course::Trial(before) => {
                self.set(self.floor());
                return Course::Cutting(before);
            }
            Course::Steady | Course::Drain(_) => seen,
        };
        // Where it fell, it is our queue at least from there on. Where it rose, the queue had not built up before.
        let fell = !self.classes.stays(&before, &seen, latency::Slack::Fall);
        let rose = !self.classes.stays(&before, &seen, latency::Slack::Rise);
        // Or nothing was gained but less carried.
        let starved = seen.carries_less_than(&before) && self.step.demand == Demand::Full;
        if !rose && (starved || !fell) && seen.pending <= before.pending * 5 / 8 {
            self.classes.rebase();
            self.set(self.bytes.max(before.pending));
            return Course::Steady;
        }
        let before = if fell || rose { seen } else { before };
        if self.bytes <= self.floor() && now >= self.next_trial && self.step.demand == Demand::Full {
            self.next_trial = now + TRIAL_EVERY;
            self.set(self.bytes.saturating_mul(2));
            return Course::Trial(seen);
        }
        let from = match self.step.demand {
            Demand::Full => self.bytes,
            Demand::Below => self.bytes.min(seen.pending),
        };
        self.set(seen.scaled(from).max(from / 2));
        Course::Cutting(before)
    }

    /// Lets the queue run dry for about one latency: down to three quarters of what the bases alone would keep in flight. If they
    /// have drifted they fall by a part, and a drain to an eighth follows.
    fn start_drain(&mut self, seen: &Seen, now: Instant) {
        let least = match std::mem::replace(&mut self.bases, Base::Held) {
            Base::Held => seen.without_queue() / 4 * 3,
            // How far it will fall nobody knows.
            Base::Fell => 0,
        };
        let latency = Duration::from_nanos(seen.latency);
        let end = now + (latency * 4).max(STEP);
        self.course = Course::Drain(Drain { restore: self.bytes, latency, low: None, end, replies: 0 });
        self.set(least.max(seen.pending >> DRAIN_SHIFT).min(self.bytes));
    }

    /// A reply while the window is cut for the bases' sake. What was sent once the queue had drained tells them.
    fn drained(&mut self, reply: &Reply, sent: Instant) {
        let Course::Drain(drain) = &mut self.course else { return };
        match drain.low {
            None if reply.pending <= self.bytes => drain.low = Some(reply.now),
            None => {}
            Some(low) if sent >= low => {
                drain.replies += 1;
            }
            Some(_) => {}
        }
        let enough = drain.replies > 0 && drain.low.is_some_and(|low| reply.now >= low + drain.latency);
        if enough || reply.now >= drain.end {
            self.end_drain(reply.now);
        }
    }

    #[cold]
    fn end_drain(&mut self, now: Instant) {
        self.emptied(now);
        self.restart(now);
    }
}

impl Step {
    fn new(now: Instant, slowest: Duration) -> Self {
        let until = now + STEP.max(slowest);
        Self {
            since: now + SETTLE,
            until,
            due: until + slowest,
            replies: 0,
            pending: 0,
            demand: Demand::Below,
        }
    }
}
