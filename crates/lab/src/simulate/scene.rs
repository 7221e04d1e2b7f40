//! Who is simulated: tiers of VMs with their allocations and loads, all as parts of the paths' total capacity.
//!
//! Invariant: what the VMs ask for always exceeds the capacity, before and after the loss, so that every decision costs
//! somebody something. Rejected: a configuration file as input; a checker needs a load whose right outcome is known.
//! It does not know: routing.

use std::fmt::Write as _;
use vmpath_core::ids::{PathId, VmId};
use vmpath_core::spec::{ByteRate, Source, Spec, VmSpec, parse};
use vmpath_core::time::{Duration, Instant};

/// Every so many of the bronze VMs may not use the last path.
const AVOIDS_EVERY: usize = 20;
/// Of the total capacity, in thousandths, what the bronze VMs are limited to together: those by bytes, if all were.
const BRONZE_LIMIT: u64 = 94;
/// A few of their requests.
const BRONZE_BURST: Duration = Duration::from_millis(20);
/// Gold asks for a little less than it has reserved.
const GOLD_ASKS: u64 = 90;
/// Of what is reserved, in twelfths, gold's part; the rest is silver's.
const GOLD_PART: u64 = 5;

/// What a VM keeps waiting, as time at the rate that it can hope for: more than any path holds.
const KEEPS_WAITING: Duration = Duration::from_millis(100);
/// The fewest requests that one of a closed loop has open.
const DEPTH_MIN: u64 = 8;

/// What is run. Times are from the start.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Scene {
    pub(super) seed: u64,
    pub(super) vms: usize,
    pub(super) paths: usize,
    pub(super) lose: usize,
    pub(super) lost_at: Duration,
    pub(super) repaired_at: Option<Duration>,
    pub(super) ends_at: Duration,
    /// Of one path, in bytes per second.
    pub(super) capacity: u64,
    /// Bytes of gold's, silver's and bronze's requests.
    pub(super) size: u32,
    pub(super) noisy_size: u32,
    /// In percent of the total capacity.
    pub(super) reserved: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tier {
    Gold,
    Silver,
    Bronze,
    Noisy,
}

impl Tier {
    pub(super) const ALL: [Self; 4] = [Self::Gold, Self::Silver, Self::Bronze, Self::Noisy];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Gold => "gold",
            Self::Silver => "silver",
            Self::Bronze => "bronze",
            Self::Noisy => "noisy",
        }
    }
}

/// How a VM asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Load {
    /// One request after each pause of this length on average, answered or not.
    Paced { pause: Duration },
    /// So many requests open at any time.
    Closed { depth: u32 },
}

/// Which VMs must get the same for their shares: same tier, same request size, same kind of limit, same paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Peers {
    Silver,
    BronzeByBytes,
    BronzeByRequests,
    Noisy,
}

impl Peers {
    pub(super) const ALL: [Self; 4] =
        [Self::Silver, Self::BronzeByBytes, Self::BronzeByRequests, Self::Noisy];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Silver => "silver",
            Self::BronzeByBytes => "bronze, byte limits",
            Self::BronzeByRequests => "bronze, request limits",
            Self::Noisy => "noisy",
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Guest {
    pub(super) tier: Tier,
    pub(super) load: Load,
    pub(super) size: u32,
    /// None for those that ask for less than they could have, and those with fewer paths.
    pub(super) peers: Option<Peers>,
}

impl Guest {
    /// It has neither a limit nor an affinity: whenever one of its requests waits, any path could carry it.
    pub(super) fn goes_anywhere(&self) -> bool {
        self.tier == Tier::Noisy
    }
}

/// How many VMs of each tier there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counts {
    gold: usize,
    silver: usize,
    bronze: usize,
}

impl Counts {
    /// Of a thousand: 10, 90, 300, and 600 noisy ones; of the first three at least one.
    fn of(vms: usize) -> Self {
        let part = |thousandths: usize| (vms * thousandths / 1000).max(1);
        Self { gold: part(10), silver: part(90), bronze: part(300) }
    }

    fn tier(self, vm: usize) -> (Tier, usize) {
        let silver_from = self.gold;
        let bronze_from = silver_from + self.silver;
        let noisy_from = bronze_from + self.bronze;
        if vm < silver_from {
            (Tier::Gold, vm)
        } else if vm < bronze_from {
            (Tier::Silver, vm - silver_from)
        } else if vm < noisy_from {
            (Tier::Bronze, vm - bronze_from)
        } else {
            (Tier::Noisy, vm - noisy_from)
        }
    }
}

/// The fewest VMs of which every tier has one.
pub(super) const VMS_MIN: usize = 10;

/// A closed loop that always has requests waiting, at up to so many bytes per second.
fn backlogged(rate: u64, size: u32) -> Load {
    let waits = rate * KEEPS_WAITING.as_millis() as u64 / 1000 / u64::from(size);
    Load::Closed { depth: waits.max(DEPTH_MIN) as u32 }
}

impl Scene {
    pub(super) fn total(&self) -> u64 {
        self.capacity * self.paths as u64
    }

    pub(super) fn lost_at(&self) -> Instant {
        Instant::ZERO + self.lost_at
    }

    pub(super) fn repaired_at(&self) -> Option<Instant> {
        self.repaired_at.map(|after| Instant::ZERO + after)
    }

    pub(super) fn ends_at(&self) -> Instant {
        Instant::ZERO + self.ends_at
    }

    fn gold_reservation(&self, counts: Counts) -> u64 {
        self.total() * self.reserved * GOLD_PART / 1200 / counts.gold as u64
    }

    fn silver_reservation(&self, counts: Counts) -> u64 {
        self.total() * self.reserved * (12 - GOLD_PART) / 1200 / counts.silver as u64
    }

    fn bronze_limit(&self, counts: Counts) -> u64 {
        (self.total() * BRONZE_LIMIT / 1000 / counts.bronze as u64).max(1)
    }

    /// By `VmId`.
    pub(super) fn guests(&self) -> Vec<Guest> {
        let counts = Counts::of(self.vms);
        (0..self.vms).map(|vm| self.guest(vm, counts)).collect()
    }

    fn guest(&self, vm: usize, counts: Counts) -> Guest {
        let (tier, number) = counts.tier(vm);
        let size = self.size;
        match tier {
            Tier::Gold => {
                let asks = (self.gold_reservation(counts) * GOLD_ASKS / 100).max(1);
                let pause = Duration::from_nanos(u64::from(size) * 1_000_000_000 / asks);
                Guest { tier, load: Load::Paced { pause }, size, peers: None }
            }
            Tier::Silver => {
                let load = backlogged(self.silver_reservation(counts) * 2, size);
                Guest { tier, load, size, peers: Some(Peers::Silver) }
            }
            Tier::Bronze => {
                let peers =
                    if number.is_multiple_of(2) { Peers::BronzeByBytes } else { Peers::BronzeByRequests };
                let peers = (!self.avoids(number)).then_some(peers);
                Guest { tier, load: backlogged(self.bronze_limit(counts), size), size, peers }
            }
            Tier::Noisy => {
                let hope = self.total() / (self.vms - counts.bronze - counts.silver - counts.gold) as u64;
                let size = self.noisy_size;
                Guest { tier, load: backlogged(hope, size), size, peers: Some(Peers::Noisy) }
            }
        }
    }

    /// Whether the bronze VM of that number must keep off the last path.
    fn avoids(&self, number: usize) -> bool {
        self.lose + 1 < self.paths && number % AVOIDS_EVERY == 1
    }

    /// The host's configuration.
    ///
    /// # Errors
    /// If it has faults; in words.
    pub(super) fn spec(&self) -> anyhow::Result<Spec> {
        let mut text = "[[target]]\nname = 'array'\n".to_owned();
        for path in 0..self.paths {
            write!(text, "[[target.path]]\nname = 'p{path}'\nurl = 'nbd+unix:///?socket=/p{path}'\n")?;
            writeln!(text, "capacity = '{} KiB/s'", self.capacity >> 10)?;
        }
        let counts = Counts::of(self.vms);
        for vm in 0..self.vms {
            let (tier, number) = counts.tier(vm);
            write!(text, "[[vm]]\nname = '{}{number}'\n", tier.name())?;
            write!(text, "[[vm.disk]]\nname = 'vda'\nunit = 'array/u{vm}'\nnbd = '/n{vm}'\n")?;
        }
        let parsed = parse(&[Source { name: "simulated host", text: &text }]);
        let mut spec =
            parsed.map_err(|faults| anyhow::anyhow!("the simulated host's configuration: {faults:?}"))?.spec;
        for vm in 0..self.vms {
            self.allocate(counts.tier(vm), counts, &mut spec.vms[VmId::at(vm).index()]);
        }
        Ok(spec)
    }

    fn allocate(&self, (tier, number): (Tier, usize), counts: Counts, vm: &mut VmSpec) {
        match tier {
            Tier::Gold => {
                (vm.priority, vm.shares) = (100, 2000);
                vm.reservation = Some(ByteRate(self.gold_reservation(counts)));
            }
            Tier::Silver => {
                (vm.priority, vm.shares) = (50, 1000);
                vm.reservation = Some(ByteRate(self.silver_reservation(counts)));
            }
            Tier::Bronze => {
                (vm.priority, vm.shares) = (10, 500);
                let limit = self.bronze_limit(counts);
                vm.limit_burst = BRONZE_BURST;
                if number.is_multiple_of(2) {
                    vm.limit = Some(ByteRate(limit));
                } else {
                    vm.limit_iops = Some((limit / 2 / u64::from(self.size)).max(1));
                }
                if self.avoids(number) {
                    vm.avoid_paths = vec![PathId::at(self.paths - 1)];
                }
            }
            Tier::Noisy => {
                vm.priority = 10;
                vm.shares = if number.is_multiple_of(2) { 500 } else { 1000 };
            }
        }
    }
}
