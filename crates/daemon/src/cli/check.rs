//! `vmpath check`: every fault at once, or a short summary of what the configuration says.

use super::output;
use super::text::plural;
use crate::cluster;
use crate::control::config::{Config, load};
use std::path::Path;
use std::process::ExitCode;

pub(super) fn run(file: &Path) -> anyhow::Result<ExitCode> {
    match load(file) {
        Ok(config) => match cluster::lacking(&config.spec) {
            Some(why) => {
                output::print(&format!("{why}; a daemon would not start with this\n"))?;
                Ok(ExitCode::FAILURE)
            }
            None => output::print(&good(&config)),
        },
        Err(error) => {
            let lines = error.lines();
            let count = plural(lines.len(), "fault");
            output::print(&format!("{}\n{count}; a daemon would not start with this\n", lines.join("\n")))?;
            Ok(ExitCode::FAILURE)
        }
    }
}

fn good(config: &Config) -> String {
    let spec = &config.spec;
    let warnings: String = config.warnings.iter().map(|warning| format!("warning: {warning}\n")).collect();
    let managed = spec.vms.iter().filter(|vm| vm.qmp.is_some()).count();
    let capacities = spec.path_ids().filter(|id| spec.path(*id).capacity.is_some()).count();
    let reserved: u64 = spec.vms.iter().filter_map(|vm| vm.reservation).map(|rate| rate.0).sum();
    let reserved = vmpath_core::spec::ByteRate(reserved);
    format!(
        "{warnings}good: host {}, from {}\n  {} ({capacities} with a capacity) to {}\n  {}, {managed} of them managed, with {} on {}; {reserved} reserved\n",
        spec.host.name,
        plural(config.files.len(), "file"),
        plural(spec.paths.len(), "path"),
        plural(spec.targets.len(), "target"),
        plural(spec.vms.len(), "VM"),
        plural(spec.disks.len(), "disk"),
        plural(spec.units.len(), "unit"),
    )
}
