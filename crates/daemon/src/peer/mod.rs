//! The channel between daemons: what QEMU's own stream does not carry when a VM moves.
//!
//! HTTP/2 inside TLS 1.3, both ends with certificates by one authority that is the operator's. Invariant: a host speaks only
//! in its own name, and every call ends as done, refused (no effect) or unknown.
//! Rejected: a way over etcd, which is for small keys and may be the one thing that is away; and HTTP/1, in which one slow
//! answer holds up all others. It decides nothing and knows neither moves nor guests: control does, behind [`PeerCall`].

pub mod agent;
mod call;
mod client;
mod dial;
mod identity;
mod renewal;
mod routes;
mod server;
#[cfg(test)]
mod tests;
mod wire;
mod witness;
mod words;

pub use call::{Answer, Outcome, PeerAnswer, PeerCall, PeerOrder, PeerReport, PeerRequest};
pub use client::Peers;
pub use identity::Files;
pub use server::Listening;
pub use words::date;

use renewal::{Keeper, WallClock, Watch};
use routes::Own;
use rustls::time_provider::TimeProvider;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use vmpath_core::spec::{PeerSpec, Spec};

/// Calls that may wait for control; one that finds no room is refused.
pub const CALLS_MAX: usize = 64;

/// Orders that may be under way; one more is refused at once.
const ORDERS_MAX: usize = 256;

/// What the channel is to be.
#[derive(Clone, Debug)]
pub struct Settings {
    pub files: Files,
    /// `peer_listen`.
    pub listen: SocketAddr,
    /// Hosts of another version are refused.
    pub version: String,
}

impl Settings {
    /// None without `[cluster]`.
    #[must_use]
    pub fn of(spec: &Spec) -> Option<Self> {
        let PeerSpec { listen, ca, identity, .. } = &spec.cluster.as_ref()?.peer;
        let files = Files {
            host: spec.host.name.clone(),
            ca: ca.clone(),
            cert: identity.cert.clone(),
            key: identity.key.clone(),
        };
        Some(Self { files, listen: *listen, version: env!("CARGO_PKG_VERSION").to_owned() })
    }
}

/// Both ends of this host's channel. They end when this is dropped.
#[derive(Debug)]
pub struct Channel {
    peers: Peers,
    reports: mpsc::UnboundedSender<PeerReport>,
    under_way: Arc<Semaphore>,
    listening: watch::Receiver<Listening>,
    keeper: Keeper,
    server: JoinHandle<()>,
    _watch: Watch,
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Channel {
    /// Reads the certificate and starts both ends; calls of other hosts come by `calls`, outcomes of [`Channel::order`] by `reports`. Never
    /// fails: a missing certificate or address is tried again, and each order is refused with the reason meanwhile.
    #[must_use]
    pub fn start(
        settings: Settings,
        calls: mpsc::Sender<PeerCall>,
        reports: mpsc::UnboundedSender<PeerReport>,
    ) -> Self {
        Self::with_clock(settings, calls, reports, Arc::new(WallClock))
    }

    fn with_clock(
        settings: Settings,
        calls: mpsc::Sender<PeerCall>,
        reports: mpsc::UnboundedSender<PeerReport>,
        time: Arc<dyn TimeProvider>,
    ) -> Self {
        let Settings { files, listen, version } = settings;
        let own = Own { host: files.host.clone(), version };
        let keeper = Keeper::new(files, time);
        let (state, listening) = watch::channel(Err(format!("not yet listening at {listen}")));
        let server = tokio::spawn(server::run(listen, own.clone(), keeper.clone(), calls, state));
        Self {
            peers: Peers::new(own, keeper.clone()),
            reports,
            under_way: Arc::new(Semaphore::new(ORDERS_MAX)),
            listening,
            _watch: keeper.watch(),
            keeper,
            server,
        }
    }

    /// Asks another host. Never waits; exactly one report comes for each order.
    pub fn order(&self, order: PeerOrder) {
        let reports = self.reports.clone();
        let Ok(permit) = Arc::clone(&self.under_way).try_acquire_owned() else {
            let why = format!("{ORDERS_MAX} calls to other hosts are under way");
            // The owner has gone: nobody waits for a report.
            let _ = reports.send(PeerReport { ticket: order.ticket, outcome: Answer::Refused(why) });
            return;
        };
        let peers = self.peers.clone();
        tokio::spawn(async move {
            let outcome = peers.call(&order).await;
            // The owner has gone: nobody waits for a report.
            let _ = reports.send(PeerReport { ticket: order.ticket, outcome });
            drop(permit);
        });
    }

    /// Where other hosts are listened to, or why not; and it tells of changes.
    #[cfg(test)]
    fn listening(&self) -> watch::Receiver<Listening> {
        self.listening.clone()
    }

    /// Why other hosts and this one cannot speak to each other, as far as it lies with this one, in words.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        if let Err(why) = &*self.listening.borrow() {
            return Some(why.clone());
        }
        match self.keeper.present().as_ref() {
            Ok(identity) => identity.trouble.clone(),
            Err(why) => Some(why.clone()),
        }
    }
}
