//! Stands for `hosts` in a build without the feature `cluster`: there are no others.
//!
//! A configuration with `[cluster]` is refused before anything starts, so nothing of this ever exists.

use super::handle::{Begun, Confirmed};
use super::hosts_view::HostsView;
use crate::dataplane::{Dataplane, OrderReport};
use crate::hypervisor::Hypervisors;
use std::sync::Arc;
use vmpath_core::cluster::Ask;
use vmpath_core::controller::Controller;
use vmpath_core::effect::CommandError;
use vmpath_core::event::{Event, HypervisorReport};
use vmpath_core::ids::{DiskId, VmId};
use vmpath_core::spec::Spec;
use vmpath_core::time::Instant;
use vmpath_core::view::WorkerView;
use vmpath_core::whatif::Others;

#[derive(Debug)]
pub struct Hands<'a> {
    pub dataplane: &'a Dataplane,
    pub hypervisors: &'a mut Hypervisors,
    pub now: Instant,
}

#[derive(Debug)]
pub enum Hosts {}

#[derive(Debug)]
pub enum News {}

#[derive(Debug)]
pub enum Post {}

impl Post {
    pub async fn next(&mut self) -> News {
        match *self {}
    }
}

impl Hosts {
    pub fn start(_: &Arc<Spec>, _: u64, _: Instant) -> Result<Option<(Self, Post)>, String> {
        Ok(None)
    }

    pub fn perform(&mut self, _: Ask, _: &mut Hands<'_>) -> Vec<Event> {
        match *self {}
    }

    pub fn hear(&mut self, _: News, _: &Controller, _: &mut Hands<'_>) -> Vec<Event> {
        match *self {}
    }

    pub fn hear_order(&mut self, _: OrderReport, _: &Controller, _: &mut Hands<'_>) -> Vec<Event> {
        match *self {}
    }

    pub fn reload(&mut self, _: &Arc<Spec>, _: Instant) -> Vec<Event> {
        match *self {}
    }

    pub fn see(&mut self, _: VmId, _: &HypervisorReport) {
        match *self {}
    }

    pub fn take_over(
        &mut self,
        _: (DiskId, &str),
        _: (Confirmed, Begun),
        _: &Controller,
    ) -> Result<(String, Vec<Event>), CommandError> {
        match *self {}
    }

    pub fn forecast(&self) -> Others {
        match *self {}
    }

    pub fn view(&self) -> HostsView {
        match *self {}
    }

    pub fn publish(&mut self, _: &Controller) {
        match *self {}
    }

    pub fn look(&mut self, _: &Controller, _: Option<&WorkerView>, _: &mut Hands<'_>) -> Vec<Event> {
        match *self {}
    }
}
