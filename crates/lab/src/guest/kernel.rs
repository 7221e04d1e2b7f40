//! Debian's cloud kernel: fetched once, unpacked into a cache, never installed.
//!
//! Invariant: a kernel in the cache is whole, because it gets there by one rename. What is cached is used without
//! asking anybody, so that a run needs no network after the first.

use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const PACKAGE: &str = "linux-image-cloud-amd64";

/// An unpacked kernel package.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The kernel to boot.
    pub vmlinuz: PathBuf,
    /// The folder `lib/modules/VERSION`.
    pub modules: PathBuf,
}

impl Kernel {
    /// The newest kernel of the cache; if it is empty, the one that Debian's archive has now.
    ///
    /// # Errors
    /// The cache is empty and `apt-get download` does not work here; the error says what to type.
    pub fn find_or_fetch() -> Result<Self> {
        let cache = cache_dir()?;
        match newest(&cache)? {
            Some(kernel) => Ok(kernel),
            None => {
                fetch(&cache)?;
                newest(&cache)?.context("the fetched kernel package holds no kernel")
            }
        }
    }

    /// Finds a module by its name, wherever it is in the tree.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn module(&self, name: &str) -> Result<PathBuf> {
        let file = format!("{name}.ko");
        find(&self.modules, &file)?
            .with_context(|| format!("the kernel in {} has no module {name}", self.modules.display()))
    }
}

/// `$XDG_CACHE_HOME/vmpath/kernel`, by default under `~/.cache`.
fn cache_dir() -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let base = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
    let dir = base.unwrap_or_else(std::env::temp_dir).join("vmpath/kernel");
    fs::create_dir_all(&dir).with_context(|| {
        format!("cannot make {}; set XDG_CACHE_HOME to a folder that can be written", dir.display())
    })?;
    Ok(dir)
}

fn newest(cache: &Path) -> Result<Option<Kernel>> {
    let mut versions: Vec<PathBuf> = list(cache)?.into_iter().filter(|p| p.join("boot").is_dir()).collect();
    versions.sort_by_key(|path| numbers(&path.to_string_lossy()));
    let Some(dir) = versions.pop() else { return Ok(None) };
    let vmlinuz = list(&dir.join("boot"))?.into_iter().find(|p| file_name(p).starts_with("vmlinuz"));
    let modules = list(&dir.join("lib/modules"))?.into_iter().next();
    match (vmlinuz, modules) {
        (Some(vmlinuz), Some(modules)) => Ok(Some(Kernel { vmlinuz, modules })),
        _ => bail!("{} is not an unpacked kernel package; delete it and start again", dir.display()),
    }
}

/// The numbers in a name, so that `6.1.0-10` comes after `6.1.0-9`.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect()
}

/// Downloads the package. The lists of packages may be missing or old: then they are fetched too, if this user may.
fn fetch(cache: &Path) -> Result<()> {
    let first = match download(cache) {
        Ok(()) => return Ok(()),
        Err(why) => why,
    };
    match run(Command::new("apt-get").args(["update", "-q"])) {
        Ok(_) => download(cache),
        Err(_) => {
            Err(first).context("cannot fetch a kernel for the guests; `apt-get update` as root may help")
        }
    }
}

fn download(cache: &Path) -> Result<()> {
    let package = versioned_package()?;
    let work = tempfile::tempdir_in(cache)?;
    run(Command::new("apt-get").args(["download", "-q", &package]).current_dir(work.path()))?;
    let archive = list(work.path())?.into_iter().find(|p| file_name(p).ends_with(".deb"));
    let archive = archive.context("apt-get download left no file")?;
    let unpacked = work.path().join("unpacked");
    run(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&unpacked))?;
    let home = cache.join(&package);
    match fs::rename(&unpacked, &home) {
        Err(_) if home.join("boot").is_dir() => Ok(()), // another run was faster
        other => other.with_context(|| format!("cannot put the kernel into {}", home.display())),
    }
}

/// The package that the meta package stands for, such as `linux-image-6.1.0-40-cloud-amd64`.
fn versioned_package() -> Result<String> {
    let output = run(Command::new("apt-cache").args(["depends", PACKAGE]))?;
    let depends = output.lines().filter_map(|line| line.trim().strip_prefix("Depends:")).map(str::trim);
    let package = depends.into_iter().find(|name| name.starts_with("linux-image-"));
    package.map(ToOwned::to_owned).with_context(|| format!("{PACKAGE} stands for no package"))
}

fn run(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output =
        command.output().with_context(|| format!("cannot run {program}: is this a Debian system?"))?;
    if !output.status.success() {
        bail!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

fn find(dir: &Path, name: &str) -> Result<Option<PathBuf>> {
    for path in list(dir)? {
        let found = if path.is_dir() && !path.is_symlink() { find(&path, name)? } else { None };
        if found.is_some() || file_name(&path) == name {
            return Ok(found.or(Some(path)));
        }
    }
    Ok(None)
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(numbers("linux-image-6.1.0-10-cloud-amd64") > numbers("linux-image-6.1.0-9-cloud-amd64"));
    }

    #[test]
    fn a_cache_with_a_whole_kernel_is_used_and_half_of_one_is_refused() {
        let cache = tempfile::tempdir().expect("a folder");
        assert!(newest(cache.path()).expect("an empty cache").is_none());
        let home = cache.path().join("linux-image-6.1.0-9-cloud-amd64");
        let modules = home.join("lib/modules/6.1.0-9-cloud-amd64");
        fs::create_dir_all(home.join("boot")).expect("a folder");
        fs::create_dir_all(modules.join("kernel/drivers/virtio")).expect("a folder");
        assert!(newest(cache.path()).is_err());
        fs::write(home.join("boot/vmlinuz-6.1.0-9-cloud-amd64"), "").expect("a file");
        fs::write(modules.join("kernel/drivers/virtio/virtio.ko"), "").expect("a file");
        let kernel = newest(cache.path()).expect("a cache").expect("a kernel");
        assert!(kernel.module("virtio").is_ok());
        assert!(kernel.module("virtio_blk").is_err());
    }
}
