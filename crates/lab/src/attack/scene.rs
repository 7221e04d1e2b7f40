//! What one seed plays with: a configuration, what the targets' exports can do, and what the guests are like.
//!
//! Invariant: the configuration is a text that the daemon's parser has read. It does not know what will happen.

use super::rng::Rng;
use super::settings;
use std::fmt::Write as _;
use std::sync::Arc;
use vmpath_core::event::StopsOnError;
use vmpath_core::ids::UnitId;
use vmpath_core::router::{Sharing, Support, Traits};
use vmpath_core::spec::{Source, Spec, WriteCache, Writers, parse};
use vmpath_core::time::Duration;

/// All guests together, about; and how many at once, at most.
const REQUESTS_PER_SECOND: u64 = 75;
pub(super) const BURST: u64 = 4;
/// Few, so that requests meet.
pub(super) const BLOCKS: usize = 24;
pub(super) const BLOCK: u64 = 4096;
pub(super) const BLOCKS_PER_REQUEST_MAX: usize = 4;

#[derive(Debug)]
pub(super) struct Scene {
    pub(super) spec: Arc<Spec>,
    pub(super) text: String,
    /// By unit.
    pub(super) traits: Vec<Traits>,
    /// By unit: another host writes there too.
    pub(super) shared: Vec<bool>,
    /// By path.
    pub(super) routes: Vec<Route>,
    /// By disk.
    pub(super) habits: Vec<Habit>,
    /// By VM: every disk stops it on an error.
    pub(super) stops: Vec<StopsOnError>,
    /// How many faults, how near to each other.
    pub(super) calm_between: std::ops::Range<u64>,
    pub(super) crashes: u32,
    pub(super) longest_quiesce: Duration,
}

#[derive(Debug)]
pub(super) struct Route {
    /// Microseconds through the network, one way, at most.
    pub(super) latency: u64,
    /// In the target.
    pub(super) service: u64,
    /// Bytes per second.
    pub(super) rate: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Front {
    Vhost,
    Nbd,
}

#[derive(Debug)]
pub(super) struct Habit {
    pub(super) front: Front,
    pub(super) depth: usize,
    /// Milliseconds between bursts, at most.
    pub(super) pause: u64,
    /// It never has two writes open that overlap: then it sees a register, and each block is checked as one.
    pub(super) orderly: bool,
}

impl Scene {
    /// `extra`: what the configuration has besides is drawn from there.
    pub(super) fn new(seed: u64, rng: &mut Rng, extra: Option<&mut Rng>) -> Self {
        let plain = config(rng);
        let text = extra.map_or_else(|| plain.clone(), |extra| settings::enriched(&plain, extra));
        let spec = match parse(&[Source { name: "simulated.toml", text: &text }]) {
            Ok(parsed) => Arc::new(parsed.spec),
            Err(faults) => panic!("seed {seed} makes no configuration: {faults:?}\n{text}"),
        };
        let volatile = |unit: UnitId| spec.target(spec.unit(unit).target).write_cache == WriteCache::Volatile;
        let traits: Vec<Traits> = spec.unit_ids().map(|unit| traits(rng, volatile(unit))).collect();
        let routes = spec
            .paths
            .iter()
            .map(|_| Route {
                latency: rng.pick(&[150, 300, 2000]),
                service: rng.pick(&[200, 2000, 10_000, 60_000]),
                rate: rng.pick(&[20, 100, 500]) << 20,
            })
            .collect();
        let disks = spec.disks.len() as u64;
        let habits = spec
            .disks
            .iter()
            .map(|disk| Habit {
                front: if disk.vhost_user.is_some() { Front::Vhost } else { Front::Nbd },
                depth: 1 + rng.index(12),
                pause: disks * BURST * 1000 * rng.pick(&[2, 3, 5]) / 3 / REQUESTS_PER_SECOND,
                orderly: rng.percent(60),
            })
            .collect();
        let stops = spec.vms.iter().map(|_| stops_on_error(rng)).collect();
        let many = |unit: UnitId| spec.disks.iter().any(|d| d.unit == unit && d.writers == Writers::Many);
        let shared = spec.unit_ids().map(many).collect();
        let calm_between = rng.pick(&[(300, 2500), (500, 6000), (2000, 12_000)]);
        Self {
            longest_quiesce: spec.targets.iter().map(|t| t.quiesce).max().unwrap_or_default(),
            calm_between: calm_between.0..calm_between.1,
            crashes: rng.pick(&[0, 0, 1, 2, 4]),
            text,
            traits,
            shared,
            routes,
            habits,
            stops,
            spec,
        }
    }
}

fn stops_on_error(rng: &mut Rng) -> StopsOnError {
    if rng.percent(80) { StopsOnError::Yes } else { StopsOnError::No }
}

fn traits(rng: &mut Rng, volatile: bool) -> Traits {
    let support = |yes: bool| if yes { Support::Yes } else { Support::No };
    let flush = volatile || rng.percent(85);
    Traits {
        sharing: if rng.percent(25) { Sharing::OneConnection } else { Sharing::ManyConnections },
        fua: support(flush && rng.percent(50)),
        flush: support(flush),
    }
}

fn line(text: &mut String, key: &str, value: impl std::fmt::Display) {
    let _ = writeln!(text, "{key} = {value}");
}

fn word(text: &mut String, key: &str, value: impl std::fmt::Display) {
    let _ = writeln!(text, "{key} = \"{value}\"");
}

fn config(rng: &mut Rng) -> String {
    let mut text = String::from("[host]\nname = \"simulated\"\n");
    word(&mut text, "shed_when", rng.pick(&["unmet", "reserved"]));
    line(&mut text, "workers", rng.pick(&[1, 1, 2]));
    let targets = rng.pick(&[1, 1, 2, 3]);
    let paths: Vec<usize> = (0..targets).map(|_| 2 + rng.index(3)).collect();
    for (target, paths) in paths.iter().enumerate() {
        config_target(&mut text, rng, target, *paths);
    }
    let groups = rng.percent(30);
    if groups {
        text.push_str("[[group]]\nname = \"g0\"\n");
        if rng.percent(50) {
            word(&mut text, "limit", "20 MiB/s");
        }
    }
    for vm in 0..3 + rng.index(6) {
        config_vm(&mut text, rng, vm, (&paths, groups));
    }
    text
}

fn config_target(text: &mut String, rng: &mut Rng, target: usize, paths: usize) {
    text.push_str("[[target]]\n");
    word(text, "name", format_args!("san{target}"));
    word(text, "failback", rng.pick(&["immediate", "immediate", "after 3s", "after 10s", "manual"]));
    word(text, "quiesce", rng.pick(&["300ms", "1s", "3s", "5s"]));
    word(text, "ping_budget", rng.pick(&["1s", "2s", "5s"]));
    word(text, "repair_after", rng.pick(&["500ms", "1s", "2s"]));
    word(text, "write_cache", rng.pick(&["survives-path-loss", "survives-path-loss", "volatile"]));
    line(text, "connections", rng.pick(&[1, 1, 2]));
    let capacity = rng.pick(&[None, Some(10), Some(40)]);
    for path in 0..paths {
        text.push_str("[[target.path]]\n");
        word(text, "name", ["a", "b", "c", "d"][path]);
        word(text, "url", format_args!("nbd://10.{target}.{path}.1:10809"));
        if let Some(capacity) = capacity {
            word(text, "capacity", format_args!("{capacity} MiB/s"));
        }
        if path > 0 && rng.percent(15) {
            word(text, "access", "non-optimized");
        }
    }
}

fn config_vm(text: &mut String, rng: &mut Rng, vm: usize, (paths, groups): (&[usize], bool)) {
    text.push_str("[[vm]]\n");
    word(text, "name", format_args!("vm{vm}"));
    line(text, "priority", rng.pick(&[10, 50, 50, 100, 200]));
    line(text, "shares", rng.pick(&[1, 500, 1000, 2000]));
    let reservation = rng.percent(40).then(|| rng.pick(&[1, 4, 12]));
    if let Some(reservation) = reservation {
        word(text, "reservation", format_args!("{reservation} MiB/s"));
    }
    if rng.percent(25) {
        word(text, "limit", format_args!("{} MiB/s", rng.pick(&[12, 40])));
    }
    if rng.percent(15) {
        line(text, "limit_iops", rng.pick(&[50, 300]));
    }
    if groups && reservation.is_none() && rng.percent(30) {
        word(text, "group", "g0");
    }
    if rng.percent(90) {
        word(text, "qmp", format_args!("/sim/vm{vm}.qmp"));
    }
    let losses = ["failover", "failover", "failover", "suspend", "failover+suspend", "failover+migrate"];
    word(text, "on_path_loss", rng.pick(&losses));
    word(text, "when", rng.pick(&["always", "outranked"]));
    let ladders = [
        "hold 60s, then suspend",
        "hold 3s, then suspend",
        "hold 1s, then suspend, then fail",
        "hold 2s, then fail",
        "suspend",
        "hold 5s, then migrate, then suspend, then fail",
        "hold 2s, then suspend 20s, then fail",
    ];
    word(text, "on_no_path", rng.pick(&ladders));
    line(text, "may_suspend", rng.percent(60));
    line(text, "may_migrate", rng.percent(50));
    word(text, "resume", rng.pick(&["repair", "repair", "failback"]));
    let vhost = rng.percent(50);
    let disks = if rng.percent(25) { 2 } else { 1 };
    let first = rng.index(paths.len());
    if rng.percent(20) && paths[first] > 2 {
        line(text, "avoid", "[\"a\"]");
    }
    for disk in 0..disks {
        let target = (first + disk) % paths.len();
        text.push_str("[[vm.disk]]\n");
        word(text, "name", format_args!("d{disk}"));
        word(text, "unit", format_args!("san{target}/vm{vm}-d{disk}"));
        let key = if vhost { "vhost_user" } else { "nbd" };
        word(text, key, format_args!("/sim/vm{vm}-d{disk}.sock"));
        if rng.percent(15) {
            word(text, "writers", "many");
        }
    }
}
