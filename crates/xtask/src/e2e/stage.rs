//! What one scenario has: a folder, a clock, the tools, and its report.
//!
//! Invariant: nothing waits without a bound, neither one wait nor the scenario as a whole.

use super::ground::Subject;
use super::isolate;
use anyhow::{Context, Result, bail, ensure};
use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};
use vmpath_lab::guest::{FrontEnd, Image, Kernel};
use vmpath_lab::report::Report;

/// Between two looks at something that is waited for.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// What all scenarios of a run share.
#[derive(Debug)]
pub(crate) struct Tools {
    subject: Subject,
    /// The workspace.
    pub(crate) root: PathBuf,
    /// The folder of the run; scenarios have theirs in it.
    pub(crate) dir: PathBuf,
    /// A file system in memory.
    memory: PathBuf,
    image: RefCell<Option<Image>>,
}

impl Tools {
    /// # Errors
    /// There can be no file system in memory here.
    pub(crate) fn new(root: &Path, subject: Subject, dir: &Path) -> Result<Self> {
        let memory = isolate::memory(dir)?;
        let (root, dir) = (root.to_owned(), dir.to_owned());
        Ok(Self { subject, root, dir, memory, image: RefCell::new(None) })
    }

    /// What guests boot from; made by the first scenario that needs it.
    fn image(&self) -> Result<Image> {
        if let Some(image) = &*self.image.borrow() {
            return Ok(image.clone());
        }
        let kernel = Kernel::find_or_fetch()?;
        let image = Image::build(&kernel, &self.subject.binary, &self.dir)?;
        *self.image.borrow_mut() = Some(image.clone());
        Ok(image)
    }
}

#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) dir: PathBuf,
    pub(crate) report: Report,
    /// How the guests reach their disks.
    pub(crate) front_end: FrontEnd,
    name: String,
    /// The deliberate fault of the daemon in this act.
    mutant: Option<&'static str>,
    tools: Rc<Tools>,
    began: Instant,
    bound: Duration,
}

impl Stage {
    /// # Errors
    /// Its folder cannot be made.
    pub(crate) fn new(name: &str, front_end: FrontEnd, tools: &Rc<Tools>, bound: Duration) -> Result<Self> {
        let dir = tools.dir.join(name);
        fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(Self {
            dir,
            report: Report::new(),
            front_end,
            name: name.to_owned(),
            mutant: None,
            tools: Rc::clone(tools),
            began: Instant::now(),
            bound: bound + tools.subject.patience.unwrap_or_default(),
        })
    }

    /// Begins an act in a folder of its own, with a daemon that is as it should be or has a deliberate fault.
    ///
    /// # Errors
    /// The folder cannot be made, or nobody has built a daemon with faults.
    pub(crate) fn act(&mut self, folder: &str, mutant: Option<&'static str>) -> Result<()> {
        ensure!(
            mutant.is_none() || self.tools.subject.mutants.is_some(),
            "there is no build with deliberate faults"
        );
        self.dir = self.tools.dir.join(&self.name).join(folder);
        fs::create_dir(&self.dir).with_context(|| format!("cannot make {}", self.dir.display()))?;
        self.mutant = mutant;
        Ok(())
    }

    /// The daemon under test, without arguments, behind the words that put it where it is to run.
    pub(crate) fn daemon_within(&self, within: &[String]) -> Command {
        let mutant = self.mutant.zip(self.tools.subject.mutants.as_deref());
        let binary = mutant.map_or(self.binary(), |(_, binary)| binary);
        let mut command = match within.split_first() {
            Some((first, others)) => {
                let mut command = Command::new(first);
                command.args(others).arg(binary);
                command
            }
            None => Command::new(binary),
        };
        if let Some((word, _)) = mutant {
            command.env("VMPATH_MUTANT", word);
        }
        command
    }

    /// A line of progress.
    pub(crate) fn say(&self, text: impl AsRef<str>) {
        println!("   [{} {:5.1} s] {}", self.name, self.began.elapsed().as_secs_f64(), text.as_ref());
    }

    /// Looks again and again until `look` finds something.
    ///
    /// # Errors
    /// It finds nothing within `bound`, the scenario's own time is over, or looking fails.
    pub(crate) fn wait<T>(
        &mut self,
        what: &str,
        bound: Duration,
        mut look: impl FnMut(&mut Self) -> Result<Option<T>>,
    ) -> Result<T> {
        let began = Instant::now();
        loop {
            if let Some(found) = look(self).with_context(|| format!("while waiting for {what}"))? {
                return Ok(found);
            }
            if began.elapsed() > bound {
                bail!("waited {:.1} s for {what}, in vain", bound.as_secs_f64());
            }
            self.check_time()?;
            thread::sleep(LOOK_AGAIN);
        }
    }

    /// Lets time pass, where the scenario is about what does *not* happen meanwhile.
    ///
    /// # Errors
    /// `look` fails, or the scenario's own time is over.
    pub(crate) fn watch(
        &mut self,
        span: Duration,
        mut look: impl FnMut(&mut Self) -> Result<()>,
    ) -> Result<()> {
        let began = Instant::now();
        while began.elapsed() < span {
            look(self)?;
            self.check_time()?;
            thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }

    fn check_time(&self) -> Result<()> {
        if self.began.elapsed() > self.bound {
            bail!("the scenario's {} s are over", self.bound.as_secs());
        }
        Ok(())
    }

    /// The ends of all logs of this scenario: where it runs, nobody may be able to look at the files.
    pub(crate) fn show_logs(&self) {
        let Ok(entries) = fs::read_dir(&self.dir) else { return };
        let mut logs: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        logs.sort();
        for log in logs.iter().filter(|path| path.extension().is_some_and(|e| e == "log")) {
            println!("--- the end of {}\n{}", log.display(), super::end_of(log, 25));
        }
    }

    /// How long to wait for what must not happen.
    pub(crate) fn patience(&self, unless_told: Duration) -> Duration {
        self.tools.subject.patience.unwrap_or(unless_told)
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    pub(crate) fn binary(&self) -> &Path {
        &self.tools.subject.binary
    }

    /// # Errors
    /// There is no kernel, or no busybox.
    pub(crate) fn image(&self) -> Result<Image> {
        self.tools.image()
    }

    /// A configuration of the folder `e2e`, with this scenario's folder and front end written into it. Returns the file.
    ///
    /// # Errors
    /// There is none of that name.
    pub(crate) fn config(&self, name: &str) -> Result<PathBuf> {
        self.config_at(name, &self.dir, &[])
    }

    /// The same for a host with a folder of its own, and with more that is its own.
    ///
    /// # Errors
    /// There is none of that name.
    pub(crate) fn config_at(&self, name: &str, dir: &Path, own: &[(&str, String)]) -> Result<PathBuf> {
        let template = self.tools.root.join("e2e").join(name);
        let mut text =
            fs::read_to_string(&template).with_context(|| format!("cannot read {}", template.display()))?;
        let key = match self.front_end {
            FrontEnd::Nbd => "nbd",
            FrontEnd::VhostUser => "vhost_user",
        };
        let file = dir.join("vmpath.toml");
        for (place, word) in own {
            text = text.replace(place, word);
        }
        fs::write(&file, text.replace("{front_end}", key).replace("{dir}", &dir.to_string_lossy()))?;
        Ok(file)
    }

    /// A folder in memory, for storage that must not be slower than its guests.
    ///
    /// # Errors
    /// It cannot be made.
    pub(crate) fn memory_folder(&self) -> Result<PathBuf> {
        let folder = self.memory_path();
        fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(folder)
    }
}

impl Stage {
    /// Where [`Stage::memory_folder`] is.
    pub(crate) fn memory_path(&self) -> PathBuf {
        self.tools.memory.join(&self.name)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        _ = fs::remove_dir_all(self.memory_path()); // it goes with the run in any case
    }
}
