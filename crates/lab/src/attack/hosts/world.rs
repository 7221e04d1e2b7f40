//! One seed's world: hosts, what lies between them, and the loop that lets everything happen in its order.
//!
//! Invariant: all chance comes from one seed, and nothing depends on addresses or hashes: the same seed gives the same run.
//! It does not know the rules.

use super::super::trace::Trace;
use super::super::violation::Violation;
use super::array::Array;
use super::daemon::Process;
use super::event::{Agenda, Event, Life};
use super::faults::Net;
use super::peers::Call;
use super::plane::{File, Quarantine};
use super::power::Power;
use super::qemu::Qemu;
use super::rules::Rules;
use super::scene::Scene;
use super::store::Store;
use super::tally::Tally;
use crate::rng::Rng;
use std::collections::BTreeMap;
use vmpath_core::ids::{DiskId, VmId};
use vmpath_core::saved::{Saved, SavedMoves};
use vmpath_core::spec::Spec;
use vmpath_core::time::{Duration, Instant};

/// More events than this, and something turns in a circle.
const EVENTS_MAX: u64 = 2_000_000;

/// What of a host outlives vmpath's process.
pub(super) struct Host {
    pub(super) process: Option<Process>,
    /// Counts processes.
    pub(super) lives: u32,
    /// On disk.
    pub(super) saved: Option<(Saved, SavedMoves)>,
    /// By VM.
    pub(super) qemus: Vec<Option<Qemu>>,
    /// By VM: what was handed over, on tmpfs.
    pub(super) files: Vec<Option<File>>,
    /// By unit: the record on tmpfs.
    pub(super) record: Vec<Vec<Quarantine>>,
    /// The units that the next process may inherit, with their epochs, on tmpfs.
    pub(super) left: BTreeMap<String, u64>,
    /// By unit: nothing goes to it before.
    pub(super) held: Vec<Instant>,
    /// By VM: when the last thing that its monitor has said arrives.
    pub(super) monitor_due: Vec<Instant>,
    pub(super) power: Power,
    /// Whoever looks after the hosts acts on it again then.
    pub(super) looked_after: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weather {
    Chaos,
    /// Everything is repaired.
    Calm {
        since: Instant,
    },
}

pub(super) struct World {
    pub(super) rng: Rng,
    pub(super) scene: Scene,
    pub(super) now: Instant,
    pub(super) weather: Weather,
    /// Since when nothing is amiss.
    pub(super) well_since: Option<Instant>,
    agenda: Agenda,
    pub(super) hosts: Vec<Host>,
    pub(super) store: Store,
    pub(super) net: Net,
    pub(super) array: Array,
    pub(super) calls: Vec<Call>,
    /// Orders to the store, by whether they were answered.
    pub(super) orders: Vec<super::etcd::Asked>,
    pub(super) instances: u64,
    pub(super) nonces: u64,
    /// By VM: when its guest was lost; none while it lives somewhere.
    pub(super) lost: Vec<Option<Instant>>,
    pub(super) rules: Rules,
    pub(super) violation: Option<Violation>,
    blind: Vec<&'static str>,
    pub(super) tally: Tally,
    pub(super) trace: Trace,
}

impl World {
    pub(super) fn new(seed: u64, hosts: usize, (trace, blind): (Trace, &[&'static str])) -> Self {
        let mut rng = Rng::new(seed);
        let scene = Scene::new(seed, hosts, &mut rng);
        let spec = scene.specs[0].clone();
        let (vms, units) = (spec.vms.len(), spec.units.len());
        let host = |_| Host {
            process: None,
            lives: 0,
            saved: None,
            qemus: (0..vms).map(|_| None).collect(),
            files: vec![None; vms],
            record: vec![vec![]; units],
            left: BTreeMap::new(),
            held: vec![Instant::ZERO; units],
            monitor_due: vec![Instant::ZERO; vms],
            power: Power::default(),
            looked_after: Instant::ZERO,
        };
        let mut world = Self {
            rng,
            now: Instant::from_millis(1000),
            weather: Weather::Chaos,
            well_since: None,
            agenda: Agenda::default(),
            hosts: (0..hosts).map(host).collect(),
            store: Store::new(units),
            net: Net::new(hosts, &spec),
            array: Array::new(units),
            calls: vec![],
            orders: vec![],
            instances: 0,
            nonces: 0,
            lost: vec![None; vms],
            rules: Rules::new(hosts, vms),
            violation: None,
            blind: blind.to_vec(),
            tally: Tally::default(),
            trace,
            scene,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        self.trace.say(self.now, || format!("the configuration of kvm1:\n{}", self.scene.text));
        for vm in 0..self.spec().vms.len() {
            let host = self.scene.begins_at[vm];
            let instance = self.next_instance();
            let disks = self.disks_of(vm).len();
            self.hosts[host].qemus[vm] = Some(Qemu::at_home(instance, disks));
            let after = self.rng.millis(1..500);
            self.at(after, Event::Guest { host, vm, instance, chain: 0 });
        }
        for host in 0..self.hosts.len() {
            self.start(host);
        }
        let after = self.rng.millis(3000..6000);
        self.at(after, Event::Trouble);
        if self.scene.extras.power {
            let after = self.rng.millis(4000..15_000);
            self.at(after, Event::HostTrouble);
        }
        self.at(Duration::from_secs(1), Event::Look);
    }

    /// Its ids are those of all hosts.
    pub(super) fn spec(&self) -> &Spec {
        &self.scene.specs[0]
    }

    /// By the VM's disks: the unit.
    pub(super) fn disks_of(&self, vm: usize) -> Vec<usize> {
        let spec = self.spec();
        spec.disks_of_vm(VmId::at(vm)).map(|disk: DiskId| spec.disk(disk).unit.index()).collect()
    }

    pub(super) fn unit_number(&self, name: &str) -> usize {
        let spec = self.spec();
        spec.unit_ids().position(|unit| spec.unit_name(unit) == name).unwrap_or(usize::MAX)
    }

    pub(super) fn unit_name(&self, unit: usize) -> String {
        self.spec().unit_name(vmpath_core::ids::UnitId::at(unit))
    }

    pub(super) fn host_number(&self, name: &str) -> usize {
        self.scene.specs.iter().position(|spec| spec.host.name == name).unwrap_or(usize::MAX)
    }

    /// The process that runs there now.
    pub(super) fn life(&self, host: usize) -> Option<Life> {
        self.hosts[host].process.as_ref().map(|_| Life { host, number: self.hosts[host].lives })
    }

    pub(super) fn at(&mut self, after: Duration, event: Event) {
        self.when(self.now + after, event);
    }

    pub(super) fn when(&mut self, at: Instant, event: Event) {
        self.agenda.push(at, event);
    }

    pub(super) fn is_calm(&self) -> bool {
        self.weather != Weather::Chaos
    }

    pub(super) fn violated(&mut self, rule: &'static str, text: String) {
        if self.violation.is_none() && !self.blind.contains(&rule) {
            self.trace.say(self.now, || format!("BROKEN {rule}: {text}"));
            self.violation = Some(Violation { rule, text });
        }
    }

    pub(super) fn check(&mut self, verdict: Result<(), (&'static str, String)>) {
        if let Err((rule, text)) = verdict {
            self.violated(rule, text);
        }
    }

    /// Plays to the end, or to the first broken rule.
    pub(super) fn run(mut self) -> (Tally, Trace, Option<Violation>) {
        let mut events = 0u64;
        while self.violation.is_none() {
            let Some((at, event)) = self.agenda.pop() else { break };
            if event.life().is_some_and(|life| self.life(life.host) != Some(life)) {
                continue;
            }
            if matches!(event, Event::Look) && self.is_over(at) {
                break;
            }
            events += 1;
            if events > EVENTS_MAX {
                self.violated("liveness", "events without end".into());
                break;
            }
            self.now = at;
            self.trace.mix(at.as_nanos());
            if !event.is_dull() {
                self.trace.say(at, || shown(&event));
            }
            self.take(event);
        }
        if self.violation.is_none() {
            self.judge_end();
        }
        self.tally.virtual_ms = self.now.as_nanos() / 1_000_000;
        self.tally.events = events;
        (self.tally, self.trace, self.violation)
    }

    /// Plays on until then, for a test that wants to look at something.
    #[cfg(test)]
    pub(super) fn play_until(&mut self, end: Instant) {
        while let Some((at, event)) = self.agenda.pop().filter(|(at, _)| *at < end) {
            if event.life().is_none_or(|life| self.life(life.host) == Some(life)) {
                self.now = at;
                self.take(event);
            }
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Link { life, path, number } => self.link_seen(life.host, path, number),
            Event::Tick { life, number } => self.tick(life.host, number),
            Event::Saved(life) => self.saved(life.host),
            Event::Session { life, number } => self.session(life.host, number),
            Event::Watched { life, unit, found } => self.watched(life.host, unit, &found),
            Event::Publish(life) => self.publish(life.host),
            Event::Hear { life, heard } => self.tell(life.host, vmpath_core::event::Event::Cluster(*heard)),
            Event::Answered { life, order } => self.answered(life.host, order),
            Event::Report { life, vm, instance, report } => {
                self.report_arrives(life.host, vm, instance, *report);
            }
            Event::Attach { life, vm } => self.attach(life.host, vm),
            Event::Announce { life, vm } => self.announce(life.host, vm),
            Event::Settling { life, vm } => self.settling(life.host, vm),
            Event::Cut { life, attempt } => self.cut(life.host, attempt),
            Event::Stored { life, vm, hand_over } => self.stored(life.host, vm, *hand_over),
            Event::Launch { life, vm, id } => self.launch(life.host, vm, &id),
            Event::Pump { life, vm } => self.pump(life.host, vm),
            Event::Reply { life, attempt } => self.reply(life.host, attempt),
            Event::Call { life, call } => self.call_ends(life.host, call),
            Event::Taking { life, taking } => self.taking(life.host, *taking),
            Event::Start(host) => self.start(host),
            Event::PowerOn(host) => self.power_on(host),
            Event::FenceHits(host) => self.fence_hits(host),
            Event::HostTrouble => self.host_trouble(),
            Event::StoreTakes(order) => self.store_takes(*order),
            Event::CallArrives(call) => self.call_arrives(call),
            Event::CallAnswered(call) => self.call_answered(call),
            Event::Command { host, vm, instance, command } => self.command(host, vm, instance, command),
            Event::Stream { host, vm, instance } => self.stream(host, vm, instance),
            Event::Device { host, vm, instance } => self.device(host, vm, instance),
            Event::Ends { host, vm, instance, why } => {
                if self.qemu_of(host, vm, instance).is_some() {
                    self.process_ends(host, vm, why);
                }
            }
            Event::Guest { host, vm, instance, chain } => self.guest(host, vm, (instance, chain)),
            Event::Execute(attempt) => self.execute(attempt),
            Event::Ghost(attempt) => self.ghost(attempt),
            Event::Relaunch(vm) => self.relaunch(vm),
            Event::Trouble => self.trouble(),
            Event::Strike { host, other, vm } => self.strike(host, other, vm),
            Event::Heal(what) => self.heal(what),
            Event::MonitorBack { host, vm } => self.monitor_is_back(host, vm),
            Event::Look => self.look(),
        }
    }
}

fn shown(event: &Event) -> String {
    let text = format!("{event:?}");
    text.chars().take(300).collect()
}
