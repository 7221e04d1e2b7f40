//! The sockets on which disks are served: bound before the worker starts, so that a fault is told at once.

use super::Listening;
use crate::sys::lock;
use anyhow::Context;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use vmpath_core::ids::DiskId;
use vmpath_core::spec::Spec;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 64;
/// The guest's hypervisor and its group; nobody else reads or writes a disk.
const SOCKET_MODE: u32 = 0o660;

/// As many descriptors as the system lets this process have: each disk takes several.
pub(super) fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "cannot raise the limit of open descriptors");
    }
}

/// A listening socket of a disk.
#[derive(Debug)]
pub(crate) struct Bound {
    disk: DiskId,
    transport: Transport,
    socket: OwnedFd,
}

/// Which kind of client comes in by a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Unix,
    Tcp,
}

impl Bound {
    /// What the worker listens on.
    pub(super) fn listening(self) -> Listening {
        (self.disk, self.transport, self.socket)
    }
}

pub(super) fn bind_all(spec: &Spec) -> anyhow::Result<Vec<Bound>> {
    let mut all = Vec::new();
    for disk in spec.disk_ids() {
        let of = spec.disk(disk);
        let name = format!("{}/{}", spec.vm(of.vm).name, of.name);
        if let Some(path) = &of.nbd_socket {
            let socket = bind_unix(path)
                .with_context(|| format!("disk {name}: cannot listen on {}", path.display()))?;
            all.push(Bound { disk, transport: Transport::Unix, socket });
        }
        if let Some(path) = &of.vhost_user {
            must_be_free(path).with_context(|| format!("disk {name}: cannot serve {}", path.display()))?;
        }
        if let Some(address) = of.nbd_tcp {
            let socket =
                bind_tcp(address).with_context(|| format!("disk {name}: cannot listen on {address}"))?;
            all.push(Bound { disk, transport: Transport::Tcp, socket });
        }
    }
    Ok(all)
}

fn bind_unix(path: &Path) -> anyhow::Result<OwnedFd> {
    must_be_free(path)?;
    listen_unix(path)
}

fn bind_tcp(address: SocketAddr) -> anyhow::Result<OwnedFd> {
    let bound = lock::patiently(lock::PATIENCE, || match listen_tcp(address) {
        Err(error) if error.downcast_ref() == Some(&Errno::ADDRINUSE) => Ok(None),
        done => done.map(Some),
    })?;
    bound.context("another process serves this address; stop it, or choose another one")
}

/// Nobody else serves the socket. To be asked before this process listens on it: it connects. Blocks for a second while somebody
/// does: the kernel may let go of a killed process's rings, and with them of its listeners, after the process has gone.
fn must_be_free(path: &Path) -> anyhow::Result<()> {
    let free = || Ok(std::os::unix::net::UnixStream::connect(path).is_err().then_some(()));
    let found: anyhow::Result<Option<()>> = lock::patiently(lock::PATIENCE, free);
    found?.context("another process serves this socket; stop it, or choose another path")
}

/// Whether a process listens on the socket. Never waits. To be asked only of a path on which this process does not listen.
pub(crate) fn is_served(path: &Path) -> bool {
    let connected = socket(AddressFamily::UNIX).and_then(|socket| {
        let address = rustix::net::SocketAddrUnix::new(path)?;
        Ok(rustix::net::connect(&socket, &address))
    });
    // Refused for want of room: somebody does not accept as fast as others connect.
    matches!(connected, Ok(Ok(()) | Err(Errno::AGAIN)))
}

/// Listens on a socket that this process alone serves; a stale one goes.
///
/// # Errors
/// The path is taken by something else, or cannot be bound.
pub(crate) fn listen_unix(path: &Path) -> anyhow::Result<OwnedFd> {
    if let Some(parent) = path.parent()
        && !parent.exists()
    {
        std::fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    }
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {
            std::fs::remove_file(path).context("cannot remove the stale socket")?;
        }
        Ok(_) => anyhow::bail!("there is a file that is not a socket; move it away, or choose another path"),
        Err(_) => {}
    }
    let socket = socket(AddressFamily::UNIX)?;
    rustix::net::bind(&socket, &rustix::net::SocketAddrUnix::new(path)?)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE))?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Listens on an address of this host.
///
/// # Errors
/// It is not of this host, or taken.
pub(crate) fn listen_tcp(address: SocketAddr) -> anyhow::Result<OwnedFd> {
    let socket = socket(if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 })?;
    sockopt::set_socket_reuseaddr(socket.as_fd(), true)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

fn socket(family: AddressFamily) -> anyhow::Result<OwnedFd> {
    Ok(rustix::net::socket_with(
        family,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?)
}
