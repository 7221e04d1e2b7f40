//! Taking a disk over from a host that does not answer: a fence of that host, the quiesce bound, then the owners are changed.
//!
//! Invariant: nothing is changed before the host is surely dead and what it has sent has surely arrived; so from the change on
//! this host may write at once. If this daemon ends meanwhile nothing has happened.
//! Rejected: a lease that ran out as a proof. A host that is cut off from etcd goes on writing.
//! It does not know who the operator is, nor how a host is turned off.

use super::{Asked, Hosts, Outcome, refused};
use crate::cluster::ClusterOrder;
use crate::control::handle::{Begun, Confirmed};
use crate::sys::child;
use std::process::{Command, Stdio};
use std::time::Duration;
use tokio::sync::mpsc;
use vmpath_core::cluster::Heard;
use vmpath_core::controller::Controller;
use vmpath_core::effect::CommandError;
use vmpath_core::event::Event;
use vmpath_core::ids::{DiskId, UnitId, VmId};
use vmpath_core::ownership::takeover::{self, Proof, Step};
use vmpath_core::ownership::{Owner, UnitEpoch};

/// A power switch answers in seconds; one that takes longer is looked at by a person.
const FENCE_MAX: Duration = Duration::from_secs(120);

/// One unit that is being taken over.
#[derive(Clone, Debug)]
pub struct TakeOver {
    vm: VmId,
    unit: UnitId,
    owner: Owner,
    is_left_over: bool,
}

/// How far it has come.
#[derive(Debug)]
pub enum Fenced {
    /// The host is dead, and the quiesce bound has passed.
    Done(TakeOver),
    /// The command has failed; in words.
    Failed(TakeOver, String),
}

impl Hosts {
    /// Begins it. The answer says what happens now.
    ///
    /// # Errors
    /// Why it makes no sense, in words.
    pub fn take_over(
        &mut self,
        (disk, from): (DiskId, &str),
        (confirmed, begun): (Confirmed, Begun),
        controller: &Controller,
    ) -> Result<(String, Vec<Event>), CommandError> {
        let (vm, unit) = (self.spec.disk(disk).vm, self.spec.disk(disk).unit);
        let (name, disk) = (self.spec.unit_name(unit), self.spec.disk_name(disk));
        let conflict = |why: String| Err(CommandError::Conflict(why));
        // Only the host that is dead could have given it back: with its units here again it goes on, memory and all. Whatever was
        // written there since would be overwritten by what this memory still thinks.
        let is_left_over = controller.given_to(vm) == Some(from);
        if is_left_over && begun == Begun::Perhaps {
            let vm = &self.spec.vm(vm).name;
            return conflict(format!(
                "{vm} was given to {from} with its memory still here, and may have run there since: to continue that memory \
                 would then destroy what it has written. End {vm}'s hypervisor here, wait until its move is over, and take {disk} \
                 over: it is started as after a power failure. Only if you know that it never ran on {from}: --never-ran-there {vm}"
            ));
        }
        if controller.is_moving(vm) && !is_left_over {
            return conflict(format!("{disk} is on its way: its move decides who owns it"));
        }
        let owner =
            takeover::owner_to_lose(&name, self.owners.of(unit), from).map_err(CommandError::Conflict)?;
        let quiesce = self.spec.target(self.spec.unit(unit).target).quiesce;
        let (words, proof, command) = match (confirmed, &self.spec.host.fence_command) {
            (Confirmed::ByOperator, _) => {
                (format!("the operator vouches that {from} is dead"), Proof::Operator, String::new())
            }
            (Confirmed::ByFenceCommand, Some(command)) => {
                (format!("`fence_command` is run for {from}"), Proof::FenceCommand, command.clone())
            }
            (Confirmed::ByFenceCommand, None) => {
                return conflict("no `fence_command` is configured in [host]".into());
            }
        };
        let until =
            format!("{:.1} s have passed after that, then the owner is changed", quiesce.as_secs_f64());
        let take = TakeOver { vm, unit, owner, is_left_over };
        tokio::spawn(fence(take, command, takeover::steps(proof, quiesce).collect(), self.fenced.clone()));
        let reason = format!("{disk} is taken over from {from}: {words}");
        let answer = format!("{reason}; it is this host's when {until}");
        let told = Heard::TakeOver { unit, reason, until: Some(until) };
        Ok((answer, vec![Event::Cluster(told)]))
    }

    pub(super) fn fenced(&mut self, fenced: Fenced) -> Vec<Event> {
        match fenced {
            Fenced::Failed(take, why) => vec![self.tell(&take, &format!("it is not taken over: {why}"))],
            Fenced::Done(take) => {
                let unit = UnitEpoch { unit: self.spec.unit_name(take.unit), epoch: take.owner.epoch };
                let (from, units) = (take.owner.host.clone(), vec![unit]);
                self.ask_cluster(Asked::TakeOver(take), |ticket| ClusterOrder::TakeOver {
                    ticket,
                    from,
                    units,
                })
            }
        }
    }

    pub(super) fn taken_over(&mut self, take: &TakeOver, outcome: Outcome) -> Vec<Event> {
        let from = &take.owner.host;
        let words = match outcome {
            Outcome::Done { owners, .. } => {
                let host = &self.spec.host.name;
                let ours = owners.iter().filter_map(|found| {
                    let owner = found.owner.as_ref().filter(|owner| owner.host == *host)?;
                    Some(UnitEpoch { unit: found.unit.clone(), epoch: owner.epoch })
                });
                let ours: Vec<UnitEpoch> = ours.collect();
                // One that was left over by a move is its machine's, which reads the owners again and again.
                if !take.is_left_over {
                    self.owners.own(take.vm, &ours);
                }
                format!("it is this host's now, and was {from}'s")
            }
            Outcome::Refused(refusal) => format!("it is not taken over: {}", refused(refusal)),
            // If it has taken effect the watch tells, and it is renewed then.
            Outcome::Unknown { why } => format!("whether it is taken over is not known yet: {why}"),
        };
        vec![self.tell(take, &words)]
    }

    fn tell(&self, take: &TakeOver, words: &str) -> Event {
        let reason = format!("{}: {words}", self.spec.unit_name(take.unit));
        Event::Cluster(Heard::TakeOver { unit: take.unit, reason, until: None })
    }
}

/// Until the host is dead and what it has sent has arrived.
async fn fence(take: TakeOver, command: String, steps: Vec<Step>, done: mpsc::UnboundedSender<Fenced>) {
    let mut fenced = Fenced::Done(take.clone());
    for step in steps {
        match step {
            Step::Fence => {
                if let Err(why) = run(&command, &take.owner.host).await {
                    fenced = Fenced::Failed(take, why);
                    break;
                }
            }
            Step::Wait(quiesce) => tokio::time::sleep(quiesce).await,
            Step::Change => break,
        }
    }
    // The owner has gone: nothing was changed.
    let _ = done.send(fenced);
}

async fn run(line: &str, host: &str) -> Result<(), String> {
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(line).env("VMPATH_HOST", host).stdin(Stdio::null());
    child::apart(&mut command);
    let mut command = tokio::process::Command::from(command);
    let output = command.kill_on_drop(true).output();
    let output = tokio::time::timeout(FENCE_MAX, output).await;
    let output = output
        .map_err(|_| format!("`fence_command` has not ended within {} s", FENCE_MAX.as_secs()))?
        .map_err(|error| format!("`fence_command` cannot be run: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().last().unwrap_or_default().trim();
    Err(format!("`fence_command` has failed ({}): {said}", output.status))
}
