//! The configuration as it stands in the files: each value good in itself, nothing yet compared with anything else.
//!
//! Invariant: what is absent here (`None`) is either optional or has been reported. Rejected: building the
//! [`super::Spec`] while reading; a reference may point forward, or into another file.
//! It does not know whether names exist or values fit together.

use super::cluster::raw::RawCluster;
use super::fault::{At, Place};
use super::types::{
    Access, ByteRate, Failback, OnNoPath, OnPathLoss, PathSelector, PathUrl, ResumeOn, SchedulerKind,
    ShedWhen, When, WriteCache, Writers,
};
use crate::time::Duration;
use std::net::SocketAddr;
use std::path::PathBuf;

#[derive(Default)]
pub(super) struct RawConfig {
    pub(super) host: Option<RawHost>,
    pub(super) cluster: Option<RawCluster>,
    pub(super) targets: Vec<RawTarget>,
    pub(super) groups: Vec<RawGroup>,
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
    pub(super) journal_max: Option<u64>,
    pub(super) journal_age: Option<Duration>,
    pub(super) run_dir: Option<PathBuf>,
    pub(super) workers: Option<u16>,
    pub(super) scheduler: Option<SchedulerKind>,
    pub(super) fence_command: Option<At<String>>,
}

pub(super) struct RawTarget {
    pub(super) at: Place,
    pub(super) name: Option<At<String>>,
    pub(super) failback: Option<At<Failback>>,
    pub(super) quiesce: Option<At<Duration>>,
    pub(super) ping_budget: Option<Duration>,
    pub(super) repair_after: Option<Duration>,
    pub(super) write_cache: Option<WriteCache>,
    pub(super) connections: Option<u8>,
    pub(super) path_selector: Option<PathSelector>,
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
    pub(super) via: Vec<At<String>>,
}

pub(super) struct RawUnit {
    pub(super) name: Option<At<String>>,
    pub(super) export: Option<String>,
    pub(super) assume_same: Option<bool>,
}

pub(super) struct RawGroup {
    pub(super) at: Place,
    pub(super) name: Option<At<String>>,
    pub(super) shares: Option<u32>,
    pub(super) reservation: Option<At<ByteRate>>,
    pub(super) limit: Option<At<ByteRate>>,
    pub(super) limit_iops: Option<u64>,
    pub(super) limit_burst: Option<At<Duration>>,
}

pub(super) struct RawVm {
    pub(super) at: Place,
    pub(super) name: Option<At<String>>,
    pub(super) priority: Option<u32>,
    pub(super) shares: Option<u32>,
    pub(super) reservation: Option<At<ByteRate>>,
    pub(super) limit: Option<At<ByteRate>>,
    pub(super) limit_iops: Option<u64>,
    pub(super) limit_burst: Option<At<Duration>>,
    pub(super) group: Option<At<String>>,
    pub(super) qmp: Option<At<PathBuf>>,
    pub(super) on_path_loss: Option<At<OnPathLoss>>,
    pub(super) when: Option<At<When>>,
    pub(super) on_no_path: Option<At<OnNoPath>>,
    pub(super) min_paths: Option<At<u32>>,
    pub(super) may_suspend: Option<At<bool>>,
    pub(super) may_migrate: Option<At<bool>>,
    pub(super) resume: Option<ResumeOn>,
    pub(super) launch: Option<At<String>>,
    pub(super) returns: Option<At<bool>>,
    pub(super) move_dwell: Option<At<Duration>>,
    /// Only these. None: all.
    pub(super) paths: Option<PathList>,
    /// Not these.
    pub(super) avoid: Option<PathList>,
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
    pub(super) writers: Option<Writers>,
}

pub(super) type PathList = At<Vec<At<PathWord>>>;

/// `NAME`, the path of that name of each target that the VM's disks use; or `TARGET/NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PathWord {
    pub(super) target: Option<String>,
    pub(super) name: String,
}

/// `TARGET/NAME`, a path or a unit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct NamePair {
    pub(super) target: String,
    pub(super) name: String,
}

impl RawGroup {
    pub(super) fn label(&self) -> &str {
        self.name.as_ref().map_or("?", |n| n.it.as_str())
    }
}

impl PathWord {
    pub(super) fn means(&self, target: &str, path: &str) -> bool {
        self.name == path && self.target.as_ref().is_none_or(|t| t == target)
    }
}

impl RawVm {
    /// The VM's affinity: `avoid` takes away from `paths`.
    pub(super) fn may_use(&self, target: &str, path: &str) -> bool {
        let named = |list: &PathList| list.it.iter().any(|word| word.it.means(target, path));
        self.paths.as_ref().is_none_or(named) && !self.avoid.as_ref().is_some_and(named)
    }

    /// The targets of its disks, as far as they are named; some twice.
    pub(super) fn targets(&self) -> impl Iterator<Item = &str> + Clone {
        self.disks.iter().filter_map(|d| d.unit.as_ref()).map(|u| u.it.target.as_str())
    }

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

impl std::fmt::Display for PathWord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.target {
            Some(target) => write!(f, "{target}/{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}
