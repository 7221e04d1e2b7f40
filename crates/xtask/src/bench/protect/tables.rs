//! Everything that was measured, for people, and its medians for programs.

use super::figures::{Turn, VmRow};
use super::judge::{self, Findings, over_rounds};
use super::load::{BRONZE, CAPPED, CONTESTANTS, GOLD, NOISY, SILVER, shown_name};
use super::phase::Phase;
use crate::bench::table::{self, Spread};
use serde_json::{Map, Value, json};
use std::fmt::Write as _;

pub(super) const MIB: f64 = 1_048_576.0;

/// MiB/s of a VM in the steady part of a phase; of all noisy ones together.
fn throughput(turn: &Turn, phase: Phase, vm: &str) -> Option<f64> {
    let mine = turn.rows.iter().filter(|row| row.phase == phase && shown_name(&row.vm) == vm);
    mine.map(|row| row.throughput / MIB).reduce(|sum, more| sum + more)
}

fn total(turn: &Turn, phase: Phase) -> Option<f64> {
    turn.total(phase).map(|total| total / MIB)
}

/// Processors in use: our processes', and others'.
fn cpu(turn: &Turn, phase: Phase) -> Option<(f64, f64)> {
    let cpu = turn.cpu.iter().find(|cpu| cpu.phase == phase)?;
    Some((cpu.daemon + cpu.array + cpu.fleet, cpu.others()))
}

/// More than this of a processor for others, and a phase shows the machine and not the contestant.
const DISTURBED: f64 = 0.3;

/// A sentence if others have used the machine.
fn disturbance(turns: &[Turn]) -> String {
    let phases = turns.iter().flat_map(|turn| &turn.cpu);
    let disturbed = phases.clone().filter(|cpu| cpu.others() > DISTURBED).count();
    let all = phases.count();
    match disturbed {
        0 => String::new(),
        _ => format!(
            "\nIn {disturbed} of {all} phases other processes used more than {DISTURBED} of a processor: these figures are \
             not only the contestants'.\n"
        ),
    }
}

fn gold(turn: &Turn, phase: Phase, of: impl Fn(&VmRow) -> Option<f64>) -> Option<f64> {
    turn.row(phase, GOLD).and_then(of)
}

/// One line while it runs.
pub(super) fn said(turn: &Turn) -> String {
    let totals: Vec<String> = turn.totals.iter().map(|(_, bytes)| format!("{:.0}", bytes / MIB)).collect();
    let shown = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.2}"));
    format!(
        "{:12}  total {} MiB/s; path lost: gold keeps {} %, p99 {} times",
        turn.contestant,
        totals.join(" "),
        shown(judge::kept(turn)),
        shown(judge::slowdown(turn))
    )
}

pub(super) fn tables(found: &Findings) -> String {
    let turns = &found.turns;
    let mut text = String::new();
    for phase in Phase::ALL {
        _ = writeln!(text, "\n{}: MiB/s, and milliseconds of gold's requests", phase.title());
        text.push_str(&phase_table(turns, phase));
    }
    _ = writeln!(text, "\nWhat is kept, and to whom");
    text.push_str(&keeping_table(turns));
    text.push_str(&disturbance(turns));
    for failure in &found.failures {
        _ = writeln!(text, "\nnot measured: {failure}");
    }
    text.push('\n');
    text
}

fn played(turns: &[Turn]) -> impl Iterator<Item = &'static str> {
    let names = CONTESTANTS.iter().map(|contestant| contestant.name);
    names.filter(|name| turns.iter().any(|turn| turn.contestant == *name))
}

fn phase_table(turns: &[Turn], phase: Phase) -> String {
    let heads = [
        "",
        "total",
        GOLD,
        SILVER,
        BRONZE,
        CAPPED,
        NOISY,
        "gold p50",
        "p99",
        "p99.9",
        "with wait p99",
        "CPUs",
    ];
    let rows: Vec<Vec<String>> = played(turns)
        .map(|who| {
            let shown = |figure: &dyn Fn(&Turn) -> Option<f64>| table::shown(over_rounds(turns, who, figure));
            let mut row = vec![who.to_owned(), shown(&|turn| total(turn, phase))];
            for vm in [GOLD, SILVER, BRONZE, CAPPED, NOISY] {
                row.push(shown(&|turn| throughput(turn, phase, vm)));
            }
            row.push(shown(&|turn| gold(turn, phase, |row| row.latency.map(|all| all.p50))));
            row.push(shown(&|turn| gold(turn, phase, |row| row.latency.map(|all| all.p99))));
            row.push(shown(&|turn| gold(turn, phase, |row| row.latency.map(|all| all.p999))));
            row.push(shown(&|turn| gold(turn, phase, |row| row.response.map(|all| all.p99))));
            row.push(shown(&|turn| cpu(turn, phase).map(|(ours, _)| ours)));
            row.push(shown(&|turn| cpu(turn, phase).map(|(_, others)| others)));
            row
        })
        .collect();
    table::columns(&heads, &rows)
}

type Figure = fn(&Turn) -> Option<f64>;

/// Figures of whole turns, by name.
const KEEPING: [(&str, Figure); 7] = [
    ("gold keeps %", judge::kept),
    ("p99, times", judge::device_slowdown),
    ("with wait", judge::slowdown),
    ("gold reserved %", |turn| judge::reservation(turn, GOLD)),
    ("silver reserved %", |turn| judge::reservation(turn, SILVER)),
    ("over limit %", judge::excess),
    ("share error %", judge::share_error),
];

fn keeping_table(turns: &[Turn]) -> String {
    let heads: Vec<&str> =
        [""].into_iter().chain(KEEPING.map(|(name, _)| name)).chain(["said unmet"]).collect();
    let rows: Vec<Vec<String>> = played(turns)
        .map(|who| {
            let figures = KEEPING.iter().map(|(_, figure)| table::shown(over_rounds(turns, who, figure)));
            [who.to_owned()].into_iter().chain(figures).chain([unmet(turns, who)]).collect()
        })
        .collect();
    table::columns(&heads, &rows)
}

/// Which reservations the daemon itself has called unmet in any round.
fn unmet(turns: &[Turn], who: &str) -> String {
    let mine = turns.iter().filter(|turn| turn.contestant == who).flat_map(|turn| &turn.unmet);
    let mut names: Vec<&str> = mine.filter(|(_, by)| *by > 0).map(|(vm, _)| vm.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// `{CONTESTANT: {"phases": {PHASE: {FIGURE: {"median", "least", "most"}}}, "turn": {FIGURE: …}}}`
pub(super) fn medians(turns: &[Turn]) -> Value {
    let spread = |spread: Option<Spread>| {
        spread.map(|s| json!({ "median": s.median, "least": s.least, "most": s.most }))
    };
    let of_phase = |who: &str, phase: Phase| {
        let mut map = Map::new();
        let mut put = |name: String, figure: &dyn Fn(&Turn) -> Option<f64>| {
            map.insert(name, json!(spread(over_rounds(turns, who, figure))));
        };
        put("total_mib_per_second".to_owned(), &|turn| total(turn, phase));
        for vm in [GOLD, SILVER, BRONZE, CAPPED, NOISY] {
            put(format!("{vm}_mib_per_second"), &|turn| throughput(turn, phase, vm));
        }
        put("gold_latency_ms_p50".to_owned(), &|t| gold(t, phase, |row| row.latency.map(|all| all.p50)));
        put("gold_latency_ms_p99".to_owned(), &|t| gold(t, phase, |row| row.latency.map(|all| all.p99)));
        put("gold_latency_ms_p999".to_owned(), &|t| gold(t, phase, |row| row.latency.map(|all| all.p999)));
        put("gold_response_ms_p99".to_owned(), &|t| gold(t, phase, |row| row.response.map(|all| all.p99)));
        put("processors".to_owned(), &|turn| cpu(turn, phase).map(|(ours, _)| ours));
        put("processors_of_others".to_owned(), &|turn| cpu(turn, phase).map(|(_, others)| others));
        Value::Object(map)
    };
    let of = |who: &'static str| {
        let phases = Phase::ALL.map(|phase| (phase.title().to_owned(), of_phase(who, phase)));
        let turn = KEEPING
            .iter()
            .map(|(name, figure)| ((*name).to_owned(), json!(spread(over_rounds(turns, who, figure)))));
        json!({ "phases": Map::from_iter(phases), "turn": Map::from_iter(turn) })
    };
    Value::Object(played(turns).map(|who| (who.to_owned(), of(who))).collect())
}
