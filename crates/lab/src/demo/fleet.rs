//! The VMs of the demo, stand-ins or real guests, under one set of words.
//!
//! Both speak the same lines (`workload::talk`); what differs is how they start and how a line reaches them.
//! Invariant: dropping the fleet ends every VM. Rejected: a trait: there are two kinds, and both are here.
//! It does not know: phases, the daemon.

use super::child::Child;
use super::load::{Clock, VmLines};
use super::scene::{Scene, VmPlan};
use crate::clock::unix_micros;
use crate::guest::{Guest, GuestConfig, GuestDisk, Image, Kernel, Line, MEMORY_MIB};
use anyhow::{Context, Result, ensure};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Guests under emulation take seconds to boot, two at a time.
const BOOT_BOUND: Duration = Duration::from_secs(90);
/// Whoever ends has said its report before; another thread reads it.
const LAST_WORDS_WITHIN: Duration = Duration::from_secs(1);

/// What the VMs are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cast {
    StandIns,
    /// QEMU with a Linux kernel, this program inside.
    Guests,
}

/// A line, which VM said it, and when it came.
type Heard = (usize, u64, String);

#[derive(Debug)]
enum Vm {
    StandIn(Child),
    Guest(GuestThread),
}

impl Vm {
    fn check_alive(&mut self) -> Result<()> {
        match self {
            Self::StandIn(child) => child.check_alive(),
            Self::Guest(guest) => guest.check_alive(),
        }
    }
}

#[derive(Debug)]
pub(super) struct Fleet {
    vms: Vec<Vm>,
    heard: mpsc::Receiver<Heard>,
    /// By VM, in the scene's order.
    pub(super) lines: Vec<VmLines>,
}

impl Fleet {
    /// Starts every VM, with its load paused.
    pub(super) fn start(scene: &Scene, cast: Cast, interrupted: &AtomicBool) -> Result<Self> {
        let (say, heard) = mpsc::channel();
        let (vms, clock) = match cast {
            Cast::StandIns => {
                let start = |(i, plan)| stand_in(scene, plan, i, &say);
                (scene.vms.iter().enumerate().map(start).collect::<Result<Vec<_>>>()?, Clock::Own)
            }
            Cast::Guests => (guests(scene, &say, interrupted)?, Clock::Ours),
        };
        let lines = scene.vms.iter().map(|_| VmLines { clock, ..VmLines::default() }).collect();
        Ok(Self { vms, heard, lines })
    }

    /// Takes what the VMs have said since.
    ///
    /// # Errors
    /// If one of them is gone.
    pub(super) fn listen(&mut self) -> Result<()> {
        while let Ok(heard) = self.heard.try_recv() {
            self.take(&heard);
        }
        for vm in 0..self.vms.len() {
            if self.lines[vm].report.is_some() {
                continue;
            }
            let Err(gone) = self.vms[vm].check_alive() else { continue };
            // Its last words may still be on their way.
            let end = Instant::now() + LAST_WORDS_WITHIN;
            while self.lines[vm].report.is_none() {
                let rest = end.saturating_duration_since(Instant::now());
                let Ok(heard) = self.heard.recv_timeout(rest) else { return Err(gone) };
                self.take(&heard);
            }
        }
        Ok(())
    }

    fn take(&mut self, (vm, at, line): &Heard) {
        self.lines[*vm].take(line, *at);
    }

    /// Gives every load a command.
    pub(super) fn tell(&mut self, line: &str) -> Result<()> {
        self.vms.iter_mut().try_for_each(|vm| match vm {
            Vm::StandIn(child) => child.tell(line),
            Vm::Guest(guest) => guest.tell(line),
        })
    }

    /// Waits until every stand-in has ended by itself after `quit`.
    pub(super) fn wait(&mut self, bound: Duration) -> Result<()> {
        for vm in &mut self.vms {
            if let Vm::StandIn(child) = vm {
                child.wait(bound)?;
            }
        }
        Ok(())
    }
}

fn stand_in(scene: &Scene, plan: &VmPlan, number: usize, say: &mpsc::Sender<Heard>) -> Result<Vm> {
    let say = say.clone();
    let hear = move |line: String| say.send((number, unix_micros(), line)).is_ok();
    Ok(Vm::StandIn(Child::start(plan.name, &scene.vm_arguments(plan), &scene.file(""), hear)?))
}

/// A guest is driven by one thread: it carries lines both ways.
#[derive(Debug)]
struct GuestThread {
    tell: mpsc::Sender<String>,
    thread: Option<JoinHandle<Result<()>>>,
}

fn guests(scene: &Scene, say: &mpsc::Sender<Heard>, interrupted: &AtomicBool) -> Result<Vec<Vm>> {
    let kernel = Kernel::find_or_fetch()?;
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let image = Image::build(&kernel, &program, &scene.file(""))?;
    let mut booting = Vec::new();
    for plan in &scene.vms {
        let dir = scene.file(&format!("guest-{}", plan.name));
        std::fs::create_dir_all(&dir)?;
        let disk = GuestDisk { front_end: scene.front_end, socket: scene.disk_socket(plan.name) };
        let qmp = scene.qmp_socket(plan.name);
        let config = GuestConfig {
            name: plan.name.to_owned(),
            disks: vec![disk],
            qmp,
            memory_mib: MEMORY_MIB,
            within: Vec::new(),
            dir,
        };
        booting.push(Guest::start(&image, &config)?);
    }
    let mut vms = Vec::new();
    for ((number, plan), mut guest) in scene.vms.iter().enumerate().zip(booting) {
        wait_ready(&mut guest, interrupted)?;
        let load = format!(
            "vmpath lab verify --device /dev/vda --paused --sample-every 200ms --slots 16 --rate {} --sizes 64KiB --read 40",
            plan.offered()
        );
        guest.send(&load)?;
        let (tell, told) = mpsc::channel();
        let say = say.clone();
        let thread = std::thread::spawn(move || {
            carry(guest, &told, |line| say.send((number, unix_micros(), line)).is_ok())
        });
        vms.push(Vm::Guest(GuestThread { tell, thread: Some(thread) }));
    }
    Ok(vms)
}

/// As [`Guest::wait_ready`], but ends early when the demo does.
fn wait_ready(guest: &mut Guest, interrupted: &AtomicBool) -> Result<()> {
    let end = Instant::now() + BOOT_BOUND;
    while guest.next_line(Duration::from_millis(100))? != Some(Line::Ready) {
        ensure!(!interrupted.load(Ordering::Relaxed), "interrupted");
        ensure!(
            Instant::now() < end,
            "guest {} does not boot; see {}",
            guest.name(),
            guest.console().display()
        );
    }
    Ok(())
}

/// Carries lines until the fleet lets go of its end.
fn carry(mut guest: Guest, told: &mpsc::Receiver<String>, say: impl Fn(String) -> bool) -> Result<()> {
    loop {
        match told.try_recv() {
            Ok(line) => guest.send(&line)?,
            Err(mpsc::TryRecvError::Disconnected) => return Ok(()),
            Err(mpsc::TryRecvError::Empty) => {}
        }
        if let Some(Line::Output(line)) = guest.next_line(Duration::from_millis(20))?
            && !say(line)
        {
            return Ok(());
        }
    }
}

impl GuestThread {
    fn tell(&mut self, line: &str) -> Result<()> {
        let sent = self.tell.send(line.to_owned());
        if sent.is_err() { self.check_alive() } else { Ok(()) }
    }

    fn check_alive(&mut self) -> Result<()> {
        match self.thread.take_if(|thread| thread.is_finished()) {
            None => Ok(()),
            Some(thread) => match thread.join() {
                Ok(Err(why)) => Err(why),
                Ok(Ok(())) | Err(_) => anyhow::bail!("a guest is gone"),
            },
        }
    }
}

impl Drop for GuestThread {
    fn drop(&mut self) {
        let (closed, _) = mpsc::channel();
        self.tell = closed;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
