//! The plots: throughput over time with the failures marked, and gold's latencies.
//!
//! Their text can be read at half of their size; colours can be told apart by who confuses red and green.

use super::figures::{BIN, Percentiles, Turn};
use super::judge::over_rounds;
use super::load::{CAPACITY, CONTESTANTS, GOLD, VMPATH};
use super::phase::Phase;
use super::svg::{Anchor, Svg};
use super::tables::MIB;

const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 480.0;
/// The field between the axes.
const LEFT: f64 = 80.0;
const RIGHT: f64 = 980.0;
const TOP: f64 = 96.0;
const BOTTOM: f64 = 420.0;
/// Of one palette (Okabe and Ito's).
const COLOURS: [&str; 5] = ["#e69f00", "#0072b2", "#009e73", "#cc79a7", "#777777"];
const GRID: &str = "stroke=\"#ddd\"";
const AXIS: &str = "stroke=\"#222\"";

/// A field with its title and the names of its axes.
fn frame(title: &str, below: &str, beside: &str) -> Svg {
    let mut svg = Svg::new(WIDTH, HEIGHT);
    svg.text((LEFT, 28.0), Anchor::Start, 19, title);
    svg.text(((LEFT + RIGHT) / 2.0, HEIGHT - 14.0), Anchor::Middle, 15, below);
    svg.upright_text((22.0, (TOP + BOTTOM) / 2.0), 15, beside);
    svg
}

fn axes(svg: &mut Svg) {
    svg.line((LEFT, BOTTOM), (RIGHT, BOTTOM), AXIS);
    svg.line((LEFT, TOP), (LEFT, BOTTOM), AXIS);
}

fn legend<'a>(svg: &mut Svg, names: impl Iterator<Item = (&'a str, &'a str)>) {
    let mut x = LEFT;
    for (name, colour) in names {
        svg.rectangle((x, 46.0), (22.0, 6.0), colour);
        svg.text((x + 28.0, 54.0), Anchor::Start, 15, name);
        x += 60.0 + 9.0 * name.chars().count() as f64;
    }
}

/// Of one turn: each VM's curve, the noisy ones' together, and what happens to the paths.
pub(super) fn throughput(turn: &Turn) -> String {
    let end = turn.marks.last().map_or(1.0, |mark| mark.ended);
    let most = turn.curves.iter().flat_map(|curve| &curve.throughput).max().copied().unwrap_or(0);
    let most = (most as f64).max(CAPACITY as f64) / MIB * 1.05;
    let x = |seconds: f64| LEFT + (RIGHT - LEFT) * seconds / end;
    let y = |mib: f64| BOTTOM - (BOTTOM - TOP) * mib / most;
    let aware = if turn.contestant == VMPATH { "VM-aware" } else { "VM-unaware" };
    let title = format!("Throughput of each VM, {aware}: {}", turn.contestant);
    let mut svg = frame(&title, "seconds", "MiB/s");
    for mark in &turn.marks {
        if !mark.phase.is_whole() {
            svg.rectangle((x(mark.began), TOP), (x(mark.ended) - x(mark.began), BOTTOM - TOP), "#fbeeee");
        }
    }
    for mib in steps(most, 8) {
        svg.line((LEFT, y(mib)), (RIGHT, y(mib)), GRID);
        svg.text((LEFT - 8.0, y(mib) + 5.0), Anchor::End, 14, &format!("{mib:.0}"));
    }
    for second in steps(end, 12) {
        svg.line((x(second), BOTTOM), (x(second), BOTTOM + 5.0), AXIS);
        svg.text((x(second), BOTTOM + 21.0), Anchor::Middle, 14, &format!("{second:.0}"));
    }
    for mark in &turn.marks {
        svg.line(
            (x(mark.began), TOP - 22.0),
            (x(mark.began), BOTTOM),
            "stroke=\"#a00\" stroke-dasharray=\"4 4\"",
        );
        svg.text((x(mark.began) + 4.0, TOP - 8.0), Anchor::Start, 14, mark.phase.title());
    }
    for (curve, colour) in turn.curves.iter().zip(COLOURS) {
        let points = curve.throughput.iter().enumerate();
        let points = points.map(|(bin, bytes)| (x((bin as f64 + 0.5) * BIN), y(*bytes as f64 / MIB)));
        svg.polyline(points, &format!("stroke=\"{colour}\" stroke-width=\"2\""));
    }
    axes(&mut svg);
    let names = turn.curves.iter().map(|curve| match curve.vm.as_str() {
        "noisy" => "noisy (19 together)",
        "capped" => "capped (the 20th noisy)",
        name => name,
    });
    legend(&mut svg, names.zip(COLOURS));
    svg.finish()
}

/// Round numbers from 0 to `most`, at most about `count`.
fn steps(most: f64, count: u32) -> impl Iterator<Item = f64> {
    let rough = most / f64::from(count);
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|of| of * power).into_iter().find(|step| *step >= rough);
    let step = step.unwrap_or(rough);
    (0..=(most / step) as u32).map(move |number| f64::from(number) * step)
}

/// Gold's latencies by phase and contestant: medians over the rounds, on a logarithmic scale.
pub(super) fn latency(turns: &[Turn]) -> String {
    let of = |who: &str, phase: Phase, part: fn(&Percentiles) -> f64| {
        let figure = |turn: &Turn| turn.row(phase, GOLD)?.response.as_ref().map(part);
        over_rounds(turns, who, figure).map(|spread| spread.median)
    };
    let all = Phase::ALL.iter().flat_map(|phase| CONTESTANTS.iter().map(move |who| (who.name, *phase)));
    let tops = all.clone().filter_map(|(who, phase)| of(who, phase, |p| p.p999));
    let feet = all.filter_map(|(who, phase)| of(who, phase, |p| p.p50));
    let top = 10f64.powf(tops.fold(1.0, f64::max).log10().ceil());
    let foot = 10f64.powf(feet.fold(1.0, f64::min).log10().floor());
    let y = |ms: f64| BOTTOM - (BOTTOM - TOP) * (ms / foot).log10() / (top / foot).log10();
    let title = "Latency of gold's requests, their wait in the guest included: p50 (foot), p99 (dot, number), p99.9 (top)";
    let mut svg = frame(title, "phase", "ms, logarithmic");
    let mut decade = foot;
    while decade <= top * 1.001 {
        svg.line((LEFT, y(decade)), (RIGHT, y(decade)), GRID);
        svg.text((LEFT - 8.0, y(decade) + 5.0), Anchor::End, 14, &format!("{decade}"));
        decade *= 10.0;
    }
    let group = (RIGHT - LEFT) / Phase::ALL.len() as f64;
    for (place, phase) in Phase::ALL.into_iter().enumerate() {
        let left = LEFT + group * place as f64;
        svg.text((left + group / 2.0, BOTTOM + 21.0), Anchor::Middle, 14, phase.title());
        svg.line((left, TOP), (left, BOTTOM), GRID);
        for (turn, (who, colour)) in CONTESTANTS.iter().zip(COLOURS).enumerate() {
            let x = left + group * (turn as f64 + 0.7) / (CONTESTANTS.len() as f64 + 0.4);
            let part = |part| of(who.name, phase, part);
            let found = part(|p| p.p50).zip(part(|p| p.p99)).zip(part(|p| p.p999));
            let Some(((p50, p99), p999)) = found else { continue };
            svg.line((x, y(p50)), (x, y(p999)), &format!("stroke=\"{colour}\" stroke-width=\"7\""));
            svg.circle((x, y(p99)), 6.0, &format!("fill=\"{colour}\" {AXIS}"));
            svg.text((x, y(p999) - 7.0), Anchor::Middle, 13, &short(p99));
        }
    }
    axes(&mut svg);
    legend(&mut svg, CONTESTANTS.iter().map(|who| who.name).zip(COLOURS));
    svg.finish()
}

fn short(ms: f64) -> String {
    if ms < 10.0 { format!("{ms:.1}") } else { format!("{ms:.0}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round_and_reach_the_end() {
        assert_eq!(steps(67.0, 8).collect::<Vec<_>>(), [0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0]);
        assert_eq!(steps(26.2, 12).count(), 6);
        assert_eq!(steps(1.0, 2).collect::<Vec<_>>(), [0.0, 0.5, 1.0]);
    }
}
