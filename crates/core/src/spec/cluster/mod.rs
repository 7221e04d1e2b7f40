//! What a host says of the cluster that it belongs to: `[cluster]`.
//!
//! Invariant: `Some` is complete: endpoints that agree on TLS, keys with their certificates, an address for everything that
//! others dial. Rejected: peers' addresses in the files; each daemon says its own in its summary, so a new host is no edit of
//! a thousand files. It does not know any password: only the file that holds it, so that nothing can show it.

pub(super) mod build;
pub(super) mod check;
pub(super) mod raw;
pub(super) mod read;
mod url;

use crate::time::Duration;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;

/// The other hosts: how they are found, and how VMs get there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterSpec {
    pub etcd: EtcdSpec,
    pub peer: PeerSpec,
    pub migration: MigrationSpec,
}

/// How etcd is reached, and how long it keeps what this host said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdSpec {
    /// At least one; members of one etcd cluster.
    pub endpoints: Vec<Endpoint>,
    /// Before every key, without a slash at its end. Default `/vmpath`.
    pub prefix: String,
    pub user: Option<EtcdUser>,
    /// For all endpoints or for none.
    pub tls: Option<EtcdTls>,
    /// How long this host's keys outlive its last word, in whole seconds. Default 10 s.
    pub lease: Duration,
}

/// One member of etcd. Its name or address as the operator wrote it: I/O never waits for etcd, so a name server may be needed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// A host name, an IPv4 address, or an IPv6 address in brackets.
    pub host: String,
    pub port: u16,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdUser {
    pub name: String,
    /// Its first line is the password.
    pub password_file: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdTls {
    /// PEM file of the authority that signed the members' certificates.
    pub ca: PathBuf,
    pub identity: Option<Identity>,
}

/// A certificate and its private key, PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// The direct channel between daemons: HTTP/2 over mutual TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerSpec {
    pub listen: SocketAddr,
    /// What others dial. Default: `listen`.
    pub address: SocketAddr,
    /// PEM file of the authority that signed all hosts' certificates.
    pub ca: PathBuf,
    pub identity: Identity,
}

/// How QEMU's stream comes here, and how much at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigrationSpec {
    /// Where an incoming QEMU listens. Default: the address of `peer`.
    pub address: IpAddr,
    /// Ports for that, at least as many as `max`. Default 49152 to 49215.
    pub ports: RangeInclusive<u16>,
    /// Moves from or to this host at one time. Default 2.
    pub max: u16,
    /// How long live paths get, at the switch-over, to finish what is open on them. Default 1 s.
    pub settle: Duration,
}
