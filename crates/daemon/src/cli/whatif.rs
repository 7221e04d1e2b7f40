//! `vmpath whatif`: what would become of each VM, from the daemon's state or from a configuration file.
//!
//! Invariant: those who suffer come first, and whoever is well costs no line unless asked for. It does not know how it was
//! foreseen.

use super::text::{plural, rate, rate_or_dash, wrap};
use super::{Format, output};
use crate::api::client::{Ask, Client, segment};
use crate::api::{self, wire, words};
use crate::control::config;
use clap::Args;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use vmpath_core::whatif;

pub(super) const EXAMPLES: &str = "\
Examples:
  vmpath whatif --lose san0/a                       the fate of each VM if this path failed now
  vmpath whatif --lose san0/a --lose san0/b         … if both failed at once
  vmpath whatif --lose san0                         … if the whole target went
  vmpath whatif --lose switch1                      … if a component that paths share (`via`) went
  vmpath whatif --drain san0/a                      … if you took this path out for work on its cable
  vmpath whatif --config new.toml --lose san0/a     … on a host with this configuration and nothing else the matter

Exit status: 0 answered, 1 an error, 2 wrong usage. What is foreseen makes no difference to it.";

/// VMs whose reason is told; the others' stand in the JSON.
const REASONS_MAX: usize = 20;
/// VMs of the keep set that are named.
const NAMES_MAX: usize = 5;

#[derive(Debug, Args)]
pub(super) struct WhatIfArgs {
    /// Suppose that this path fails and does not come back; a target stands for all its paths, a component (`via`) for those through it
    #[arg(long, value_name = "TARGET/PATH")]
    lose: Vec<String>,
    /// Suppose that this path is taken out by an operator
    #[arg(long, value_name = "TARGET/PATH")]
    drain: Vec<String>,
    /// Ask of this configuration instead of the daemon: all paths up, all VMs running
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// List the VMs to which nothing happens, too
    #[arg(short, long)]
    all: bool,
    /// `table` for people, `json` for programs (docs/api.md)
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

pub(super) fn run(client: &Client, args: &WhatIfArgs) -> anyhow::Result<ExitCode> {
    if args.lose.is_empty() && args.drain.is_empty() {
        anyhow::bail!(
            "nothing is supposed\n  help: name a path, like `vmpath whatif --lose san0/a`; `vmpath show paths` lists them"
        );
    }
    let (json, answer) = match &args.config {
        Some(file) => {
            let answer = of_file(file, args)?;
            (api::whatif::json(&answer)?, answer)
        }
        None => {
            let reply = client.call(&Ask::Get(address(args)))?;
            (reply.text(), reply.read()?)
        }
    };
    match args.output {
        Format::Json => output::print(&format!("{json}\n")),
        Format::Table => output::print(&page(&answer, args, output::width())),
    }
}

fn address(args: &WhatIfArgs) -> String {
    let pairs = |key: &'static str, names: &[String]| {
        names.iter().map(|name| format!("{key}={}", segment(name))).collect::<Vec<_>>()
    };
    let pairs = [pairs("lose", &args.lose), pairs("drain", &args.drain)].concat();
    format!("/v1/whatif?{}", pairs.join("&"))
}

fn of_file(file: &Path, args: &WhatIfArgs) -> anyhow::Result<wire::WhatIf> {
    let config = config::load(file).map_err(|error| {
        anyhow::anyhow!("{}\n  help: mend it, and try it with `vmpath check`", error.lines().join("\n"))
    })?;
    let host = whatif::healthy(&config.spec);
    Ok(api::whatif::answer(host, &config.spec, &args.lose, &args.drain)?)
}

fn page(answer: &wire::WhatIf, args: &WhatIfArgs, width: Option<usize>) -> String {
    let mut text = format!("{}\n", title(answer));
    for note in &answer.notes {
        text.push_str(&wrap(&format!("note: {note}"), "  ", width));
    }
    for target in answer.targets.iter().filter(|target| target.standing != "whole") {
        text.push_str(&wrap(&capacity(target), "  ", width));
    }
    let mut rows: Vec<_> = answer.vms.iter().filter(|vm| args.all || suffers(vm)).collect();
    rows.sort_by_key(|vm| (place(&vm.fate), std::cmp::Reverse(vm.priority)));
    if !rows.is_empty() {
        text.push('\n');
        text.push_str(&table(&rows, width));
    }
    text.push_str(&format!("\n{}\n", sum(answer)));
    text
}

fn title(answer: &wire::WhatIf) -> String {
    let part =
        |names: &[String], what: &str| (!names.is_empty()).then(|| format!("{} {what}", names.join(", ")));
    let parts = [part(&answer.lose, "lost"), part(&answer.drain, "taken out")];
    let supposed: Vec<_> = parts.into_iter().flatten().collect();
    let of = match answer.at_unix_us {
        Some(_) => "as things are now",
        None => "with all paths up and all VMs running",
    };
    format!("Supposed: {}; {of}. Nothing is touched.", supposed.join(", and "))
}

fn capacity(target: &wire::Capacity) -> String {
    let name = &target.target;
    let reserved = rate(target.reserved_bytes_per_second);
    let left = || {
        let (left, of) = (target.left_bytes_per_second.unwrap_or(0), target.capacity_bytes_per_second);
        format!("{name}: {} of {} left on {}", rate(left), rate_or_dash(of), target.paths_up.join(", "))
    };
    match target.standing.as_str() {
        "cut-off" => format!("{name}: no path is left"),
        "connecting" => format!("{name}: some path has not connected yet; nobody is judged before it has"),
        "unknown" => format!(
            "{name}: {} left; the capacity of some is not configured, so nobody is shed ({reserved} reserved)",
            target.paths_up.join(", ")
        ),
        _ => {
            let (kept, leave): (Vec<_>, Vec<_>) = target.parties.iter().partition(|party| party.kept);
            let keeps = |count: usize| if count == 1 { "keeps its" } else { "keep their" };
            let fits = format!("{} {} reservation", plural(kept.len(), "VM"), keeps(kept.len()));
            let names: Vec<_> = leave.iter().take(NAMES_MAX).map(|party| party.vm.as_str()).collect();
            let more = leave.len().saturating_sub(NAMES_MAX);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let no_room = match leave.len() {
                0 => "all fit".into(),
                _ => format!("no room for {}{more}", names.join(", ")),
            };
            format!("{}, {reserved} reserved: {fits}, {no_room}", left())
        }
    }
}

/// Something happens to it.
fn suffers(vm: &wire::VmFate) -> bool {
    vm.before != vm.fate || !vm.stages.is_empty() || vm.reservation_met == Some(false)
}

/// The worst first; a fate that a newer daemon knows stands in front.
fn place(fate: &str) -> usize {
    let known = whatif::Fate::ALL.iter().position(|known| known.as_str() == fate);
    known.map_or(0, |place| place + 1)
}

fn table(rows: &[&wire::VmFate], width: Option<usize>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["VM", "PRIO", "NOW", "THEN", "RESERVED", "GETS", "ENTITLED", "PATHS LEFT"]);
    for vm in rows {
        table.add_row(row(vm));
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if [1, 4, 5, 6].contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut lines = table.lines();
    let mut text = format!("{}\n", lines.next().unwrap_or_default().trim_end());
    for (index, (line, vm)) in lines.zip(rows).enumerate() {
        text.push_str(&format!("{}\n", line.trim_end()));
        if index < REASONS_MAX && suffers(vm) {
            let reason = vm.reason.iter().cloned();
            let until = vm.until.iter().map(|until| format!("until {until}"));
            reason.chain(until).for_each(|line| text.push_str(&wrap(&line, "  ", width)));
        }
    }
    if rows.len() > REASONS_MAX {
        text.push_str(&format!("The reasons of those below the first {REASONS_MAX}: -o json\n"));
    }
    text
}

fn row(vm: &wire::VmFate) -> [String; 8] {
    [
        vm.name.clone(),
        vm.priority.to_string(),
        vm.before.clone(),
        then(vm),
        rate_or_dash(vm.reservation_bytes_per_second),
        rate_or_dash(vm.gets_of_reservation_bytes_per_second),
        rate_or_dash(vm.entitled_bytes_per_second),
        if vm.paths.is_empty() { "none".into() } else { vm.paths.join(", ") },
    ]
}

fn then(vm: &wire::VmFate) -> String {
    match (vm.stages.is_empty(), vm.reservation_met) {
        (true, Some(false)) => format!("{}, less than reserved", vm.fate),
        (true, Some(true) | None) | (false, _) => words::stages(vm),
    }
}

/// `1 of 3 VMs suspended, 1 without its whole reservation; to the other 1 nothing happens.`
fn sum(answer: &wire::WhatIf) -> String {
    let mut parts: Vec<_> = whatif::Fate::ALL
        .iter()
        .map(|fate| fate.as_str())
        .filter(|fate| *fate != "running")
        .map(|fate| (fate, answer.vms.iter().filter(|vm| vm.fate == fate && vm.before != fate).count()))
        .filter(|(_, count)| *count > 0)
        .map(|(fate, count)| format!("{count} {fate}"))
        .collect();
    let thin =
        answer.vms.iter().filter(|vm| vm.fate == "running" && vm.reservation_met == Some(false)).count();
    if thin > 0 {
        parts.push(format!("{thin} running with less than reserved"));
    }
    let (all, well) = (answer.vms.len(), answer.vms.iter().filter(|vm| !suffers(vm)).count());
    if parts.is_empty() {
        return format!("Nothing happens to any of the {}.", plural(all, "VM"));
    }
    format!("Of {}: {}; to {well} nothing happens.", plural(all, "VM"), parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn args(lose: &[&str]) -> WhatIfArgs {
        let lose = lose.iter().map(|name| (*name).to_owned()).collect();
        WhatIfArgs { lose, drain: vec![], config: None, all: false, output: Format::Table }
    }

    fn asked(lose: &[&str]) -> String {
        let (spec, args) = (testing::spec(), args(lose));
        let answer = api::whatif::answer(whatif::healthy(&spec), &spec, &args.lose, &args.drain);
        page(&answer.expect("an answer"), &args, Some(100))
    }

    #[test]
    fn a_loss_is_shown_with_numbers_reason_and_end() {
        let expect = "\
Supposed: san0/a lost; with all paths up and all VMs running. Nothing is touched.
  san0: 100.0 MiB/s of 200.0 MiB/s left on san0/b, 110.0 MiB/s reserved: 1 VM keeps its reservation,
    no room for bronze

VM      PRIO  NOW      THEN                     RESERVED   GETS  ENTITLED  PATHS LEFT
bronze    50  running  suspended after 1.0 s  50.0 MiB/s  0 B/s         -  san0/b
";
        let text = asked(&["san0/a"]);
        assert!(text.starts_with(expect), "{text}");
        assert!(text.contains("\n  until san0/a repaired (up, and good for"), "{text}");
        assert!(text.ends_with("\nOf 2 VMs: 1 suspended; to 1 nothing happens.\n"), "{text}");
    }

    #[test]
    fn a_loss_of_all_shows_each_rung() {
        let text = asked(&["san0"]);
        assert!(text.contains("  san0: no path is left\n"), "{text}");
        assert!(text.contains("held at once, suspended after 60.0 s"), "{text}");
        assert!(text.ends_with("Of 2 VMs: 2 suspended; to 0 nothing happens.\n"), "{text}");
    }

    #[test]
    fn names_are_escaped_in_the_address() {
        assert_eq!(address(&args(&["san0/a", "san1"])), "/v1/whatif?lose=san0%2Fa&lose=san1");
    }
}
