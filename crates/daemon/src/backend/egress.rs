//! This host's own network under the connections: by which interface each leaves, and what goes when that goes down.
//!
//! Invariant: a connection is cut for the interface that its packets leave by and for no other. A member of a bond, or an
//! interface that no path uses, changes nothing; a bond, bridge or VLAN has a carrier of its own. Routes that vanish are
//! looked at twice: what manages a network takes them away and puts them back. Rejected: asking where a route leads once
//! its interface is down; a default route would answer for a storage network that is gone.
//! It does not know what is behind the interface: that is the kernel's clock's and the ping's.

use super::{Back, Phase, Transport, Wire, connect};
use crate::dataplane::{Tag, Worker};
use crate::sys::rtnetlink::{Carrier, Notice, Notices, Routes};
use crate::sys::uring::Watch;
use std::collections::BTreeMap;
use std::io;
use vmpath_core::event::Fault;

/// Looks at all routes after a change of one; the connections that have none at the last of them are cut.
const LOOKS: u32 = 2;

/// By the kernel's number of an interface.
type Index = u32;

#[derive(Debug)]
pub(super) struct Egress {
    /// None where the kernel has no such interface: then only its clock tells.
    heard: Option<(Notices, Routes)>,
    interfaces: BTreeMap<Index, (String, Carrier)>,
    /// How many looks at the routes are due.
    looks: u32,
}

impl Egress {
    pub(super) fn open() -> Self {
        let heard = match Notices::open().and_then(|notices| Ok((notices, Routes::open()?))) {
            Ok(heard) => Some(heard),
            Err(error) => {
                tracing::warn!(%error, "network interfaces are not watched: their loss is seen by unacknowledged data");
                None
            }
        };
        Self { heard, interfaces: BTreeMap::new(), looks: 0 }
    }

    /// The interface by which a connection's packets leave now; none if it does not leave by any, or is of another kind.
    fn of(&mut self, back: &Back) -> io::Result<Option<Index>> {
        let (Wire::Nbd(nbd), Some((_, routes))) = (&back.wire, &mut self.heard) else { return Ok(None) };
        match connect::addresses(nbd.stream.socket()) {
            Some((local, peer)) => routes.interface(local.ip(), peer.ip()),
            None => Ok(None),
        }
    }

    fn name(&self, index: Index) -> String {
        self.interfaces.get(&index).map_or_else(|| format!("number {index}"), |(name, _)| name.clone())
    }
}

impl Worker {
    pub(crate) fn watch_network(&mut self) {
        if let Some((notices, _)) = &self.backs.egress.heard {
            self.ring.watch(notices.socket(), Tag::Network.pack());
        }
    }

    /// The kernel tells of interfaces or routes.
    pub(crate) fn network_changed(&mut self, watch: Watch) {
        let Some((notices, _)) = &mut self.backs.egress.heard else { return };
        let mut told = Vec::new();
        let taken = notices.take(&mut told);
        if watch == Watch::Ended {
            self.watch_network();
        }
        if let Err(error) = taken {
            tracing::warn!(%error, "network interfaces are not watched any more");
            self.backs.egress.heard = None;
            return;
        }
        for notice in told {
            match notice {
                Notice::Interface { index, name, state } => self.interface_is(index, name, state),
                Notice::Routes => self.backs.egress.looks = LOOKS,
                Notice::Missed => {
                    self.backs.egress.looks = LOOKS;
                    if let Some((notices, _)) = &mut self.backs.egress.heard {
                        // EBUSY: they are being told anew already.
                        let _ = notices.ask_interfaces();
                    }
                }
            }
        }
    }

    fn interface_is(&mut self, index: Index, name: String, state: Carrier) {
        let before = self.backs.egress.interfaces.insert(index, (name.clone(), state));
        let was = before.map(|(_, state)| state);
        match state {
            Carrier::Down if was != Some(Carrier::Down) => {
                let cut = self.cut_those(
                    |back| back.egress() == Some(index),
                    &Fault::LinkDown { interface: name.clone() },
                );
                if cut > 0 {
                    tracing::info!(interface = name, connections = cut, "a network interface is down");
                }
            }
            Carrier::Up if was == Some(Carrier::Down) => self.connect_soon(),
            Carrier::Up | Carrier::Down => {}
        }
    }

    fn cut_those(&mut self, is_one: impl Fn(&Back) -> bool, fault: &Fault) -> usize {
        let all = self.backs.backs.iter().filter(|(_, back)| !back.is_closing() && is_one(back));
        let those: Vec<usize> = all.map(|(index, _)| index).collect();
        for index in &those {
            self.cut(*index, fault.clone());
        }
        those.len()
    }

    /// An interface has come up: what could not connect is tried at once. An attempt under way may have to wait for seconds
    /// until the kernel repeats it, so it begins anew.
    fn connect_soon(&mut self) {
        let waits = |back: &Back| matches!(back.phase, Phase::Connecting { .. });
        self.cut_those(waits, &Fault::ConnectTimeout);
        for link in &mut self.backs.links {
            if link.active == 0 {
                (link.failures, link.next_attempt) = (0, self.now);
            }
        }
        self.next_inspection = self.now;
    }

    /// It is connected: by what does it leave?
    pub(super) fn note_egress(&mut self, index: usize) {
        let by = self.backs.egress.of(&self.backs.backs[index]).unwrap_or_default();
        if let Wire::Nbd(nbd) = &mut self.backs.backs[index].wire {
            nbd.egress = by;
        }
    }

    /// After a change of routes or addresses: connections that have moved to other interfaces, and those that have none.
    pub(super) fn look_at_routes(&mut self) {
        if self.backs.egress.looks == 0 {
            return;
        }
        self.backs.egress.looks -= 1;
        let is_last = self.backs.egress.looks == 0;
        let leaving =
            self.backs.backs.iter().filter(|(_, back)| !back.is_closing() && back.egress().is_some());
        for index in leaving.map(|(index, _)| index).collect::<Vec<_>>() {
            let Some(known) = self.backs.backs.get(index).and_then(Back::egress) else { continue };
            match self.backs.egress.of(&self.backs.backs[index]) {
                Ok(Some(now)) => {
                    if let Wire::Nbd(nbd) = &mut self.backs.backs[index].wire {
                        nbd.egress = Some(now);
                    }
                }
                Ok(None) if is_last => {
                    let interface = self.backs.egress.name(known);
                    self.cut(index, Fault::NoRoute { interface });
                }
                Ok(None) => {}
                Err(error) => tracing::debug!(%error, "the kernel does not say by what a connection leaves"),
            }
        }
    }
}

impl Back {
    /// The interface that it leaves by.
    fn egress(&self) -> Option<Index> {
        match &self.wire {
            Wire::Nbd(nbd) if nbd.transport == Transport::Tcp => nbd.egress,
            Wire::Nbd(_) | Wire::Block(_) => None,
        }
    }
}
