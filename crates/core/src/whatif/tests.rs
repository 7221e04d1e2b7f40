//! What is foreseen is what then happens; nothing is touched; a large host is foreseen whole.

mod agree;
mod moves;

use super::{Fate, Forecast, Question, ask, healthy};
use crate::controller::Controller;
use crate::effect::JournalKind;
use crate::event::Command;
use crate::event::Event;
use crate::policy::fit::Kept;
use crate::spec::{Source, Spec, parse};
use crate::time::{Duration, Instant};
use crate::view::CapacityStanding;
use std::fmt::Write as _;
use std::sync::Arc;

const MIB: u64 = 1 << 20;

/// Target `san0` with paths `a` and `b` of 100 MiB/s, and what is added.
fn spec(host: &str, vms: &[(&str, u32, u64, &str)]) -> Arc<Spec> {
    let mut text = format!("[host]\nname = \"kvm1\"\n{host}\n[[target]]\nname = \"san0\"\n");
    for path in ["a", "b"] {
        add(
            &mut text,
            &format!(
                "[[target.path]]\nname = \"{path}\"\nurl = \"nbd://10.0.0.1:1080{}\"\ncapacity = \"100 MiB/s\"",
                path.len() + usize::from(path == "b")
            ),
        );
    }
    for (name, priority, reserved, more) in vms {
        add(
            &mut text,
            &format!("[[vm]]\nname = \"{name}\"\npriority = {priority}\nqmp = \"/run/{name}.qmp\"\n{more}"),
        );
        if *reserved > 0 {
            add(&mut text, &format!("reservation = \"{reserved} MiB/s\""));
        }
        add(
            &mut text,
            &format!("[[vm.disk]]\nname = \"vda\"\nunit = \"san0/{name}\"\nnbd = \"/run/{name}.sock\""),
        );
    }
    parsed(&text)
}

fn add(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("a string");
}

fn parsed(text: &str) -> Arc<Spec> {
    let parsed = parse(&[Source { name: "test.toml", text }]);
    Arc::new(parsed.unwrap_or_else(|faults| panic!("{faults:?}\n{text}")).spec)
}

fn lose(spec: &Arc<Spec>, paths: &[&str]) -> Forecast {
    let (controller, now) = healthy(spec);
    ask(controller, now, &question(spec, paths, &[]), None)
}

fn question(spec: &Spec, lose: &[&str], drain: &[&str]) -> Question {
    let ids = |names: &[&str]| names.iter().map(|name| spec.path_by_name(name).expect("a path")).collect();
    Question { lose: ids(lose), drain: ids(drain) }
}

/// `gold running 60/60; bronze suspended@1.0s 0/50`
fn fates(forecast: &Forecast) -> String {
    let row = |vm: &super::VmForecast| {
        let after =
            vm.stages.last().map(|last| format!("@{:.1}s", last.after.as_secs_f64())).unwrap_or_default();
        let floor = vm.floor.map(|f| format!(" {}/{}", f.gets / MIB, f.reserved / MIB)).unwrap_or_default();
        format!("{} {}{after}{floor}", forecast.spec.vm(vm.vm).name, vm.fate.as_str())
    };
    forecast.vms.iter().map(row).collect::<Vec<_>>().join("; ")
}

const TWO: [(&str, u32, u64, &str); 2] = [("gold", 100, 60, ""), ("bronze", 50, 50, "may_suspend = true")];

#[test]
fn who_does_not_fit_is_suspended_when_a_reservation_has_gone_unmet() {
    let forecast = lose(&spec("", &TWO), &["san0/a"]);
    assert_eq!(fates(&forecast), "gold running 60/60; bronze suspended@1.0s 0/50");
    let bronze = &forecast.vms[1];
    assert_eq!(
        bronze.steps[0].reason,
        "shedding, shed_when = \"unmet\": bronze gets 40.0 MiB/s of its 50.0 MiB/s for 1.0 s; reservations of 110.0 MiB/s \
         do not fit the 100.0 MiB/s that san0/b carries; kept: gold (priority 100, 60.0 MiB/s); no room for bronze \
         (priority 50, 50.0 MiB/s)"
    );
    assert!(bronze.waits_for.as_ref().is_some_and(|wait| wait.contains("san0/a repaired")), "{bronze:?}");
    assert_eq!((forecast.vms[0].entitled, bronze.entitled), (Some(100 * MIB), None));
    assert!(!forecast.cut_short && forecast.already_down.is_empty() && forecast.refused.is_empty());
}

#[test]
fn the_numbers_are_those_of_the_moment_of_the_loss() {
    let forecast = lose(&spec("", &TWO), &["san0/a"]);
    let san0 = &forecast.capacity[0];
    assert_eq!(
        (san0.standing, san0.configured, san0.left),
        (CapacityStanding::Short, Some(200 * MIB), Some(100 * MIB))
    );
    assert_eq!(san0.reserved, 110 * MIB);
    let parties: Vec<_> = san0.parties.iter().map(|p| (p.vm.index(), p.kept, p.gets / MIB)).collect();
    assert_eq!(parties, [(0, Kept::Stays, 60), (1, Kept::Leaves, 40)]);
}

#[test]
fn who_may_not_be_suspended_stays_below_its_reservation() {
    let vms = [("gold", 100, 60, ""), ("bronze", 50, 50, "may_suspend = false")];
    let forecast = lose(&spec("", &vms), &["san0/a"]);
    assert_eq!(fates(&forecast), "gold running 60/60; bronze running 40/50");
    let lost = forecast.vms[1].steps.iter().find(|step| step.kind == JournalKind::ReservationLost);
    assert!(lost.is_some_and(|step| step.reason.contains("may_suspend = false")), "{:?}", forecast.vms[1]);
}

#[test]
fn reserved_sheds_at_once_and_unknown_capacity_sheds_nobody() {
    let forecast = lose(&spec("shed_when = \"reserved\"", &TWO), &["san0/a"]);
    assert_eq!(fates(&forecast), "gold running 60/60; bronze suspended@0.0s 0/50");
    let mut unknown = (*spec("", &TWO)).clone();
    unknown.paths[1].capacity = None;
    let forecast = lose(&Arc::new(unknown), &["san0/a"]);
    assert_eq!(fates(&forecast), "gold running 60/60; bronze running 50/50");
    assert_eq!(forecast.capacity[0].standing, CapacityStanding::Unknown);
    assert_eq!(forecast.vms[0].entitled, None);
}

#[test]
fn without_any_path_each_vm_goes_down_its_own_ladder() {
    let vms = [
        ("gold", 100, 60, "on_no_path = \"hold 60s, then suspend\""),
        ("silver", 60, 0, "on_no_path = \"hold 5s, then fail\""),
        ("iron", 50, 0, ""),
    ];
    let mut unmanaged = (*spec("", &vms)).clone();
    unmanaged.vms[2].qmp = None;
    let forecast = lose(&Arc::new(unmanaged), &["san0/a", "san0/b"]);
    assert_eq!(fates(&forecast), "gold suspended@60.0s 0/60; silver failed@5.0s; iron held@0.0s");
    let stages: Vec<_> = forecast.vms[0].stages.iter().map(|stage| stage.fate).collect();
    assert_eq!(stages, [Fate::Held, Fate::Suspended]);
    assert_eq!(forecast.capacity[0].standing, CapacityStanding::CutOff);
    assert_eq!(forecast.vms[0].cut_off.len(), 1);
    assert!(
        forecast.vms.iter().all(|vm| vm.paths.is_empty() && vm.waits_for.is_some()),
        "{:?}",
        forecast.vms
    );
}

#[test]
fn the_end_of_a_suspend_is_foreseen_where_it_can_be_had_and_where_not() {
    let ladder = "on_no_path = \"hold 60s, then suspend 10m, then fail\"";
    let nbd = spec("", &[("gold", 100, 0, ladder)]);
    let forecast = lose(&nbd, &["san0/a", "san0/b"]);
    assert_eq!(fates(&forecast), "gold suspended@60.0s");
    let last = forecast.vms[0].steps.last().expect("it is told");
    assert_eq!((last.kind, forecast.cut_short), (JournalKind::PolicyBlocked, false), "{last:?}");

    let mut rings = (*nbd).clone();
    rings.disks[0].vhost_user = rings.disks[0].nbd_socket.take();
    let forecast = lose(&Arc::new(rings), &["san0/a", "san0/b"]);
    assert_eq!(fates(&forecast), "gold failed@660.0s");
    let stages: Vec<_> = forecast.vms[0].stages.iter().map(|stage| stage.fate).collect();
    assert_eq!((stages, forecast.cut_short), (vec![Fate::Held, Fate::Suspended, Fate::Failed], false));
}

#[test]
fn affinity_decides_who_is_cut_off() {
    let vms = [("gold", 100, 0, "avoid = [\"san0/b\"]"), ("bronze", 50, 0, "")];
    let forecast = lose(&spec("", &vms), &["san0/a"]);
    assert_eq!(fates(&forecast), "gold suspended@60.0s; bronze running");
    assert_eq!(forecast.vms[1].paths.len(), 1);
}

#[test]
fn on_path_loss_is_foreseen() {
    let vms =
        [("gold", 100, 0, "on_path_loss = \"failover+suspend\"\nmay_suspend = true"), ("bronze", 50, 0, "")];
    let forecast = lose(&spec("", &vms), &["san0/a"]);
    assert_eq!(fates(&forecast), "gold suspended@0.0s; bronze running");
}

#[test]
fn nothing_is_lost_with_what_is_lost_already() {
    let spec = spec("", &TWO);
    let (controller, now) = healthy(&spec);
    let mut live = controller;
    live.handle(
        now,
        Event::Command {
            ticket: 1,
            command: Command::DisablePath(spec.path_by_name("san0/a").expect("a path")),
        },
    );
    let forecast = ask(live.clone(), now, &question(&spec, &["san0/a"], &[]), None);
    assert_eq!(forecast.already_down.len(), 1);
    assert_eq!(forecast.vms[0].before, Fate::Running);
}

#[test]
fn what_is_taken_out_sheds_too_and_the_last_path_is_refused() {
    let spec = spec("", &TWO);
    let (controller, now) = healthy(&spec);
    let forecast = ask(controller.clone(), now, &question(&spec, &[], &["san0/a"]), None);
    assert_eq!(fates(&forecast), "gold running 60/60; bronze suspended@0.0s 0/50", "before the path goes");
    let forecast = ask(controller, now, &question(&spec, &["san0/a"], &["san0/b"]), None);
    assert_eq!(forecast.refused.len(), 1);
    assert!(forecast.refused[0].1.contains("last usable path"), "{:?}", forecast.refused);
}

/// Nobody who is asked is changed by it.
#[test]
fn asking_changes_nothing() {
    let spec = spec("", &TWO);
    let (controller, now) = healthy(&spec);
    let shown = |controller: &Controller| format!("{:?}", controller.view(now));
    let before = shown(&controller);
    let first = fates(&ask(controller.clone(), now, &question(&spec, &["san0/a", "san0/b"], &[]), None));
    assert_eq!(shown(&controller), before);
    assert_eq!(fates(&ask(controller, now, &question(&spec, &["san0/a", "san0/b"], &[]), None)), first);
}

/// 1,000 VMs on 16 paths of 4 targets: what a host of that size is told.
fn large(on_no_path: &str) -> Arc<Spec> {
    let mut text = "[host]\nname = \"kvm1\"\n".to_owned();
    for target in 0..4 {
        add(&mut text, &format!("[[target]]\nname = \"san{target}\""));
        for path in 0..4 {
            add(
                &mut text,
                &format!(
                    "[[target.path]]\nname = \"p{path}\"\nurl = \"nbd://10.0.{target}.{path}:10809\"\ncapacity = \"2500 MiB/s\""
                ),
            );
        }
    }
    for vm in 0..1000 {
        add(
            &mut text,
            &format!(
                "[[vm]]\nname = \"vm{vm}\"\npriority = {}\nreservation = \"30 MiB/s\"\nmay_suspend = true\nqmp = \"/run/{vm}.qmp\"\n\
             {on_no_path}\n[[vm.disk]]\nname = \"vda\"\nunit = \"san{}/vm{vm}\"\nnbd = \"/run/{vm}.sock\"",
                vm % 100 + 1,
                vm % 4
            ),
        );
    }
    parsed(&text)
}

#[test]
fn a_large_host_is_foreseen_whole() {
    let spec = large("");
    // 250 VMs on a target reserve 7500 MiB/s of its 10000; with two paths left, 166 of them fit into 5000.
    let (controller, now) = healthy(&spec);
    let forecast = ask(controller.clone(), now, &question(&spec, &["san0/p0", "san0/p1"], &[]), None);
    let everything: Vec<_> = spec.path_ids().map(|p| spec.path_name(p)).collect();
    let everything: Vec<_> = everything.iter().map(String::as_str).collect();
    let dark = ask(controller, now, &question(&spec, &everything, &[]), None);
    let suspended = forecast.vms.iter().filter(|vm| vm.fate == Fate::Suspended).count();
    assert_eq!(suspended, 250 - 5000 / 30);
    let lowest_kept = forecast.vms.iter().filter(|vm| vm.vm.index() % 4 == 0 && vm.fate == Fate::Running);
    let lowest_kept = lowest_kept.map(|vm| spec.vm(vm.vm).priority).min();
    let highest_shed =
        forecast.vms.iter().filter(|vm| vm.fate == Fate::Suspended).map(|vm| spec.vm(vm.vm).priority);
    assert!(lowest_kept >= highest_shed.max(), "priorities decide");
    assert!(dark.vms.iter().all(|vm| vm.fate == Fate::Suspended
        && vm.stages.last().is_some_and(|last| last.after >= Duration::from_secs(60))));
    assert!(!forecast.cut_short && !dark.cut_short && dark.before.at > Instant::ZERO);
}
