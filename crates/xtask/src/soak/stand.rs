//! The array, the daemon and the guests of a soak; what is done to them, and what is looked at meanwhile.

use super::plan::{Act, Episode};
use crate::e2e::host::Host;
use crate::e2e::network::{self, Loss};
use crate::e2e::server::Server;
use crate::e2e::stage::Stage;
use crate::e2e::standin::StandIn;
use crate::e2e::storage::{self, ArrayPlan};
use crate::e2e::vm::{self, Vm};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};
use vmpath_core::policy::RESUMES_WITHIN;
use vmpath_lab::array::control::ArrayControl;
use vmpath_lab::guest::FrontEnd;
use vmpath_lab::report::{Bound, Truth};

/// Real guests first; as in `soak.toml`.
pub(super) const NAMES: [&str; 4] = ["gold", "silver", "bronze", "iron"];
const REAL: usize = 2;
/// The longest time without a completed request that anything in the plan explains: an episode, a reconnect of QEMU's (16 s), a
/// proof of health doubled a few times.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(60);

/// Where vmpath says that the VM was resumed as often as may be.
const LIMITED_MAX: Duration = RESUMES_WITHIN.saturating_add(WAIT_MAX);
/// How it says so.
const LIMITED: &str = "a VM is resumed at most";

const PORTALS: [(&str, &str); 2] = [("a", "127.0.0.2"), ("b", "127.0.0.3")];
const UNITS: [&str; 4] = ["gold=4MiB", "silver=4MiB", "bronze=1MiB", "iron=1MiB"];
const GUEST_LOAD: &str = "--device /dev/vda --size 2MiB --sizes 4KiB:4,16KiB:2,64KiB:1 --slots 16 --zero 5 \
                          --rate 4MiB/s --sample-every 200ms";
const LOAD: &str = "--sizes 4KiB:4,16KiB:2,64KiB:1 --slots 16 --zero 5 --rate 8MiB/s --sample-every 200ms";
const LOOK_EVERY: Duration = Duration::from_millis(250);
const SAY_EVERY: Duration = Duration::from_secs(10);
/// At the end, with an operator's word for the paths. VMs come back without one.
const ALL_WELL_MAX: Duration = Duration::from_secs(60);
/// The quiesce of `soak.toml`.
const QUIESCE: Duration = Duration::from_millis(2500);

pub(super) struct Stand<'a> {
    stage: &'a mut Stage,
    _storage: Server,
    array: ArrayControl,
    host: Host,
    guests: Vec<Watched>,
    longest: Waits,
    said: Instant,
    looked: Instant,
}

/// A guest, and since when nothing has completed for it.
struct Watched {
    name: &'static str,
    who: Who,
    completed: u64,
    progress: Instant,
    /// Since when vmpath says that it waits for the limit on resumes.
    limited: Option<Instant>,
}

/// The longest times that nothing completed.
#[derive(Clone, Copy, Debug, Default)]
struct Waits {
    at_the_limit: Duration,
    else_than_there: Duration,
}

enum Who {
    Real(Vm),
    StandIn(StandIn),
    Killed,
}

impl<'a> Stand<'a> {
    /// # Errors
    /// Something does not start.
    pub(super) fn new(stage: &'a mut Stage) -> Result<Self> {
        let plan = ArrayPlan { portals: &PORTALS, options: ",latency=500us", units: &UNITS };
        let (storage, array) = storage::array_with(stage, &plan)?;
        let host = Host::start(stage, "soak.toml")?;
        let now = Instant::now();
        let mut guests = Vec::new();
        for (number, name) in NAMES.into_iter().enumerate() {
            let who = start(stage, number)?;
            guests.push(Watched { name, who, completed: 0, progress: Instant::now(), limited: None });
        }
        let longest = Waits::default();
        Ok(Self { stage, _storage: storage, array, host, guests, longest, said: now, looked: now })
    }

    /// Plays an episode; what is done is noted before it is.
    ///
    /// # Errors
    /// Something is wrong that must not be.
    pub(super) fn play(&mut self, number: u32, episode: &Episode, did: &mut Vec<String>) -> Result<()> {
        self.wait_connected()?;
        let began = Instant::now();
        for (at, act) in &episode.acts {
            self.watch(at.saturating_sub(began.elapsed()))?;
            let line = format!("{:6.1} s, episode {number}: {act}", self.stage.elapsed().as_secs_f64());
            self.stage.say(&line);
            did.push(line);
            self.perform(act).with_context(|| act.to_string())?;
        }
        self.watch(episode.lasts.saturating_sub(began.elapsed()))?;
        network::heal_if_lost()?;
        self.array.clear("all")?;
        self.replace_killed()?;
        self.watch(episode.rest)
    }

    fn perform(&mut self, act: &Act) -> Result<()> {
        match act {
            Act::Array(portal, words) => self.array.fault(portal, words).map(drop),
            Act::Blackhole(portals) => {
                let addresses: Vec<&str> =
                    PORTALS.iter().filter(|(name, _)| portals.contains(name)).map(|(_, at)| *at).collect();
                network::lose(&addresses, Loss::Blackhole).map(drop)
            }
            Act::KillDaemon => {
                self.host.crash(self.stage)?;
                self.host.wait_api(self.stage)
            }
            Act::RestartDaemon => {
                self.host.restart(self.stage)?;
                self.host.wait_api(self.stage)
            }
            Act::KillGuest(guest) => {
                self.look()?;
                self.guests[*guest].who = Who::Killed;
                Ok(())
            }
            Act::Operator(words) => self.operator(words),
        }
    }

    /// Some are refused for good reasons; the daemon must answer.
    fn operator(&mut self, words: &[String]) -> Result<()> {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let answer = self.host.operator(&words)?;
        let said = String::from_utf8_lossy(&[answer.stdout, answer.stderr].concat()).trim().to_owned();
        self.stage.say(said.lines().next().unwrap_or("(nothing)"));
        ensure!(answer.status.code().is_some_and(|code| code <= 1), "vmpath ends with {}", answer.status);
        Ok(())
    }

    /// An episode begins with both paths connected, whatever is thought of them, and with every monitor: of a VM that was never
    /// seen running nobody knows after a kill what has stopped it.
    fn wait_connected(&mut self) -> Result<()> {
        let end = Instant::now() + ALL_WELL_MAX;
        while !self.connected()? {
            ensure!(
                Instant::now() < end,
                "a path or a monitor is not connected though nothing is wrong with it"
            );
            self.watch(LOOK_EVERY)?;
        }
        Ok(())
    }

    fn connected(&mut self) -> Result<bool> {
        let answer = self.host.api.get("/v1/paths")?;
        let paths = answer["paths"].as_array().context("no paths")?;
        let up = |path: &Value| {
            path["links"].as_array().is_some_and(|links| links.iter().all(|link| link["state"] == "up"))
        };
        let answer = self.host.api.get("/v1/vms")?;
        let vms = answer["vms"].as_array().context("no VMs")?;
        Ok(paths.iter().all(up) && vms.iter().all(|vm| vm["state"] != "unmanaged"))
    }

    fn replace_killed(&mut self) -> Result<()> {
        for number in 0..self.guests.len() {
            if matches!(self.guests[number].who, Who::Killed) {
                let who = start(self.stage, number)?;
                let guest = &mut self.guests[number];
                *guest = Watched { who, completed: 0, progress: Instant::now(), limited: None, ..*guest };
            }
        }
        Ok(())
    }

    /// Lets time pass, and looks.
    fn watch(&mut self, span: Duration) -> Result<()> {
        let end = Instant::now() + span;
        loop {
            if self.looked.elapsed() >= LOOK_EVERY {
                self.look()?;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            self.stage.watch(left.min(LOOK_EVERY / 5), |_| Ok(()))?;
        }
    }

    fn look(&mut self) -> Result<()> {
        self.looked = Instant::now();
        self.host.check_alive()?;
        let answer = self.host.api.get("/v1/vms")?;
        let vms = answer["vms"].as_array().context("no VMs")?;
        for guest in &mut self.guests {
            let vm = vms.iter().find(|vm| vm["name"] == guest.name).context("no such VM")?;
            let is_limited = vm["waits_for"].as_str().is_some_and(|wait| wait.contains(LIMITED));
            guest.is_limited(is_limited);
            guest.look(&mut self.longest)?;
            let held = Duration::from_millis(vm["oldest_held_ms"].as_u64().unwrap_or(0));
            let max = if is_limited { LIMITED_MAX } else { WAIT_MAX };
            ensure!(held < max, "{} has held a request for {} s", guest.name, held.as_secs());
        }
        if self.said.elapsed() >= SAY_EVERY {
            self.said = Instant::now();
            let words: Vec<_> = self.guests.iter().map(|g| format!("{} {}", g.name, g.completed)).collect();
            self.stage.say(format!("completed: {}", words.join(", ")));
        }
        Ok(())
    }

    /// Everything is well: everybody runs again, and reads back all that was written.
    ///
    /// # Errors
    /// Not everybody does.
    pub(super) fn end(mut self) -> Result<()> {
        for path in ["san0/a", "san0/b"] {
            for word in ["disable", "enable"] {
                self.operator(&["path".to_owned(), word.to_owned(), path.to_owned()])?;
            }
            self.wait_connected()?;
        }
        let Self { stage, mut host, guests, longest, .. } = self;
        host.wait_all_up(stage, ALL_WELL_MAX)?;
        for guest in NAMES {
            host.wait_vm(stage, guest, "running", LIMITED_MAX)?;
        }
        stage.watch(QUIESCE, |_| Ok(()))?;
        let panicked = panicked(&stage.dir)?;
        stage.report.check("daemons that have panicked", panicked as f64, Bound::Equal(0.0), "daemons");
        let unknown = host.quarantined_ranges()? as f64;
        stage.report.check("ranges of unknown outcome at the end", unknown, Bound::Equal(0.0), "ranges");
        for (what, wait, max) in [
            ("longest time that nothing completed", longest.else_than_there, WAIT_MAX),
            ("longest time at the limit on resumes", longest.at_the_limit, LIMITED_MAX),
        ] {
            stage.report.check(what, wait.as_secs_f64(), Bound::AtMost(max.as_secs_f64()), "s");
        }
        for guest in guests {
            match guest.who {
                Who::Real(vm) => vm::check(stage, guest.name, &vm.end()?),
                Who::StandIn(vm) => vm.end(QUIESCE)?.check(stage),
                Who::Killed => stage.report.check_that("every guest is back", Truth::from(false), guest.name),
            }
        }
        host.finish(stage)
    }
}

/// Of all starts: one that was killed has told nobody.
fn panicked(dir: &Path) -> Result<usize> {
    let mut count = 0;
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("daemon")
            && String::from_utf8_lossy(&std::fs::read(&path)?).contains("panicked at")
        {
            count += 1;
        }
    }
    Ok(count)
}

fn start(stage: &mut Stage, number: usize) -> Result<Who> {
    stage.front_end = if number.is_multiple_of(2) { FrontEnd::VhostUser } else { FrontEnd::Nbd };
    let name = NAMES[number];
    if number < REAL {
        let [vm] = vm::boot_under(stage, [name], GUEST_LOAD)?;
        return Ok(Who::Real(vm));
    }
    Ok(Who::StandIn(StandIn::start(stage, name, LOAD)?))
}

impl Watched {
    /// What vmpath says. The time until then was another wait.
    fn is_limited(&mut self, is_limited: bool) {
        match (self.limited, is_limited) {
            (None, true) => self.limited = Some(Instant::now()),
            (Some(_), false) => (self.limited, self.progress) = (None, Instant::now()),
            (Some(_), true) | (None, false) => {}
        }
    }

    /// How long nothing has completed.
    fn look(&mut self, longest: &mut Waits) -> Result<()> {
        let sample = match &mut self.who {
            Who::Real(vm) => vm.sample()?,
            Who::StandIn(vm) => vm.sample()?,
            Who::Killed => return Ok(()),
        };
        for (what, key) in [
            ("wrong blocks", "mismatches"),
            ("failed requests", "errors"),
            ("requests completed twice", "completed_twice"),
        ] {
            let found = sample[key].as_u64().unwrap_or(0);
            ensure!(found == 0, "{} has seen {found} {what}", self.name);
        }
        let completed = sample["requests"].as_u64().unwrap_or(0);
        let (waited, longest, max) = match self.limited {
            Some(since) => (since.elapsed(), &mut longest.at_the_limit, LIMITED_MAX),
            None => (self.progress.elapsed(), &mut longest.else_than_there, WAIT_MAX),
        };
        if completed > self.completed {
            (self.completed, self.progress) = (completed, Instant::now());
        }
        *longest = waited.max(*longest);
        ensure!(waited < max, "{} has completed nothing for {} s", self.name, waited.as_secs());
        Ok(())
    }
}
