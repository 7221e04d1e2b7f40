//! Seeds after seeds, on all processors; what was found, for people and programs.
//!
//! Invariant: what a seed finds does not depend on the others. It goes on after a violation, so that a run tells all rules that
//! are broken, each with its first seed. It does not know what a world is.

use super::hosts;
use super::tally::Tally;
use super::trace::Trace;
use super::violation::Violation;
use super::world::World;
use crate::report::{Bound, Report};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Seeds that found something, since mended, and what: played before all others.
pub(super) const REGRESSIONS: &[(u64, &str)] = &[
    (
        532,
        "A VM that met an I/O error just before a crash is continued by the next process, which cannot know better.",
    ),
    (1080, "The order that would have enabled a path found no process, and a VM waited for it."),
    (1563, "A restart counts a relapse of a path that was proving itself."),
    (627, "Guests were held for most of ten minutes."),
    (3299, "An operator's resume and a new cause to suspend in one batch: no `cont`."),
    (3300, "The world ended between a `cont` and the word of it."),
    (3527, "An incident's number died with the process that had opened it."),
    (3044, "What a VM waited for was forgotten in a crash."),
    (15643, "A request that its hypervisor kept met a second error, and was asked again twice."),
    (12588, "Two writes of the same blocks, both lost by the process that knew them apart."),
    (16972, "A crash brings back a suspend that was let go, and whose end was still on its way to the disk."),
    (10684, "A path that perhaps counted was taken for one that the shed VM waited for."),
    (30072, "A write that had not left was in the record at a crash: to the next process it was lost."),
    (
        2828,
        "A VM was suspended for want of room on a path of which its own link was told lost before the others.",
    ),
    (12077, "A first connection that never came is a failure of its path."),
    (13342, "What a target says of a unit while a first connection is awaited."),
    (13419, "That a `cont` was taken back died with the process."),
    (39565, "A crash brings back a hold that had ended, as it does with a suspend."),
    (22496, "A VM that failed before a restart goes on failing when its other disk is lost once more."),
    (35322, "The same, on one target."),
    (
        4994,
        "A restart forgot that a VM without a monitor and without a path is alive, and others got its room.",
    ),
    (25440, "A ladder that begins anew in the batch that tells of its hold is told of once."),
    (
        9802,
        "A process that was replaced while its paths were connecting begins its holds when it is cut off.",
    ),
    (25655, "A crash brings back a hold that a `stop` had followed."),
    (
        31548,
        "A crash brings back an earlier suspension, and a path that had failed was taken for one that connects first.",
    ),
    (
        11515,
        "A unit that was served while another one was connecting, and is lost again, failed by its former loss.",
    ),
    (22849, "A crash brings back a lack of paths that had ended, and the next process never saw it served."),
    (64976, "A crash brings back an operator's suspend, of which he had not been told that it was over."),
    (
        80671,
        "A crash brings back a resume that a new suspension had followed: its attempts go on, and are one resume.",
    ),
    (87824, "The same, for lost paths."),
    (4823, "The end of vmpath itself stopped a VM on an error, while its monitor was away."),
    (
        39573,
        "A crash forgot an operator's suspend of which he had not been told, but not the error that had stopped the VM.",
    ),
    (63612, "What was open was answered long after the error that stopped a VM, and its stop was told then."),
    (94007, "The second resume of one suspension was never sent: the process died before."),
    (64724, "A crash brings back a resume that was over, and the VM's reservation with it."),
];
/// The first so many of them were found in worlds without what `settings` adds, and stay such.
const PLAIN: usize = 30;
/// A line of progress this often.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);
/// After this many broken seeds nothing more is learned.
const BROKEN_MAX: usize = 200;

pub(super) fn is_plain(seed: u64) -> bool {
    REGRESSIONS[..PLAIN].iter().any(|(plain, _)| *plain == seed)
}

/// What is to be played.
#[derive(Clone, Debug)]
pub(crate) struct Attack {
    pub(crate) first: u64,
    pub(crate) seeds: u64,
    pub(crate) jobs: usize,
    /// To stop at the first violation.
    pub(crate) stop_at_first: bool,
    /// Rules that are not checked, to show that others see the same fault.
    pub(crate) blind: Vec<&'static str>,
    /// Worlds of so many whole hosts; none: of one host and its requests.
    pub(crate) hosts: Option<usize>,
}

/// What is played: each kind of world counts other things.
trait Game: Sync {
    type Counts: Counts;

    /// Seeds that found something, since mended, and what: played before all others.
    fn regressions(&self) -> &'static [(u64, &'static str)];

    /// One seed, to its end.
    fn play(&self, seed: u64, trace: Trace) -> (Self::Counts, Trace, Option<Violation>);
}

trait Counts: Default + Send {
    fn count_seed(&mut self);
    fn add(&mut self, other: &Self);
    fn seeds(&self) -> u64;
    fn events(&self) -> u64;
    fn virtual_ms(&self) -> u64;
    fn to_json(&self) -> Value;
}

macro_rules! counts {
    ($($tally:ty),+) => {
        $(impl Counts for $tally {
            fn count_seed(&mut self) {
                self.seeds = 1;
            }
            fn add(&mut self, other: &Self) {
                self.add(other);
            }
            fn seeds(&self) -> u64 {
                self.seeds
            }
            fn events(&self) -> u64 {
                self.events
            }
            fn virtual_ms(&self) -> u64 {
                self.virtual_ms
            }
            fn to_json(&self) -> Value {
                self.to_json()
            }
        })+
    };
}

counts!(Tally, hosts::Tally);

struct OneHost<'a> {
    blind: &'a [&'static str],
}

impl Game for OneHost<'_> {
    type Counts = Tally;

    fn regressions(&self) -> &'static [(u64, &'static str)] {
        REGRESSIONS
    }

    fn play(&self, seed: u64, trace: Trace) -> (Tally, Trace, Option<Violation>) {
        play(seed, trace, self.blind)
    }
}

struct SeveralHosts<'a> {
    hosts: usize,
    blind: &'a [&'static str],
}

impl Game for SeveralHosts<'_> {
    type Counts = hosts::Tally;

    fn regressions(&self) -> &'static [(u64, &'static str)] {
        hosts::REGRESSIONS
    }

    fn play(&self, seed: u64, trace: Trace) -> (hosts::Tally, Trace, Option<Violation>) {
        guarded(|| hosts::play(seed, self.hosts, trace, self.blind))
    }
}

#[derive(Clone, Debug)]
struct Found {
    /// The lowest of them, and what was seen there.
    seed: u64,
    text: String,
    seeds: BTreeSet<u64>,
}

#[derive(Debug, Default)]
struct Sum<T> {
    tally: T,
    found: BTreeMap<&'static str, Found>,
    broken: usize,
    most_events: (u64, u64),
}

/// One seed, to its end.
pub(super) fn play(seed: u64, trace: Trace, blind: &[&'static str]) -> (Tally, Trace, Option<Violation>) {
    guarded(|| World::new(seed, trace, blind).run())
}

/// A panic of the code under test is a finding.
fn guarded<T: Default>(
    play: impl FnOnce() -> (T, Trace, Option<Violation>),
) -> (T, Trace, Option<Violation>) {
    catch_unwind(AssertUnwindSafe(play)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default();
        (T::default(), Trace::silent(), Some(Violation { rule: "panic", text }))
    })
}

impl Attack {
    /// Plays them, and reports. Progress goes to stderr.
    pub(crate) fn run(&self) -> Report {
        match self.hosts {
            None => self.run_game(&OneHost { blind: &self.blind }),
            Some(hosts) => {
                let mut report = self.run_game(&SeveralHosts { hosts, blind: &self.blind });
                report.attach("hosts", &hosts);
                report
            }
        }
    }

    fn run_game<G: Game>(&self, game: &G) -> Report {
        let began = Instant::now();
        let sum: Mutex<Sum<G::Counts>> = Mutex::default();
        let next = AtomicU64::new(0);
        let extra = game.regressions().len() as u64;
        let quiet = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        std::thread::scope(|scope| {
            for _ in 0..self.jobs {
                scope.spawn(|| self.work(game, &next, &sum));
            }
            self.watch(&sum, began, extra);
        });
        std::panic::set_hook(quiet);
        let sum = sum.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        self.report(&sum, began.elapsed())
    }

    fn work<G: Game>(&self, game: &G, next: &AtomicU64, sum: &Mutex<Sum<G::Counts>>) {
        let regressions = game.regressions();
        let extra = regressions.len() as u64;
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= self.seeds + extra {
                return;
            }
            let seed = regressions
                .get(at as usize)
                .map_or_else(|| self.first + at.saturating_sub(extra), |(seed, _)| *seed);
            let (mut tally, _, violation) = game.play(seed, Trace::silent());
            tally.count_seed();
            let mut sum = sum.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if tally.events() > sum.most_events.0 {
                sum.most_events = (tally.events(), seed);
            }
            sum.tally.add(&tally);
            if let Some(Violation { rule, text }) = violation {
                sum.broken += 1;
                let found = sum.found.entry(rule).or_insert(Found {
                    seed,
                    text: text.clone(),
                    seeds: BTreeSet::new(),
                });
                found.seeds.insert(seed);
                if seed < found.seed {
                    (found.seed, found.text) = (seed, text);
                }
                if self.stop_at_first || sum.broken >= BROKEN_MAX {
                    next.store(u64::MAX / 2, Ordering::Relaxed);
                }
            }
        }
    }

    /// Until all are played, a line now and then.
    fn watch<T: Counts>(&self, sum: &Mutex<Sum<T>>, began: Instant, extra: u64) {
        let mut told = began;
        loop {
            std::thread::sleep(Duration::from_millis(20));
            let (seeds, broken) = {
                let sum = sum.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                (sum.tally.seeds(), sum.broken)
            };
            let over =
                seeds >= self.seeds + extra || (self.stop_at_first && broken > 0) || broken >= BROKEN_MAX;
            if over {
                return;
            }
            if told.elapsed() >= PROGRESS_EVERY {
                told = Instant::now();
                let rate = seeds as f64 / began.elapsed().as_secs_f64();
                eprintln!("  {seeds} of {} seeds, {rate:.0} a second, {broken} with a violation", self.seeds);
            }
        }
    }

    fn report<T: Counts>(&self, sum: &Sum<T>, took: Duration) -> Report {
        let mut report = Report::new();
        let check = report.check("seeds that break a rule", sum.broken as f64, Bound::Equal(0.0), "seeds");
        check.note = sum.found.iter().fold(String::new(), |mut note, (rule, found)| {
            let _ = write!(note, "{rule}: seed {} ({}); ", found.seed, found.text);
            note
        });
        let played = sum.tally.seeds() as f64;
        report.check("seeds played", played, Bound::AtLeast(self.seeds as f64), "seeds");
        let broken: Vec<_> = sum
            .found
            .iter()
            .map(|(rule, found)| {
                let count = found.seeds.len();
                json!({ "rule": rule, "seed": found.seed, "seeds": count, "text": found.text, "all_seeds": found.seeds })
            })
            .collect();
        report.attach("violations", &broken);
        report.attach("counts", &sum.tally.to_json());
        let rate = played / took.as_secs_f64().max(1e-9);
        report.attach(
            "speed",
            &json!({
                "seconds": took.as_secs_f64(), "seeds_per_second": rate,
                "virtual_seconds_per_second": sum.tally.virtual_ms() as f64 / 1000.0 / took.as_secs_f64().max(1e-9),
                "most_events": { "seed": sum.most_events.1, "events": sum.most_events.0 },
            }),
        );
        report
    }
}

/// The table for people, below which stand the broken rules with the end of the first one's trace.
pub(crate) fn table(report: &Report) -> String {
    let json = report.to_json();
    let mut out = String::new();
    if let Some(counts) = json["counts"].as_object() {
        for (name, count) in counts {
            if let Some(kinds) = count.as_object() {
                let kinds: Vec<_> = kinds.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
                let _ = writeln!(out, "  {:28} {}", name.replace('_', " "), kinds.join(", "));
            } else {
                let _ = writeln!(out, "  {:28} {count}", name.replace('_', " "));
            }
        }
    }
    let _ = writeln!(
        out,
        "  {:28} {:.0}",
        "seeds a second",
        json["speed"]["seeds_per_second"].as_f64().unwrap_or(0.0)
    );
    out.push_str(&report.table());
    let hosts = json["hosts"].as_u64().map_or_else(String::new, |hosts| format!(" --hosts {hosts}"));
    for row in json["violations"].as_array().into_iter().flatten() {
        let _ = writeln!(
            out,
            "FAILED {} (seed {}, {} seeds): {}\n       again: vmpath simulate{hosts} --trace --seed {}",
            row["rule"].as_str().unwrap_or_default(),
            row["seed"],
            row["seeds"],
            row["text"].as_str().unwrap_or_default(),
            row["seed"]
        );
    }
    out
}

/// The last lines of what a seed did.
pub(crate) fn tail(seed: u64, hosts: Option<usize>) -> Vec<String> {
    // A world that panics takes its trace with it; the rest is repeated to the same end.
    let trace = match hosts {
        None => OneHost { blind: &[] }.play(seed, Trace::tail()).1,
        Some(hosts) => SeveralHosts { hosts, blind: &[] }.play(seed, Trace::tail()).1,
    };
    trace.lines()
}

/// Prints a seed's whole trace; the broken rule, if one is.
pub(crate) fn print(seed: u64, hosts: Option<usize>, blind: &[&'static str]) -> Option<String> {
    let (trace, violation) = match hosts {
        None => {
            let (tally, trace, violation) = OneHost { blind }.play(seed, Trace::printed());
            print!("{} requests, {} faults", tally.requests, tally.faults());
            (trace, violation)
        }
        Some(hosts) => {
            let (tally, trace, violation) = SeveralHosts { hosts, blind }.play(seed, Trace::printed());
            print!("{} requests, {} faults, {} moves", tally.requests, tally.faults(), tally.moves_begun);
            (trace, violation)
        }
    };
    println!(", hash {:016x}", trace.hash());
    violation.map(|Violation { rule, text }| format!("{rule}: {text}"))
}
