//! What is said of a VM that is on its way, or at another host.

use super::moves::{
    BRONZE, arriving, clustered, coming, leaving, migration, transfers, until_it_has_left, waiting,
};
use super::world::{World, check};
use crate::cluster::{Chosen, Heard};
use crate::event::{Command, Event, HypervisorReport, RunState, StopsOnError};
use crate::migration::{Answer, MigrationState, destination, source};
use crate::ownership::{Owner, Ownership};
use crate::spec::OnPathLoss;
use crate::time::Duration;

/// Lost a path under `on_path_loss = "migrate"`, and kvm2 will have it.
fn begun() -> World {
    check(
        clustered(OnPathLoss::Migrate, "hold 60s, then suspend"),
        "
        @1 etcd; owner kvm1; down a; pass
        > 1: bronze hold, ask place vm#0, san0 incident-opened, a path-down
        @1.1 placed bronze kvm2
        > 1.1: ask leave vm#0 probe, bronze vm-migrating
        ",
    )
}

fn told(world: &World, parts: &[&str]) {
    let text = world.explain("bronze");
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

#[test]
fn every_step_at_the_source_says_where_to_how_far_and_what_ends_it() {
    let mut world = begun();
    let expected = "\
migrating hold
it is being moved to kvm2: san0/a is lost and on_path_loss = \"migrate\"
kvm2 is asked to read each of its units
path san0/a has been down for 100 ms: connection reset by the target (INC-1)
waits for the answer of kvm2; for another 4.0 s at most, then it stays";
    assert_eq!(world.explain("bronze"), expected);
    leaving(&mut world, source::Input::Probed(Answer::Done(())));
    told(&world, &["room is claimed there", "the store's answer"]);
    leaving(&mut world, source::Input::Claimed(Answer::Done(())));
    told(&world, &["is being launched at kvm2", "for another 30.0 s at most"]);
    leaving(&mut world, source::Input::Prepared(Answer::Done("tcp:10.0.0.2:49152".into())));
    told(&world, &["its memory is about to be sent; it runs here meanwhile"]);
    migration(&mut world, MigrationState::Active);
    told(&world, &["0.0 MiB sent, 1.0 MiB left", "given up if it gets nowhere for another 8.0 s"]);
    migration(&mut world, MigrationState::PreSwitchover);
    told(&world, &["it stands still", "its requests to come to rest"]);
    leaving(&mut world, source::Input::Cancel("somebody wants it".into()));
    told(&world, &["the move is cancelled: somebody wants it", "QEMU to say that it is cancelled"]);
    migration(&mut world, MigrationState::Completed);
    told(&world, &["no host serves its disks", "waits for you: end its hypervisor at kvm2"]);
}

/// Its units are being given to kvm2.
fn committing() -> World {
    let mut world = begun();
    transfers(&mut world);
    migration(&mut world, MigrationState::PreSwitchover);
    let disk = crate::migration::DiskHandOver {
        disk: "vda".into(),
        unit: "san0/bronze".into(),
        epoch: 0,
        queues: vec![],
        quarantine: vec![],
    };
    leaving(&mut world, source::Input::Settled(Ok(vec![disk])));
    told(&world, &["kvm2 is told what of its requests is open"]);
    leaving(&mut world, source::Input::HandedOver(Answer::Done(())));
    world
}

#[test]
fn a_commit_whose_outcome_is_unknown_says_so() {
    let mut world = committing();
    told(&world, &["its units are being given to kvm2"]);
    leaving(&mut world, source::Input::Committed(Answer::Unknown("no quorum".into())));
    told(
        &world,
        &["not known whether its units have gone to kvm2", "no quorum", "the store to say who owns"],
    );
}

#[test]
fn a_commit_that_was_not_sent_is_no_doubt() {
    let mut world = committing();
    leaving(&mut world, source::Input::NotCommitted("etcd is away".into()));
    told(&world, &["the move is cancelled: its units could not be given over: etcd is away"]);
    migration(&mut world, MigrationState::Cancelled);
    assert_eq!(super::moves::state_word(&world), "here");
}

#[test]
fn one_that_has_left_says_where_it_is_also_when_it_goes_on() {
    let mut world = begun();
    until_it_has_left(&mut world);
    assert_eq!(world.explain("bronze"), "elsewhere open\nit has left for kvm2");
    let at = |host: &str, epoch| Ownership::Theirs(Owner { host: host.into(), epoch, move_id: None });
    for (host, epoch) in [("kvm2", 4), ("kvm3", 5)] {
        let unit = crate::ids::UnitId::at(0);
        world.handle(Event::Cluster(Heard::Owner { unit, ownership: at(host, epoch) }));
        let expected = format!("elsewhere open\nit is at {host}: its disks are owned there (epoch {epoch})");
        assert_eq!(world.explain("bronze"), expected);
        let row = &world.controller.view(world.now).vms[BRONZE.index()];
        assert_eq!(row.other_host.as_deref(), Some(host));
    }
}

#[test]
fn why_it_was_not_moved_is_told_until_it_is_tried_again() {
    let mut world = check(
        clustered(OnPathLoss::FailoverMigrate, "hold 60s, then suspend"),
        "
        @1 etcd; owner kvm1; down a; pass
        > 1: ask place vm#0, san0 incident-opened, a path-down
        ",
    );
    told(
        &world,
        &[
            "running open",
            "a host that can have it is looked for: san0/a is lost and on_path_loss",
            "waits for word of the other hosts",
        ],
    );
    let why = "kvm2 is the only host that will do".to_owned();
    let result = Ok(Chosen { host: "kvm2".into(), why });
    world.handle(Event::Cluster(Heard::Placed { vm: BRONZE, result }));
    told(&world, &["kvm2 is the only host that will do"]);
    leaving(&mut world, source::Input::Probed(Answer::Refused("it cannot read san0/bronze".into())));
    told(&world, &["it cannot read san0/bronze", "no rule tries it again for 60.0 s"]);
    world.pass_until(world.now + Duration::from_secs(20));
    told(&world, &["no rule tries it again for 40.0 s"]);
}

#[test]
fn every_step_at_the_destination_says_where_from_and_what_ends_it() {
    let mut world = waiting();
    told(&world, &["elsewhere open", "it is at kvm2"]);
    world.handle(Event::Cluster(Heard::Invited(Box::new(coming(1 << 28)))));
    let expected = "\
migrating open
it comes from kvm2: the operator asked for it
its hypervisor is being launched here
waits for that one to wait for it; for another 28.0 s at most, then it does not come";
    assert_eq!(world.explain("bronze"), expected);
    arriving(&mut world, destination::Input::Launched(Ok("tcp:10.0.0.1:49152".into())));
    told(&world, &["waits for its memory at tcp:10.0.0.1:49152", "kvm2 to hand it over"]);
    arriving(&mut world, destination::Input::Discard("kvm2 has thought better of it".into()));
    told(&world, &["it does not come: kvm2 has thought better", "that process to end"]);
    arriving(&mut world, destination::Input::Ended("signal 15".into()));
    told(&world, &["elsewhere open", "it is at kvm2"]);
}

#[test]
fn a_guest_that_runs_while_another_host_owns_its_disk_is_not_called_elsewhere() {
    let mut world = World::new(clustered(OnPathLoss::Failover, "hold 60s, then suspend"));
    world.run("@1 etcd; owner kvm2; pass");
    world.report(BRONZE, super::world::connected(1, RunState::Running, StopsOnError::No));
    told(&world, &["running", "its requests to san0/bronze are held: owned by kvm2 (epoch 3)"]);
    told(&world, &["waits for kvm2 to let go of san0/bronze"]);
    world.run("@2 owner kvm1; pass");
    assert_eq!(world.explain("bronze"), "running open");
}

/// Its process may be gone, or merely silent: the operator has looked.
#[test]
fn what_cannot_be_heard_to_cancel_is_ended_by_hand() {
    let mut world = begun();
    transfers(&mut world);
    world.command(Command::CancelMigration(BRONZE));
    world.command(Command::CancelMigration(BRONZE));
    assert_eq!(super::moves::state_word(&world), "cancelling", "QEMU can be asked");
    world.report(BRONZE, HypervisorReport::Lost { why: "nobody answers".into() });
    world.command(Command::CancelMigration(BRONZE));
    assert_eq!(super::moves::state_word(&world), "here");
}
