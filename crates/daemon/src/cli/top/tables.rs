//! The three tables: paths, VMs, one path's share by VM. Columns come and go with the width, the least needed first.
//!
//! Rejected: letting the layout squeeze all columns. Half of a number is a wrong number.

use super::board::{Board, Focus, Scene};
use super::cells::{Paint, amount, bar, fit, heading, mib, mib_or_dash, selected, time};
use super::columns::Width::{Bar, Name, Number, Text};
use super::columns::{Column, NAME_MAX, column, widths};
use super::flow::Flow;
use crate::api::{wire, words};
use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Row, StatefulWidget, Table, TableState};

/// A path and what flowed over it.
struct PathRow<'a> {
    path: &'a wire::Path,
    scene: &'a Scene,
}

struct VmRow<'a> {
    vm: &'a wire::Vm,
    scene: &'a Scene,
}

struct ShareRow<'a> {
    share: &'a wire::Carried,
    /// None if it has just gone.
    vm: Option<&'a wire::Vm>,
}

fn path_columns<'a>() -> Vec<Column<PathRow<'a>>> {
    type Row<'a> = PathRow<'a>;
    vec![
        column("PATH", Name(8), 0, |row: &Row<'_>, width, _| fit(&path_name(row.path), width).into()),
        column("HEALTH", Text(8), 0, |row: &Row<'_>, _, paint| health(row.path, paint)),
        column("ACCESS", Text(9), 80, |row: &Row<'_>, _, _| access(row.path).into()),
        column("REQ", Number(4), 50, |row: &Row<'_>, _, _| row.path.pending_requests.to_string().into()),
        column("PENDING/WINDOW", Bar(14), 64, |row: &Row<'_>, width, paint| window(row.path, width, paint)),
        column("MAX", Number(4), 100, |row: &Row<'_>, _, _| amount(row.path.window_max_bytes).into()),
        column("SERVICE", Number(8), 40, |row: &Row<'_>, _, _| time(row.path.service_time_us).into()),
        column("MiB/s", Number(6), 0, |row: &Row<'_>, _, _| mib(row.scene.carried(row.path)).into()),
        column("CAN", Number(6), 72, |row: &Row<'_>, _, _| mib(row.path.estimate_bytes_per_second).into()),
        column("CAP", Number(6), 100, |row: &Row<'_>, _, _| {
            mib_or_dash(row.path.capacity_bytes_per_second).into()
        }),
        column("IO/s", Number(7), 110, |row: &Row<'_>, _, _| {
            requests(row.scene.flow_of_path(row.path)).into()
        }),
        column("ERRORS", Number(6), 56, |row: &Row<'_>, _, paint| errors(row, paint)),
    ]
}

fn vm_columns<'a>() -> Vec<Column<VmRow<'a>>> {
    type Row<'a> = VmRow<'a>;
    let reserved = |row: &Row<'_>, _, _| mib_or_dash(row.vm.reservation_bytes_per_second).into();
    let entitled = |row: &Row<'_>, _, _| mib_or_dash(row.vm.entitled_bytes_per_second).into();
    let limit = |row: &Row<'_>, _, _| mib_or_dash(row.vm.limit_bytes_per_second).into();
    let group = |row: &Row<'_>, width, _| fit(row.vm.group.as_deref().unwrap_or("-"), width).into();
    vec![
        column("VM", Name(8), 0, |row: &Row<'_>, width, _| fit(&row.vm.name, width).into()),
        column("PRIO", Number(4), 44, |row: &Row<'_>, _, _| row.vm.priority.to_string().into()),
        column("SHARES", Number(6), 100, |row: &Row<'_>, _, _| row.vm.shares.to_string().into()),
        column("GROUP", Text(8), 110, group),
        column("MiB/s", Number(6), 0, |row: &Row<'_>, _, _| mib(row.scene.served(row.vm)).into()),
        column("ENTITLED", Number(8), 72, entitled),
        column("LIMIT", Number(6), 100, limit),
        column("RESERVED", Number(8), 72, reserved),
        column("UNMET", Number(6), 50, |row: &Row<'_>, _, paint| unmet(row.vm, paint)),
        column("IO/s", Number(7), 64, |row: &Row<'_>, _, _| requests(row.scene.flow_of(row.vm)).into()),
        column("OPEN", Number(4), 72, |row: &Row<'_>, _, _| row.vm.in_flight.to_string().into()),
        column("HELD", Number(5), 36, |row: &Row<'_>, _, _| row.vm.held.to_string().into()),
        column("WHY", Text(12), 56, |row: &Row<'_>, width, paint| why(row.vm, width, paint)),
    ]
}

fn share_columns<'a>() -> Vec<Column<ShareRow<'a>>> {
    type Row<'a> = ShareRow<'a>;
    vec![
        column("VM", Name(8), 0, |row: &Row<'_>, width, _| fit(&row.share.vm, width).into()),
        column("PRIO", Number(4), 44, |row: &Row<'_>, _, _| {
            row.vm.map_or_else(|| "-".into(), |vm| vm.priority.to_string()).into()
        }),
        column("MiB/s", Number(6), 0, |row: &Row<'_>, _, _| mib(row.share.bytes_per_second).into()),
        column("SHARE", Number(7), 0, |row: &Row<'_>, _, _| {
            format!("{:.1} %", row.share.share_percent).into()
        }),
        column("", Bar(20), 50, |row: &Row<'_>, width, paint| share_bar(row.share, width, paint)),
    ]
}

pub(super) fn paths(board: &mut Board, paint: Paint, area: Rect, buffer: &mut Buffer) {
    let Some(scene) = &board.scene else { return };
    let rows: Vec<_> = scene.look.paths.paths.iter().map(|path| PathRow { path, scene }).collect();
    let mut state = board.path_table;
    let frame = Frame { paint, area, focused: board.focus == Focus::Paths };
    frame.draw(&path_columns(), &rows, &mut state, buffer);
    board.path_table = state;
}

pub(super) fn vms(board: &mut Board, paint: Paint, area: Rect, buffer: &mut Buffer) {
    let Some(scene) = &board.scene else { return };
    let rows: Vec<_> = board.vms().into_iter().map(|vm| VmRow { vm, scene }).collect();
    let mut state = board.vm_table;
    let frame = Frame { paint, area, focused: board.focus == Focus::Vms };
    frame.draw(&vm_columns(), &rows, &mut state, buffer);
    board.vm_table = state;
}

pub(super) fn shares(board: &Board, path: &wire::Path, paint: Paint, area: Rect, buffer: &mut Buffer) {
    let all = board.scene.as_ref().map_or(&[][..], |scene| &scene.look.vms.vms);
    let row = |share| ShareRow { share, vm: vm_named(all, share) };
    let rows: Vec<_> = path.carried.iter().map(row).collect();
    Frame { paint, area, focused: false }.draw(&share_columns(), &rows, &mut TableState::default(), buffer);
}

fn vm_named<'a>(all: &'a [wire::Vm], share: &wire::Carried) -> Option<&'a wire::Vm> {
    all.iter().find(|vm| vm.name == share.vm)
}

/// Where a table goes, and how it looks.
struct Frame {
    paint: Paint,
    area: Rect,
    focused: bool,
}

impl Frame {
    fn draw<T>(&self, columns: &[Column<T>], rows: &[T], state: &mut TableState, buffer: &mut Buffer) {
        let columns: Vec<_> = columns.iter().filter(|column| self.area.width >= column.from).collect();
        let name = |row| {
            columns.first().map_or(0, |first| (first.cell)(row, usize::from(NAME_MAX), self.paint).width())
        };
        let longest = rows.iter().map(name).max().unwrap_or(0);
        let widths = widths(&columns, self.area.width, u16::try_from(longest).unwrap_or(NAME_MAX));
        let header = columns.iter().map(|column| Cell::from(column.aligned(Line::from(column.title))));
        let lines = rows.iter().map(|row| {
            let cells = columns.iter().zip(&widths);
            Row::new(cells.map(|(column, width)| {
                Cell::from(column.aligned((column.cell)(row, usize::from(*width), self.paint)))
            }))
        });
        if let Some(at) = state.selected() {
            state.select(Some(at.min(rows.len().saturating_sub(1))));
        }
        let highlight = if self.focused { selected() } else { Style::new() };
        let table =
            Table::new(lines.collect::<Vec<_>>(), widths.iter().map(|width| Constraint::Length(*width)))
                .header(Row::new(header.collect::<Vec<_>>()).style(heading()))
                .column_spacing(1)
                .row_highlight_style(highlight);
        StatefulWidget::render(table, self.area, buffer, state);
    }
}

pub(super) fn path_name(path: &wire::Path) -> String {
    format!("{}/{}", path.target, path.name)
}

/// The health; of a path that is up and not preferred, that it stands by.
fn health(path: &wire::Path, paint: Paint) -> Line<'static> {
    let (word, style) = match (path.health.as_str(), path.preferred) {
        ("up", true) => ("up".into(), paint.good()),
        ("up", false) => ("standby".into(), paint.warning()),
        ("down", _) => ("down".into(), paint.bad()),
        (other, _) => (other.to_owned(), paint.warning()),
    };
    Line::from(Span::styled(word, style))
}

fn access(path: &wire::Path) -> String {
    if path.access == "non-optimized" { "non-opt".into() } else { path.access.clone() }
}

fn window(path: &wire::Path, width: usize, paint: Paint) -> Line<'static> {
    let text = format!("{}/{}", amount(path.pending_bytes), amount(path.window_bytes));
    let full = path.pending_bytes.saturating_mul(10) >= path.window_bytes.saturating_mul(9)
        && path.pending_bytes > 0;
    let style = if full { paint.warning() } else { paint.good() };
    bar_line(bar(path.pending_bytes, path.window_bytes, &text, width), style)
}

fn share_bar(share: &wire::Carried, width: usize, paint: Paint) -> Line<'static> {
    bar_line(bar((share.share_percent * 10.0) as u64, 1000, "", width), paint.good())
}

fn bar_line((full, rest): (String, String), style: Style) -> Line<'static> {
    Line::from(vec![Span::styled(full, style.add_modifier(Modifier::BOLD)), Span::raw(rest)])
}

/// All that there were; marked when there are new ones.
fn errors(row: &PathRow<'_>, paint: Paint) -> Line<'static> {
    let new = row.scene.flow_of_path(row.path).is_some_and(|flow| flow.errors > 0);
    let style = if new { paint.bad() } else { Style::new() };
    Line::from(Span::styled(row.path.errors.to_string(), style))
}

fn requests(flow: Option<Flow>) -> String {
    flow.map_or_else(|| "-".into(), |flow| flow.requests.to_string())
}

fn unmet(vm: &wire::Vm, paint: Paint) -> Line<'static> {
    match (vm.reservation_unmet_bytes_per_second, vm.reservation_bytes_per_second) {
        (0, None) => "-".into(),
        (0, Some(_)) => Line::from(Span::styled("met", paint.good())),
        (unmet, _) => Line::from(Span::styled(mib(unmet), paint.alarm())),
    }
}

/// What stops it, if anything does; else what holds most of its requests.
fn why(vm: &wire::Vm, width: usize, paint: Paint) -> Line<'static> {
    let state = match (vm.presence.as_str(), vm.state.as_str(), vm.gate.state.as_str()) {
        ("present", "running" | "unmanaged", "open" | "hold") => None,
        // Running, and its requests are answered with errors: no word matters more.
        ("present", "running" | "unmanaged", gate) => Some(gate),
        // Nothing is wrong with it: it is shown where it is.
        ("present", "elsewhere", _) => {
            let host = vm.other_host.as_deref().unwrap_or("another host");
            return fit(&format!("at {host}"), width).into();
        }
        ("present", state, _) => Some(state),
        (presence, _, _) => Some(presence),
    };
    let held = || vm.held_reasons.first().map(|held| words::held_short(&held.reason));
    match state {
        Some(state) => Line::from(Span::styled(fit(state, width), paint.bad())),
        None => Line::from(Span::styled(fit(held().unwrap_or(""), width), paint.warning())),
    }
}
