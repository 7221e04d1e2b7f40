//! The configuration as it stands in the files: each value good in itself, nothing yet compared with anything else.
//!
//! Invariant: what is absent here (`None`) is either optional or has been reported. Rejected: building the
//! [`super::Spec`] while reading; a reference may point forward, or into another file.
//! It does not know whether names exist or values fit together.

use super::fault::{At, Place};
use super::types::{
    Access, ByteRate, Failback, OnNoPath, OnPathLoss, PathUrl, ResumeOn, ShedWhen, When, WriteCache,
};
use crate::time::Duration;
use std::net::SocketAddr;
use std::path::PathBuf;

#[derive(Default)]
pub(super) struct RawConfig {
    pub(super) host: Option<RawHost>,
    pub(super) targets: Vec<RawTarget>,
    pub(super) vms: Vec<RawVm>,
}

pub(super) struct RawHost {
    pub(super) at: Place,
    pub(super) name: Option<String>,
    pub(super) api_socket: Option<At<PathBuf>>,
    pub(super) admin_group: Option<String>,
    pub(super) shed_when: Option<ShedWhen>,
    pub(super) shed_after: Option<Duration>,
    pub(super) state_dir: Option<PathBuf>,
    pub(super) run_dir: Option<PathBuf>,
    pub(super) workers: Option<u16>,
}

pub(super) struct RawTarget {
    pub(super) at: Place,
    pub(super) name: Option<At<String>>,
    pub(super) failback: Option<Failback>,
    pub(super) quiesce: Option<Duration>,
    pub(super) ping_budget: Option<Duration>,
    pub(super) repair_after: Option<Duration>,
    pub(super) write_cache: Option<WriteCache>,
    pub(super) connections: Option<u8>,
    pub(super) paths: Vec<RawPath>,
    /// Options of units, and the only units if there are any.
    pub(super) units: Vec<RawUnit>,
}

pub(super) struct RawPath {
    pub(super) at: Place,
    pub(super) name: Option<At<String>>,
    pub(super) url: Option<At<PathUrl>>,
    pub(super) capacity: Option<ByteRate>,
    pub(super) access: Option<Access>,
    pub(super) window_bytes: Option<u64>,
}

pub(super) struct RawUnit {
    pub(super) name: Option<At<String>>,
    pub(super) export: Option<String>,
    pub(super) assume_same: Option<bool>,
}

pub(super) struct RawVm {
    pub(super) at: Place,
    pub(super) name: Option<At<String>>,
    pub(super) priority: Option<u32>,
    pub(super) shares: Option<u32>,
    pub(super) reservation: Option<At<ByteRate>>,
    pub(super) limit: Option<At<ByteRate>>,
    pub(super) limit_iops: Option<u64>,
    pub(super) qmp: Option<At<PathBuf>>,
    pub(super) on_path_loss: Option<At<OnPathLoss>>,
    pub(super) when: Option<At<When>>,
    pub(super) on_no_path: Option<At<OnNoPath>>,
    pub(super) may_suspend: Option<At<bool>>,
    pub(super) may_migrate: Option<At<bool>>,
    pub(super) resume: Option<ResumeOn>,
    pub(super) avoid_paths: Option<At<Vec<At<NamePair>>>>,
    pub(super) disks: Vec<RawDisk>,
}

pub(super) struct RawDisk {
    pub(super) at: Place,
    pub(super) name: Option<At<String>>,
    pub(super) unit: Option<At<NamePair>>,
    pub(super) nbd: Option<At<PathBuf>>,
    pub(super) nbd_tcp: Option<At<SocketAddr>>,
    pub(super) vhost_user: Option<At<PathBuf>>,
    pub(super) queues: Option<At<u16>>,
    pub(super) read_only: Option<bool>,
}

/// `TARGET/NAME`, a path or a unit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct NamePair {
    pub(super) target: String,
    pub(super) name: String,
}

impl RawVm {
    pub(super) fn label(&self) -> &str {
        self.name.as_ref().map_or("?", |n| n.it.as_str())
    }
}

impl RawTarget {
    pub(super) fn label(&self) -> &str {
        self.name.as_ref().map_or("?", |n| n.it.as_str())
    }
}

impl std::fmt::Display for NamePair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.target, self.name)
    }
}
