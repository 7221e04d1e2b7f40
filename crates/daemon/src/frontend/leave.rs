//! Disks that leave the configuration and come back: who is still attached, and when nobody listens for them any more.
//!
//! Invariant: a leaving disk is served as before while one front end is attached. When the last one has gone its sockets
//! are closed and their files removed, and only then are its connections to storage let go, after control was told.
//! It does not remember: what is to be closed or opened follows from the plan and from who is attached now.

use super::serve::PortState;
use super::{Accepting, Listener};
use crate::backend::Use;
use crate::dataplane::{Tag, Transport, Worker, is_served, listen_tcp, listen_unix};
use anyhow::Context;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use vmpath_core::event::DiskFront;
use vmpath_core::ids::DiskId;
use vmpath_core::spec::Presence;

impl Worker {
    /// Front ends of a disk, of either kind; one that has only just connected counts.
    fn attached(&self, disk: DiskId) -> u32 {
        let clients = self.fronts.fronts.iter().filter(|(_, front)| front.disk == disk).count();
        clients as u32 + self.requests.guests.of_disk(disk)
    }

    /// Disks that somebody is attached to, some of them more than once.
    pub(crate) fn attached_disks(&self) -> impl Iterator<Item = DiskId> {
        let clients = self.fronts.fronts.iter().map(|(_, front)| front.disk);
        clients.chain(self.requests.guests.open_disks())
    }

    /// It is leaving and nobody is attached: nobody may attach any more.
    pub(super) fn is_closed(&self, disk: DiskId) -> bool {
        match self.plan.spec.disk(disk).presence {
            Presence::Present => false,
            Presence::Leaving => self.attached(disk) == 0,
        }
    }

    /// What control is told of each of this worker's disks.
    pub(crate) fn disk_fronts(&self) -> Vec<(DiskId, DiskFront)> {
        let front = |disk: DiskId| match self.is_closed(disk) {
            true => DiskFront::Closed,
            false => DiskFront::Open { attached: self.attached(disk) },
        };
        self.its_disks().iter().map(|disk| (*disk, front(*disk))).collect()
    }

    /// Control has been told what is closed: connections for that alone are not wanted any more.
    pub(crate) fn retire_units(&mut self) {
        for at in 0..self.its_disks().len() {
            let disk = self.its_disks()[at];
            if self.is_closed(disk) {
                self.backs.set_use(self.plan.spec.disk(disk).unit, Use::Unused);
            }
        }
    }

    /// Closes and opens what the plan and those who are attached ask for.
    pub(crate) fn follow_presence(&mut self) {
        for at in 0..self.its_disks().len() {
            let disk = self.its_disks()[at];
            let unit = self.plan.spec.disk(disk).unit;
            if !self.is_closed(disk) && self.backs.set_use(unit, Use::Used) == Use::Unused {
                self.tell_links_up(unit);
            }
        }
        for at in 0..self.fronts.listeners.len() {
            let listener = &self.fronts.listeners[at];
            match (self.is_closed(listener.disk), listener.state.socket().is_some()) {
                (true, true) => self.close_listener(at),
                (false, false) => self.reopen_listener(at),
                (true, false) | (false, true) => {}
            }
        }
        for at in 0..self.fronts.ports.len() {
            if self.is_closed(self.fronts.ports[at].disk) {
                self.close_port(at);
            }
        }
    }

    fn close_listener(&mut self, at: usize) {
        let path = self.listener_path(&self.fronts.listeners[at]).cloned();
        let listener = &mut self.fronts.listeners[at];
        if let Some(socket) = listener.state.socket() {
            self.ring.cancel_all(socket);
        }
        listener.state = Accepting::Closed;
        if let Some(path) = path {
            let _ = std::fs::remove_file(path);
        }
    }

    fn close_port(&mut self, at: usize) {
        let port = &mut self.fronts.ports[at];
        match &port.state {
            PortState::Listening(socket) => self.ring.cancel_all(socket),
            PortState::Closed => {}
            PortState::Failed | PortState::Left => return,
        }
        port.state = PortState::Left;
        let _ = std::fs::remove_file(&port.path);
    }

    /// Listens for a disk that is back in the configuration. Where that fails it is tried again at each inspection.
    pub(super) fn reopen_listener(&mut self, at: usize) {
        match self.listen_again(at) {
            Ok(socket) => {
                let socket = Rc::new(socket);
                self.ring.watch(&socket, Tag::Listener(at).pack());
                self.fronts.listeners[at].state = Accepting::Watched(socket);
            }
            Err(error) => {
                let listener = &mut self.fronts.listeners[at];
                let disk = listener.disk;
                if !matches!(listener.state, Accepting::Failed) {
                    listener.state = Accepting::Failed;
                    tracing::error!(disk = self.disk_name(disk), "cannot listen again: {error:#}");
                }
            }
        }
    }

    fn listen_again(&self, at: usize) -> anyhow::Result<OwnedFd> {
        let listener = &self.fronts.listeners[at];
        let disk = self.plan.spec.disk(listener.disk);
        match (listener.transport, &disk.nbd_socket, disk.nbd_tcp) {
            (Transport::Unix, Some(path), _) if is_served(path) => {
                anyhow::bail!("another process serves {} now", path.display())
            }
            (Transport::Unix, Some(path), _) => {
                listen_unix(path).with_context(|| format!("on {}", path.display()))
            }
            (Transport::Tcp, _, Some(address)) => {
                listen_tcp(address).with_context(|| format!("on {address}"))
            }
            (Transport::Unix, None, _) | (Transport::Tcp, _, None) => {
                anyhow::bail!("its configuration names no socket")
            }
        }
    }

    fn listener_path(&self, listener: &Listener) -> Option<&PathBuf> {
        match listener.transport {
            Transport::Unix => self.plan.spec.disk(listener.disk).nbd_socket.as_ref(),
            Transport::Tcp => None,
        }
    }

    /// At the end: removes the files of the sockets that this worker listens on.
    pub(crate) fn unlink_sockets(&self) {
        let listening = self.fronts.listeners.iter().filter(|listener| listener.state.socket().is_some());
        let ports = self.fronts.ports.iter().filter_map(super::serve::Port::bound);
        for path in listening.filter_map(|listener| self.listener_path(listener)).chain(ports) {
            let _ = std::fs::remove_file(path);
        }
    }
}
