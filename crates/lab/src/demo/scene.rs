//! What is on the stage: the portals, the VMs, their numbers, and the daemon's config made of them.
//!
//! Invariant: with both portals everybody's reservation fits, with one it does not, and then exactly bronze must leave.
//! Rejected: numbers scattered over the script. It does not know: what will happen to it.

use crate::guest::FrontEnd;
use crate::units::MIB;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The name of the array in the config.
pub(super) const TARGET: &str = "san0";
/// The portal that will be lost.
pub(super) const LOST: &str = "a";
pub(super) const PORTALS: [&str; 2] = ["a", "b"];
/// How long after a connection's death the array still executes what it carried.
pub(super) const GHOST_AFTER: Duration = Duration::from_millis(1500);
/// The config's `quiesce`: comfortably longer than the ghosts.
const QUIESCE: &str = "3s";
const FAILBACK_AFTER: &str = "3s";

/// One VM's part.
#[derive(Clone, Copy, Debug)]
pub(super) struct VmPlan {
    pub(super) name: &'static str,
    pub(super) priority: u32,
    shares: u32,
    /// Bytes per second.
    pub(super) reservation: u64,
    pub(super) may_suspend: bool,
}

impl VmPlan {
    /// Each asks for twice what it has reserved.
    pub(super) fn offered(&self) -> u64 {
        2 * self.reservation
    }
}

#[derive(Clone, Debug)]
pub(super) struct Scene {
    /// Of each portal, bytes per second.
    pub(super) capacity: u64,
    /// Of each VM's disk, bytes.
    pub(super) disk: u64,
    pub(super) vms: [VmPlan; 3],
    /// How long each quiet phase lasts.
    pub(super) quiet: Duration,
    /// How every disk is served.
    pub(super) front_end: FrontEnd,
    dir: PathBuf,
}

impl Scene {
    /// `part`: real guests under emulation cannot drive the full rates, so everything is divided by it.
    pub(super) fn new(dir: &Path, part: u64, front_end: FrontEnd) -> Self {
        let rate = |mib: u64| mib * MIB / part;
        let vm = |name, priority, shares, mib, may_suspend| VmPlan {
            name,
            priority,
            shares,
            reservation: rate(mib),
            may_suspend,
        };
        Self {
            capacity: rate(100),
            disk: 128 / part * MIB,
            vms: [
                vm("gold", 100, 2000, 60, false),
                vm("silver", 50, 1000, 30, false),
                vm("bronze", 10, 500, 30, true),
            ],
            quiet: Duration::from_secs(5),
            front_end,
            dir: dir.to_owned(),
        }
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub(super) fn api_socket(&self) -> PathBuf {
        self.file("api.sock")
    }

    pub(super) fn array_control(&self) -> PathBuf {
        self.file("array.sock")
    }

    pub(super) fn disk_socket(&self, vm: &str) -> PathBuf {
        match self.front_end {
            FrontEnd::Nbd => self.file(&format!("{vm}.nbd")),
            FrontEnd::VhostUser => self.file(&format!("{vm}.vhost")),
        }
    }

    pub(super) fn qmp_socket(&self, vm: &str) -> PathBuf {
        self.file(&format!("{vm}.qmp"))
    }

    /// The array's command line, behind `lab array`.
    pub(super) fn array_arguments(&self) -> Vec<String> {
        let mut arguments: Vec<String> =
            ["lab", "array", "--prefill", "--control"].map(str::to_owned).to_vec();
        arguments.push(self.array_control().display().to_string());
        arguments.extend(self.vms.iter().map(|vm| format!("--unit={}={}", vm.name, self.disk)));
        arguments.extend(
            PORTALS.iter().map(|name| format!("--portal={name}=127.0.0.1:0,capacity={}", self.capacity)),
        );
        arguments
    }

    /// A VM's command line, behind `lab vm`.
    pub(super) fn vm_arguments(&self, vm: &VmPlan) -> Vec<String> {
        let socket = self.disk_socket(vm.name).display().to_string();
        let disk = match self.front_end {
            FrontEnd::Nbd => format!("vda=nbd+unix:///?socket={socket}"),
            FrontEnd::VhostUser => format!("vda=vhost-user:{socket}"),
        };
        let qmp = self.qmp_socket(vm.name).display().to_string();
        let rate = vm.offered().to_string();
        let words =
            ["lab", "vm", "--paused", "--sample-every=100ms", "--slots=64", "--zero=2"].map(str::to_owned);
        let named = ["--name", vm.name, "--disk", &disk, "--qmp", &qmp, "--rate", &rate].map(str::to_owned);
        words.into_iter().chain(named).collect()
    }

    /// The daemon's config; `urls` are the portals', in order.
    pub(super) fn config(&self, urls: &[String]) -> String {
        let rate = |bytes: u64| format!("{} KiB/s", bytes / 1024);
        let front_end = match self.front_end {
            FrontEnd::Nbd => "nbd",
            FrontEnd::VhostUser => "vhost_user",
        };
        let mut text = format!(
            "[host]\nname = \"demo\"\napi_socket = \"{}\"\nstate_dir = \"{}\"\nrun_dir = \"{}\"\nshed_when = \"unmet\"\n\n[[target]]\nname = \"{TARGET}\"\n\
             failback = \"after {FAILBACK_AFTER}\"\nquiesce = \"{QUIESCE}\"\n",
            self.api_socket().display(),
            self.file("state").display(),
            self.file("run").display()
        );
        for (name, url) in PORTALS.iter().zip(urls) {
            let capacity = rate(self.capacity);
            let _ = write!(
                text,
                "[[target.path]]\nname = \"{name}\"\nurl = \"{url}\"\ncapacity = \"{capacity}\"\n"
            );
        }
        for vm in &self.vms {
            let _ = write!(
                text,
                "\n[[vm]]\nname = \"{name}\"\npriority = {priority}\nshares = {shares}\nreservation = \"{reservation}\"\n\
                 qmp = \"{qmp}\"\nmay_suspend = {may_suspend}\nmay_migrate = false\nresume = \"failback\"\n\
                 [[vm.disk]]\nname = \"vda\"\nunit = \"{TARGET}/{name}\"\n\
                 {front_end} = \"{socket}\"\n",
                name = vm.name,
                priority = vm.priority,
                shares = vm.shares,
                reservation = rate(vm.reservation),
                may_suspend = vm.may_suspend,
                qmp = self.qmp_socket(vm.name).display(),
                socket = self.disk_socket(vm.name).display(),
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_portal_is_too_little_for_three_and_enough_for_two() {
        let scene = Scene::new(Path::new("/tmp/demo"), 1, FrontEnd::Nbd);
        let reserved = |count| scene.vms[..count].iter().map(|vm| vm.reservation).sum::<u64>();
        assert!(
            reserved(3) > scene.capacity && reserved(2) < scene.capacity && reserved(3) < 2 * scene.capacity
        );
        assert!(scene.vms.iter().map(VmPlan::offered).sum::<u64>() > 2 * scene.capacity);
    }

    #[test]
    fn the_config_is_what_the_parser_accepts() {
        for front_end in [FrontEnd::Nbd, FrontEnd::VhostUser] {
            let scene = Scene::new(Path::new("/tmp/demo"), 10, front_end);
            let urls = ["nbd://127.0.0.1:1001".to_owned(), "nbd://127.0.0.1:1002".to_owned()];
            let text = scene.config(&urls);
            let parsed =
                vmpath_core::spec::parse(&[vmpath_core::spec::Source { name: "demo.toml", text: &text }]);
            assert!(parsed.is_ok(), "{parsed:?}");
        }
    }
}
