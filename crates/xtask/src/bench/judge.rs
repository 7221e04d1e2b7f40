//! The numbers that are asked for, held against what was measured; and tables of all the rest.
//!
//! A ratio is taken within a round, between neighbours in time; what is judged is the median of the rounds' ratios.

use super::contestant::{self, DIRECT, FrontEnd, Hop, PEER_NBD, PEER_VHOST, VMPATH_NBD, VMPATH_VHOST};
use super::disks;
use super::hop::{Findings, Row};
use super::table::{self, Spread};
use super::workload::{self, READ_1, READ_32, READ_128K, WRITE_128K};
use std::fmt::Write as _;
use vmpath_lab::report::{Bound, Report};

const MIB: f64 = 1_048_576.0;

/// Adds a check for each number.
pub(super) fn judge(report: &mut Report, found: &Findings) {
    let faster = [
        ("vhost-user-blk, 4 KiB read, depth 32, by the peer", READ_32, VMPATH_VHOST, PEER_VHOST, 1.5),
        ("vhost-user-blk, 4 KiB read, depth 32, by direct", READ_32, VMPATH_VHOST, DIRECT, 0.9),
        ("vhost-user-blk, 4 KiB read, depth 1, by the peer", READ_1, VMPATH_VHOST, PEER_VHOST, 1.3),
        ("vhost-user-blk, 128 KiB read, by the peer", READ_128K, VMPATH_VHOST, PEER_VHOST, 1.2),
        ("vhost-user-blk, 128 KiB write, by the peer", WRITE_128K, VMPATH_VHOST, PEER_VHOST, 1.2),
        ("NBD, 4 KiB read, depth 32, by the peer", READ_32, VMPATH_NBD, PEER_NBD, 1.3),
    ];
    for (name, workload, ours, theirs, bound) in faster {
        let spread = ratio(&found.rows, workload, (ours, theirs), |row| Some(row.iops));
        put(report, name, spread, Bound::AtLeast(bound), "times");
    }
    let cpu = ratio(&found.rows, READ_32, (VMPATH_VHOST, PEER_VHOST), |row| row.cpu_us);
    let name = "vhost-user-blk, 4 KiB read, depth 32: CPU for each request, by the peer's";
    put(report, name, cpu, Bound::AtMost(0.6), "times");
    judge_disks(report, found.disks.as_ref());
    report.attach("measurements", &found.rows);
    report.attach("memory", &found.footprints);
    report.attach("disks", &found.disks);
    report.attach("failures", &found.failures);
}

fn put(report: &mut Report, name: &str, spread: Option<Spread>, bound: Bound, unit: &str) {
    let note = spread.map(|s| format!("rounds: {:.2} to {:.2}", s.least, s.most)).unwrap_or_default();
    report.check(name, spread.map(|s| s.median), bound, unit).note = note;
}

fn judge_disks(report: &mut Report, found: Option<&disks::Findings>) {
    let [one, .., hundred] = disks::COUNTS;
    let growth = found.and_then(|found| {
        let at = |count, round| {
            let is = |r: &&disks::Row| r.front_end == disks::VHOST && (r.disks, r.round) == (count, round);
            found.rows.iter().find(is).map(|row| row.cpu_us)
        };
        let rounds = 1..=found.rows.iter().map(|row| row.round).max()?;
        Spread::of(rounds.filter_map(|round| Some(at(hundred, round)? / at(one, round)?)))
    });
    put(report, "100 disks: CPU for each request, by that of one disk", growth, Bound::AtMost(1.5), "times");
    let quiet = |count| {
        let is = |q: &&disks::Quiet| q.front_end == disks::VHOST && q.disks == count;
        found.and_then(|found| found.daemons.iter().find(is))
    };
    let memory = quiet(hundred).zip(quiet(one)).map(|(many, few)| {
        (many.anonymous_bytes as f64 - few.anonymous_bytes as f64) / MIB / (hundred - one) as f64
    });
    report.check("100 disks: memory for each", memory, Bound::AtMost(1.0), "MiB").note =
        "heap, stacks and buffers of its own, after load".to_owned();
    let idle = quiet(hundred).map(|quiet| quiet.idle_cpu * 100.0);
    report.check("100 disks, idle: CPU", idle, Bound::AtMost(1.0), "% of a core");
}

/// Over the rounds: `ours` by `theirs`.
fn ratio(
    rows: &[Row],
    workload: &str,
    (ours, theirs): (&str, &str),
    value: impl Fn(&Row) -> Option<f64>,
) -> Option<Spread> {
    let of = |who: &str, round| {
        let is = |row: &&Row| row.workload == workload && row.contestant == who && row.round == round;
        rows.iter().find(is).and_then(&value)
    };
    let rounds = 1..=rows.iter().map(|row| row.round).max()?;
    Spread::of(rounds.filter_map(|round| Some(of(ours, round)? / of(theirs, round)?)))
}

/// Everything that was measured, for people.
pub(super) fn tables(found: &Findings) -> String {
    let mut text = String::new();
    for workload in workload::ALL {
        let rows: Vec<Vec<String>> = contestant::ALL
            .iter()
            .filter(|c| found.rows.iter().any(|r| r.workload == workload.name && r.contestant == c.name))
            .map(|c| line(&found.rows, workload, c.name, c.front_end))
            .collect();
        if !rows.is_empty() {
            _ = writeln!(text, "\n{}", workload.about);
            let heads = ["", "IOPS", "MiB/s", "us", "CPU us", "by the peer", "by direct"];
            text.push_str(&table::columns(&heads, &rows));
        }
    }
    let memory: Vec<Vec<String>> = found
        .footprints
        .iter()
        .map(|f| [f.resident_bytes, f.anonymous_bytes].map(|b| format!("{:.1}", b as f64 / MIB)))
        .zip(found.footprints.iter().map(|f| f.contestant.to_owned()))
        .map(|([resident, own], name)| vec![name, resident, own])
        .collect();
    if !memory.is_empty() {
        _ = writeln!(text, "\nMemory after all loads, MiB");
        text.push_str(&table::columns(&["", "resident", "its own"], &memory));
    }
    text.push_str(&disk_table(found.disks.as_ref()));
    for failure in &found.failures {
        _ = writeln!(text, "\nnot measured: {failure}");
    }
    text.push('\n');
    text
}

fn line(rows: &[Row], workload: &workload::Workload, name: &str, front_end: FrontEnd) -> Vec<String> {
    let mine = || rows.iter().filter(|r| r.workload == workload.name && r.contestant == name);
    let iops = Spread::of(mine().map(|row| row.iops));
    let rate = iops.map(|iops| iops.median * f64::from(workload.block) / MIB);
    let peer = if front_end == FrontEnd::Nbd { PEER_NBD } else { PEER_VHOST };
    let by = |other: &str| {
        let ratio =
            if other == name { None } else { ratio(rows, workload.name, (name, other), |r| Some(r.iops)) };
        table::shown(ratio)
    };
    let compared = contestant::ALL.iter().any(|c| c.name == name && c.hop != Hop::Null);
    vec![
        name.to_owned(),
        table::shown(iops),
        rate.map(|rate| format!("{rate:.0}")).unwrap_or_default(),
        table::shown(Spread::of(mine().map(|row| row.latency_us))),
        table::shown(Spread::of(mine().filter_map(|row| row.cpu_us))),
        if compared { by(peer) } else { "(ceiling)".to_owned() },
        if compared { by(DIRECT) } else { String::new() },
    ]
}

fn disk_table(found: Option<&disks::Findings>) -> String {
    let Some(found) = found else { return String::new() };
    let mut rows = Vec::new();
    for front_end in [disks::NBD, disks::VHOST] {
        for count in disks::COUNTS {
            let mine = || found.rows.iter().filter(|r| r.front_end == front_end && r.disks == count);
            let quiet = found.daemons.iter().find(|q| q.front_end == front_end && q.disks == count);
            if mine().next().is_none() {
                continue;
            }
            rows.push(vec![
                format!("{count} over {front_end}"),
                table::shown(Spread::of(mine().map(|row| row.iops))),
                table::shown(Spread::of(mine().map(|row| row.latency_us))),
                table::shown(Spread::of(mine().map(|row| row.cpu_us))),
                quiet.map(|q| format!("{:.2} %", q.idle_cpu * 100.0)).unwrap_or_default(),
                quiet.map(|q| format!("{:.1}", q.anonymous_bytes as f64 / MIB)).unwrap_or_default(),
            ]);
        }
    }
    let heads = ["disks", "IOPS", "us", "CPU us", "idle CPU", "own MiB"];
    format!("\nMore disks, 20 000 requests a second in all\n{}", table::columns(&heads, &rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(round: u32, contestant: &'static str, iops: f64) -> Row {
        Row { round, workload: READ_32, contestant, iops, latency_us: 1.0, cpu_us: None }
    }

    #[test]
    fn a_ratio_is_of_one_round_and_judged_by_its_median() {
        let mut found = Findings::default();
        for (round, peer, ours) in [(1, 10.0, 14.0), (2, 100.0, 150.0), (3, 1.0, 2.0)] {
            found.rows.extend([row(round, PEER_NBD, peer), row(round, VMPATH_NBD, ours)]);
        }
        let mut report = Report::new();
        judge(&mut report, &found);
        let check = report.checks().iter().find(|c| c.name.starts_with("NBD")).expect("it is asked for");
        assert_eq!((check.value, check.passed()), (Some(1.5), true));
        assert!(!report.passed(), "what was not measured fails");
    }

    #[test]
    fn every_number_has_a_check_that_fails_without_a_measurement() {
        let mut report = Report::new();
        judge(&mut report, &Findings::default());
        assert_eq!(report.checks().len(), 10);
        assert!(report.checks().iter().all(|check| !check.passed()));
    }
}
