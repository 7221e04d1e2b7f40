//! The initramfs: a shell, the modules of a virtio disk, and the verifying tool with the libraries that it was linked
//! to. One for all guests of a run; QEMU only reads it.

use super::cpio::Archive;
use super::kernel::Kernel;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// In this order: the package has no `modules.dep`.
const MODULES: &[&str] =
    &["virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "virtio_blk"];

const BUSYBOX: &str = "/bin/busybox";
const INIT: &str = include_str!("init.sh");
/// Where the tool stands in the guest.
const TOOL: &str = "/bin/vmpath";

/// A kernel and an initramfs to boot guests from.
#[derive(Clone, Debug)]
pub struct Image {
    pub(super) vmlinuz: PathBuf,
    pub(super) initramfs: PathBuf,
}

impl Image {
    /// Writes an initramfs with `tool` in it as `vmpath` into `dir`.
    ///
    /// # Errors
    /// Busybox is not installed, or a file cannot be read or written.
    pub fn build(kernel: &Kernel, tool: &Path, dir: &Path) -> Result<Self> {
        let mut archive = Archive::default();
        archive.character_device("/dev/console", 5, 1);
        archive.folder("/proc");
        archive.folder("/sys");
        archive.folder("/tmp");
        archive.file("/init", INIT.as_bytes());
        archive.file(
            "/bin/busybox",
            &read(Path::new(BUSYBOX)).context("`apt-get install busybox-static` gives it")?,
        );
        archive.link("/bin/sh", "busybox");
        for name in MODULES {
            archive.file(&format!("/modules/{name}.ko"), &read(&kernel.module(name)?)?);
        }
        archive.file("/modules/order", MODULES.join("\n").as_bytes());
        archive.file(TOOL, &stripped(tool, dir)?);
        for library in libraries(tool)? {
            archive.file(&library.to_string_lossy(), &read(&library)?);
        }
        let initramfs = dir.join("initramfs.cpio");
        fs::write(&initramfs, archive.finish())
            .with_context(|| format!("cannot write {}", initramfs.display()))?;
        Ok(Self { vmlinuz: kernel.vmlinuz.clone(), initramfs })
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The tool without its debug information, which would fill the guest's memory; with it if `strip` is not here.
fn stripped(tool: &Path, dir: &Path) -> Result<Vec<u8>> {
    let small = dir.join("tool.stripped");
    let done =
        Command::new("strip").arg("-o").arg(&small).arg(tool).output().is_ok_and(|o| o.status.success());
    read(if done { &small } else { tool })
}

/// The shared libraries of a program and its loader, by the paths at which the loader looks for them.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("cannot run ldd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if text.contains("not found") {
        bail!("{} lacks libraries:\n{text}", program.display());
    }
    Ok(text.lines().filter_map(library).collect())
}

/// `libm.so.6 => /lib/x/libm.so.6 (0x7f…)` or `/lib64/ld-linux-x86-64.so.2 (0x7f…)`; not `linux-vdso.so.1 (0x7f…)`.
fn library(line: &str) -> Option<PathBuf> {
    let place = line.split_once("=>").map_or(line, |(_, place)| place).trim();
    let path = place.split_once(" (").map_or(place, |(path, _)| path);
    path.starts_with('/').then(|| PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_what_ldd_prints() {
        assert_eq!(
            library("\tlibm.so.6 => /lib/x/libm.so.6 (0x00007f)"),
            Some(PathBuf::from("/lib/x/libm.so.6"))
        );
        assert_eq!(library("\t/lib64/ld-linux.so.2 (0x00007f)"), Some(PathBuf::from("/lib64/ld-linux.so.2")));
        assert_eq!(library("\tlinux-vdso.so.1 (0x00007f)"), None);
        assert_eq!(library("\tstatically linked"), None);
    }
}
