//! What the operator reads at 3 a.m.

use super::world::{World, spec};
use crate::event::{Fault, LinkChange};
use crate::ids::UnitId;
use crate::spec::{Failback, OnPathLoss, ResumeOn, ShedWhen, Spec, When};
use crate::time::Duration;
use crate::view::LinkState;

/// Plays a script and compares what is then said about a VM.
fn explain(spec: Spec, script: &str, vm: &str, expected: &str) {
    let mut world = World::new(spec);
    world.run(script);
    let expected: Vec<_> = expected.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    assert_eq!(world.explain(vm).lines().collect::<Vec<_>>(), expected, "\n{}", world.explain(vm));
}

fn two() -> Spec {
    spec(&[("gold", 100, 60), ("bronze", 10, 60)])
}

#[test]
fn nothing_is_the_matter() {
    explain(two(), "@5 pass", "gold", "running open");
}

#[test]
fn a_shed_vm() {
    let mut spec = two();
    spec.targets[0].failback = Failback::Manual;
    spec.vms[1].resume = ResumeOn::Failback;
    let script = "@1 obedient; down a\n@2 load gold=50 bronze=50\n@14.5 pass";
    explain(
        spec.clone(),
        script,
        "bronze",
        "suspended hold
         path san0/a has been down for 13.5 s: connection reset by the target (INC-1)
         rule: shedding, shed_when = \"unmet\": gold gets 50.0 MiB/s of its 60.0 MiB/s for 1.0 s; reservations of 120.0 MiB/s do not fit the 100.0 MiB/s that san0/b carries; kept: gold (priority 100, 60.0 MiB/s); no room for bronze (priority 10, 60.0 MiB/s)
         bronze has priority 10 and may_suspend = true
         waits for san0/a repaired (up, and good for 1.0 s) and failed back (failback = manual: run `vmpath failback san0`)",
    );
    let repaired = format!("{script}\n@20 up a\n@30 pass");
    explain(
        spec,
        &repaired,
        "bronze",
        "suspended hold
         path san0/a has been repaired for 9.0 s; its traffic is not back yet (failback = manual: run `vmpath failback san0`)
         rule: shedding, shed_when = \"unmet\": gold gets 50.0 MiB/s of its 60.0 MiB/s for 1.0 s; reservations of 120.0 MiB/s do not fit the 100.0 MiB/s that san0/b carries; kept: gold (priority 100, 60.0 MiB/s); no room for bronze (priority 10, 60.0 MiB/s)
         bronze has priority 10 and may_suspend = true
         waits for traffic back on san0/a (failback = manual: run `vmpath failback san0`)",
    );
}

#[test]
fn a_vm_that_lost_a_path() {
    let mut spec = two();
    spec.vms[1].on_path_loss = OnPathLoss::Suspend;
    spec.vms[1].when = When::Outranked;
    let rule = "rule: san0/a is lost and on_path_loss = \"suspend\", when = \"outranked\": gold (priority 100) runs on \
                the same paths and outranks it (10)";
    explain(
        spec.clone(),
        "@1 deaf; down a\n@12 pass",
        "bronze",
        &format!(
            "suspending bounce
             path san0/a has been down for 11.0 s: connection reset by the target (INC-1)
             {rule}
             waits for `stop` confirmed (attempt 2 of 3), then san0/a repaired (up, and good for 1.0 s)"
        ),
    );
    explain(
        spec.clone(),
        "@1 obedient; down a\n@12 up a\n@12.3 pass",
        "bronze",
        &format!(
            "suspended hold
             path san0/a has been up again for 300 ms; it must stay good for 1.0 s before it counts
             {rule}
             waits for san0/a good for another 700 ms"
        ),
    );
    explain(
        spec,
        "@0.5 lost bronze\n@1 down a\n@2 pass",
        "bronze",
        "unmanaged hold
         path san0/a has been down for 1.0 s: connection reset by the target (INC-1)
         rule: san0/a is lost and on_path_loss = \"suspend\", when = \"outranked\": gold (priority 100) runs on the same paths and outranks it (10)
         unmanaged: no monitor (connection refused)
         san0/a is lost and on_path_loss = \"suspend\", when = \"outranked\": gold (priority 100) runs on the same paths and outranks it (10); it cannot be stopped: unmanaged, no monitor (connection refused); its requests are held meanwhile (INC-1)
         waits for san0/a repaired (up, and good for 1.0 s); for another 59.0 s at most",
    );
}

#[test]
fn a_vm_without_a_path() {
    let mut spec = two();
    spec.vms[0].on_no_path = "hold 60s, then migrate, then suspend".parse().expect("a ladder");
    explain(
        spec.clone(),
        "@1 obedient; down a; down b\n@11 pass",
        "gold",
        "running open
         path san0/a has been down for 10.0 s: connection reset by the target (INC-1)
         path san0/b has been down for 10.0 s: connection reset by the target (INC-1)
         its requests are held: no path to san0/gold
         waits for a usable path to san0/gold; in 50.0 s at the latest: migrate, then suspend",
    );
    explain(
        spec,
        "@1 obedient; down a; down b\n@71 up b\n@71.4 pass",
        "gold",
        "suspended hold
         path san0/a has been down for 70.4 s: connection reset by the target (INC-1)
         path san0/b has been up again for 400 ms; it must stay good for 1.0 s before it counts
         rule: on_no_path = \"hold 60s, then migrate, then suspend\": no path to san0/gold for 60.0 s; it cannot migrate: no other host is configured
         waits for san0/b good for another 600 ms (or another path)",
    );
}

#[test]
fn a_vm_that_somebody_else_stopped() {
    explain(
        two(),
        "@1 io-error gold",
        "gold",
        "stopped-by-other open
         it is io-error and vmpath did not stop it, so vmpath does not continue it
         waits for whoever stopped it",
    );
}

#[test]
fn a_vm_whose_reservation_is_lost() {
    let mut spec = two();
    spec.host.shed_when = ShedWhen::Reserved;
    spec.vms[1].may_suspend = false;
    explain(
        spec,
        "@1 down a\n@2 pass",
        "bronze",
        "running open
         path san0/a has been down for 1.0 s: connection reset by the target (INC-1)
         its reservation is lost: shedding, shed_when = \"reserved\"; reservations of 120.0 MiB/s do not fit the 100.0 MiB/s that san0/b carries; kept: gold (priority 100, 60.0 MiB/s); no room for bronze (priority 10, 60.0 MiB/s); bronze has may_suspend = false, so only its reservation is lost",
    );
}

#[test]
fn paths_units_and_incidents() {
    let mut spec = two();
    spec.targets[0].failback = Failback::After(Duration::from_secs(30));
    let mut world = World::new(spec);
    world.run("@1 down a\n@2 up a\n@2.5 down a bronze\n@3 disable b");
    world.link(
        world.path("a"),
        UnitId(1),
        LinkChange::Down { fault: Fault::Refused("Connection refused".into()), requests_outstanding: 0 },
    );
    world.run("@4 pass");
    let view = world.controller.view(world.now);
    let reasons: Vec<_> = view.paths.iter().map(|p| p.reason.clone().unwrap_or_default()).collect();
    assert_eq!(
        reasons,
        [
            "path san0/a has been repaired for 1.0 s; its traffic is not back yet (failback = after 30.0 s)",
            // Disabling it was refused: it is bronze's last path.
            "",
        ]
    );
    assert!(matches!(view.units[1].links[0].state, LinkState::Down(Fault::Refused(_))));
    let incident = &view.incidents[0];
    assert_eq!(incident.summary, "san0/a lost san0/bronze: connection reset by the target");
    assert_eq!((incident.paths.len(), incident.vms_affected.len()), (1, 2));
    assert_eq!(view.paths[0].incident, Some(incident.incident));
    assert_eq!((view.paths[0].relapses, view.paths[0].repair_after), (0, Duration::from_secs(1)));
}

#[test]
fn a_path_that_never_came_up_says_why() {
    let mut world = World::dark(two());
    let reason = |world: &World| world.controller.view(world.now).paths[0].reason.clone().unwrap_or_default();
    world.run("@3 pass");
    assert_eq!(reason(&world), "path san0/a is not connected yet, 3.0 s after the start");
    let fault = Fault::Refused("Connection refused".into());
    world.link(world.path("a"), UnitId(1), LinkChange::Down { fault, requests_outstanding: 0 });
    assert_eq!(
        reason(&world),
        "path san0/a is not connected yet, 3.0 s after the start: cannot connect: Connection refused"
    );
}

#[test]
fn a_damped_path_shows_its_relapses_until_they_are_forgotten() {
    let mut world = World::new(two());
    world.run("@1 down a\n@2 up a\n@2.5 down a\n@3 up a\n@10 pass");
    let shown = |world: &World| {
        let path = &world.controller.view(world.now).paths[0];
        (path.relapses, path.repair_after.as_secs())
    };
    assert_eq!(shown(&world), (1, 2));
    world.run("@62 pass");
    assert_eq!(shown(&world), (1, 2));
    world.run("@63 pass");
    assert_eq!(shown(&world), (0, 1));
}
