//! What goes wrong in a soak, and when: a sequence of episodes, made from a seed alone.
//!
//! Invariant: an episode takes nothing away that does not come back with its end, and gives no error that a guest must hear of: of
//! EIO to a flush it must. Rejected: a list of episodes in a file, which finds what its author had thought of.
//! It does not know how anything is done.

use std::time::Duration;

/// What is done at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// Words for a portal of the array (`a`, `b` or `all`).
    Array(&'static str, String),
    /// The network to these portals swallows everything.
    Blackhole(&'static [&'static str]),
    /// `kill -9`, and a new start at once.
    KillDaemon,
    /// SIGTERM, and a new start.
    RestartDaemon,
    /// The guest is killed; another is started in its place when the episode is over.
    KillGuest(usize),
    /// `vmpath` with these arguments.
    Operator(Vec<String>),
}

/// Some acts and their end, when everything but what was killed is well again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Episode {
    pub(super) acts: Vec<(Duration, Act)>,
    pub(super) lasts: Duration,
    /// Of peace, after it.
    pub(super) rest: Duration,
}

/// Splitmix64.
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

const PORTALS: [&str; 2] = ["a", "b"];
const ONE: [&[&str]; 2] = [&["a"], &["b"]];
const BOTH: &[&str] = &["a", "b"];
/// Longer than the array lets writes sit, so that it has some.
const GHOSTS_READY: Duration = Duration::from_millis(300);
/// Each so many episodes an operator takes a path out and puts it back, and resumes who stands: their flapping is forgiven. Else
/// proofs of health grow to minutes, VMs wait for the limit on resumes, and a soak would mostly wait.
const VOUCH_EVERY: u32 = 5;

impl Random {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from))
    }
}

/// Episode `number`, for guests that are called so.
pub(super) fn episode(random: &mut Random, number: u32, guests: &[&str]) -> Episode {
    if number % VOUCH_EVERY == VOUCH_EVERY - 1 {
        return vouch(guests);
    }
    let kind = random.below(12);
    let lasts = random.millis(500, 7000);
    let mut acts = trouble(random, kind, guests);
    let at = |random: &mut Random| random.millis(0, 3000);
    if random.one_in(3) {
        acts.push((at(random), Act::KillDaemon));
    } else if random.one_in(8) {
        acts.push((at(random), Act::RestartDaemon));
    }
    if random.one_in(5) {
        let guest = random.below(guests.len() as u64) as usize;
        acts.push((at(random), Act::KillGuest(guest)));
    }
    acts.sort_by_key(|(at, _)| *at);
    let last = acts.last().map_or(Duration::ZERO, |(at, _)| *at);
    Episode { acts, lasts: lasts.max(last + Duration::from_millis(200)), rest: random.millis(500, 4000) }
}

fn trouble(random: &mut Random, kind: u64, guests: &[&str]) -> Vec<(Duration, Act)> {
    let side = random.below(2) as usize;
    let portal = if random.one_in(4) { "all" } else { PORTALS[side] };
    let now = |words: &str| vec![(Duration::ZERO, Act::Array(portal, words.to_owned()))];
    match kind {
        0 => now("error ESHUTDOWN"),
        1 => now("reset"),
        2 => now("reset refuse"),
        3 => now("hang"),
        4 => now("stall 2s/4s"),
        5 => now(&format!("slow {}ms", 20 + random.below(300))),
        6 | 7 => {
            let mut acts = vec![(Duration::ZERO, Act::Array("all", "ghost 2000".to_owned()))];
            acts.push((GHOSTS_READY, Act::Array(portal, "reset refuse".to_owned())));
            acts
        }
        8 => {
            let portals = if portal == "all" { BOTH } else { ONE[side] };
            vec![(Duration::ZERO, Act::Blackhole(portals))]
        }
        9 => now("late-read 1500ms"),
        10 => now(["garbage", "cut-reply", "unknown-cookie"][random.below(3) as usize]),
        _ => operator(random, guests),
    }
}

fn operator(random: &mut Random, guests: &[&str]) -> Vec<(Duration, Act)> {
    let guest = guests[random.below(guests.len() as u64) as usize];
    let path = format!("san0/{}", PORTALS[random.below(2) as usize]);
    let later = random.millis(1000, 3000);
    let ask = |words: &[&str]| Act::Operator(words.iter().map(|word| (*word).to_owned()).collect());
    match random.below(4) {
        0 => vec![(Duration::ZERO, ask(&["failback", "san0"]))],
        1 => vec![(Duration::ZERO, ask(&["reload"]))],
        2 => {
            vec![(Duration::ZERO, ask(&["path", "disable", &path])), (later, ask(&["path", "enable", &path]))]
        }
        _ => vec![(Duration::ZERO, ask(&["vm", "suspend", guest])), (later, ask(&["vm", "resume", guest]))],
    }
}

fn vouch(guests: &[&str]) -> Episode {
    let ask = |words: &[&str]| Act::Operator(words.iter().map(|word| (*word).to_owned()).collect());
    let second = Duration::from_secs(1);
    let mut acts = vec![
        (Duration::ZERO, ask(&["path", "disable", "san0/a"])),
        (second / 2, ask(&["path", "enable", "san0/a"])),
        (2 * second, ask(&["path", "disable", "san0/b"])),
        (5 * second / 2, ask(&["path", "enable", "san0/b"])),
    ];
    acts.extend(guests.iter().map(|guest| (3 * second, ask(&["vm", "resume", guest]))));
    Episode { acts, lasts: 4 * second, rest: second / 2 }
}

impl std::fmt::Display for Act {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Array(portal, words) => write!(f, "{portal}: {words}"),
            Self::Blackhole(portals) => write!(f, "{}: blackhole", portals.join("+")),
            Self::KillDaemon => write!(f, "kill -9 daemon"),
            Self::RestartDaemon => write!(f, "restart daemon"),
            Self::KillGuest(guest) => write!(f, "kill guest {guest}"),
            Self::Operator(words) => write!(f, "vmpath {}", words.join(" ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUESTS: [&str; 4] = ["gold", "silver", "bronze", "iron"];

    fn plan(seed: u64, length: u32) -> Vec<Episode> {
        let mut random = Random::new(seed);
        (0..length).map(|number| episode(&mut random, number, &GUESTS)).collect()
    }

    #[test]
    fn a_seed_is_a_plan() {
        assert_eq!(plan(7, 100), plan(7, 100));
        assert_ne!(plan(7, 100), plan(8, 100));
    }

    #[test]
    fn all_kinds_of_trouble_come() {
        let all = plan(1, 500);
        let words: Vec<String> = all.iter().flat_map(|e| &e.acts).map(|(_, act)| act.to_string()).collect();
        for kind in [
            "error ESHUTDOWN",
            "a: reset",
            "b: reset",
            "all: reset",
            "refuse",
            "hang",
            "stall",
            "slow",
            "ghost",
            "blackhole",
            "late-read",
            "garbage",
            "cut-reply",
            "unknown-cookie",
            "kill -9",
            "restart",
            "kill guest 0",
            "kill guest 3",
            "vm suspend",
            "vm resume",
            "path disable",
            "failback",
            "reload",
        ] {
            assert!(words.iter().any(|w| w.contains(kind)), "no {kind}");
        }
        for episode in &all {
            assert!(episode.acts.iter().all(|(at, _)| *at < episode.lasts));
        }
    }

    #[test]
    fn what_the_operator_takes_away_he_gives_back_in_the_same_episode() {
        for episode in plan(3, 500) {
            let said: Vec<String> = episode.acts.iter().map(|(_, act)| act.to_string()).collect();
            let count = |word: &str| said.iter().filter(|s| s.contains(word)).count();
            assert_eq!(count("path disable"), count("path enable"));
            assert!(count("vm suspend") <= count("vm resume"), "{said:?}");
        }
    }
}
