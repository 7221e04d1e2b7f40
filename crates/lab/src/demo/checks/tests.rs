//! A run made of made-up lines: each check must be able to fail.

use super::*;
use crate::demo::journal::Journal;
use crate::guest::FrontEnd;
use crate::report::Check;
use std::path::Path;

fn lines(rate_mib: u64, report: &Value) -> VmLines {
    let mut lines = VmLines { report: Some(report.clone()), ..VmLines::default() };
    for tenth in 0..200u64 {
        lines.progress.add(tenth * 100_000, tenth * rate_mib * MIB / 10);
    }
    lines.read_backs = vec![json!({ "blocks": 10, "mismatches": 0 }); 2];
    lines
}

fn good_report() -> Value {
    json!({ "lost": 0, "completed_twice": 0, "errors": 0, "mismatches": 0, "blocks_verified": 100 })
}

fn event(at: u64, kind: &str, name: &str, reason: &str) -> Value {
    json!({ "at_unix_us": at, "kind": kind, "subject": { "name": name }, "reason": reason, "until": null })
}

fn good_run() -> (Scene, Findings) {
    let events = [
        event(10_020_000, "failed-over", "san0/a", "to san0/b after 19 ms"),
        event(11_000_000, "vm-suspended", "bronze", "120 MiB/s reserved, 100 left"),
        event(15_000_000, "failback", "san0/a", "back"),
        event(15_100_000, "vm-resumed", "bronze", "failback"),
    ];
    let found = Findings {
        broken_unix_us: 10_000_000,
        journal: Journal::of(&events),
        vms: vec![lines(70, &good_report()), lines(35, &good_report()), lines(20, &good_report())],
        phases: vec![
            Phase { name: "healthy", from: 5_000_000, to: 10_000_000 },
            Phase { name: LOSS, from: 10_000_000, to: 11_000_000 },
            Phase { name: "degraded", from: 11_000_000, to: 14_500_000 },
        ],
        array: json!({ "portals": [{ "ghosts_executed": 7, "ghosts_pending": 0 }] }),
        took: Duration::from_secs(30),
        forecast: json!({ "vms": [{ "name": "gold", "fate": "running" }, { "name": "silver", "fate": "running" },
                                  { "name": "bronze", "fate": "suspended" }] }),
        explanation: json!({ "text": ["Why: path san0/a is down.", "rule: shed_when = \"unmet\"",
                                      "60 MiB/s are reserved there; kept: gold.", "It waits for: san0/a."] }),
    };
    (Scene::new(Path::new("/tmp"), 1, FrontEnd::Nbd), found)
}

fn failed(scene: &Scene, found: &Findings) -> Vec<String> {
    let report = judge(scene, found);
    report.checks().iter().filter(|check| !check.passed()).map(|check: &Check| check.name.clone()).collect()
}

#[test]
fn a_good_run_passes() {
    let (scene, found) = good_run();
    assert_eq!(failed(&scene, &found), Vec::<String>::new());
}

#[test]
fn each_fault_fails_its_check() {
    type Spoil = fn(&mut Findings);
    let cases: [(&str, Spoil); 11] = [
        ("whatif foresaw of bronze", |f| f.forecast["vms"][2]["fate"] = json!("running")),
        ("explain names", |f| f.explanation["text"][2] = json!("all is well")),
        ("first request completed on the other path", |f| f.broken_unix_us -= 100_000),
        ("slowest second of phase degraded", |f| f.vms[0] = lines(56, &good_report())),
        ("requests lost", |f| f.vms[1].report = Some(json!({ "lost": 1 }))),
        ("wrong data", |f| f.vms[2].report = Some(json!({ "mismatches": 1 }))),
        ("read back again", |f| drop(f.vms[0].read_backs.pop())),
        ("executed late", |f| {
            f.array = json!({ "portals": [{ "ghosts_executed": 0, "ghosts_pending": 0 }] });
        }),
        ("reservations named", |f| f.journal.entries[1].reason = "tired".to_owned()),
        ("resumed after failback", |f| f.journal.entries[3].at_unix_us = 14_000_000),
        ("silver suspended", |f| f.journal.entries[1].subject = "silver".to_owned()),
    ];
    for (name, spoil) in cases {
        let (scene, mut found) = good_run();
        spoil(&mut found);
        let failed = failed(&scene, &found);
        assert!(failed.iter().any(|check| check.contains(name)), "{name}: {failed:?}");
    }
}
