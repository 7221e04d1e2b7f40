//! The storage behind the paths: a real nbdkit on all addresses, or the lab's array where a fault is needed that
//! nbdkit does not have.
//!
//! Units are files in memory, each filled with blocks of its own, so that no unit can be taken for another.

use super::network::{ADDRESS_A, ADDRESS_B};
use super::server::Server;
use super::stage::Stage;
use anyhow::{Context, Result};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use vmpath_lab::array::control::ArrayControl;

pub(crate) const PORT: u16 = 10809;
pub(crate) const UNIT_BYTES: u64 = 64 << 20;
const BLOCK_BYTES: u64 = 4096;
const START_MAX: Duration = Duration::from_secs(10);

/// nbdkit with one export for each unit, listening on every address.
///
/// # Errors
/// It does not start.
pub(crate) fn nbdkit(stage: &mut Stage, units: &[&str]) -> Result<Server> {
    let folder = self::units(stage, units)?;
    serve(stage, &folder)
}

/// A folder with a file for each unit.
///
/// # Errors
/// One cannot be written.
pub(crate) fn units(stage: &mut Stage, units: &[&str]) -> Result<PathBuf> {
    let folder = stage.memory_folder()?;
    for unit in units {
        fill(&folder.join(unit), unit)?;
    }
    Ok(folder)
}

/// nbdkit once more, over the same units, after [`nbdkit`] was killed.
///
/// # Errors
/// It does not start.
pub(crate) fn nbdkit_again(stage: &mut Stage) -> Result<Server> {
    let folder = stage.memory_path();
    serve(stage, &folder)
}

fn serve(stage: &mut Stage, folder: &Path) -> Result<Server> {
    let mut command = Command::new("nbdkit");
    // Without `noparallel`, nbdkit 1.32 aborts when a client vanishes with requests open, and tears a read that meets
    // a write.
    // The delay is that of a disk, so that whatever is cut off has something on its way.
    command.args([
        "--foreground",
        "--exit-with-parent",
        "--filter=delay",
        "--filter=noparallel",
        "-p",
        &PORT.to_string(),
        "file",
    ]);
    command.arg(format!("dir={}", folder.display())).args(["rdelay=10ms", "wdelay=10ms"]);
    let mut server = Server::start("nbdkit", &mut command, &stage.dir)?;
    stage.wait("nbdkit to listen", START_MAX, |_| {
        server.check_alive()?;
        Ok(TcpStream::connect((ADDRESS_A, PORT)).ok())
    })?;
    Ok(server)
}

/// The lab's array with a portal on the address of each path, and its control socket.
///
/// # Errors
/// It does not start.
pub(crate) fn array(stage: &mut Stage, units: &[&str]) -> Result<(Server, ArrayControl)> {
    let portals = [("a", ADDRESS_A), ("b", ADDRESS_B)];
    array_with(stage, &ArrayPlan { portals: &portals, options: "", units })
}

/// What an array of the lab is to have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ArrayPlan<'a> {
    /// Names and addresses.
    pub(crate) portals: &'a [(&'a str, &'a str)],
    /// Of each portal, such as `,latency=2ms`.
    pub(crate) options: &'a str,
    /// Names, or `name=size`.
    pub(crate) units: &'a [&'a str],
}

/// The lab's array as planned, and its control socket.
///
/// # Errors
/// It does not start.
pub(crate) fn array_with(stage: &mut Stage, plan: &ArrayPlan<'_>) -> Result<(Server, ArrayControl)> {
    let portal = |(name, address): &(&str, &str)| format!("{name}={address}:{PORT}{}", plan.options);
    array_at(stage, &plan.portals.iter().map(portal).collect::<Vec<_>>(), plan.units)
}

/// The lab's array with these portals, as `vmpath lab array --portal` takes them, and its control socket.
///
/// # Errors
/// It does not start.
pub(crate) fn array_at(
    stage: &mut Stage,
    portals: &[String],
    units: &[&str],
) -> Result<(Server, ArrayControl)> {
    let control = stage.dir.join("array.sock");
    let mut command = Command::new(stage.binary());
    command.args(["lab", "array", "--prefill", "--control"]).arg(&control);
    for portal in portals {
        command.arg("--portal").arg(portal);
    }
    for unit in units {
        let sized = if unit.contains('=') { (*unit).to_owned() } else { format!("{unit}={UNIT_BYTES}") };
        command.arg("--unit").arg(sized);
    }
    let mut server = Server::start("array", &mut command, &stage.dir)?;
    let control = stage.wait("the array's control socket", START_MAX, |_| {
        server.check_alive()?;
        Ok(ArrayControl::connect(&control).ok())
    })?;
    Ok((server, control))
}

/// Blocks that say whose they are.
fn fill(path: &Path, unit: &str) -> Result<()> {
    let mut file =
        BufWriter::new(File::create(path).with_context(|| format!("cannot write {}", path.display()))?);
    for block in 0..UNIT_BYTES / BLOCK_BYTES {
        let label = format!("unit {unit} block {block} ");
        let mut content = label.repeat(BLOCK_BYTES as usize / label.len() + 1).into_bytes();
        content.truncate(BLOCK_BYTES as usize);
        file.write_all(&content)?;
    }
    Ok(file.flush()?)
}
