//! What the demo shows while it runs and when it is over.
//!
//! On a terminal the state is redrawn in place; elsewhere a line is written each second. Invariant: nothing is shown
//! that is not in the report. Rejected: a full-screen interface: the demo should leave its output behind.
//! It does not know: what is good or bad.

use super::journal::{Entry, seconds_since};
use super::scene::{PORTALS, Scene, TARGET};
use crate::units::MIB;
use serde_json::Value;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Pauses between plain lines.
const LINE_EVERY: Duration = Duration::from_secs(1);
/// Pauses between redraws.
const DRAW_EVERY: Duration = Duration::from_millis(200);

/// One VM's row.
#[derive(Clone, Debug)]
pub(super) struct VmRow {
    pub(super) state: String,
    /// Bytes per second that the guest got lately.
    pub(super) rate: f64,
    pub(super) held: u64,
    pub(super) because: String,
}

/// One portal's row.
#[derive(Clone, Debug)]
pub(super) struct PathRow {
    pub(super) health: String,
    pub(super) rate: f64,
    pub(super) pending: u64,
    pub(super) reason: String,
}

/// Everything that is shown at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Picture {
    pub(super) phase: String,
    pub(super) vms: Vec<VmRow>,
    pub(super) paths: Vec<PathRow>,
}

#[derive(Debug)]
pub(super) struct Table {
    terminal: bool,
    born: Instant,
    drawn: Option<Instant>,
    /// Lines on the screen to be overwritten.
    height: usize,
}

impl Table {
    pub(super) fn new() -> Self {
        Self { terminal: std::io::stdout().is_terminal(), born: Instant::now(), drawn: None, height: 0 }
    }

    /// Says something that stays.
    pub(super) fn say(&mut self, text: &str) {
        self.height = 0;
        println!("{text}");
    }

    /// Shows the picture, if it is time.
    pub(super) fn show(&mut self, scene: &Scene, picture: &Picture) {
        let every = if self.terminal { DRAW_EVERY } else { LINE_EVERY };
        if self.drawn.is_some_and(|drawn| drawn.elapsed() < every) {
            return;
        }
        self.drawn = Some(Instant::now());
        let seconds = self.born.elapsed().as_secs_f64();
        if !self.terminal {
            println!("{}", line(scene, picture, seconds));
            return;
        }
        let rows = rows(scene, picture, seconds);
        let mut out = std::io::stdout().lock();
        if self.height > 0 {
            let _ = write!(out, "\x1b[{}A", self.height);
        }
        for row in &rows {
            let _ = writeln!(out, "\x1b[2K{row}");
        }
        let _ = out.flush();
        self.height = rows.len();
    }
}

fn mib(rate: f64) -> f64 {
    rate / MIB as f64
}

fn line(scene: &Scene, picture: &Picture, seconds: f64) -> String {
    let vms = scene.vms.iter().zip(&picture.vms).map(|(plan, row)| {
        let state = if row.state == "running" { String::new() } else { format!(" {}", row.state) };
        format!("{} {:.1}{state}", plan.name, mib(row.rate))
    });
    let paths = PORTALS
        .iter()
        .zip(&picture.paths)
        .map(|(name, row)| format!("{name} {} {:.1}", row.health, mib(row.rate)));
    let shown: Vec<String> = vms.chain(paths).collect();
    format!("{seconds:5.1} s  {:<10} {}  MiB/s", picture.phase, shown.join(" | "))
}

fn rows(scene: &Scene, picture: &Picture, seconds: f64) -> Vec<String> {
    let mut rows = vec![format!("{seconds:5.1} s  phase: {}", picture.phase)];
    rows.push(format!(
        "  {:<8} {:>8} {:>9} {:>9} {:>6}  {:<12}",
        "VM", "priority", "reserved", "MiB/s", "held", "state"
    ));
    for (plan, row) in scene.vms.iter().zip(&picture.vms) {
        rows.push(format!(
            "  {:<8} {:>8} {:>9.0} {:>9.1} {:>6}  {:<12} {}",
            plan.name,
            plan.priority,
            mib(plan.reservation as f64),
            mib(row.rate),
            row.held,
            row.state,
            cut(&row.because, 60)
        ));
    }
    rows.push(format!("  {:<8} {:>8} {:>9} {:>9}", "path", "pending", "capacity", "MiB/s"));
    for (name, row) in PORTALS.iter().zip(&picture.paths) {
        rows.push(format!(
            "  {:<8} {:>8} {:>9.0} {:>9.1}         {:<12} {}",
            format!("{TARGET}/{name}"),
            row.pending,
            mib(scene.capacity as f64),
            mib(row.rate),
            row.health,
            cut(&row.reason, 60)
        ));
    }
    rows
}

fn cut(text: &str, chars: usize) -> String {
    if text.chars().count() <= chars {
        return text.to_owned();
    }
    text.chars().take(chars.saturating_sub(1)).chain(['…']).collect()
}

/// The journal for people: what happened, to whom, why, until when.
pub(super) fn timeline(entries: &[Entry], zero_unix_us: u64) -> String {
    let mut out = String::new();
    for entry in entries {
        let at = seconds_since(zero_unix_us, entry.at_unix_us);
        let until = if entry.until.is_empty() { String::new() } else { format!(" (until: {})", entry.until) };
        let subject = entry.subject.as_str();
        out.push_str(&format!("  {at:8.3} s  {:<17} {subject:<8}  {}{until}\n", entry.kind, entry.reason));
    }
    out
}

/// The rows of the API's answers, in the scene's order.
pub(super) fn picture(scene: &Scene, phase: &str, vms: &Value, paths: &Value, rates: &[f64]) -> Picture {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let find = |rows: &Value, name: &str| {
        let all = rows.as_array().cloned().unwrap_or_default();
        all.into_iter().find(|row| row["name"] == name).unwrap_or_default()
    };
    let vm_row = |(plan, rate): (&super::scene::VmPlan, &f64)| {
        let row = find(&vms["vms"], plan.name);
        let because = row["because"].as_array().and_then(|b| b.last()).map(text).unwrap_or_default();
        VmRow { state: text(&row["state"]), rate: *rate, held: row["held"].as_u64().unwrap_or(0), because }
    };
    let path_row = |name: &&str| {
        let row = find(&paths["paths"], name);
        PathRow {
            health: text(&row["health"]),
            rate: row["rate_bytes_per_second"].as_f64().unwrap_or(0.0),
            pending: row["pending_requests"].as_u64().unwrap_or(0),
            reason: text(&row["reason"]),
        }
    };
    Picture {
        phase: phase.to_owned(),
        vms: scene.vms.iter().zip(rates).map(vm_row).collect(),
        paths: PORTALS.iter().map(path_row).collect(),
    }
}
