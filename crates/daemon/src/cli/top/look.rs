//! One look at the daemon.

use crate::api::client::{CallError, Client};
use crate::api::wire;

/// What the API said, in four answers that follow each other closely. They need not be of one instant: each has the
/// time of its own counters.
#[derive(Clone, Debug)]
pub(super) struct Look {
    pub(super) host: wire::Host,
    pub(super) incidents: wire::Incidents,
    pub(super) paths: wire::Paths,
    pub(super) vms: wire::Vms,
}

impl Look {
    /// Blocks for at most four seconds, with a daemon that is there and does not answer; else for milliseconds.
    pub(super) fn take(client: &Client) -> Result<Self, CallError> {
        Ok(Self {
            host: client.get("/v1/host")?,
            incidents: client.get("/v1/incidents")?,
            paths: client.get("/v1/paths")?,
            vms: client.get("/v1/vms")?,
        })
    }
}
