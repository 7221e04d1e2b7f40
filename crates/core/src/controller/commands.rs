//! What an operator asks for. Each command is answered at once, with what was done or why it makes no sense now.
//!
//! Invariant: no command takes away what a running VM needs; the answer names the way to do it all the same.
//! It does not know who asked, nor whether they may.

use super::Controller;
use super::words::run_state_word;
use crate::effect::{CommandError, Effect, JournalKind, Subject};
use crate::event::Command;
use crate::ids::{PathId, TargetId, VmId};
use crate::path::{PathState, Signal};
use crate::policy::rules::{Stopping, stopping};
use crate::policy::{Cause, Input, Outstanding, Run, Why};
use crate::spec::Access;
use crate::view::{Standing, VmState};

pub(super) type Answer = Result<String, CommandError>;

pub(super) fn conflict<T>(text: String) -> Result<T, CommandError> {
    Err(CommandError::Conflict(text))
}

impl Controller {
    pub(super) fn take_command(&mut self, ticket: u64, command: &Command) {
        let result = match command {
            Command::DisablePath(path) => self.known_path(*path).and_then(|p| self.disable(p)),
            Command::DrainPath(path, force) => self.known_path(*path).and_then(|p| self.drain(p, *force)),
            Command::EnablePath(path) => self.known_path(*path).and_then(|p| self.enable(p)),
            Command::SetAccess(path, access) => self.known_path(*path).map(|p| self.set_access(p, *access)),
            Command::SuspendVm(vm) => self.known_vm(*vm).and_then(|vm| self.suspend(vm)),
            Command::ResumeVm(vm) => self.known_vm(*vm).and_then(|vm| self.resume(vm)),
            Command::Failback(target) => self.fail_back(*target),
            Command::MigrateVm { vm, to } => self.known_vm(*vm).and_then(|vm| self.migrate(vm, to.clone())),
            Command::ReturnVm(vm) => self.known_vm(*vm).and_then(|vm| self.return_home(vm)),
            Command::CancelMigration(vm) => self.known_vm(*vm).and_then(|vm| self.cancel_migration(vm)),
        };
        self.out.answers.push(Effect::Answer { ticket, result });
    }

    fn known_path(&self, path: PathId) -> Result<PathId, CommandError> {
        if path.index() < self.spec.paths.len() { Ok(path) } else { conflict("there is no such path".into()) }
    }

    fn known_vm(&self, vm: VmId) -> Result<VmId, CommandError> {
        if vm.index() >= self.vms.len() {
            return conflict("there is no such VM".into());
        }
        match self.vm_standing(vm) {
            Standing::Present | Standing::Leaving => Ok(vm),
            Standing::Gone => {
                conflict(format!("{} is no longer in the configuration", self.spec.vm(vm).name))
            }
        }
    }

    fn disable(&mut self, path: PathId) -> Answer {
        let name = self.spec.path_name(path);
        if matches!(self.network.state(path), PathState::Disabled { .. }) {
            return conflict(format!("{name} is disabled already"));
        }
        if let Some(needing) = self.needed_by(path) {
            return conflict(format!("{}: {}, or bring another path up", needing.words, needing.way_out()));
        }
        let change = self.network.signal(&self.spec, self.now, path, Signal::Disable);
        if let Some(change) = change {
            self.tell_path(path, &change);
        }
        Ok(format!("{name} is disabled; `vmpath path enable {name}` puts it back"))
    }

    fn enable(&mut self, path: PathId) -> Answer {
        let name = self.spec.path_name(path);
        match self.network.signal(&self.spec, self.now, path, Signal::Enable) {
            Some(change) => {
                self.tell_path(path, &change);
                Ok(format!("{name} is enabled: it is used as soon as it connects"))
            }
            None => conflict(format!("{name} is not disabled: it is {}", self.path_words(path))),
        }
    }

    fn path_words(&self, path: PathId) -> &'static str {
        match self.network.state(path) {
            PathState::Connecting { .. } => "connecting",
            PathState::Active { .. } => "up and carries its traffic",
            PathState::Down { .. } => "down",
            PathState::Probation { .. } => "up again, but not for long enough",
            PathState::Repaired { .. } => "repaired",
            PathState::Draining { .. } => "being drained",
            PathState::Disabled { .. } => "disabled",
        }
    }

    fn set_access(&mut self, path: PathId, access: Access) -> String {
        let name = self.spec.path_name(path);
        if self.network.access(path) == access {
            return format!("{name} is {access} already");
        }
        self.network.set_access(path, access);
        let reason = format!("{access}, by the operator");
        self.record(JournalKind::AccessChanged, Subject::Path(path), None, reason);
        format!("{name} is {access} now")
    }

    fn fail_back(&mut self, target: TargetId) -> Answer {
        if target.index() >= self.spec.targets.len() {
            return conflict("there is no such target".into());
        }
        let paths: Vec<_> = self.spec.path_ids().filter(|p| self.spec.path(*p).target == target).collect();
        let mut back = vec![];
        for path in &paths {
            if let Some(change) = self.network.signal(&self.spec, self.now, *path, Signal::Failback) {
                self.tell_path(*path, &change);
                back.push(self.spec.path_name(*path));
            }
        }
        if back.is_empty() {
            let states: Vec<_> = paths
                .iter()
                .map(|p| {
                    self.path_trouble(*p, self.now).unwrap_or_else(|| {
                        format!("path {} {}", self.spec.path_name(*p), "is up and carries its traffic")
                    })
                })
                .collect();
            let name = &self.spec.target(target).name;
            return conflict(format!("nothing in {name} awaits failback: {}", states.join("; ")));
        }
        Ok(format!("traffic is back on {}", back.join(" and ")))
    }

    fn suspend(&mut self, vm: VmId) -> Answer {
        let name = self.spec.vm(vm).name.clone();
        if let Some(words) = self.away_words(vm) {
            return conflict(words);
        }
        let rule = format!("the operator asked for it: `vmpath vm suspend {name}`");
        let cause = Cause { incident: None, why: Why::Operator, rule };
        let guest = &self.vms[vm.index()].guest;
        match guest.state() {
            VmState::Running => {}
            VmState::Suspending | VmState::Suspended => {
                let state = guest.state().as_str();
                if guest.run.cause().is_some_and(|known| known.why == Why::Operator) {
                    return conflict(format!("{name} is {state} already; it waits for {}", self.until(vm)));
                }
                self.tell(vm, Input::Retain(cause));
                return Ok(format!(
                    "{name} is {state} already, and stays so after its paths are back: `vmpath vm resume {name}` resumes it"
                ));
            }
            VmState::Resuming => return conflict(format!("{name} is being resumed: wait until it runs")),
            VmState::StoppedByOther => {
                let state = guest.monitor.run_state().map_or("not running", run_state_word);
                return conflict(format!("{name} does not run: it is {state}, and somebody else stopped it"));
            }
            VmState::Migrating | VmState::Elsewhere => {
                return conflict(format!("{name} is {}", guest.state().as_str()));
            }
            VmState::Unmanaged => {
                let Stopping::Impossible(why) = stopping(&guest.monitor, Outstanding::FailOver) else {
                    return conflict(format!("{name} is unmanaged"));
                };
                return conflict(format!("{name}: {why}"));
            }
        }
        let requests = match self.network.unserved_unit(vm) {
            Some(_) => Outstanding::Held,
            None => Outstanding::FailOver,
        };
        if let Stopping::Impossible(why) = stopping(&guest.monitor, requests) {
            return conflict(format!("{name}: {why}, and no path can answer them"));
        }
        self.tell(vm, Input::Suspend(cause));
        Ok(format!("{name} is being suspended; `vmpath vm resume {name}` resumes it"))
    }

    fn resume(&mut self, vm: VmId) -> Answer {
        let name = self.spec.vm(vm).name.clone();
        if let Some(words) = self.away_words(vm) {
            return conflict(words);
        }
        let guest = &self.vms[vm.index()].guest;
        match &guest.run {
            Run::Suspended { .. } => {
                if let Some(wait) = self.monitor_wait(vm) {
                    return conflict(format!("{name} cannot be continued: it waits for {wait}"));
                }
            }
            Run::Suspending { .. } | Run::Held { .. } => {}
            Run::Withdrawing { .. } | Run::Resuming { .. } => {
                return conflict(format!("{name} is being resumed: it waits for {}", self.until(vm)));
            }
            Run::Free { .. } | Run::Proving { .. } => return conflict(self.not_suspended(vm)),
        }
        if let Some(unit) = self.network.unserved_unit(vm) {
            return conflict(format!(
                "{name} has no usable path to {}: it would only wait for its disk; it resumes by itself, or try \
                 again when a path is up",
                self.spec.unit_name(unit)
            ));
        }
        self.vms[vm.index()].pardon = self.vms[vm.index()].guest.run.incident();
        self.tell(vm, Input::Release);
        Ok(format!("{name} is being resumed by hand; it is not suspended again for the same incident"))
    }

    fn not_suspended(&self, vm: VmId) -> String {
        let name = &self.spec.vm(vm).name;
        let guest = &self.vms[vm.index()].guest;
        match guest.state() {
            VmState::StoppedByOther => {
                let state = guest.monitor.run_state().map_or("not running", run_state_word);
                format!(
                    "{name} is {state}, but vmpath did not stop it: what somebody else stopped stays stopped; \
                     continue it where it was stopped"
                )
            }
            VmState::Unmanaged => format!("{name} is unmanaged: vmpath did not suspend it"),
            VmState::Migrating | VmState::Elsewhere => format!("{name} is {}", guest.state().as_str()),
            VmState::Running | VmState::Suspending | VmState::Suspended | VmState::Resuming => {
                format!("{name} is not suspended: it is running")
            }
        }
    }
}
