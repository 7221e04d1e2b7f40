//! Who asks for what, and the daemon's configuration made of it.
//!
//! Two paths of C = 64 MiB/s and requests of 8 KiB: a millisecond of C is 8.2 of them. Open at most, in ms of C: gold 2.2,
//! silver 2.4, bronze 0.7, capped 0.5, nineteen noisy 2.3; N = 8.2. That is more than two windows of (base + 2 ms) · C = 4.6,
//! so that some wait where vmpath can order them, and so little that over a path 20 ms slower latency is the bound:
//! round-robin moves about 2 N / 20 ms = 0.82 C, and who fills the fast path first C + (7.1 − 2.3) / 20 C = 1.24 C (7.1,
//! because gold's 0.5 C then has 1.1 open and not 2.2). One path carries the reservations (gold 36, silver 16 MiB/s), and
//! gold's demand of 32 is below its own; without a scheduler, too, its slots suffice for that on two paths.

use crate::e2e::server::Server;
use anyhow::{Context, Result};
use serde::Serialize;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use vmpath_lab::fleet::{Demand, FleetPlan, VmLoad};
use vmpath_lab::units::MIB;

/// Of each path, bytes a second.
pub(super) const CAPACITY: u64 = 64 * MIB;
pub(super) const REQUEST: u32 = 8192;
/// How much slower one path becomes.
pub(super) const SLOWER: &str = "20ms";
/// What a request takes on an idle path, at least: a near array's.
const LATENCY: &str = "200us";
pub(super) const PATHS: [&str; 2] = ["a", "b"];
/// The one that is lost, and later slow.
pub(super) const VICTIM: &str = "b";
pub(super) const UNIT: u64 = 16 * MIB;

pub(super) const GOLD: &str = "gold";
pub(super) const SILVER: &str = "silver";
pub(super) const BRONZE: &str = "bronze";
pub(super) const CAPPED: &str = "capped";
/// The rest, of which only the sum is shown.
pub(super) const NOISY: &str = "noisy";
const NOISY_COUNT: usize = 19;

/// One VM's part. Rates in bytes a second.
#[derive(Debug, Clone, Serialize)]
pub(super) struct VmPlan {
    pub(super) name: String,
    pub(super) priority: u32,
    pub(super) shares: u32,
    pub(super) reservation: Option<u64>,
    pub(super) limit: Option<u64>,
    /// Of an open loop; none for a closed one.
    pub(super) demand: Option<u64>,
    pub(super) depth: u16,
}

impl VmPlan {
    fn new(name: &str, priority: u32, shares: u32, depth: u16) -> Self {
        let name = name.to_owned();
        Self { name, priority, shares, reservation: None, limit: None, demand: None, depth }
    }

    /// What it must get in each second: no more than it asks for.
    pub(super) fn due(&self) -> Option<u64> {
        self.reservation.map(|reserved| reserved.min(self.demand.unwrap_or(u64::MAX)))
    }
}

/// Gold, silver, bronze, and twenty noisy ones, of which the last has a limit and shares to run into it.
pub(super) fn vms() -> Vec<VmPlan> {
    let (reservation, demand) = (Some(36 * MIB), Some(32 * MIB));
    let gold = VmPlan { reservation, demand, ..VmPlan::new(GOLD, 100, 4000, 18) };
    let silver = VmPlan { reservation: Some(16 * MIB), ..VmPlan::new(SILVER, 50, 2000, 20) };
    let bronze = VmPlan::new(BRONZE, 20, 500, 6);
    let noisy = (1..=NOISY_COUNT).map(|number| VmPlan::new(&format!("{NOISY}{number:02}"), 1, 100, 1));
    let capped = VmPlan { limit: Some(8 * MIB), ..VmPlan::new(CAPPED, 1, 500, 4) };
    [gold, silver, bronze].into_iter().chain(noisy).chain([capped]).collect()
}

/// The VM's name as results show it: those of [`NOISY`] under one.
pub(super) fn shown_name(vm: &str) -> &str {
    if vm.starts_with(NOISY) { NOISY } else { vm }
}

/// How requests are ordered and distributed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Contestant {
    pub(super) name: &'static str,
    scheduler: &'static str,
    selector: &'static str,
}

const fn unaware(selector: &'static str) -> Contestant {
    Contestant { name: selector, scheduler: "none", selector }
}

pub(super) const VMPATH: &str = "vmpath";
pub(super) const ROUND_ROBIN: &str = "round-robin";
pub(super) const CONTESTANTS: [Contestant; 4] = [
    Contestant { name: VMPATH, scheduler: "vmpath", selector: "vmpath" },
    unaware(ROUND_ROBIN),
    unaware("queue-length"),
    unaware("service-time"),
];

/// The array's command line behind `vmpath`.
pub(super) fn array_arguments(control: &Path) -> Vec<String> {
    let mut words: Vec<String> = ["lab", "array", "--prefill", "--control"].map(str::to_owned).to_vec();
    words.push(control.display().to_string());
    words.extend(vms().iter().map(|vm| format!("--unit={}={UNIT}", vm.name)));
    words.extend(
        PATHS.iter().map(|path| format!("--portal={path}=127.0.0.1:0,capacity={CAPACITY},latency={LATENCY}")),
    );
    words
}

/// The daemon's configuration; `urls` are the portals', in order.
pub(super) fn config(contestant: Contestant, dir: &Path, urls: &[String]) -> String {
    let here = dir.display();
    let Contestant { scheduler, selector, .. } = contestant;
    let mib = |bytes: u64| format!("\"{} MiB/s\"", bytes / MIB);
    let mut text = format!(
        "[host]\nname = \"bench\"\napi_socket = \"{here}/api.sock\"\nstate_dir = \"{here}/state\"\n\
         run_dir = \"{here}/run\"\nscheduler = \"{scheduler}\"\n\n\
         [[target]]\nname = \"san0\"\nrepair_after = \"100ms\"\npath_selector = \"{selector}\"\n"
    );
    for (name, url) in PATHS.iter().zip(urls) {
        let capacity = mib(CAPACITY);
        _ = write!(text, "[[target.path]]\nname = \"{name}\"\nurl = \"{url}\"\ncapacity = {capacity}\n");
    }
    for vm in vms() {
        let VmPlan { name, priority, shares, .. } = &vm;
        _ = write!(
            text,
            "\n[[vm]]\nname = \"{name}\"\npriority = {priority}\nshares = {shares}\nmay_migrate = false\n"
        );
        for (key, rate) in [("reservation", vm.reservation), ("limit", vm.limit)] {
            if let Some(rate) = rate {
                _ = writeln!(text, "{key} = {}", mib(rate));
            }
        }
        let socket = disk_socket(dir, name);
        _ = write!(
            text,
            "[[vm.disk]]\nname = \"vda\"\nunit = \"san0/{name}\"\nvhost_user = \"{}\"\n",
            socket.display()
        );
    }
    text
}

/// Where a VM's disk is served.
pub(super) fn disk_socket(dir: &Path, vm: &str) -> PathBuf {
    dir.join(format!("{vm}.vhost"))
}

pub(super) fn fleet(dir: &Path) -> FleetPlan {
    let load = |vm: &VmPlan| VmLoad {
        name: vm.name.clone(),
        socket: disk_socket(dir, &vm.name),
        depth: vm.depth,
        demand: vm
            .demand
            .map_or(Demand::Backlog, |rate| Demand::Paced { requests_per_second: rate / u64::from(REQUEST) }),
    };
    FleetPlan { vms: vms().iter().map(load).collect(), request_bytes: REQUEST }
}

/// Milliseconds that one path takes for everything that may be open.
pub(super) fn open_ms() -> f64 {
    let requests: u64 = vms().iter().map(|vm| u64::from(vm.depth)).sum();
    (requests * u64::from(REQUEST)) as f64 / CAPACITY as f64 * 1e3
}

/// Where the portals of a running array are.
///
/// # Errors
/// It has not said so yet.
pub(super) fn portal_urls(array: &Server) -> Result<Vec<String>> {
    let log = array.log();
    let line = log.lines().find(|line| line.starts_with('{')).context("the array is not ready")?;
    let ready: serde_json::Value = serde_json::from_str(line)?;
    let portals = ready["portals"].as_array().context("the array names no portals")?;
    let urls = portals.iter().map(|portal| portal["url"].as_str().map(|url| url.trim_end_matches('/')));
    urls.map(|url| url.map(str::to_owned).context("a portal without an address")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(of: impl Fn(&VmPlan) -> Option<u64>) -> u64 {
        vms().iter().filter_map(of).sum()
    }

    #[test]
    fn the_arithmetic_of_the_load_is_what_the_head_says() {
        assert_eq!(vms().len(), 23);
        assert!((open_ms() - 8.2).abs() < 0.1, "{}", open_ms());
        let two_windows_ms = 2.0 * 2.3;
        assert!(open_ms() > two_windows_ms && open_ms() / 10.0 < 0.9);
        let unaware_ms = open_ms() / 2.0;
        let gold_ms = 32.0 / 64.0 * unaware_ms;
        assert!(gold_ms < f64::from(vms()[0].depth) / 8.192, "gold's slots suffice");
        assert!(sum(|vm| vm.reservation) < CAPACITY, "the reservations fit one path");
        let gold = &vms()[0];
        assert!(gold.demand < gold.reservation && gold.due() == gold.demand);
    }

    /// By shares, with both paths: silver gets more than it has reserved, and the capped VM runs into its limit, or
    /// neither shares nor limit would be measured. With one path silver's reservation is more than its share.
    #[test]
    fn reservation_limit_and_shares_each_bind_somewhere() {
        let vms = vms();
        let of = |name: &str| vms.iter().find(|vm| vm.name == name).expect("it is planned");
        let gold = of(GOLD).demand.unwrap_or(0);
        let weights: u64 = vms.iter().filter(|vm| vm.demand.is_none()).map(|vm| u64::from(vm.shares)).sum();
        let share = |name, paths| (paths * CAPACITY - gold) * u64::from(of(name).shares) / weights;
        assert!(Some(share(SILVER, 2)) > of(SILVER).reservation && Some(share(CAPPED, 2)) > of(CAPPED).limit);
        assert!(Some(share(SILVER, 1)) < of(SILVER).reservation);
    }

    /// Else a VM that has everything open would not be backlogged, and its throughput not its share.
    #[test]
    fn who_is_to_be_backlogged_has_more_open_than_its_part_of_the_windows() {
        let vms = vms();
        let of = |name: &str| vms.iter().find(|vm| vm.name == name).expect("it is planned");
        let open_ms = |vm: &VmPlan| f64::from(vm.depth) * f64::from(REQUEST) / CAPACITY as f64 * 1e3;
        for (name, mib) in [(SILVER, 40.0), (BRONZE, 10.0), (CAPPED, 8.0)] {
            let in_windows_ms = mib / 128.0 * 4.6;
            assert!(open_ms(of(name)) > 1.25 * in_windows_ms, "{name}");
        }
    }

    #[test]
    fn the_four_differ_in_their_keys_only() {
        let urls = ["nbd://127.0.0.1:1".to_owned(), "nbd://127.0.0.1:2".to_owned()];
        let text = CONTESTANTS.map(|contestant| config(contestant, Path::new("/tmp/x"), &urls));
        for (contestant, text) in CONTESTANTS.iter().zip(&text) {
            assert!(text.contains(&format!("path_selector = \"{}\"", contestant.name)));
            let common = |text: &str| {
                let keys = ["path_selector", "scheduler"];
                let kept = text.lines().filter(|line| !keys.iter().any(|key| line.starts_with(key)));
                kept.map(str::to_owned).collect::<Vec<_>>()
            };
            assert_eq!(common(text), common(&config(CONTESTANTS[0], Path::new("/tmp/x"), &urls)));
        }
    }
}
