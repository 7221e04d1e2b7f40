//! Orders to the data plane that nobody would ask for again, kept for as long as its queue is full.
//!
//! Invariant: each is given once, in order, and before any later order about the same VM: what lets a VM's requests go on must not
//! come after what holds them anew. Bounded by the moves that there may be. Rejected: to wait for room; whoever decides must not
//! wait for who performs. It does not know what the orders mean.

use crate::dataplane::{OrderError, WorkerOrder};
use std::collections::VecDeque;
use vmpath_core::ids::VmId;

#[derive(Debug, Default)]
pub(super) struct Late(VecDeque<(VmId, WorkerOrder)>);

impl Late {
    /// To be followed by [`Late::give`].
    pub(super) fn add(&mut self, vm: VmId, order: WorkerOrder) {
        self.0.push_back((vm, order));
    }

    /// Gives what there is room for. Returns those that can never be given, and why.
    pub(super) fn give(
        &mut self,
        mut give: impl FnMut(WorkerOrder) -> Result<usize, OrderError>,
    ) -> Vec<(VmId, OrderError)> {
        let mut lost = vec![];
        while let Some((vm, order)) = self.0.front() {
            match give(order.clone()) {
                Ok(_) => {}
                Err(OrderError::Full) => break,
                Err(error @ (OrderError::NoSuchVm | OrderError::Ended)) => lost.push((*vm, error)),
            }
            self.0.pop_front();
        }
        lost
    }

    /// Some order about this VM waits.
    pub(super) fn concerns(&self, vm: VmId) -> bool {
        self.0.iter().any(|(its, _)| *its == vm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_finds_no_room_is_given_later_in_order_and_once() {
        let mut late = Late::default();
        let order = |vm| WorkerOrder::Revoke { vm: VmId::at(vm) };
        let mut given = vec![];
        (0..3).for_each(|vm| late.add(VmId::at(vm), order(vm)));
        let mut pass = |late: &mut Late, room: usize| {
            let mut left = room;
            late.give(|order| {
                let WorkerOrder::Revoke { vm } = order else { unreachable!("only those were added") };
                left = left.checked_sub(1).ok_or(OrderError::Full)?;
                given.push(vm.index());
                Ok(1)
            })
        };
        assert!(pass(&mut late, 0).is_empty() && late.concerns(VmId::at(0)));
        assert!(pass(&mut late, 2).is_empty() && !late.concerns(VmId::at(1)) && late.concerns(VmId::at(2)));
        assert!(pass(&mut late, 9).is_empty() && !late.concerns(VmId::at(2)));
        assert!(pass(&mut late, 9).is_empty());
        assert_eq!(given, [0, 1, 2]);
    }

    #[test]
    fn what_can_never_be_given_is_told_and_does_not_stand_before_others() {
        let mut late = Late::default();
        (0..2).for_each(|vm| late.add(VmId::at(vm), WorkerOrder::Left { vm: VmId::at(vm) }));
        let lost = late.give(|order| match order {
            WorkerOrder::Left { vm } if vm == VmId::at(0) => Err(OrderError::NoSuchVm),
            _ => Ok(1),
        });
        assert_eq!(lost, [(VmId::at(0), OrderError::NoSuchVm)]);
        assert!(!late.concerns(VmId::at(1)));
    }
}
