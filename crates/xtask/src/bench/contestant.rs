//! Who is compared: no hop, the peer's hop, ours; and a back end that does nothing, for the clients' own ceilings.

use super::client::Client;
use super::daemon::{self, Disks};
use super::scene::Scene;
use crate::e2e::server::Server;
use anyhow::Result;
use std::path::Path;
use std::process::Command;

/// How the client reaches the hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FrontEnd {
    Nbd,
    VhostUser,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hop {
    /// The client speaks to the target itself.
    Direct,
    /// `qemu-storage-daemon`, its NBD client behind it.
    Peer,
    /// vmpath with as many paths.
    Vmpath { paths: usize },
    /// `qemu-storage-daemon` with a disk that answers at once: what the client can do at most.
    Null,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Contestant {
    pub(super) name: &'static str,
    pub(super) front_end: FrontEnd,
    pub(super) hop: Hop,
}

const fn of(name: &'static str, front_end: FrontEnd, hop: Hop) -> Contestant {
    Contestant { name, front_end, hop }
}

pub(super) const DIRECT: &str = "direct";
pub(super) const PEER_NBD: &str = "peer-nbd";
pub(super) const VMPATH_NBD: &str = "vmpath-2-nbd";
pub(super) const PEER_VHOST: &str = "peer-vhost";
pub(super) const VMPATH_VHOST: &str = "vmpath-2-vhost";

pub(super) const ALL: &[Contestant] = &[
    of(DIRECT, FrontEnd::Nbd, Hop::Direct),
    of(PEER_NBD, FrontEnd::Nbd, Hop::Peer),
    of("vmpath-1-nbd", FrontEnd::Nbd, Hop::Vmpath { paths: 1 }),
    of(VMPATH_NBD, FrontEnd::Nbd, Hop::Vmpath { paths: 2 }),
    of(PEER_VHOST, FrontEnd::VhostUser, Hop::Peer),
    of("vmpath-1-vhost", FrontEnd::VhostUser, Hop::Vmpath { paths: 1 }),
    of(VMPATH_VHOST, FrontEnd::VhostUser, Hop::Vmpath { paths: 2 }),
    of("null-nbd", FrontEnd::Nbd, Hop::Null),
    of("null-vhost", FrontEnd::VhostUser, Hop::Null),
];

/// A contestant whose hop runs, if it has one, until this value goes.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) contestant: Contestant,
    pub(super) client: Client,
    pub(super) hop: Option<Server>,
}

impl Contestant {
    /// Starts the hop and waits until it serves.
    ///
    /// # Errors
    /// It does not start.
    pub(super) fn start(self, scene: &Scene) -> Result<Ready> {
        let socket = scene.dir.join(format!("{}.sock", self.name));
        let hop = match self.hop {
            Hop::Direct => None,
            Hop::Peer | Hop::Null => Some(self.storage_daemon(scene, &socket)?),
            Hop::Vmpath { paths } => {
                let disks = Disks { count: 1, paths, front_end: self.front_end };
                Some(daemon::start(self.name, scene, &scene.target, &disks)?)
            }
        };
        let socket = match self.hop {
            Hop::Direct => scene.target.clone(),
            Hop::Vmpath { .. } => daemon::disk_socket(scene, self.name, 0),
            Hop::Peer | Hop::Null => socket,
        };
        let client = match (self.front_end, self.hop) {
            (FrontEnd::Nbd, Hop::Direct) => Client::fio(&socket, ""),
            (FrontEnd::Nbd, _) => Client::fio(&socket, "disk"),
            (FrontEnd::VhostUser, _) => Client::lab(&scene.binary, &socket),
        };
        Ok(Ready { contestant: self, client, hop })
    }

    fn storage_daemon(self, scene: &Scene, socket: &Path) -> Result<Server> {
        let node = match self.hop {
            Hop::Null => format!("driver=null-co,node-name=disk,size={},read-zeroes=off", scene.bytes),
            Hop::Direct | Hop::Peer | Hop::Vmpath { .. } => format!(
                "driver=nbd,node-name=disk,server.type=unix,server.path={},export=",
                scene.target.display()
            ),
        };
        let socket_shown = socket.display();
        let mut command = Command::new("qemu-storage-daemon");
        command.args(["--blockdev", &node]);
        match self.front_end {
            FrontEnd::Nbd => command
                .args(["--nbd-server", &format!("addr.type=unix,addr.path={socket_shown}")])
                .args(["--export", "type=nbd,id=export,node-name=disk,name=disk,writable=on"]),
            FrontEnd::VhostUser => command.args([
                "--export".to_owned(),
                format!(
                    "type=vhost-user-blk,id=export,node-name=disk,writable=on,addr.type=unix,addr.path={socket_shown}"
                ),
            ]),
        };
        let mut server = Server::start(self.name, &mut command, &scene.dir)?;
        scene.wait_socket(&mut server, socket)?;
        Ok(server)
    }
}
