//! The check that two paths lead to one unit (NBD tells nothing but name and size): sampled blocks, read over the new
//! connection and over one that is up, while writes to them are held.
//!
//! One comparison at a time for each unit, and never for longer than [`HOLD_MAX`]: a connection is asked for a block first,
//! so that one that answers nothing holds up no writes. Without a path up it is compared with what is remembered of the
//! unit; if that is nothing, or no path that is up can read, its announced size and abilities must do. A blank unit proves
//! nothing and needs `assume_same = true`. Where other hosts write too, only a difference that stays is one.

use super::{Phase, Purpose, sampled};
use crate::dataplane::Worker;
use vmpath_core::event::{Fault, LinkChange};
use vmpath_core::ids::UnitId;
use vmpath_core::path::identity::{self, Blank, Verdict};
use vmpath_core::router::{ConnectionKey, Extent, Sharing, Support, Traits};
use vmpath_core::time::{Duration, Instant};
use vmpath_protocol::nbd::{ExportInfo, NbdError};

/// How long writes to the sampled blocks are held for one comparison.
const HOLD_MAX: Duration = Duration::from_secs(1);

/// Comparisons in a row that must show a difference where other hosts write between the two reads.
const DIFFERENCES: u32 = 5;

/// A sampled block as one connection gave it.
type Sample = Result<Vec<u8>, NbdError>;

/// A comparison in progress.
#[derive(Debug)]
pub(super) struct Comparison {
    new: usize,
    /// None: what is remembered of the unit.
    known: Option<usize>,
    ranges: Vec<Extent>,
    /// What has been read over the new and over the known connection, if there is one.
    data: [Vec<Option<Sample>>; 2],
    stage: Stage,
    deadline: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Writes to the ranges are held, those in flight not yet answered.
    Quieting,
    Reading,
}

impl Worker {
    /// Takes the next connection that waits to be checked, if none is being checked.
    pub(super) fn next_comparison(&mut self, unit: UnitId) {
        while self.backs.units[unit.index()].comparison.is_none() {
            let Some(new) = self.backs.units[unit.index()].waiting.pop_front() else { return };
            let known = self.reference(new, unit);
            match known {
                Some(known) => {
                    let ranges = self.begin_sampling(unit, new, known);
                    self.compare(new, Some(known), ranges, self.now + HOLD_MAX);
                }
                None if self.recalls(new) => {}
                None => self.take_unproven(new),
            }
        }
    }

    fn compare(&mut self, new: usize, known: Option<usize>, ranges: Vec<Extent>, deadline: Instant) {
        let unit = self.backs.links[self.backs.backs[new].link].unit;
        let blank = vec![None; ranges.len()];
        let of_known = if known.is_some() { blank.clone() } else { Vec::new() };
        self.backs.backs[new].phase = Phase::Comparing;
        let data = [blank, of_known];
        self.backs.units[unit.index()].comparison =
            Some(Comparison { new, known, ranges, data, stage: Stage::Quieting, deadline });
        self.advance_comparison(unit);
    }

    /// Begins to compare it with what is remembered of the unit. False if that is nothing. No write is held: one that goes to such a place
    /// makes it forgotten.
    fn recalls(&mut self, new: usize) -> bool {
        let unit = self.backs.links[self.backs.backs[new].link].unit;
        let ranges = self.router.remembered_samples(unit);
        if ranges.is_empty() {
            return false;
        }
        let budget = self.plan.spec.target(self.plan.spec.unit(unit).target).ping_budget;
        self.compare(new, None, ranges, self.now + budget);
        true
    }

    /// Holds writes to the blocks that are compared.
    fn begin_sampling(&mut self, unit: UnitId, new: usize, known: usize) -> Vec<Extent> {
        let min = |back: usize| self.backs.backs[back].export.map_or(1, |e| u64::from(e.block.min()));
        let (size, block) = (self.backs.backs[new].export.map_or(0, |e| e.size), min(new).max(min(known)));
        self.router.begin_sampling(unit, &sampled(size, block))
    }

    /// Nothing tells whether it is the unit: it fits what was announced, and that must do.
    fn take_unproven(&mut self, new: usize) {
        let link = &self.backs.links[self.backs.backs[new].link];
        if self.backs.units[link.unit.index()].export.is_some() {
            tracing::info!(
                path = self.plan.spec.path_name(link.path),
                unit = self.plan.spec.unit_name(link.unit),
                "no path is up and no content is remembered to know the unit by: taken for what it announces"
            );
        }
        self.activate(new);
    }

    /// A connection of the unit that is up; on another path, if there is one.
    fn reference(&self, new: usize, unit: UnitId) -> Option<usize> {
        let path = self.backs.links[self.backs.backs[new].link].path;
        let up = |b: &super::Back| {
            matches!(b.phase, Phase::Active { .. }) && self.backs.links[b.link].unit == unit
        };
        let same_path = |b: &super::Back| self.backs.links[b.link].path == path;
        self.backs
            .backs
            .iter()
            .filter(|(_, b)| up(b))
            .min_by_key(|(_, b)| same_path(b))
            .map(|(index, _)| index)
    }

    /// Reads, once no write to the sampled ranges is in flight; gives up in time.
    pub(super) fn advance_comparison(&mut self, unit: UnitId) {
        let Some(comparison) = &mut self.backs.units[unit.index()].comparison else { return };
        let (new, known) = (comparison.new, comparison.known);
        if self.now > comparison.deadline {
            self.too_late(unit);
            return;
        }
        if comparison.stage == Stage::Quieting && self.router.sampling_is_quiet(unit) {
            comparison.stage = Stage::Reading;
            let ranges = comparison.ranges.clone();
            for (at, range) in ranges.iter().enumerate() {
                for connection in std::iter::once(new).chain(known) {
                    let length = (range.end - range.start) as usize;
                    self.read_own(connection, Purpose::Compare(at), range.start, length);
                }
            }
            if ranges.is_empty() {
                // All of them hold writes of unknown outcome: nothing can be compared before the fence.
                self.cut(
                    new,
                    Fault::Unproven("no block can be compared before the fence of lost writes".into()),
                );
            }
        }
    }

    /// Whoever has not answered says nothing of the other: if that is the known one, what is remembered must do.
    fn too_late(&mut self, unit: UnitId) {
        let Some(comparison) = &self.backs.units[unit.index()].comparison else { return };
        let new = comparison.new;
        let has_answered =
            comparison.stage == Stage::Reading && comparison.data[0].iter().all(Option::is_some);
        if comparison.known.is_none() || !has_answered {
            self.cut(new, Fault::Unproven("its blocks could not be compared in time".into()));
            return;
        }
        let known = comparison.known.and_then(|known| self.backs.backs.get_mut(known));
        if let Some(known) = known {
            forget_comparison(&mut known.own);
        }
        self.backs.units[unit.index()].comparison = None;
        self.router.end_sampling(unit, self.now);
        if !self.recalls(new) {
            let why = "the path that is up does not answer, and nothing is remembered of the unit";
            self.cut(new, Fault::Unproven(why.into()));
        }
        self.next_comparison(unit);
    }

    /// A sampled block has come over one of the two connections.
    pub(super) fn compared(&mut self, index: usize, range: usize, sample: Sample) {
        let unit = self.backs.links[self.backs.backs[index].link].unit;
        let Some(comparison) = &mut self.backs.units[unit.index()].comparison else { return };
        let side = match index {
            i if i == comparison.new => 0,
            i if Some(i) == comparison.known => 1,
            _ => return,
        };
        comparison.data[side][range] = Some(sample);
        if comparison.data.iter().flatten().all(Option::is_some) {
            self.conclude(unit);
        }
    }

    fn conclude(&mut self, unit: UnitId) {
        let Some(comparison) = self.backs.units[unit.index()].comparison.take() else { return };
        let new = comparison.new;
        let Some(known) = comparison.known else {
            match self.recall(unit, &comparison) {
                Verdict::Same => self.activate(new),
                // Then it has been compared with another path before.
                Verdict::Blank if self.reference(new, unit).is_some() => self.activate(new),
                Verdict::Blank => self.take_unproven(new),
                // What is remembered may be younger than what was read, if others could write meanwhile.
                verdict if self.reference(new, unit).is_some() && self.may_be_passing(new, verdict) => {
                    self.compare_again(new, self.now + HOLD_MAX);
                }
                verdict @ (Verdict::Differs { .. } | Verdict::Unreadable) => {
                    if let Some(fault) = refusal(verdict, &comparison) {
                        self.cut(new, fault);
                    }
                }
            }
            self.next_comparison(unit);
            return;
        };
        let spoilt = self.router.sampling_is_spoilt(unit);
        self.router.end_sampling(unit, self.now);
        let same_path = self.backs.links[self.backs.backs[new].link].path
            == self.backs.links[self.backs.backs[known].link].path;
        let is_fine = same_path || self.plan.spec.unit(unit).assume_same;
        let verdict = judge(&comparison, if is_fine { Blank::IsFine } else { Blank::ProvesNothing });
        if spoilt {
            // A write was lost on the way: what was read proves nothing. Again, behind the others.
            self.compare_again(new, comparison.deadline);
        } else if self.router.has_many_writers(unit) && self.may_be_passing(new, verdict) {
            self.compare_again(new, self.now + HOLD_MAX);
        } else {
            match refusal(verdict, &comparison) {
                // A clone is equal in those few places, and the known path may read nothing at all.
                None if !is_fine && self.recalls(new) => {}
                None => self.activate(new),
                Some(fault) => self.cut(new, fault),
            }
        }
        self.next_comparison(unit);
    }

    fn compare_again(&mut self, new: usize, deadline: Instant) {
        let back = &mut self.backs.backs[new];
        back.phase = Phase::Waiting { deadline };
        self.backs.units[self.backs.links[back.link].unit.index()].waiting.push_back(new);
    }

    /// Somebody may have written between the two reads.
    fn may_be_passing(&mut self, new: usize, verdict: Verdict) -> bool {
        if !matches!(verdict, Verdict::Differs { .. }) {
            return false;
        }
        let back = &mut self.backs.backs[new];
        back.differed += 1;
        back.differed < DIFFERENCES
    }

    /// The verdict on what was read, by what is remembered.
    fn recall(&self, unit: UnitId, comparison: &Comparison) -> Verdict {
        let read = comparison.ranges.iter().zip(comparison.data[0].iter().map(readable));
        self.router.judge_samples(unit, read)
    }

    /// A connection is cut: if it was being compared, the comparison ends; what was compared with it waits again.
    pub(super) fn comparison_lost(&mut self, index: usize) {
        let unit = self.backs.links[self.backs.backs[index].link].unit;
        let state = &mut self.backs.units[unit.index()];
        state.waiting.retain(|i| *i != index);
        let Some(comparison) = state.comparison.take_if(|c| c.new == index || c.known == Some(index)) else {
            return;
        };
        if comparison.known.is_some() {
            self.router.end_sampling(unit, self.now);
        }
        if comparison.new != index && !self.backs.backs[comparison.new].is_closing() {
            let back = &mut self.backs.backs[comparison.new];
            back.phase = Phase::Waiting { deadline: comparison.deadline };
            // Answers still to come belong to the comparison that has ended: forget who asked.
            forget_comparison(&mut back.own);
            self.backs.units[unit.index()].waiting.push_back(comparison.new);
        } else if let Some(back) = comparison.known.and_then(|known| self.backs.backs.get_mut(known)) {
            forget_comparison(&mut back.own);
        }
        self.next_comparison(unit);
    }

    /// It is the unit: requests may go over it.
    fn activate(&mut self, index: usize) {
        let back = &mut self.backs.backs[index];
        let Some(export) = back.export else { return };
        let link = &mut self.backs.links[back.link];
        let (path, unit) = (link.path, link.unit);
        let key = self.router.connection_up(path, unit, traits(&export));
        back.phase = Phase::Active { key };
        link.active += 1;
        link.failures = 0;
        link.told = None;
        let first = link.active == 1;
        self.remember(key, index);
        self.backs.units[unit.index()].export.get_or_insert(export);
        if first {
            self.tell(path, unit, LinkChange::Up);
        }
    }

    fn remember(&mut self, key: ConnectionKey, index: usize) {
        let at = key.0 as usize;
        if self.backs.by_key.len() <= at {
            self.backs.by_key.resize(at + 1, None);
        }
        self.backs.by_key[at] = Some(index);
    }
}

fn forget_comparison(asked: &mut [super::Own]) {
    let compares = |own: &&mut super::Own| matches!(own.purpose, Purpose::Compare(_));
    asked.iter_mut().filter(compares).for_each(|own| own.purpose = Purpose::Nobody);
}

/// The verdict on what was read over both connections.
fn judge(comparison: &Comparison, blank: Blank) -> Verdict {
    let [new, known] = &comparison.data;
    identity::judge(new.iter().map(readable).zip(known.iter().map(readable)), blank)
}

/// Why it is not used, in words for people; none if it is.
fn refusal(verdict: Verdict, comparison: &Comparison) -> Option<Fault> {
    match verdict {
        Verdict::Same => None,
        Verdict::Differs { at } => {
            let range = &comparison.ranges[at];
            let (bytes, start) = (range.end - range.start, range.start);
            Some(Fault::Identity(match comparison.known {
                Some(_) => format!("the {bytes} bytes at {start} differ from those over another path"),
                None => format!(
                    "the {bytes} bytes at {start} are not those that were last read there, and nothing has been written \
                     since; if they were changed on purpose, shut the VM down and start it again"
                ),
            }))
        }
        Verdict::Unreadable => {
            let error = comparison.data[0].iter().flatten().find_map(|sample| sample.as_ref().err());
            let error = error.map_or_else(String::new, |error| format!(": {error}"));
            Some(Fault::Unproven(format!("none of its sampled blocks could be read and compared{error}")))
        }
        Verdict::Blank => Some(Fault::Identity(
            "it is blank and cannot be told apart from any other blank unit; write a label to it, or set \
             assume_same = true in a [[target.unit]] for it"
                .into(),
        )),
    }
}

fn readable(sample: &Option<Sample>) -> Option<&[u8]> {
    sample.as_ref()?.as_deref().ok()
}

fn traits(export: &ExportInfo) -> Traits {
    let support = |yes: bool| if yes { Support::Yes } else { Support::No };
    Traits {
        sharing: if export.flags.can_multi_conn() {
            Sharing::ManyConnections
        } else {
            Sharing::OneConnection
        },
        fua: support(export.flags.can_fua()),
        flush: support(export.flags.can_flush()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BROKEN: Option<Sample> = Some(Err(NbdError::Io));

    fn read(byte: u8) -> Option<Sample> {
        Some(Ok(vec![byte; 4]))
    }

    fn comparison(new: [Option<Sample>; 2], known: [Option<Sample>; 2]) -> Comparison {
        Comparison {
            new: 0,
            known: Some(1),
            ranges: vec![0..4, 4..8],
            data: [new.into(), known.into()],
            stage: Stage::Reading,
            deadline: Instant::ZERO,
        }
    }

    #[test]
    fn a_difference_or_nothing_readable_is_another_unit_and_a_sick_reference_is_none() {
        let is_same = |new, known| judge(&comparison(new, known), Blank::ProvesNothing) == Verdict::Same;
        assert!(is_same([read(1), read(2)], [read(1), read(2)]));
        assert!(!is_same([read(1), read(2)], [read(1), read(3)]));
        assert!(is_same([read(1), BROKEN], [read(1), read(3)]), "one bad block proves nothing");
        assert!(!is_same([BROKEN, BROKEN], [read(1), read(3)]));
        assert!(
            is_same([read(1), read(2)], [BROKEN, BROKEN]),
            "a path that reads nothing locks out no other"
        );
    }

    #[test]
    fn only_what_was_read_says_that_it_is_another_unit() {
        let other = comparison([read(1), read(2)], [read(1), read(3)]);
        let silent = comparison([BROKEN, BROKEN], [read(1), read(3)]);
        let fault = |comparison| refusal(judge(comparison, Blank::ProvesNothing), comparison);
        assert!(matches!(fault(&other), Some(Fault::Identity(_))));
        assert!(matches!(fault(&silent), Some(Fault::Unproven(_))));
    }

    #[test]
    fn blank_units_prove_nothing() {
        let blank = comparison([read(0), read(0)], [read(0), read(0)]);
        assert_eq!(judge(&blank, Blank::ProvesNothing), Verdict::Blank);
        assert_eq!(judge(&blank, Blank::IsFine), Verdict::Same);
        let labelled = comparison([read(0), read(7)], [read(0), read(7)]);
        assert_eq!(judge(&labelled, Blank::ProvesNothing), Verdict::Same);
    }
}
