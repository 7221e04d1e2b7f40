//! What happened among the hosts, in numbers: that a run proves something. It does not know what should have happened.

use serde_json::{Value, json};

macro_rules! counts {
    ($($name:ident,)+) => {
        #[derive(Clone, Debug, Default)]
        pub(crate) struct Tally {
            pub(crate) seeds: u64,
            pub(crate) virtual_ms: u64,
            pub(crate) events: u64,
            $(pub(in crate::attack) $name: u64,)+
            pub(in crate::attack) faults: [u64; Fault::ALL.len()],
        }

        impl Tally {
            pub(in crate::attack) fn add(&mut self, other: &Self) {
                self.seeds += other.seeds;
                self.virtual_ms += other.virtual_ms;
                self.events += other.events;
                $(self.$name += other.$name;)+
                for (sum, more) in self.faults.iter_mut().zip(other.faults) {
                    *sum += more;
                }
            }

            /// Counts by name, in the order in which a table shows them.
            pub(in crate::attack) fn rows(&self) -> Vec<(&'static str, u64)> {
                vec![
                    ("seeds", self.seeds),
                    ("virtual_seconds", self.virtual_ms / 1000),
                    ("events", self.events),
                    $((stringify!($name), self.$name),)+
                    ("faults", self.faults()),
                ]
            }
        }
    };
}

macro_rules! faults {
    ($($name:ident = $word:literal,)+) => {
        /// What can go wrong.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(in crate::attack) enum Fault { $($name,)+ }

        impl Fault {
            pub(in crate::attack) const ALL: &'static [Self] = &[$(Self::$name,)+];

            pub(in crate::attack) const fn word(self) -> &'static str {
                match self { $(Self::$name => $word,)+ }
            }
        }
    };
}

faults! {
    PathLost = "path-lost",
    PathsLost = "all-paths-of-a-host",
    PathHangs = "path-hangs",
    Array = "array",
    Crash = "vmpath-killed",
    QemuKilled = "qemu-killed",
    MonitorLost = "monitor-lost",
    Partition = "hosts-cut-off",
    StreamCut = "stream-cut",
    EtcdCut = "etcd-cut-off",
    Quorum = "etcd-without-quorum",
    Slow = "slow",
    StoreLost = "order-to-etcd-lost",
    StoreReplyLost = "answer-of-etcd-lost",
    StoreLate = "order-to-etcd-late",
    CallLost = "call-lost",
    CallReplyLost = "answer-to-call-lost",
    LaunchFails = "launch-fails",
    StoreFails = "hand-over-not-stored",
    SourceRunsOn = "source-runs-on-after-landing",
    DestinationDies = "destination-dies-at-the-end",
    SentInVain = "sent-in-vain",
    Operator = "operator",
    PowerLost = "host-dies",
    Fenced = "host-fenced",
}

counts! {
    requests,
    dispatched,
    lost_writes,
    ghosts_executed,
    ghosts_of_former_owners,
    moves_begun,
    moves_prepared,
    hand_overs,
    requests_handed_over,
    quarantines_handed_over,
    commits,
    moves_done,
    moves_cancelled,
    moves_given_back,
    moves_held,
    moves_left_over,
    moves_barred,
    owners_changed,
    probes_refused,
    placements_refused,
    suspends,
    guests_lost,
    told_why_not,
    boots,
    takeovers_begun,
    takeovers_done,
}

impl Tally {
    pub(in crate::attack) fn fault(&mut self, fault: Fault) {
        self.faults[fault as usize] += 1;
    }

    pub(in crate::attack) fn faults(&self) -> u64 {
        self.faults.iter().sum()
    }

    pub(in crate::attack) fn of(&self, fault: Fault) -> u64 {
        self.faults[fault as usize]
    }

    pub(in crate::attack) fn to_json(&self) -> Value {
        let mut map: serde_json::Map<String, Value> =
            self.rows().into_iter().map(|(name, count)| (name.to_owned(), json!(count))).collect();
        let kinds = Fault::ALL.iter().map(|fault| (fault.word().to_owned(), json!(self.of(*fault))));
        map.insert("faults_by_kind".into(), Value::Object(kinds.collect()));
        Value::Object(map)
    }
}
