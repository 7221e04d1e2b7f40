//! A frame: header, paths, VMs or one path's share by VM, a line of keys.
//!
//! Invariant: any area is drawn, however small: what does not fit is left out from below, and nothing panics.

use super::board::{Board, Daemon, Focus, Scene};
use super::cells::{Paint, amount, heading, mib, mib_or_dash, time};
use super::tables::{self, path_name};
use crate::api::wire;
use crate::cli::text::{ago, plural, utc};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::Widget;
use std::collections::BTreeMap;

/// Lines of the header, and the blank one under it.
const HEADER: u16 = 4;

/// Paths that are shown whatever the height; of a tall screen, a third is theirs.
const PATHS_MIN: u16 = 2;

const KEYS: &str = "q quit  Tab paths/VMs  p s n i h u sort  r reverse  / filter  space pause";

/// Draws over the whole area.
pub(super) fn live(board: &mut Board, paint: Paint, area: Rect, buffer: &mut Buffer) {
    let keys = area.height.min(1);
    let body = Rect { height: area.height - keys, ..area };
    let rest = top(board, paint, body, buffer);
    let vms = list_head(board, paint, rest, buffer);
    match (board.focus, board.selected_path().cloned()) {
        (Focus::Paths, Some(path)) if path.carried.is_empty() => {
            Line::from("   it has lately carried nothing").render(vms, buffer);
        }
        (Focus::Paths, Some(path)) => tables::shares(board, &path, paint, vms, buffer),
        (Focus::Paths, None) | (Focus::Vms, _) => tables::vms(board, paint, vms, buffer),
    }
    let bottom = Rect { y: area.y + body.height, height: keys, ..area };
    let line = if board.typing {
        Line::from(format!("/{}_   Enter keeps the filter, Esc clears it", board.filter))
    } else {
        Line::from(Span::styled(KEYS, paint.quiet()))
    };
    line.render(bottom, buffer);
}

/// Everything, as text: as many lines as it takes, and under the paths each one's share by VM.
pub(super) fn plain(board: &mut Board, width: u16) -> String {
    let rows = |count: usize| u16::try_from(count).unwrap_or(u16::MAX / 4).min(u16::MAX / 4);
    let (paths, vms) = (rows(board.paths().len()), rows(board.vms().len()));
    let area = Rect::new(0, 0, width.max(1), HEADER + paths + 1);
    let mut text = String::new();
    let mut buffer = Buffer::empty(area);
    header(board, Paint::Plain, area, &mut buffer);
    tables::paths(board, Paint::Plain, below(area, HEADER), &mut buffer);
    text.push_str(&text_of(&buffer));
    for path in board.paths().iter().filter(|path| !path.carried.is_empty()) {
        let share = |share: &wire::Carried| format!("{} {:.1} %", share.vm, share.share_percent);
        let shares: Vec<_> = path.carried.iter().map(share).collect();
        text.push_str(&format!("{} for {}\n", path_name(path), shares.join(", ")));
    }
    let area = Rect::new(0, 0, width.max(1), vms + 2);
    let mut buffer = Buffer::empty(area);
    tables::vms(board, Paint::Plain, below(area, 1), &mut buffer);
    text + &text_of(&buffer)
}

fn text_of(buffer: &Buffer) -> String {
    let width = usize::from(buffer.area.width).max(1);
    let lines = buffer.content.chunks(width);
    let text = |line: &[ratatui::buffer::Cell]| {
        let line: String = line.iter().map(ratatui::buffer::Cell::symbol).collect();
        format!("{}\n", line.trim_end())
    };
    lines.map(text).collect()
}

/// Header and paths; what is left under them.
fn top(board: &mut Board, paint: Paint, area: Rect, buffer: &mut Buffer) -> Rect {
    header(board, paint, area, buffer);
    let rest = below(area, HEADER);
    if board.scene.is_none() {
        return below(rest, rest.height);
    }
    let paths = u16::try_from(board.paths().len()).unwrap_or(u16::MAX);
    let room = (area.height / 3).max(PATHS_MIN);
    let height = paths.min(room).saturating_add(1).min(rest.height);
    tables::paths(board, paint, Rect { height, ..rest }, buffer);
    below(rest, height)
}

/// The area without its first lines.
fn below(area: Rect, lines: u16) -> Rect {
    let lines = lines.min(area.height);
    Rect { y: area.y + lines, height: area.height - lines, ..area }
}

fn header(board: &Board, paint: Paint, area: Rect, buffer: &mut Buffer) {
    let lines = match &board.scene {
        Some(scene) => vec![host(board, scene, paint), totals(scene), incidents(scene, paint)],
        None => vec![Line::from(Span::styled("vmpath", heading()))],
    };
    let alarm = alarm(board, paint);
    // Over the incidents: they are old news if nobody answers.
    let told = lines.into_iter().take(if alarm.is_some() { 2 } else { 3 }).chain(alarm);
    for (line, y) in told.zip(area.y..area.bottom()) {
        line.render(Rect { y, height: 1, ..area }, buffer);
    }
}

fn host(board: &Board, scene: &Scene, paint: Paint) -> Line<'static> {
    let host = &scene.look.host;
    let up = ago(host.at_unix_us, host.daemon_started_unix_us);
    let clock: String =
        utc(scene.look.vms.counted_unix_us.unwrap_or(host.at_unix_us)).chars().skip(11).take(8).collect();
    let mut spans = vec![
        Span::styled(format!("vmpath {}", host.name), heading()),
        Span::raw(format!("  up {up}  generation {}  {clock} UTC", host.generation)),
    ];
    if board.paused {
        spans.push(Span::raw("  "));
        spans.push(Span::styled("paused", paint.alarm()));
    }
    Line::from(spans)
}

fn totals(scene: &Scene) -> Line<'static> {
    let vms = &scene.look.vms.vms;
    let bytes: u64 = vms.iter().map(|vm| scene.served(vm)).sum();
    let requests: u64 = vms.iter().filter_map(|vm| scene.flow_of(vm)).map(|flow| flow.requests).sum();
    let held: u64 = vms.iter().map(|vm| u64::from(vm.held)).sum();
    let (paths, vms) = (counts(&scene.look.host.paths), counts(&scene.look.host.vms));
    Line::from(format!("{} MiB/s  {requests} IO/s  {held} held  paths {paths}  VMs {vms}", mib(bytes)))
}

/// `2 up, 1 down`: those that are there.
fn counts(counts: &BTreeMap<String, usize>) -> String {
    let mut there: Vec<_> = counts.iter().filter(|(_, count)| **count > 0).collect();
    there.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
    let there: Vec<_> = there.into_iter().map(|(word, count)| format!("{count} {word}")).collect();
    if there.is_empty() { "none".into() } else { there.join(", ") }
}

fn incidents(scene: &Scene, paint: Paint) -> Line<'static> {
    let open = &scene.look.incidents.incidents;
    let Some(newest) = open.iter().max_by_key(|incident| incident.opened_unix_us) else {
        return Line::from(Span::styled("no open incident", paint.good()));
    };
    let count = plural(open.len(), "open incident");
    let text = format!("{count}: {} {}", newest.incident, newest.summary);
    Line::from(Span::styled(text, paint.bad()))
}

/// That the daemon does not answer.
fn alarm(board: &Board, paint: Paint) -> Option<Line<'static>> {
    let text = match (&board.daemon, &board.scene) {
        (Daemon::Answers, _) => return None,
        (Daemon::Unknown, _) => return Some(Line::from("asking the daemon ...")),
        (Daemon::Silent { why, looks }, Some(_)) => {
            format!("NO ANSWER ({}), these numbers are old: {why}", plural(*looks as usize, "look"))
        }
        (Daemon::Silent { why, looks }, None) => {
            format!("NO ANSWER ({}), trying again: {why}", plural(*looks as usize, "look"))
        }
    };
    Some(Line::from(Span::styled(text, paint.alarm())))
}

/// Says what the list below holds and in which order; the area under it.
fn list_head(board: &Board, paint: Paint, area: Rect, buffer: &mut Buffer) -> Rect {
    let Some(scene) = &board.scene else { return area };
    let lines = match (board.focus, board.selected_path()) {
        (Focus::Paths, Some(path)) => path_head(path, paint),
        (Focus::Paths, None) | (Focus::Vms, _) => vec![vm_head(board, scene)],
    };
    let height = u16::try_from(lines.len()).unwrap_or(0).min(area.height);
    for (line, y) in lines.into_iter().zip(area.y..area.y + height) {
        line.render(Rect { y, height: 1, ..area }, buffer);
    }
    below(area, height)
}

fn vm_head(board: &Board, scene: &Scene) -> Line<'static> {
    let (shown, all) = (board.vms().len(), scene.look.vms.vms.len());
    let count = if board.filter.is_empty() {
        plural(all, "VM")
    } else {
        format!("{shown} of {} with \"{}\"", plural(all, "VM"), board.filter)
    };
    let order = if board.reversed { ", reversed" } else { "" };
    Line::from(Span::styled(format!("-- {count} by {}{order}", board.sort.as_str()), Style::new()))
}

/// The selected path in full, whatever columns the width left out.
fn path_head(path: &wire::Path, paint: Paint) -> Vec<Line<'static>> {
    let load = format!(
        "-- {}: window {} of at most {}, {} pending, service {}",
        path_name(path),
        amount(path.window_bytes),
        amount(path.window_max_bytes),
        plural(path.pending_requests as usize, "request"),
        time(path.service_time_us),
    );
    let (can, capacity) = (mib(path.estimate_bytes_per_second), mib_or_dash(path.capacity_bytes_per_second));
    let rates = format!("   carries up to {can} MiB/s as seen; capacity in MiB/s: {capacity}; {}", path.url);
    let reason =
        path.reason.iter().map(|reason| Line::from(Span::styled(format!("   {reason}"), paint.bad())));
    [Line::from(load), Line::from(rates)].into_iter().chain(reason).collect()
}
