//! The stand-in's machine: its run state, and what QMP's commands do to it.
//!
//! ```text
//!            stop                                 a request fails
//! running ---------> paused            running ------------------> io-error
//!    ^                  |                 ^                            |
//!    +------- cont -----+                 +----------- cont -----------+
//! ```
//! Invariant: `stop` is answered when every disk has stopped (over NBD: has nothing open), and until then no other QMP
//! command is carried out, as in QEMU 7.2 (whose main loop waits); events are sent before. Rejected: a state per disk.
//! It does not know: NBD, blocks.

use super::disk::{Event, Last, Order};
use super::monitor::{Answer, Asked, MonitorEvent};
use crate::clock::unix_micros;
use crate::workload::talk::{LineCommand, sum_samples};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::Instant;
use vmpath_protocol::qmp::{QmpCommand, RunState, StatusInfo};

/// A disk as the machine knows it.
#[derive(Debug)]
pub(super) struct DiskHandle {
    pub name: String,
    pub url: String,
    pub orders: mpsc::Sender<Order>,
    pub block: BlockNode,
}

/// Whether QEMU's block layer knows the disk: it knows nothing of vhost-user's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BlockNode {
    Known,
    Unknown,
}

/// A stop that waits for its disks.
#[derive(Debug)]
struct Stopping {
    waiting: usize,
    reply: Option<oneshot::Sender<Answer>>,
}

#[derive(Debug)]
pub(super) struct Machine {
    name: String,
    state: RunState,
    disks: Vec<DiskHandle>,
    stopping: Option<Stopping>,
    stopped_at: Option<Instant>,
    events: broadcast::Sender<MonitorEvent>,
    read_backs: Vec<Value>,
}

impl Machine {
    #[must_use]
    pub(super) fn new(name: String, disks: Vec<DiskHandle>, events: broadcast::Sender<MonitorEvent>) -> Self {
        let state = RunState::Running;
        Self { name, state, disks, stopping: None, stopped_at: None, events, read_backs: Vec::new() }
    }

    /// Whether QMP commands are carried out now.
    #[must_use]
    pub(super) fn takes_commands(&self) -> bool {
        self.stopping.is_none()
    }

    /// Carries a QMP command out; the answer may come later.
    pub(super) async fn command(&mut self, (command, reply): Asked) {
        let answer = match command.name.as_str() {
            "stop" => return self.stop(RunState::Paused, Some(reply)).await,
            "cont" => self.go_on().await,
            "query-status" => {
                Ok(StatusInfo { running: self.is_running(), status: self.state.clone() }.to_return())
            }
            "query-block" => Ok(self.query_block()),
            "qom-get" => self.qom_get(&command),
            "query-name" => Ok(json!({ "name": self.name })),
            "query-version" => {
                Ok(json!({ "qemu": { "major": 7, "minor": 2, "micro": 0 }, "package": " (vmpath lab)" }))
            }
            other => Err(("CommandNotFound", format!("The command {other} has not been found"))),
        };
        let _ = reply.send(answer);
    }

    /// Takes what a disk says; a line for the user may come of it.
    pub(super) async fn disk_event(&mut self, event: Event) -> Option<Value> {
        match event {
            Event::IoError { disk, write, why } => {
                self.io_error(disk, write).await;
                Some(json!({ "io_error": { "disk": self.disks[disk].name, "write": write, "why": why } }))
            }
            Event::GuestError { disk, write, why } => {
                Some(json!({ "io_error": { "disk": self.disks[disk].name, "write": write, "why": why } }))
            }
            Event::Stopped { detail } => {
                self.one_has_stopped();
                detail.map(|detail| json!({ "stopped": detail }))
            }
            Event::Link { disk, down } => {
                let state = if down.is_some() { "down" } else { "up" };
                let (name, at) = (&self.disks[disk].name, unix_micros());
                Some(json!({ "link": { "disk": name, "state": state, "why": down, "at_unix_us": at } }))
            }
            Event::ReadBack { disk, blocks, mismatches } => self.read_back(disk, blocks, mismatches),
        }
    }

    fn one_has_stopped(&mut self) {
        let Some(mut stopping) = self.stopping.take() else { return };
        stopping.waiting = stopping.waiting.saturating_sub(1);
        if stopping.waiting > 0 {
            self.stopping = Some(stopping);
        } else if let Some(reply) = stopping.reply {
            let _ = reply.send(Ok(json!({})));
        }
    }

    /// The line, when every disk has been read back.
    fn read_back(&mut self, disk: usize, blocks: u64, mismatches: u64) -> Option<Value> {
        let name = &self.disks[disk].name;
        self.read_backs.push(json!({ "disk": name, "blocks": blocks, "mismatches": mismatches }));
        if self.read_backs.len() < self.disks.len() {
            return None;
        }
        let disks = std::mem::take(&mut self.read_backs);
        let sum = |key: &str| disks.iter().filter_map(|d| d[key].as_u64()).sum::<u64>();
        Some(
            json!({ "readback": { "blocks": sum("blocks"), "mismatches": sum("mismatches"), "disks": disks } }),
        )
    }

    /// Hands a command of the load to every disk.
    pub(super) async fn line(&mut self, command: LineCommand) {
        for disk in &self.disks {
            let _ = disk.orders.send(Order::Line(command)).await;
        }
    }

    /// A sample line.
    pub(super) async fn sample(&self) -> Value {
        let mut sample = sum_samples(&self.ask(Order::Sample).await);
        sample["at_unix_us"] = json!(unix_micros());
        sample["run_state"] = json!(self.state.name());
        json!({ "sample": sample })
    }

    /// The report line; with the last one, what is still open counts as lost.
    pub(super) async fn report(&self, last: Last) -> Value {
        let reports = self.ask(|to| Order::Report { last, to }).await;
        let mut report = sum_samples(&reports);
        let named = self
            .disks
            .iter()
            .zip(&reports)
            .map(|(disk, report)| json!({ "name": disk.name, "report": report }));
        report["disks"] = named.collect();
        report["name"] = json!(self.name);
        report["run_state"] = json!(self.state.name());
        json!({ "report": report })
    }

    async fn ask(&self, order: impl Fn(oneshot::Sender<Value>) -> Order) -> Vec<Value> {
        let mut answers = Vec::new();
        for disk in &self.disks {
            let (to, answer) = oneshot::channel();
            let _ = disk.orders.send(order(to)).await;
            answers.extend(answer.await);
        }
        answers
    }

    fn is_running(&self) -> bool {
        self.state == RunState::Running
    }

    fn emit(&self, name: &'static str, data: Value) {
        // Nobody need be listening.
        let _ = self.events.send(MonitorEvent::now(name, data));
    }

    async fn stop(&mut self, why: RunState, reply: Option<oneshot::Sender<Answer>>) {
        if self.is_running() {
            self.state = why;
            self.stopped_at = Some(Instant::now());
            self.emit("STOP", Value::Null);
        }
        self.stopping = Some(Stopping { waiting: self.disks.len(), reply });
        for disk in &self.disks {
            let _ = disk.orders.send(Order::Stop).await;
        }
    }

    /// QEMU tells a client that continues a running machine of a stop and a resume all the same.
    async fn go_on(&mut self) -> Answer {
        if self.is_running() {
            self.emit("STOP", Value::Null);
            self.emit("RESUME", Value::Null);
            return Ok(json!({}));
        }
        self.state = RunState::Running;
        self.emit("RESUME", Value::Null);
        let stopped = self.stopped_at.take().map_or(Duration::ZERO, |at| at.elapsed());
        for disk in &self.disks {
            let _ = disk.orders.send(Order::Run { stopped }).await;
        }
        Ok(json!({}))
    }

    /// Only the first error of a running machine stops it; the rest are told, and kept by their disks.
    async fn io_error(&mut self, disk: usize, write: bool) {
        let data = json!({
            "device": "",
            "node-name": self.disks[disk].name,
            "operation": if write { "write" } else { "read" },
            "action": "stop",
            "nospace": false,
            "reason": "Input/output error",
        });
        self.emit("BLOCK_IO_ERROR", data);
        if self.is_running() && self.stopping.is_none() {
            self.stop(RunState::IoError, None).await;
        }
    }

    fn query_block(&self) -> Value {
        let row = |disk: &DiskHandle| {
            json!({
                "device": "",
                "qdev": format!("/machine/peripheral/{}/virtio-backend", disk.name),
                "type": "unknown",
                "removable": false,
                "locked": false,
                "io-status": "ok",
                "inserted": { "node-name": disk.name, "drv": "raw", "ro": false, "file": disk.url },
            })
        };
        let known = self.disks.iter().filter(|disk| disk.block == BlockNode::Known);
        known.map(row).collect()
    }

    fn qom_get(&self, command: &QmpCommand) -> Answer {
        let path = command.arguments["path"].as_str().unwrap_or_default();
        let property = command.arguments["property"].as_str().unwrap_or_default();
        let without = |disk: &DiskHandle| {
            disk.block == BlockNode::Unknown
                && path.starts_with(&format!("/machine/peripheral/{}/", disk.name))
        };
        match property {
            "werror" | "rerror"
                if path.starts_with("/machine/peripheral/") && !self.disks.iter().any(without) =>
            {
                Ok(json!("stop"))
            }
            _ => Err(("GenericError", format!("Property '{path}.{property}' not found"))),
        }
    }
}
