//! QEMU's process: its command line, its process group, its end.

use super::image::Image;
use super::{FrontEnd, GuestConfig, GuestDisk, last_lines};
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::json;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const QEMU: &str = "qemu-system-x86_64";
/// Anything, so that QEMU does not read a disk to guess it: one that waits for a guest may not read it yet.
const GEOMETRY: &str = "cyls=130,heads=16,secs=63";
/// `panic=-1` with `-no-reboot`: a kernel that panics ends QEMU, and is seen.
const KERNEL_LINE: &str = "console=ttyS0 quiet panic=-1 random.trust_cpu=on";

#[derive(Debug)]
pub(super) struct Machine {
    child: Child,
    errors: PathBuf,
}

pub(super) fn agent_socket(dir: &Path) -> PathBuf {
    dir.join("agent.sock")
}

pub(super) fn monitor_socket(dir: &Path) -> PathBuf {
    dir.join("monitor.qmp")
}

pub(super) fn console(dir: &Path) -> PathBuf {
    dir.join("console.log")
}

impl Machine {
    pub(super) fn start(image: &Image, config: &GuestConfig) -> Result<Self> {
        let errors = config.dir.join("qemu.log");
        let log = File::create(&errors).with_context(|| format!("cannot write {}", errors.display()))?;
        let mut words =
            config.within.iter().cloned().chain([QEMU.to_owned()]).chain(arguments(image, config));
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).process_group(0);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| {
            format!("cannot run {QEMU}; `apt-get install --no-install-recommends qemu-system-x86` gives it")
        })?;
        Ok(Self { child, errors })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// An error with QEMU's own words if it has ended.
    pub(super) fn check_alive(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("QEMU has ended ({status})\n{}", last_lines(&self.errors, 5)),
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Ok(id) = i32::try_from(self.child.id())
            && let Some(pid) = Pid::from_raw(id)
        {
            _ = kill_process_group(pid, Signal::KILL); // it may have ended by itself
        }
        _ = self.child.wait();
    }
}

/// See [`super::launch_script`]. It becomes QEMU, so that whoever started it and ends it ends QEMU.
pub(super) fn launch_script(image: &Image, config: &GuestConfig) -> String {
    // The monitor of the configuration is told by a variable here.
    let placed = GuestConfig { qmp: PathBuf::from(QMP_PLACE), ..config.clone() };
    let words: Vec<String> = arguments(image, &placed).iter().map(|word| quoted(word)).collect();
    let words = words.join(" ").replace(QMP_PLACE, "'\"$VMPATH_QMP\"'");
    let log = quoted(&path(&config.dir.join("qemu.log")));
    format!("#!/bin/sh\nexec {QEMU} {words} -incoming \"$VMPATH_INCOMING\" >{log} 2>&1\n")
}

/// Stands for the monitor's socket until the script is written.
const QMP_PLACE: &str = "/VMPATH-QMP";

/// As one word for a shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

fn arguments(image: &Image, config: &GuestConfig) -> Vec<String> {
    let text = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
    let mut all = text(&["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    // A second processor that could be: before 8.1 QEMU is believed to drop the guest's barriers without it.
    all.extend(text(&["-smp", "1,maxcpus=2"]));
    all.extend(["-name".to_owned(), config.name.clone()]);
    all.extend(memory_arguments(config));
    all.extend(["-kernel".to_owned(), path(&image.vmlinuz), "-initrd".to_owned(), path(&image.initramfs)]);
    all.extend(text(&["-append", KERNEL_LINE]));
    all.extend(["-serial".to_owned(), format!("file:{}", path(&console(&config.dir)))]);
    all.extend(["-chardev".to_owned(), format!("socket,id=agent,path={}", path(&agent_socket(&config.dir)))]);
    all.extend(text(&["-serial", "chardev:agent"]));
    for socket in [&config.qmp, &monitor_socket(&config.dir)] {
        all.extend(["-qmp".to_owned(), format!("unix:{},server=on,wait=off", path(socket))]);
    }
    for (number, disk) in config.disks.iter().enumerate() {
        all.extend(disk_arguments(number, disk));
    }
    all
}

/// As QEMU takes it. Its TCG (before 9.0) forgets what a guest writes while it is migrated if the memory is a multiple of 256 KiB: the
/// dirty pages of such are collected by words, without the processors being told. So there is a little more.
fn memory_size(mib: u32) -> String {
    format!("{}k", mib * 1024 + 8)
}

/// A vhost-user back end maps the guest's memory, so it must be a file that can be shared.
fn memory_arguments(config: &GuestConfig) -> Vec<String> {
    let size = memory_size(config.memory_mib);
    let shared = config.disks.iter().any(|disk| disk.front_end == FrontEnd::VhostUser);
    let mut all = vec!["-m".to_owned(), size.clone(), "-machine".to_owned()];
    if shared {
        all.push("q35,accel=tcg,memory-backend=memory".to_owned());
        all.extend(["-object".to_owned(), format!("memory-backend-memfd,id=memory,size={size},share=on")]);
    } else {
        all.push("q35,accel=tcg".to_owned());
    }
    all
}

fn disk_arguments(number: usize, disk: &GuestDisk) -> Vec<String> {
    match disk.front_end {
        FrontEnd::Nbd => nbd_arguments(number, disk),
        FrontEnd::VhostUser => vhost_user_arguments(number, disk),
    }
}

/// An I/O error stops the machine instead of reaching the guest, and is repeated on `cont`; a lost server is an error
/// at once (`reconnect-delay` 0), because with a delay `stop` would block for as long.
fn nbd_arguments(number: usize, disk: &GuestDisk) -> Vec<String> {
    let node = json!({
        "driver": "nbd",
        "node-name": format!("disk{number}"),
        "server": { "type": "unix", "path": path(&disk.socket) },
        "export": "",
        "reconnect-delay": 0,
        "discard": "unmap",
        "cache": { "direct": true },
    });
    let device = format!("virtio-blk-pci,drive=disk{number},num-queues=1,{GEOMETRY},werror=stop,rerror=stop");
    vec!["-blockdev".to_owned(), node.to_string(), "-device".to_owned(), device]
}

/// QEMU sees none of the disk's requests; when the back end goes away, it looks for it again every second.
fn vhost_user_arguments(number: usize, disk: &GuestDisk) -> Vec<String> {
    let socket = path(&disk.socket).replace(',', ",,");
    vec![
        "-chardev".to_owned(),
        format!("socket,id=disk{number},path={socket},reconnect=1"),
        "-device".to_owned(),
        format!("vhost-user-blk-pci,chardev=disk{number},num-queues=1"),
    ]
}

fn path(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config_for(front_end: FrontEnd) -> GuestConfig {
        let disk = GuestDisk { front_end, socket: PathBuf::from("/run/x,y.sock") };
        GuestConfig {
            name: "g".to_owned(),
            disks: vec![disk.clone(), disk],
            qmp: PathBuf::from("/run/g.qmp"),
            memory_mib: 256,
            within: Vec::new(),
            dir: PathBuf::from("/run/g"),
        }
    }

    fn image() -> Image {
        Image { vmlinuz: PathBuf::from("/k"), initramfs: PathBuf::from("/i") }
    }

    fn arguments_for(front_end: FrontEnd) -> Vec<String> {
        arguments(&image(), &config_for(front_end))
    }

    #[test]
    fn a_launch_script_gives_qemu_the_same_words_and_what_it_is_told() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut config = config_for(FrontEnd::VhostUser);
        config.name = "it's".to_owned();
        config.dir = dir.path().to_owned();
        let script = launch_script(&image(), &config).replace(QEMU, "printf '%s\\n'");
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(script).env("VMPATH_INCOMING", "tcp:h:1").env("VMPATH_QMP", "/q q");
        assert!(shell.status().expect("a shell").success());
        let said = std::fs::read_to_string(dir.path().join("qemu.log")).expect("its words");
        config.qmp = PathBuf::from("/q q");
        let mut words = arguments(&image(), &config);
        words.extend(["-incoming".to_owned(), "tcp:h:1".to_owned()]);
        assert_eq!(said.lines().collect::<Vec<_>>(), words);
    }

    #[test]
    fn every_nbd_disk_stops_the_machine_on_errors_and_never_waits_for_a_lost_server() {
        let arguments = arguments_for(FrontEnd::Nbd);
        let devices = arguments.iter().filter(|a| a.ends_with("werror=stop,rerror=stop")).count();
        assert_eq!(devices, 2);
        assert!(arguments.iter().any(|a| a.contains("\"reconnect-delay\":0") && a.contains("/run/x,y.sock")));
        assert!(arguments.contains(&"q35,accel=tcg".to_owned()));
    }

    #[test]
    fn every_vhost_user_disk_is_looked_for_again_and_shares_the_memory() {
        let arguments = arguments_for(FrontEnd::VhostUser);
        let sockets = arguments.iter().filter(|a| a.ends_with("path=/run/x,,y.sock,reconnect=1")).count();
        assert_eq!(sockets, 2);
        assert!(arguments.contains(&"q35,accel=tcg,memory-backend=memory".to_owned()));
        assert!(arguments.iter().any(|a| a.starts_with("memory-backend-memfd") && a.ends_with("share=on")));
    }
}
