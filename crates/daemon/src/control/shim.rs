//! Temporary.
use std::sync::Arc;
use vmpath_core::effect::Effect;
use vmpath_core::event::Event;
use vmpath_core::plan::RoutePlan;
use vmpath_core::spec::Spec;
use vmpath_core::time::Instant;
use vmpath_core::view::HostView;
#[derive(Debug)]
pub struct Controller { spec: Arc<Spec> }
impl Controller {
    pub fn new(spec: Arc<Spec>, _now: Instant) -> (Self, Vec<Effect>) {
        let plan = RoutePlan { generation: 0, spec: spec.clone(), paths: vec![], vms: vec![] };
        (Self { spec }, vec![Effect::Publish(plan)])
    }
    pub fn handle(&mut self, _now: Instant, event: Event) -> Vec<Effect> {
        match event { Event::Command { ticket, .. } => vec![Effect::Answer { ticket, result: Ok("shim".into()) }], _ => vec![] }
    }
    pub fn next_deadline(&self) -> Option<Instant> { None }
    pub fn view(&self, now: Instant) -> HostView {
        HostView { at: now, spec: self.spec.clone(), generation: 0, paths: vec![], units: vec![], vms: vec![], incidents: vec![] }
    }
}
