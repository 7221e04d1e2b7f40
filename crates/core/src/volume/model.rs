//! The volume against a list of writes that is scanned for every question: the rules as the design words them.

use super::*;
use proptest::prelude::{ProptestConfig, Strategy, any, prop, prop_assert_eq, prop_oneof, proptest};
use std::collections::BTreeSet;

const UNTIL: Instant = Instant::from_millis(5000);

/// What can happen to a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Flying { client: bool },
    Ghost { fences: u32, stage: Stage },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Unclaimed,
    Lost,
    Again { client: bool },
    Done,
    Due,
}

#[derive(Clone, Debug)]
struct Known {
    key: WriteKey,
    range: Extent,
    fate: Fate,
}

#[derive(Clone, Debug)]
enum Op {
    New(Extent),
    Restore(Extent, bool),
    Claim(Extent),
    Sample(Vec<Extent>),
    Resend(prop::sample::Index),
    Written(prop::sample::Index),
    Refused(prop::sample::Index),
    Lost(prop::sample::Index),
    Abandoned(prop::sample::Index),
    GivenUp(prop::sample::Index),
    Again(prop::sample::Index),
    Fenced(prop::sample::Index),
}

fn extent() -> impl Strategy<Value = Extent> {
    (0..40_u64, 1..7_u64).prop_map(|(start, length)| start..start + length)
}

fn op() -> impl Strategy<Value = Op> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        8 => extent().prop_map(Op::New),
        1 => (extent(), any::<bool>()).prop_map(|(range, open)| Op::Restore(range, open)),
        1 => extent().prop_map(Op::Claim),
        1 => prop::collection::vec(extent(), 0..3).prop_map(Op::Sample),
        4 => index().prop_map(Op::Resend),
        3 => index().prop_map(Op::Written),
        2 => index().prop_map(Op::Refused),
        6 => index().prop_map(Op::Lost),
        1 => index().prop_map(Op::Abandoned),
        1 => index().prop_map(Op::GivenUp),
        1 => index().prop_map(Op::Again),
        3 => index().prop_map(Op::Fenced),
    ]
}

/// Both, and what has been written down.
#[derive(Default)]
struct Pair {
    volume: Volume,
    record: Record,
    model: Vec<Known>,
    /// Settled or given up: of writes that are `Done`, those that may become due again.
    settled: BTreeSet<u64>,
    sampled: Vec<Extent>,
    slots: BTreeSet<Slot>,
}

fn meets(a: &Extent, b: &Extent) -> bool {
    a.start < b.end && b.start < a.end
}

impl Pair {
    fn expected(&self, own: Option<usize>, range: &Extent) -> Clearance {
        if self.sampled.iter().any(|s| meets(s, range)) {
            return Clearance::Wait(HoldReason::Identity);
        }
        let others =
            || self.model.iter().enumerate().filter(|(at, k)| Some(*at) != own && meets(&k.range, range));
        let may_go_again = |fate| matches!(fate, Fate::Ghost { stage: Stage::Lost | Stage::Due, .. });
        let is_resend = own.is_some_and(|at| may_go_again(self.model[at].fate));
        let blocks = |fate: Fate| match fate {
            Fate::Flying { client } => is_resend || !client,
            Fate::Ghost { stage: Stage::Lost, .. } => !is_resend,
            Fate::Ghost { .. } => true,
        };
        let own_blocks = own.is_some_and(|at| {
            !is_resend && meets(&self.model[at].range, range) && blocks(self.model[at].fate)
        });
        let waits = own_blocks || others().any(|(_, known)| blocks(known.fate));
        if waits { Clearance::Wait(HoldReason::Quarantine) } else { Clearance::Go }
    }

    fn check(&self, asked: &[Extent]) -> Result<(), proptest::test_runner::TestCaseError> {
        for range in asked {
            let got = self.volume.clearance(None, range);
            prop_assert_eq!(
                got,
                self.expected(None, range),
                "new write on {:?} among {:?}",
                range,
                self.model
            );
        }
        for (at, known) in self.model.iter().enumerate() {
            let got = self.volume.clearance(Some(known.key), &known.range);
            prop_assert_eq!(got, self.expected(Some(at), &known.range), "{:?} among {:?}", known, self.model);
        }
        let ghosts = self.model.iter().filter(|k| matches!(k.fate, Fate::Ghost { .. })).count();
        prop_assert_eq!(self.volume.quarantines().count(), ghosts);
        let flying = |k: &&Known| {
            matches!(k.fate, Fate::Flying { .. } | Fate::Ghost { stage: Stage::Again { .. }, .. })
        };
        let quiet =
            !self.model.iter().filter(flying).any(|k| self.sampled.iter().any(|s| meets(s, &k.range)));
        prop_assert_eq!(self.volume.sampling_is_quiet(), quiet);
        prop_assert_eq!(self.slots.len(), self.model.len(), "a slot for each write that may take effect");
        Ok(())
    }

    fn over(&mut self, at: usize) {
        self.settled.remove(&self.model[at].key.serial);
        self.model.swap_remove(at);
    }

    /// Applies it to both, if it can happen now.
    fn apply(&mut self, op: &Op) {
        match op {
            Op::New(range) if self.expected(None, range) == Clearance::Go => {
                let key = self.volume.dispatched(None, range.clone(), &mut self.record);
                self.model.push(Known { key, range: range.clone(), fate: Fate::Flying { client: true } });
            }
            Op::New(_) => {}
            Op::Restore(range, open) => {
                let standing = if *open { Standing::Open } else { Standing::Ghost };
                let what = Quarantined { range: range.clone(), until: UNTIL, standing };
                let key = self.volume.restore(what, &mut self.record);
                let stage = if *open { Stage::Unclaimed } else { Stage::Done };
                self.model.push(Known { key, range: range.clone(), fate: Fate::Ghost { fences: 1, stage } });
            }
            Op::Claim(range) => {
                let claimed = self.volume.claim(range, &mut self.record);
                let unclaimed = |k: &Known| {
                    matches!(k.fate, Fate::Ghost { stage: Stage::Unclaimed, .. }) && k.range == *range
                };
                let expected = self.model.iter().any(unclaimed);
                assert_eq!(claimed.is_some(), expected);
                if let Some(at) = claimed.and_then(|key| self.model.iter().position(|k| k.key == key)) {
                    assert!(unclaimed(&self.model[at]));
                    self.model[at].fate = Fate::Ghost { fences: 1, stage: Stage::Lost };
                }
            }
            Op::Sample(ranges) => {
                self.sampled = self.volume.begin_sampling(ranges);
                let unsettled = |r: &Extent| {
                    let counts = |fate: Fate| !matches!(fate, Fate::Flying { client: true });
                    self.model.iter().any(|k| counts(k.fate) && meets(&k.range, r))
                };
                let usable: Vec<_> = ranges.iter().filter(|r| !unsettled(r)).cloned().collect();
                assert_eq!(self.sampled, usable);
            }
            Op::Resend(which)
            | Op::Written(which)
            | Op::Refused(which)
            | Op::Lost(which)
            | Op::Abandoned(which)
            | Op::GivenUp(which)
            | Op::Again(which)
            | Op::Fenced(which) => {
                if !self.model.is_empty() {
                    self.apply_to(which.index(self.model.len()), op);
                }
            }
        }
        for note in self.record.take_notes() {
            match note {
                Note::Remember { slot, .. } => drop(self.slots.insert(slot)),
                Note::Forget { slot } => assert!(self.slots.remove(&slot)),
            }
        }
    }

    fn apply_to(&mut self, at: usize, op: &Op) {
        let Known { key, range, fate } = self.model[at].clone();
        let may_go = self.expected(Some(at), &range) == Clearance::Go;
        let (volume, record) = (&mut self.volume, &mut self.record);
        match (op, fate) {
            (Op::Resend(_), Fate::Ghost { fences, stage: Stage::Lost | Stage::Due }) if may_go => {
                let same = volume.dispatched(Some(key), range, record);
                assert_eq!(same, key);
                self.model[at].fate = Fate::Ghost { fences, stage: Stage::Again { client: true } };
            }
            (Op::Written(_) | Op::Refused(_), Fate::Flying { .. }) => {
                volume.answered(key, Answered::Written, record);
                self.over(at);
            }
            (Op::Written(_), Fate::Ghost { fences, stage: Stage::Again { .. } }) => {
                volume.answered(key, Answered::Written, record);
                self.settled.insert(key.serial);
                self.model[at].fate = Fate::Ghost { fences, stage: Stage::Done };
            }
            (Op::Refused(_), Fate::Ghost { fences, stage: Stage::Again { .. } }) => {
                volume.answered(key, Answered::Refused, record);
                self.model[at].fate = Fate::Ghost { fences, stage: Stage::Lost };
            }
            (Op::Lost(_), Fate::Flying { .. }) => {
                volume.lost(key, UNTIL, record);
                self.model[at].fate = Fate::Ghost { fences: 1, stage: Stage::Lost };
            }
            (Op::Lost(_), Fate::Ghost { fences, stage: Stage::Again { .. } }) => {
                volume.lost(key, UNTIL, record);
                self.model[at].fate = Fate::Ghost { fences: fences + 1, stage: Stage::Lost };
            }
            (Op::Abandoned(_), Fate::Flying { .. }) => {
                volume.abandoned(key, record);
                self.model[at].fate = Fate::Flying { client: false };
            }
            (Op::Abandoned(_), Fate::Ghost { fences, stage: Stage::Again { .. } }) => {
                volume.abandoned(key, record);
                self.model[at].fate = Fate::Ghost { fences, stage: Stage::Again { client: false } };
            }
            (Op::GivenUp(_), Fate::Ghost { fences, stage: Stage::Lost | Stage::Done | Stage::Due }) => {
                volume.given_up(key, record);
                self.settled.remove(&key.serial);
                self.model[at].fate = Fate::Ghost { fences, stage: Stage::Done };
            }
            (Op::Again(_), Fate::Ghost { fences, .. }) => {
                volume.again(key, record);
                if self.settled.remove(&key.serial) {
                    self.model[at].fate = Fate::Ghost { fences, stage: Stage::Due };
                }
            }
            (Op::Fenced(_), Fate::Ghost { fences, stage }) => {
                assert_eq!(volume.fenced(key, record), fences == 1);
                match (fences, stage) {
                    (1, Stage::Again { client }) => self.model[at].fate = Fate::Flying { client },
                    (1, _) => self.over(at),
                    (more, _) => self.model[at].fate = Fate::Ghost { fences: more - 1, stage },
                }
            }
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn it_clears_what_a_list_would(
        ops in prop::collection::vec(op(), 0..120),
        asked in prop::collection::vec(extent(), 1..8),
    ) {
        let mut pair = Pair::default();
        for op in ops {
            pair.apply(&op);
            pair.check(&asked)?;
        }
    }
}
