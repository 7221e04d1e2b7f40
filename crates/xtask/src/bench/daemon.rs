//! vmpath as a contestant: a configuration with as many disks and paths as are wanted, and the daemon on it.

use super::contestant::FrontEnd;
use super::scene::{self, Scene};
use crate::e2e::api::Api;
use crate::e2e::host;
use crate::e2e::server::Server;
use anyhow::{Context, Result};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the daemon is to serve. Each disk is of a VM and a unit of its own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Disks {
    pub(super) count: usize,
    pub(super) paths: usize,
    pub(super) front_end: FrontEnd,
}

/// Where the disk with this number is served by the daemon that was started as `name`.
pub(super) fn disk_socket(scene: &Scene, name: &str, disk: usize) -> PathBuf {
    scene.dir.join(name).join(format!("{disk}.sock"))
}

/// Starts a daemon before `target`, and waits until all of its paths are up and all of its disks are served.
///
/// # Errors
/// It does not start, or a path does not come up.
pub(super) fn start(name: &str, scene: &Scene, target: &Path, disks: &Disks) -> Result<Server> {
    let dir = scene.dir.join(name);
    fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let file = dir.join("vmpath.toml");
    fs::write(&file, config(&dir, target, disks))?;
    let mut command = Command::new(&scene.binary);
    command.arg("daemon").arg("-c").arg(&file);
    let mut server = Server::start("daemon", &mut command, &dir)?;
    let mut api = Api::new(&dir.join("api.sock"));
    scene::wait("the daemon's paths to be up and its disks to be served", || {
        server.check_alive()?;
        let up = api.get("/v1/paths").is_ok_and(|answer| host::all_up(&answer).unwrap_or(false));
        Ok(up && (0..disks.count).all(|disk| dir.join(format!("{disk}.sock")).exists()))
    })
    .with_context(|| format!("the daemon of {name}; its log:\n{}", server.log()))?;
    Ok(server)
}

fn config(dir: &Path, target: &Path, disks: &Disks) -> String {
    let here = dir.display();
    let mut text = format!(
        "[host]\nname = \"bench\"\napi_socket = \"{here}/api.sock\"\nstate_dir = \"{here}/state\"\n\
         run_dir = \"{here}/run\"\n\n[[target]]\nname = \"san0\"\n"
    );
    for (name, socket) in
        [("a", target.to_owned()), ("b", scene::other_name(target))].iter().take(disks.paths)
    {
        let socket = socket.display();
        _ = write!(text, "[[target.path]]\nname = \"{name}\"\nurl = \"nbd+unix:///?socket={socket}\"\n");
    }
    let key = match disks.front_end {
        FrontEnd::Nbd => "nbd",
        FrontEnd::VhostUser => "vhost_user",
    };
    for disk in 0..disks.count {
        _ = write!(
            text,
            "\n[[vm]]\nname = \"vm{disk}\"\n[[vm.disk]]\nname = \"disk\"\nunit = \"san0/unit{disk}\"\n\
             {key} = \"{here}/{disk}.sock\"\n"
        );
    }
    text
}
