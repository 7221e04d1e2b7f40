//! What happened in a world, in numbers: that a run proves something. It does not know what should have happened.

use serde_json::{Value, json};

macro_rules! faults {
    ($($name:ident = $word:literal,)+) => {
        /// What can go wrong.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Fault { $($name,)+ }

        impl Fault {
            pub(super) const ALL: &'static [Self] = &[$(Self::$name,)+];

            pub(super) const fn word(self) -> &'static str {
                match self { $(Self::$name => $word,)+ }
            }
        }
    };
}

faults! {
    Reset = "reset",
    ResetOne = "reset-one-connection",
    Refuse = "refuse",
    Blackhole = "blackhole",
    Hang = "hang",
    Stall = "stall",
    Flap = "flap",
    AllPaths = "all-paths",
    Sick = "sick",
    Lie = "other-unit",
    UnitGone = "unit-gone",
    CacheLost = "cache-lost",
    Killed = "qemu-killed",
    MonitorLost = "monitor-lost",
    MonitorDeaf = "monitor-deaf",
    MonitorRefuses = "monitor-refuses",
    Foreign = "stopped-by-somebody",
    Operator = "operator",
    Reload = "reload",
    Component = "component",
    Crash = "crash",
    Boot = "boot",
}

#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    pub(super) seeds: u64,
    pub(super) virtual_ms: u64,
    pub(super) events: u64,
    pub(super) requests: u64,
    pub(super) failed: u64,
    pub(super) dispatched: u64,
    pub(super) lost_writes: u64,
    pub(super) ghosts: u64,
    pub(super) quarantine_holds: u64,
    pub(super) failovers: u64,
    pub(super) replayed: u64,
    pub(super) restored: u64,
    pub(super) parked: u64,
    pub(super) stops: u64,
    pub(super) continues: u64,
    pub(super) refused_units: u64,
    /// Connections judged by what was remembered of their unit, and of those the refused ones.
    pub(super) recalls: u64,
    pub(super) recalls_refused: u64,
    pub(super) comparisons: u64,
    pub(super) outsiders: u64,
    /// Units judged as atomic registers.
    pub(super) registers: u64,
    faults: [u64; Fault::ALL.len()],
}

impl Tally {
    pub(super) fn fault(&mut self, fault: Fault) {
        self.faults[fault as usize] += 1;
    }

    pub(super) fn of(&self, fault: Fault) -> u64 {
        self.faults[fault as usize]
    }

    pub(super) fn faults(&self) -> u64 {
        self.faults.iter().sum()
    }

    pub(super) fn add(&mut self, other: &Self) {
        let rows = [
            (&mut self.seeds, other.seeds),
            (&mut self.virtual_ms, other.virtual_ms),
            (&mut self.events, other.events),
            (&mut self.requests, other.requests),
            (&mut self.failed, other.failed),
            (&mut self.dispatched, other.dispatched),
            (&mut self.lost_writes, other.lost_writes),
            (&mut self.ghosts, other.ghosts),
            (&mut self.quarantine_holds, other.quarantine_holds),
            (&mut self.failovers, other.failovers),
            (&mut self.replayed, other.replayed),
            (&mut self.restored, other.restored),
            (&mut self.parked, other.parked),
            (&mut self.stops, other.stops),
            (&mut self.continues, other.continues),
            (&mut self.refused_units, other.refused_units),
            (&mut self.recalls, other.recalls),
            (&mut self.recalls_refused, other.recalls_refused),
            (&mut self.comparisons, other.comparisons),
            (&mut self.outsiders, other.outsiders),
            (&mut self.registers, other.registers),
        ];
        for (sum, more) in rows {
            *sum += more;
        }
        for (sum, more) in self.faults.iter_mut().zip(other.faults) {
            *sum += more;
        }
    }

    /// Counts by name, in the order in which a table shows them.
    pub(super) fn rows(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("seeds", self.seeds),
            ("virtual_seconds", self.virtual_ms / 1000),
            ("events", self.events),
            ("requests", self.requests),
            ("failed_to_the_guest", self.failed),
            ("dispatched", self.dispatched),
            ("lost_writes", self.lost_writes),
            ("ghosts_executed", self.ghosts),
            ("quarantine_holds", self.quarantine_holds),
            ("failovers", self.failovers),
            ("crashes", self.of(Fault::Crash) + self.of(Fault::Boot)),
            ("requests_replayed", self.replayed),
            ("writes_restored", self.restored),
            ("results_parked", self.parked),
            ("suspends", self.stops),
            ("resumes", self.continues),
            ("units_compared", self.comparisons),
            ("units_refused", self.refused_units),
            ("units_recalled", self.recalls),
            ("units_refused_by_memory", self.recalls_refused),
            ("writes_of_another_host", self.outsiders),
            ("units_judged_as_registers", self.registers),
            ("faults", self.faults()),
        ]
    }

    pub(super) fn to_json(&self) -> Value {
        let mut map: serde_json::Map<String, Value> =
            self.rows().into_iter().map(|(name, count)| (name.to_owned(), json!(count))).collect();
        let kinds = Fault::ALL.iter().map(|fault| (fault.word().to_owned(), json!(self.of(*fault))));
        map.insert("faults_by_kind".into(), Value::Object(kinds.collect()));
        Value::Object(map)
    }
}
