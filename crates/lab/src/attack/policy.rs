//! What the controller decides, held against the configuration.

use super::violation::Violation;
use std::sync::Arc;
use vmpath_core::controller::Controller;
use vmpath_core::effect::Effect;
use vmpath_core::event::{Event, RunState};
use vmpath_core::ids::VmId;
use vmpath_core::spec::Spec;
use vmpath_core::time::Instant;

pub(super) struct PolicyChecks;

impl PolicyChecks {
    pub(super) fn new(_: Arc<Spec>) -> Self {
        Self
    }

    pub(super) fn event(&mut self, _: Instant, _: &Event) {}

    pub(super) fn effects(&mut self, _: Instant, _: &Controller, _: &[Effect]) -> Result<(), Violation> {
        Ok(())
    }

    pub(super) fn guest(&mut self, _: Instant, _: VmId, _: RunState) -> Result<(), Violation> {
        Ok(())
    }

    pub(super) fn restarted(&mut self, _: Instant, _: &Controller) {}

    pub(super) fn end(&mut self, _: Instant, _: &Controller) -> Result<(), Violation> {
        Ok(())
    }
}
