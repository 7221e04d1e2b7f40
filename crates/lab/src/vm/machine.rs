//! The stand-in's machine: its run state, and what QMP's commands do to it.
//!
//! ```text
//!            stop                                 a request fails
//! running ---------> paused            running ------------------> io-error
//!    ^                  |                 ^                            |
//!    +------- cont -----+                 +----------- cont -----------+
//! ```
//! Invariant: `stop` is answered when every disk has nothing open, and until then no other QMP command is carried out,
//! as in QEMU 7.2 (whose main loop waits); events are sent before. Rejected: a state per disk.
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
            "qom-get" => qom_get(&command),
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
            Event::Stopped => {
                if let Some(mut stopping) = self.stopping.take() {
                    stopping.waiting = stopping.waiting.saturating_sub(1);
                    if stopping.waiting > 0 {
                        self.stopping = Some(stopping);
                    } else if let Some(reply) = stopping.reply {
                        let _ = reply.send(Ok(json!({})));
                    }
                }
                None
            }
            Event::ReadBack { disk, blocks, mismatches } => {
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
        }
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
        self.disks.iter().map(row).collect()
    }
}

fn qom_get(command: &QmpCommand) -> Answer {
    let path = command.arguments["path"].as_str().unwrap_or_default();
    match command.arguments["property"].as_str().unwrap_or_default() {
        "werror" | "rerror" if path.starts_with("/machine/peripheral/") => Ok(json!("stop")),
        property => Err(("GenericError", format!("Property '{path}.{property}' not found"))),
    }
}
