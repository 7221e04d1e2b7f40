//! What the board knows and how it is looked at: looks and keys in, rows in order out.
//!
//! Invariant: a key or a look changes the board and nothing else; drawing changes only how far its tables are scrolled.
//! While it is paused it goes on measuring, so that the first rate after the pause is not an average over it.

use super::flow::{Flow, Flows, Meter};
use super::look::Look;
use crate::api::client::CallError;
use crate::api::wire;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::widgets::TableState;
use std::cmp::{Ordering, Reverse};

/// Rows that a page key moves by.
const PAGE: i32 = 10;

/// A look, and what flowed since the one before.
#[derive(Clone, Debug)]
pub(super) struct Scene {
    pub(super) look: Look,
    pub(super) flows: Flows,
}

/// What is known of the daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Daemon {
    /// Not yet asked.
    #[default]
    Unknown,
    Answers,
    /// Why not, in one line, and how many looks in a row failed.
    Silent {
        why: String,
        looks: u32,
    },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Sort {
    #[default]
    Priority,
    Served,
    Name,
    Requests,
    Held,
    Unmet,
}

impl Sort {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Priority => "priority",
            Self::Served => "served",
            Self::Name => "name",
            Self::Requests => "IO/s",
            Self::Held => "held",
            Self::Unmet => "unmet",
        }
    }

    const fn of_key(key: char) -> Option<Self> {
        match key {
            'p' => Some(Self::Priority),
            's' => Some(Self::Served),
            'n' => Some(Self::Name),
            'i' => Some(Self::Requests),
            'h' => Some(Self::Held),
            'u' => Some(Self::Unmet),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Focus {
    #[default]
    Vms,
    /// The lower part shows the selected path's share by VM.
    Paths,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    GoOn,
    Quit,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Board {
    pub(super) daemon: Daemon,
    pub(super) scene: Option<Scene>,
    /// The newest one, if another is kept on the screen.
    waiting: Option<Scene>,
    meter: Meter,
    pub(super) paused: bool,
    pub(super) sort: Sort,
    pub(super) reversed: bool,
    pub(super) focus: Focus,
    pub(super) filter: String,
    /// Keys go into the filter.
    pub(super) typing: bool,
    pub(super) path_table: TableState,
    pub(super) vm_table: TableState,
}

impl Board {
    pub(super) fn looked(&mut self, look: Result<Look, CallError>) {
        match look {
            Ok(look) => {
                let flows = self.meter.measure(&look);
                let slot = if self.paused { &mut self.waiting } else { &mut self.scene };
                *slot = Some(Scene { look, flows });
                self.daemon = Daemon::Answers;
            }
            Err(error) => {
                let before = if let Daemon::Silent { looks, .. } = self.daemon { looks } else { 0 };
                let text = error.to_string();
                let why = text.lines().next().unwrap_or_default().to_owned();
                self.daemon = Daemon::Silent { why, looks: before.saturating_add(1) };
            }
        }
    }

    pub(super) fn key(&mut self, key: KeyEvent) -> After {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return if key.code == KeyCode::Char('c') { After::Quit } else { After::GoOn };
        }
        if self.typing {
            self.type_filter(key.code);
            return After::GoOn;
        }
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return After::Quit,
            KeyCode::Tab | KeyCode::BackTab => {
                self.focus = match self.focus {
                    Focus::Vms => {
                        // The one whose shares are shown is marked from the first.
                        self.path_table.select(self.path_table.selected().or(Some(0)));
                        Focus::Paths
                    }
                    Focus::Paths => Focus::Vms,
                };
            }
            KeyCode::Up | KeyCode::Char('k') => self.scroll(-1),
            KeyCode::Down | KeyCode::Char('j') => self.scroll(1),
            KeyCode::PageUp => self.scroll(-PAGE),
            KeyCode::PageDown => self.scroll(PAGE),
            KeyCode::Home => self.scroll(i32::MIN),
            KeyCode::End => self.scroll(i32::MAX),
            KeyCode::Char('/') => self.typing = true,
            KeyCode::Char(' ') => self.pause(),
            KeyCode::Char('r') => self.reversed = !self.reversed,
            KeyCode::Char(key) => {
                if let Some(sort) = Sort::of_key(key) {
                    (self.sort, self.reversed) = (sort, false);
                }
            }
            // Of all the keys that a keyboard has, no other means anything here.
            _ => {}
        }
        After::GoOn
    }

    fn type_filter(&mut self, key: KeyCode) {
        match key {
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => {
                self.typing = false;
                self.filter.clear();
            }
            KeyCode::Backspace => {
                self.filter.pop();
            }
            KeyCode::Char(letter) => self.filter.push(letter),
            _ => {}
        }
        // The rows are others now.
        self.vm_table.select(Some(0));
    }

    fn pause(&mut self) {
        self.paused = !self.paused;
        if !self.paused && self.waiting.is_some() {
            self.scene = self.waiting.take();
        }
    }

    /// Moves the selection of the table in focus, and stays within it.
    fn scroll(&mut self, rows: i32) {
        let count = match self.focus {
            Focus::Vms => self.vms().len(),
            Focus::Paths => self.paths().len(),
        };
        let table = match self.focus {
            Focus::Vms => &mut self.vm_table,
            Focus::Paths => &mut self.path_table,
        };
        // Nothing is marked until the first of these keys: one down marks the first.
        let at = table.selected().map_or(-1, |at| i64::try_from(at).unwrap_or(0)) + i64::from(rows);
        let last = count.saturating_sub(1);
        table.select(Some(usize::try_from(at.max(0)).unwrap_or(0).min(last)));
    }

    pub(super) fn paths(&self) -> &[wire::Path] {
        self.scene.as_ref().map_or(&[], |scene| &scene.look.paths.paths)
    }

    /// The one whose shares are shown.
    pub(super) fn selected_path(&self) -> Option<&wire::Path> {
        let paths = self.paths();
        paths.get(self.path_table.selected().unwrap_or(0).min(paths.len().saturating_sub(1)))
    }

    /// Those that the filter lets through, in order.
    pub(super) fn vms(&self) -> Vec<&wire::Vm> {
        let Some(scene) = &self.scene else { return Vec::new() };
        let wanted = self.filter.to_lowercase();
        let all = scene.look.vms.vms.iter();
        let mut vms: Vec<_> = all.filter(|vm| vm.name.to_lowercase().contains(&wanted)).collect();
        vms.sort_by(|a, b| {
            let order = self.order(scene, a, b);
            if self.reversed { order.reverse() } else { order }
        });
        vms
    }

    /// The largest first, but names as in a book; what is equal, by name.
    fn order(&self, scene: &Scene, a: &wire::Vm, b: &wire::Vm) -> Ordering {
        let number = |vm: &wire::Vm| match self.sort {
            Sort::Priority => u64::from(vm.priority),
            Sort::Served => scene.served(vm),
            Sort::Name => 0,
            Sort::Requests => scene.flow_of(vm).map_or(0, |flow| flow.requests),
            Sort::Held => u64::from(vm.held),
            Sort::Unmet => vm.reservation_unmet_bytes_per_second,
        };
        (Reverse(number(a)), &a.name).cmp(&(Reverse(number(b)), &b.name))
    }
}

impl Scene {
    pub(super) fn flow_of(&self, vm: &wire::Vm) -> Option<Flow> {
        self.flows.vms.get(&vm.name).copied()
    }

    /// Bytes per second; of the first look, as the daemon says.
    pub(super) fn served(&self, vm: &wire::Vm) -> u64 {
        self.flow_of(vm).map_or(vm.rate_bytes_per_second, |flow| flow.bytes)
    }

    pub(super) fn flow_of_path(&self, path: &wire::Path) -> Option<Flow> {
        self.flows.paths.get(&format!("{}/{}", path.target, path.name)).copied()
    }

    /// Bytes per second; of the first look, as the daemon says.
    pub(super) fn carried(&self, path: &wire::Path) -> u64 {
        self.flow_of_path(path).map_or(path.rate_bytes_per_second, |flow| flow.bytes)
    }
}
