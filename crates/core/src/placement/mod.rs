//! Which host a VM goes to: every host that knows it is either refused with a reason, or ranked.
//!
//! Invariant: a host is chosen only if what it says of itself, less what is promised to others, holds the VM's reservation
//! on each of its targets and leads to each of its units over enough trusted paths.
//! Rejected: the host with the most room, always. Ten deciders that cannot see each other would all choose it.
//! It does not know whether what a host says is still true: the chosen one is asked, and reads the units, before anything moves.

mod need;
mod refusal;
mod summary;
mod view;

pub use need::room_of;
pub use refusal::Refusal;
pub use summary::{
    Accepts, Claim, HostSummary, Need, PathNeed, TargetSummary, UnitNeed, UnitSummary, VmPlace, VmSummary,
};
pub use view::{ClusterView, HostIndex};

use crate::cluster::Chosen;
use std::cmp::Reverse;
use view::{NameId, Present, Unit};

/// What is left of a host's capacity once the VM is there counts in such parts of the whole: among hosts that are equal in
/// that, those who decide at the same time scatter.
const ROOM_STEPS: u64 = 8;

/// Where one VM may go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranking {
    /// The best first.
    pub best: Vec<HostIndex>,
    pub refused: Vec<(HostIndex, Refusal)>,
}

/// Hosts that refuse a VM are told by name up to here.
const TOLD_MAX: usize = 4;

impl Ranking {
    /// The best host, and what it is better in than the next.
    #[must_use]
    pub fn chosen(&self, need: &Need, view: &ClusterView) -> Option<Chosen> {
        let best = *self.best.first()?;
        let host = view.name(best).to_owned();
        if need.only.is_some() {
            return Some(Chosen { host, why: String::new() });
        }
        let asked = Asked::of(need, view);
        let would_be = |at: HostIndex| match fits_now(&asked, view, at) {
            Some(left) => {
                format!("{left}/{ROOM_STEPS} of what it carries would be left at {}", view.name(at))
            }
            None => format!("the capacity of {} is not known", view.name(at)),
        };
        let why = match self.best.get(1) {
            None => format!("{host} is the only host that will do"),
            Some(next) => {
                let many = self.best.len();
                format!(
                    "{host} is the best of {many} hosts that will do ({}; {})",
                    would_be(best),
                    would_be(*next)
                )
            }
        };
        Some(Chosen { host, why })
    }

    /// Why nobody will have it.
    #[must_use]
    pub fn words(&self, need: &Need, view: &ClusterView) -> String {
        let others = self.refused.iter().filter(|(host, _)| view.name(*host) != need.from);
        let mut words: Vec<String> =
            others.map(|(host, why)| format!("{}: {why}", view.name(*host))).collect();
        let more = words.len().saturating_sub(TOLD_MAX);
        words.truncate(TOLD_MAX);
        if more > 0 {
            words.push(format!("and {more} more"));
        }
        match (&need.only, words.is_empty()) {
            (Some(host), true) => format!("nothing is known of a host {host}"),
            (None, true) => "no other host knows it".to_owned(),
            (_, false) => format!("no host will do ({})", words.join("; ")),
        }
    }
}

/// Where several VMs go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// In the order of the needs; none: nobody has room, and [`place`] says why.
    pub to: Vec<Option<HostIndex>>,
}

/// A need, with its names as the view has them.
struct Asked<'a> {
    need: &'a Need,
    units: Vec<Option<(NameId, NameId)>>,
    room: Vec<(Option<NameId>, u64)>,
    only: Vec<(Option<NameId>, Option<NameId>)>,
    avoid: Vec<(Option<NameId>, Option<NameId>)>,
}

/// Every host that knows the VM, ranked or refused. `need.only` restricts that to one, which is refused with a reason even if it does
/// not know the VM.
#[must_use]
pub fn place(need: &Need, view: &ClusterView) -> Ranking {
    let asked = Asked::of(need, view);
    let mut ranked: Vec<(Rank<'_>, HostIndex)> = vec![];
    let mut refused = vec![];
    for (host, known) in candidates(need, view) {
        match judge(&asked, view, host, known) {
            Ok(left) => ranked.push((Rank::of(&asked, view, host, left), host)),
            Err(why) => refused.push((host, why)),
        }
    }
    ranked.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    refused.sort_unstable_by(|(a, _), (b, _)| view.name(*a).cmp(view.name(*b)));
    Ranking { best: ranked.into_iter().map(|(_, host)| host).collect(), refused }
}

/// Places them one after the other, each beside what the ones before it were promised: so whoever comes first matters most.
#[must_use]
pub fn place_all(needs: &[Need], view: &ClusterView) -> Placed {
    let mut view = view.clone();
    let to = needs.iter().map(|need| {
        let best = place(need, &view).best.first().copied()?;
        for (target, rate) in &need.room {
            let host = view.name(best).to_owned();
            view.claim(&Claim { vm: need.vm.clone(), host, target: target.clone(), rate: *rate });
        }
        Some(best)
    });
    Placed { to: to.collect() }
}

fn candidates(need: &Need, view: &ClusterView) -> Vec<(HostIndex, Option<VmPlace>)> {
    let knowing = view.knowing(&need.vm);
    let Some(only) = &need.only else {
        return knowing.iter().map(|(host, place)| (*host, Some(*place))).collect();
    };
    let Some(host) = view.find(only) else { return vec![] };
    vec![(host, knowing.iter().find(|(other, _)| *other == host).map(|(_, place)| *place))]
}

/// What would be left, in parts of the capacity, or why it cannot go there. None: the capacity is not known.
fn judge(
    asked: &Asked<'_>,
    view: &ClusterView,
    host: HostIndex,
    known: Option<VmPlace>,
) -> Result<Option<u64>, Refusal> {
    let need = asked.need;
    let Some(present) = &view.hosts[host.0].present else { return Err(Refusal::Silent) };
    if view.name(host) == need.from {
        return Err(Refusal::Leaves);
    }
    match known {
        None => return Err(Refusal::UnknownVm),
        Some(VmPlace::Known) => return Err(Refusal::NoLaunch),
        Some(VmPlace::Here) => return Err(Refusal::AlreadyThere),
        Some(VmPlace::Launchable) => {}
    }
    if present.version != need.version {
        return Err(Refusal::Version { theirs: present.version.clone(), ours: need.version.clone() });
    }
    if let Accepts::No(why) = &present.accepts {
        return Err(Refusal::Accepts(why.clone()));
    }
    reaches(asked, present)?;
    fits(asked, view, host, present)
}

/// Every unit is there, has the right size, and enough of the VM's paths lead to it.
fn reaches(asked: &Asked<'_>, present: &Present) -> Result<(), Refusal> {
    for (need, names) in asked.need.units.iter().zip(&asked.units) {
        let full = || format!("{}/{}", need.target, need.unit);
        let found = names.and_then(|(target, unit)| {
            let known = present.target(target)?;
            Some((target, known, known.unit(unit)?))
        });
        let Some((target, known, unit)) = found else {
            return Err(Refusal::NoUnit(full()));
        };
        if asked.need.whole && known.lost > 0 {
            return Err(Refusal::NotWhole { target: need.target.clone(), lost: known.lost });
        }
        match unit.size {
            Some(size) if size != need.size => {
                return Err(Refusal::Size { unit: full(), theirs: size, ours: need.size });
            }
            None => return Err(Refusal::NoPath { unit: full(), has: 0, needs: asked.at_least() }),
            Some(_) => {}
        }
        let has = asked.paths_to(target, unit);
        if has < asked.at_least() {
            return Err(Refusal::NoPath { unit: full(), has, needs: asked.at_least() });
        }
    }
    Ok(())
}

/// What would be left at a host that will do.
fn fits_now(asked: &Asked<'_>, view: &ClusterView, host: HostIndex) -> Option<u64> {
    let present = view.hosts[host.0].present.as_ref()?;
    fits(asked, view, host, present).ok()?
}

/// Its reservation has room on each target. What is left of the tightest, in parts of its capacity.
fn fits(
    asked: &Asked<'_>,
    view: &ClusterView,
    host: HostIndex,
    present: &Present,
) -> Result<Option<u64>, Refusal> {
    let mut least = Some(ROOM_STEPS);
    for (of, (target, needs)) in asked.need.room.iter().zip(&asked.room) {
        let Some((name, known)) = target.and_then(|name| Some((name, present.target(name)?))) else {
            return Err(Refusal::NoUnit(of.0.clone()));
        };
        let Some(capacity) = known.capacity else {
            least = None;
            continue;
        };
        let has = capacity.saturating_sub(known.reserved).saturating_sub(view.claimed(host, name));
        if has < *needs {
            return Err(Refusal::NoRoom { target: of.0.clone(), has, needs: *needs });
        }
        let left = (has - needs).saturating_mul(ROOM_STEPS) / capacity.max(1);
        least = least.map(|least| least.min(left));
    }
    Ok(least)
}

/// Less is better.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Rank<'a> {
    left: Reverse<Option<u64>>,
    scattered: u64,
    name: &'a str,
}

impl<'a> Rank<'a> {
    fn of(asked: &Asked<'_>, view: &'a ClusterView, host: HostIndex, left: Option<u64>) -> Self {
        let name = view.name(host);
        Self { left: Reverse(left), scattered: scatter(&asked.need.vm, name), name }
    }
}

/// The same for everybody who asks, and for each VM another order of hosts (rendezvous hashing); FNV-1a, then mixed as
/// SplitMix64 does.
fn scatter(vm: &str, host: &str) -> u64 {
    let bytes = vm.bytes().chain([0]).chain(host.bytes());
    let hash = bytes
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    let mixed = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

impl<'a> Asked<'a> {
    fn of(need: &'a Need, view: &ClusterView) -> Self {
        let path = |full: &String| {
            let (target, path) = full.split_once('/').unwrap_or((full, ""));
            (view.name_id(target), view.name_id(path))
        };
        Self {
            need,
            units: need
                .units
                .iter()
                .map(|unit| Some((view.name_id(&unit.target)?, view.name_id(&unit.unit)?)))
                .collect(),
            room: need.room.iter().map(|(target, rate)| (view.name_id(target), *rate)).collect(),
            only: need.paths.only.iter().map(path).collect(),
            avoid: need.paths.avoid.iter().map(path).collect(),
        }
    }

    fn at_least(&self) -> u32 {
        self.need.paths.at_least.max(1)
    }

    /// Whether the VM may use a path. What is said of one target says nothing of another.
    fn allows(&self, target: NameId, path: NameId) -> bool {
        let is = |full: &(Option<NameId>, Option<NameId>)| *full == (Some(target), Some(path));
        let mut only = self.only.iter().filter(|(of, _)| *of == Some(target)).peekable();
        (only.peek().is_none() || only.any(is)) && !self.avoid.iter().any(is)
    }

    fn paths_to(&self, target: NameId, unit: &Unit) -> u32 {
        unit.paths.iter().filter(|path| self.allows(target, **path)).count() as u32
    }
}

#[cfg(test)]
mod tests;
