//! What comes from outside, in one stream.

use super::takeover::Fenced;
use crate::cluster::ClusterReport;
use crate::peer::agent::AgentReport;
use crate::peer::{CALLS_MAX, PeerCall, PeerReport};
use tokio::sync::mpsc;

/// Reports of etcd's session that may wait; it waits then.
const CLUSTER_REPORTS_MAX: usize = 256;

#[derive(Debug)]
pub enum News {
    Cluster(ClusterReport),
    Peer(PeerReport),
    Call(Box<PeerCall>),
    Agent(AgentReport),
    Fenced(Fenced),
}

/// The receiving ends.
#[derive(Debug)]
pub struct Post {
    cluster: mpsc::Receiver<ClusterReport>,
    peer: mpsc::UnboundedReceiver<PeerReport>,
    calls: mpsc::Receiver<PeerCall>,
    agent: mpsc::UnboundedReceiver<AgentReport>,
    fenced: mpsc::UnboundedReceiver<Fenced>,
}

/// The sending ends.
#[derive(Debug)]
pub(super) struct Links {
    pub(super) cluster: mpsc::Sender<ClusterReport>,
    pub(super) peer: mpsc::UnboundedSender<PeerReport>,
    pub(super) calls: mpsc::Sender<PeerCall>,
    pub(super) agent: mpsc::UnboundedSender<AgentReport>,
    pub(super) fenced: mpsc::UnboundedSender<Fenced>,
}

pub(super) fn channels() -> (Links, Post) {
    let (cluster, cluster_reports) = mpsc::channel(CLUSTER_REPORTS_MAX);
    let (peer, peer_reports) = mpsc::unbounded_channel();
    let (calls, called) = mpsc::channel(CALLS_MAX);
    let (agent, agent_reports) = mpsc::unbounded_channel();
    let (fenced, fences) = mpsc::unbounded_channel();
    let links = Links { cluster, peer, calls, agent, fenced };
    let post = Post {
        cluster: cluster_reports,
        peer: peer_reports,
        calls: called,
        agent: agent_reports,
        fenced: fences,
    };
    (links, post)
}

impl Post {
    /// The next one. Cancelled, it has taken nothing.
    pub async fn next(&mut self) -> News {
        tokio::select! {
            Some(report) = self.cluster.recv() => News::Cluster(report),
            Some(report) = self.peer.recv() => News::Peer(report),
            Some(call) = self.calls.recv() => News::Call(Box::new(call)),
            Some(report) = self.agent.recv() => News::Agent(report),
            Some(fenced) = self.fenced.recv() => News::Fenced(fenced),
            // All senders live as long as the owner.
            else => std::future::pending().await,
        }
    }
}
