//! What one seed plays with: the configuration of each host, and where each VM begins.
//!
//! Invariant: each configuration is a text that the daemon's parser has read, and all hosts number targets, paths, units, VMs and disks
//! alike (only so: by names is what the hosts themselves speak). It does not know what will happen.

use crate::rng::Rng;
use std::fmt::Write as _;
use std::sync::Arc;
use vmpath_core::ids::UnitId;
use vmpath_core::spec::{Source, Spec, parse};
use vmpath_core::time::Duration;

/// Blocks of a unit that guests use: few, so that requests meet.
pub(super) const BLOCKS: usize = 12;
pub(super) const BLOCK: u64 = 4096;
pub(super) const UNIT_SIZE: u64 = 1 << 30;
/// Requests that a guest has open on one disk, at most.
pub(super) const DEPTH: usize = 6;

/// What not every world has. From a stream of its own, so that a world without any of it stays as it was.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extras {
    /// Whole hosts die, are fenced, boot again, and are taken over from.
    pub(super) power: bool,
    /// Late writes may come for longer than an idle owner keeps its units.
    pub(super) late: bool,
}

impl Extras {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x9d5c_1a2b_77e3_0f41);
        let power = rng.percent(50);
        Self { power, late: power && rng.percent(25) }
    }
}

#[derive(Debug)]
pub(super) struct Scene {
    /// By host; alike but for the host's own name and addresses.
    pub(super) specs: Vec<Arc<Spec>>,
    pub(super) text: String,
    /// By VM: the host that it begins on.
    pub(super) begins_at: Vec<usize>,
    /// By unit.
    pub(super) quiesce: Vec<Duration>,
    /// By VM: bytes per second of its memory's stream.
    pub(super) stream_rate: Vec<u64>,
    /// Milliseconds between faults.
    pub(super) calm_between: std::ops::Range<u64>,
    /// How long faults come.
    pub(super) chaos: Duration,
    pub(super) extras: Extras,
    /// Of a hundred calls, how many are lost, before they took effect or after.
    pub(super) lossy: u64,
}

impl Scene {
    pub(super) fn new(seed: u64, hosts: usize, rng: &mut Rng) -> Self {
        let extras = Extras::new(seed);
        let common = common(rng, extras);
        let max = rng.pick(&[1, 2, 2, 4]);
        let settle = rng.pick(&["100ms", "500ms", "1s"]);
        let own = |host: usize| own(host, max, settle) + &common;
        let spec = |host: usize| match parse(&[Source { name: "simulated.toml", text: &own(host) }]) {
            Ok(parsed) => Arc::new(parsed.spec),
            Err(faults) => panic!("seed {seed} makes no configuration: {faults:?}\n{}", own(host)),
        };
        let specs: Vec<Arc<Spec>> = (0..hosts).map(spec).collect();
        let spec = &specs[0];
        let quiesce = |unit: UnitId| spec.target(spec.unit(unit).target).quiesce;
        Self {
            text: own(0),
            begins_at: spec.vms.iter().map(|_| rng.index(hosts)).collect(),
            quiesce: spec.unit_ids().map(quiesce).collect(),
            stream_rate: spec.vms.iter().map(|_| rng.pick(&[100, 400, 2000]) << 20).collect(),
            calm_between: rng
                .pick(&[200..2500, 500..5000, 2000..9000].map(|r| (r.start, r.end)))
                .into_range(),
            chaos: Duration::from_secs(20 + rng.below(40)),
            lossy: rng.pick(&[0, 6, 12, 30]),
            extras,
            specs,
        }
    }
}

trait IntoRange {
    fn into_range(self) -> std::ops::Range<u64>;
}

impl IntoRange for (u64, u64) {
    fn into_range(self) -> std::ops::Range<u64> {
        self.0..self.1
    }
}

fn line(text: &mut String, key: &str, value: impl std::fmt::Display) {
    let _ = writeln!(text, "{key} = {value}");
}

fn word(text: &mut String, key: &str, value: impl std::fmt::Display) {
    let _ = writeln!(text, "{key} = \"{value}\"");
}

pub(super) fn host_name(host: usize) -> String {
    format!("kvm{}", host + 1)
}

fn own(host: usize, max: u16, settle: &str) -> String {
    let mut text = String::from("[host]\n");
    word(&mut text, "name", host_name(host));
    word(&mut text, "shed_when", "reserved");
    text.push_str("[cluster]\netcd = [\"http://127.0.0.1:2379\"]\n");
    word(&mut text, "peer_listen", format_args!("10.0.0.{}:7443", host + 1));
    for key in ["peer_ca", "peer_cert", "peer_key"] {
        word(&mut text, key, format_args!("/sim/{key}.pem"));
    }
    line(&mut text, "migrations_max", max);
    word(&mut text, "settle", settle);
    text
}

fn common(rng: &mut Rng, extras: Extras) -> String {
    let mut text = String::new();
    let targets = rng.pick(&[1, 1, 2]);
    for target in 0..targets {
        text.push_str("[[target]]\n");
        word(&mut text, "name", format_args!("san{target}"));
        word(&mut text, "failback", rng.pick(&["immediate", "after 3s"]));
        let quiesce = rng.pick(&["300ms", "1s", "3s", "5s"]);
        word(&mut text, "quiesce", if extras.late { "25s" } else { quiesce });
        word(&mut text, "repair_after", rng.pick(&["500ms", "1s", "2s"]));
        let capacity = rng.pick(&[None, Some(40), Some(100)]);
        for path in ["a", "b"] {
            text.push_str("[[target.path]]\n");
            word(&mut text, "name", path);
            let net = if path == "a" { 1 } else { 2 };
            word(&mut text, "url", format_args!("nbd://10.{target}.{net}.1:10809"));
            if let Some(capacity) = capacity {
                word(&mut text, "capacity", format_args!("{capacity} MiB/s"));
            }
        }
    }
    for vm in 0..2 + rng.index(3) {
        vm_text(&mut text, rng, vm, targets);
    }
    text
}

fn vm_text(text: &mut String, rng: &mut Rng, vm: usize, targets: usize) {
    text.push_str("[[vm]]\n");
    word(text, "name", format_args!("vm{vm}"));
    line(text, "priority", rng.pick(&[10, 50, 100]));
    if rng.percent(40) {
        word(text, "reservation", format_args!("{} MiB/s", rng.pick(&[5, 20, 35])));
    }
    word(text, "qmp", format_args!("/sim/vm{vm}.qmp"));
    word(text, "launch", "/sim/launch");
    let losses = ["failover", "migrate", "migrate", "failover+migrate", "suspend"];
    word(text, "on_path_loss", rng.pick(&losses));
    let ladders = [
        "migrate, then hold 3s, then suspend",
        "migrate, then hold 60s, then suspend",
        "hold 2s, then migrate, then suspend",
        "hold 3s, then suspend",
    ];
    word(text, "on_no_path", rng.pick(&ladders));
    line(text, "may_suspend", rng.percent(60));
    word(text, "resume", rng.pick(&["repair", "repair", "failback"]));
    line(text, "return", rng.percent(40));
    word(text, "move_dwell", rng.pick(&["0s", "5s", "20s", "10m"]));
    let (disks, first) = (if rng.percent(35) { 2 } else { 1 }, rng.index(targets));
    for disk in 0..disks {
        text.push_str("[[vm.disk]]\n");
        word(text, "name", format_args!("d{disk}"));
        word(text, "unit", format_args!("san{}/vm{vm}-d{disk}", (first + disk) % targets));
        word(text, "vhost_user", format_args!("/sim/vm{vm}-d{disk}.sock"));
    }
}
