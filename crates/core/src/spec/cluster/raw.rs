//! `[cluster]` as it stands in the files. It does not know which keys need each other.

use super::super::fault::{At, Place};
use super::Endpoint;
use crate::time::Duration;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;

pub(in crate::spec) struct RawCluster {
    pub(in crate::spec) at: Place,
    pub(in crate::spec) etcd: Option<At<Vec<At<RawEndpoint>>>>,
    pub(in crate::spec) prefix: Option<String>,
    pub(in crate::spec) user: Option<At<String>>,
    pub(in crate::spec) password_file: Option<At<PathBuf>>,
    pub(in crate::spec) etcd_ca: Option<At<PathBuf>>,
    pub(in crate::spec) etcd_identity: RawIdentity,
    pub(in crate::spec) lease: Option<Duration>,
    pub(in crate::spec) peer_listen: Option<At<SocketAddr>>,
    pub(in crate::spec) peer_address: Option<At<SocketAddr>>,
    pub(in crate::spec) peer_ca: Option<PathBuf>,
    pub(in crate::spec) peer_identity: RawIdentity,
    pub(in crate::spec) migrate_address: Option<At<IpAddr>>,
    pub(in crate::spec) migrate_ports: Option<At<RangeInclusive<u16>>>,
    pub(in crate::spec) migrations_max: Option<At<u16>>,
    pub(in crate::spec) settle: Option<Duration>,
}

#[derive(Clone)]
pub(in crate::spec) struct RawEndpoint {
    pub(in crate::spec) scheme: Scheme,
    pub(in crate::spec) endpoint: Endpoint,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::spec) enum Scheme {
    Http,
    Https,
}

pub(in crate::spec) struct RawIdentity {
    pub(in crate::spec) cert: Option<At<PathBuf>>,
    pub(in crate::spec) key: Option<At<PathBuf>>,
}

impl RawCluster {
    pub(in crate::spec) fn endpoints(&self) -> impl Iterator<Item = &At<RawEndpoint>> {
        self.etcd.iter().flat_map(|list| &list.it)
    }
}
