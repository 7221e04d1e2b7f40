//! Ports for incoming streams: each at most once among ours, and free when it is taken.
//!
//! Between our look and the hypervisor's bind somebody else may take one; then the launch fails, with the hypervisor's
//! words, and the next one gets another port.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};

#[derive(Clone, Debug)]
pub(super) struct Ports {
    address: IpAddr,
    range: RangeInclusive<u16>,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    ports: BTreeSet<u16>,
    /// The search goes on behind it, so that a port that has just made trouble is not tried again at once.
    last: Option<u16>,
}

/// A port in use; given back when dropped.
#[derive(Debug)]
pub(super) struct Port {
    address: SocketAddr,
    taken: Arc<Mutex<Taken>>,
}

impl Ports {
    pub(super) fn new(address: IpAddr, range: RangeInclusive<u16>) -> Self {
        Self { address, range, taken: Arc::default() }
    }

    /// # Errors
    /// None is free, in words.
    pub(super) fn take(&self) -> Result<Port, String> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let behind = taken.last.filter(|last| self.range.contains(last)).unwrap_or(*self.range.end());
        let order = self
            .range
            .clone()
            .filter(|port| *port > behind)
            .chain(self.range.clone().filter(|p| *p <= behind));
        let mut why = None;
        for port in order {
            if taken.ports.contains(&port) {
                continue;
            }
            let address = SocketAddr::new(self.address, port);
            match TcpListener::bind(address) {
                Ok(_) => {
                    taken.ports.insert(port);
                    taken.last = Some(port);
                    return Ok(Port { address, taken: Arc::clone(&self.taken) });
                }
                Err(error) => why = Some(error),
            }
        }
        let (from, to) = (self.range.start(), self.range.end());
        let why = why.map_or_else(|| "moves have them all".to_owned(), |error| error.to_string());
        Err(format!("no port of {from}-{to} at {} is free for the VM's memory: {why}", self.address))
    }
}

impl Port {
    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.ports.remove(&self.address.port());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_given_once_and_only_if_it_is_free() {
        let address: IpAddr = "127.0.0.1".parse().unwrap();
        let foreign = TcpListener::bind((address, 0)).unwrap();
        let busy = foreign.local_addr().unwrap().port();
        let one = Ports::new(address, busy..=busy);
        assert!(one.take().unwrap_err().contains("is free"));
        drop(foreign);
        let port = one.take().unwrap();
        assert_eq!(port.address().port(), busy);
        assert!(one.take().unwrap_err().contains("moves have them all"));
        drop(port);
        assert!(one.take().is_ok());
    }
}
