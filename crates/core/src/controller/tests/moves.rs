//! When VMs move, what they do if no host will have them, and what goes on for those that do not move.

use super::world::{World, add_vm, check, connected, spec};
use crate::cluster::{Ask, Heard};
use crate::event::{Event, HypervisorReport, LinkChange, Machine, Role, RunState, StopsOnError};
use crate::ids::{PathId, UnitId, VmId};
use crate::migration::{Answer, DiskEpoch, MigrationState, MigrationStatus, Move, MoveId, VmCarry};
use crate::migration::{destination, source};
use crate::ownership::{Owner, Ownership, UnitEpoch};
use crate::policy::Place;
use crate::spec::{ByteRate, ClusterSpec, EtcdSpec, Identity, MigrationSpec, OnPathLoss, PeerSpec, Spec};
use crate::time::Duration;

pub(super) const BRONZE: VmId = VmId(0);

/// A host of a cluster with one VM, whose disk is a vhost-user device.
pub(super) fn clustered(on_path_loss: OnPathLoss, on_no_path: &str) -> Spec {
    let mut spec = spec(&[("bronze", 50, 0)]);
    let address = ([10, 0, 0, 1], 7100).into();
    spec.cluster = Some(ClusterSpec {
        etcd: EtcdSpec {
            endpoints: vec![],
            prefix: "/vmpath".into(),
            user: None,
            tls: None,
            lease: Duration::from_secs(10),
        },
        peer: PeerSpec {
            listen: address,
            address,
            ca: "/ca.pem".into(),
            identity: Identity { cert: "/cert.pem".into(), key: "/key.pem".into() },
        },
        migration: MigrationSpec {
            address: [10, 0, 0, 1].into(),
            ports: 49152..=49215,
            max: 2,
            settle: Duration::from_secs(1),
        },
    });
    let vm = &mut spec.vms[0];
    vm.on_path_loss = on_path_loss;
    vm.on_no_path = on_no_path.parse().expect("a ladder");
    vm.launch = Some("/usr/local/bin/launch".into());
    spec.disks[0].vhost_user = Some("/tmp/bronze.sock".into());
    spec
}

fn place(world: &World) -> &Place {
    &world.controller.vms[BRONZE.index()].travel.place
}

pub(super) fn state_word(world: &World) -> &'static str {
    match place(world) {
        Place::Here => "here",
        Place::Placing { .. } => "placing",
        Place::Leaving { machine, .. } => machine.state().word(),
        Place::Arriving(machine) => machine.state().word(),
        Place::Elsewhere { .. } => "elsewhere",
    }
}

pub(super) fn leaving(world: &mut World, input: source::Input) {
    let Place::Leaving { machine, .. } = place(world) else { panic!("it is {}", state_word(world)) };
    let move_id = machine.plan().id.clone();
    world.handle(Event::Cluster(Heard::Leaving { vm: BRONZE, move_id, input }));
}

pub(super) fn arriving(world: &mut World, input: destination::Input) {
    let Place::Arriving(machine) = place(world) else { panic!("it is {}", state_word(world)) };
    let move_id = machine.plan().id.clone();
    world.handle(Event::Cluster(Heard::Arriving { vm: BRONZE, move_id, input }));
}

pub(super) fn migration(world: &mut World, state: MigrationState) {
    let status =
        MigrationStatus { state, ram_total: 1 << 28, ram_remaining: 1 << 20, transferred: 9, downtime: None };
    world.report(BRONZE, HypervisorReport::Migration(status));
}

/// Until its memory is being sent.
pub(super) fn transfers(world: &mut World) {
    leaving(world, source::Input::Probed(Answer::Done(())));
    leaving(world, source::Input::Claimed(Answer::Done(())));
    leaving(world, source::Input::Prepared(Answer::Done("tcp:10.0.0.2:49152".into())));
    assert_eq!(state_word(world), "transferring");
}

fn until_all_is_sent(world: &mut World) {
    transfers(world);
    migration(world, MigrationState::PreSwitchover);
    let disk = crate::migration::DiskHandOver {
        disk: "vda".into(),
        unit: "san0/bronze".into(),
        epoch: 0,
        queues: vec![],
        quarantine: vec![],
    };
    leaving(world, source::Input::Settled(Ok(vec![disk])));
    leaving(world, source::Input::HandedOver(Answer::Done(())));
    leaving(world, source::Input::Committed(Answer::Done(())));
    migration(world, MigrationState::Completed);
}

pub(super) fn until_it_has_left(world: &mut World) {
    until_all_is_sent(world);
    leaving(world, source::Input::Discarded(Answer::Refused("it runs here".into())));
    assert_eq!(state_word(world), "elsewhere");
}

#[test]
fn a_vm_whose_path_is_lost_moves() {
    let mut world = check(
        clustered(OnPathLoss::Migrate, "hold 60s, then suspend"),
        "
        @1 etcd; owner kvm1; down a; pass
        > 1: bronze hold, ask place vm#0, san0 incident-opened, a path-down
        @1.1 placed bronze kvm2
        > 1.1: ask leave vm#0 probe, bronze vm-migrating
        ",
    );
    until_it_has_left(&mut world);
    let entry = world.journal.last().expect("told");
    assert_eq!(entry.kind.as_str(), "vm-migrated");
    assert!(entry.incident.is_some());
    let asked = |wanted: &source::Act| {
        world.asks.iter().any(|ask| matches!(ask, Ask::Leave { act, .. } if act == wanted))
    };
    assert!(asked(&source::Act::Continue { instance: 1 }));
    assert!(!asked(&source::Act::Cancel { instance: 1 }));
}

/// Its memory and its monitor's socket are needed when the VM comes back; and only what has sent it away is of no use.
#[test]
fn what_a_vm_has_left_behind_is_ended() {
    let mut world = World::new(clustered(OnPathLoss::Migrate, "hold 60s, then suspend"));
    world.run("@1 etcd; owner kvm1; down a; pass\n@1.1 placed bronze kvm2");
    until_it_has_left(&mut world);
    let ended = |world: &World| world.asks.iter().filter(|ask| matches!(ask, Ask::EndLeft { .. })).count();
    world.report(BRONZE, HypervisorReport::State(RunState::Sent));
    assert_eq!(ended(&world), 0, "its units are still this host's");
    let owner = Owner { host: "kvm2".into(), epoch: 2, move_id: None };
    let heard = Heard::Owner { unit: UnitId(0), ownership: Ownership::Theirs(owner) };
    world.handle(Event::Cluster(heard));
    for state in [RunState::Other, RunState::Paused, RunState::Running] {
        world.report(BRONZE, HypervisorReport::State(state));
        assert_eq!(ended(&world), 0, "{state:?}: somebody has started it");
    }
    world.report(BRONZE, HypervisorReport::State(RunState::Sent));
    assert_eq!(ended(&world), 1);
}

#[test]
fn what_has_sent_its_vm_is_ended_when_that_has_landed_and_not_before() {
    let mut world = World::new(clustered(OnPathLoss::Migrate, "hold 60s, then suspend"));
    world.run("@1 etcd; owner kvm1; down a; pass\n@1.1 placed bronze kvm2");
    until_all_is_sent(&mut world);
    let owner = Owner { host: "kvm2".into(), epoch: 2, move_id: None };
    let heard = Heard::Owner { unit: UnitId(0), ownership: Ownership::Theirs(owner) };
    world.handle(Event::Cluster(heard));
    world.report(BRONZE, HypervisorReport::State(RunState::Sent));
    let ended = |world: &World| world.asks.iter().filter(|ask| matches!(ask, Ask::EndLeft { .. })).count();
    assert_eq!(ended(&world), 0, "it may yet be given back");
    leaving(&mut world, source::Input::Discarded(Answer::Refused("it runs here".into())));
    assert_eq!((state_word(&world), ended(&world)), ("elsewhere", 1));
}

#[test]
fn etcd_s_silence_ends_a_move_before_its_guest_is_stopped() {
    let mut world = World::new(clustered(OnPathLoss::Migrate, "hold 60s, then suspend"));
    world.run("@1 etcd; owner kvm1; down a; pass\n@1.1 placed bronze kvm2");
    transfers(&mut world);
    world.handle(Event::Cluster(Heard::Down { why: "no leader".into() }));
    world.pass_until(world.now + source::STORE_AWAY_MAX);
    assert_eq!(state_word(&world), "cancelling");
    let told = world.journal.iter().rfind(|entry| entry.kind.as_str() == "migration-cancelled");
    assert!(told.expect("told").reason.contains("no leader"));
}

#[test]
fn its_requests_fail_over_meanwhile_where_the_rule_says_so() {
    let world = check(
        clustered(OnPathLoss::FailoverMigrate, "hold 60s, then suspend"),
        "
        @1 etcd; owner kvm1; down a; pass
        > 1: ask place vm#0, san0 incident-opened, a path-down
        ",
    );
    assert_eq!(state_word(&world), "placing");
}

#[test]
fn nobody_will_have_it_so_it_stays_and_that_is_told() {
    let world = check(
        clustered(OnPathLoss::Migrate, "hold 60s, then suspend"),
        "
        @1 etcd; owner kvm1; down a; pass
        > 1: bronze hold, ask place vm#0, san0 incident-opened, a path-down
        @1.1 no-place bronze
        > 1.1: bronze open, bronze policy-blocked
        @60 pass
        > 61.1: bronze hold, ask place vm#0
        @61.2 pass
        ",
    );
    let blocked = world.journal.iter().find(|e| e.kind.as_str() == "policy-blocked").expect("told");
    assert!(blocked.reason.contains("it was not moved: kvm2: 0 of 2 paths"), "{}", blocked.reason);
}

#[test]
fn without_etcd_nothing_moves_and_the_reason_says_so() {
    let world = check(
        clustered(OnPathLoss::Migrate, "hold 60s, then suspend"),
        "
        @1 etcd; owner kvm1; no-etcd; down a; pass
        > 1: san0 incident-opened, a path-down, bronze policy-blocked
        ",
    );
    let blocked = world.journal.last().expect("told");
    assert!(blocked.reason.contains("etcd does not answer (no quorum)"), "{}", blocked.reason);
}

#[test]
fn without_any_path_it_moves_first_and_then_goes_down_its_ladder() {
    let mut world = check(
        clustered(OnPathLoss::Failover, "migrate, then hold 60s, then suspend"),
        "
        @1 etcd; owner kvm1; down a; down b; pass
        > 1: san0 incident-opened, a path-down
        > 1: bronze hold, ask place vm#0, b path-down, bronze no-path
        @1.1 placed bronze kvm2
        > 1.1: ask leave vm#0 probe, bronze vm-migrating
        ",
    );
    leaving(&mut world, source::Input::Probed(Answer::Refused("it cannot read san0/bronze".into())));
    assert_eq!(state_word(&world), "here");
    // Its hold begins now: nothing was held up by the attempt.
    let now = world.now;
    world.pass_until(now + Duration::from_secs(59));
    assert!(!world.journal.iter().any(|e| e.kind.as_str() == "vm-suspending"));
    world.pass_until(now + Duration::from_secs(61));
    assert!(world.journal.iter().any(|e| e.kind.as_str() == "vm-suspending"));
}

#[test]
fn while_it_moves_no_rule_touches_it() {
    let mut world = check(
        clustered(OnPathLoss::Migrate, "hold 1s, then suspend"),
        "
        @1 etcd; owner kvm1; down a; pass
        > 1: bronze hold, ask place vm#0, san0 incident-opened, a path-down
        @1.1 placed bronze kvm2
        > 1.1: ask leave vm#0 probe, bronze vm-migrating
        ",
    );
    transfers(&mut world);
    world.forget_log();
    super::world::check_in(
        &mut world,
        "
        @2 down b; pass
        > 2: b path-down
        @5 suspend bronze; resume bronze; migrate bronze
        > 5: answer conflict
        > 5: answer conflict
        > 5: answer conflict
        ",
    );
    // The transfer stands still: it is given up within ten seconds, and its ladder begins.
    let now = world.now;
    world.pass_until(now + Duration::from_secs(10));
    assert_eq!(state_word(&world), "cancelling");
    migration(&mut world, MigrationState::Cancelled);
    assert_eq!(state_word(&world), "here");
    world.pass_until(now + Duration::from_secs(20));
    assert!(world.journal.iter().any(|e| e.kind.as_str() == "vm-suspending"));
}

#[test]
fn an_operator_moves_it_and_may_think_better_of_it() {
    let mut world = check(
        clustered(OnPathLoss::Failover, "hold 60s, then suspend"),
        "
        @1 etcd; owner kvm1; migrate bronze
        > 1: ask place vm#0, answer ok
        @1.1 placed bronze kvm2; cancel bronze; cancel bronze
        > 1.1: ask leave vm#0 probe, bronze vm-migrating
        > 1.1: bronze migration-cancelled, answer ok
        > 1.1: answer conflict
        ",
    );
    assert_eq!(state_word(&world), "here");
    super::world::check_in(
        &mut world,
        "
        @2 migrate bronze
        > 2: ask place vm#0, answer ok
        @2.5 no-place bronze
        > 2.5: bronze migration-cancelled
        ",
    );
}

pub(super) fn coming(memory: u64) -> Move {
    Move {
        id: MoveId { host: "kvm2".into(), nonce: 1, number: 1 },
        vm: "bronze".into(),
        from: "kvm2".into(),
        to: "kvm1".into(),
        home: "kvm2".into(),
        fled: vec!["kvm2".into()],
        disks: vec![DiskEpoch {
            disk: "vda".into(),
            unit: UnitEpoch { unit: "san0/bronze".into(), epoch: 3 },
        }],
        instance: 5,
        memory: Some(memory),
        room: vec![],
        settle: Duration::from_secs(1),
        incident: None,
        vm_state: VmCarry::Running,
        rule: "the operator asked for it".into(),
    }
}

/// Where the VM is at another host.
pub(super) fn waiting() -> World {
    let mut spec = clustered(OnPathLoss::Migrate, "hold 60s, then suspend");
    spec.vms[0].returns = true;
    waiting_with(spec)
}

pub(super) fn waiting_with(spec: Spec) -> World {
    let mut world = World::dark(spec);
    for path in world.spec.clone().path_ids() {
        world.links(path, &LinkChange::Up);
    }
    world.handle(Event::Cluster(Heard::Up { nonce: 1 }));
    world.owner("kvm2");
    world
}

/// What the source had open is in a file here.
pub(super) fn until_stored(world: &mut World, vm_state: VmCarry) {
    let hand_over = crate::migration::HandOver {
        move_id: coming(0).id,
        vm: "bronze".into(),
        from: "kvm2".into(),
        to: "kvm1".into(),
        disks: vec![crate::migration::DiskHandOver {
            disk: "vda".into(),
            unit: "san0/bronze".into(),
            epoch: 3,
            queues: vec![],
            quarantine: vec![],
        }],
        incident: None,
        vm_state,
    };
    arriving(world, destination::Input::HandOver(Box::new(hand_over)));
    arriving(world, destination::Input::Stored(Ok(())));
}

pub(super) fn until_owned(world: &mut World) {
    read_owned(world);
    assert_eq!(state_word(world), "owned");
    world.owner("kvm1");
}

/// The owners are read, and this host is it.
fn read_owned(world: &mut World) {
    let owner = Owner { host: "kvm1".into(), epoch: 4, move_id: Some(coming(0).id) };
    let found = crate::ownership::Found { unit: "san0/bronze".into(), owner: Some(owner) };
    arriving(world, destination::Input::Owners(Ok(vec![found])));
}

fn told(world: &World, kind: &str) -> usize {
    world.journal.iter().filter(|entry| entry.kind.as_str() == kind).count()
}

/// That it has come is known before how it stands.
#[test]
fn a_vm_that_comes_suspended_is_resumed_here() {
    let mut world = waiting();
    let vm_state = VmCarry::Suspended { why: "no path".into() };
    let plan = Move { vm_state: vm_state.clone(), ..coming(1 << 28) };
    world.handle(Event::Cluster(Heard::Invited(Box::new(plan))));
    arriving(&mut world, destination::Input::Launched(Ok("tcp:10.0.0.1:49152".into())));
    world.report(BRONZE, connected(8, RunState::Other, StopsOnError::No));
    until_stored(&mut world, vm_state);
    until_owned(&mut world);
    arriving(&mut world, destination::Input::Landed);
    assert_eq!((state_word(&world), told(&world, "vm-resuming")), ("here", 0));
    world.report(BRONZE, HypervisorReport::State(RunState::Paused));
    world.pass_until(world.now + Duration::from_secs(2));
    assert!(told(&world, "vm-resuming") > 0);
}

#[test]
fn a_vm_that_lands_before_its_units_are_known_to_be_here_has_come() {
    let mut world = waiting();
    world.handle(Event::Cluster(Heard::Invited(Box::new(coming(1 << 28)))));
    arriving(&mut world, destination::Input::Launched(Ok("tcp:10.0.0.1:49152".into())));
    world.report(BRONZE, connected(8, RunState::Other, StopsOnError::No));
    until_stored(&mut world, VmCarry::Running);
    world.report(BRONZE, HypervisorReport::State(RunState::Running));
    read_owned(&mut world);
    assert_eq!(state_word(&world), "here");
}

#[test]
fn a_vm_comes_and_goes_home_when_it_may() {
    let mut world = waiting();
    world.handle(Event::Cluster(Heard::Invited(Box::new(coming(1 << 28)))));
    assert_eq!(state_word(&world), "launching");
    arriving(&mut world, destination::Input::Launched(Ok("tcp:10.0.0.1:49152".into())));
    until_stored(&mut world, VmCarry::Running);
    until_owned(&mut world);
    world.report(BRONZE, connected(8, RunState::Running, StopsOnError::No));
    assert_eq!(state_word(&world), "here");
    assert_eq!(world.journal.iter().filter(|e| e.kind.as_str() == "vm-arrived").count(), 1);
    let home = |ask: &Ask| matches!(ask, Ask::Place { whereto: crate::cluster::Whereto::Home(_), .. });
    world.pass_until(world.now + Duration::from_secs(590));
    assert!(!world.asks.iter().any(home), "before it has stayed for move_dwell");
    world.pass_until(world.now + Duration::from_secs(30));
    assert!(world.asks.iter().any(home));
}

#[test]
fn a_guest_of_another_size_is_sent_away_before_it_stops() {
    let mut world = waiting();
    world.handle(Event::Cluster(Heard::Invited(Box::new(coming(1 << 28)))));
    world.report(BRONZE, connected(8, RunState::Other, StopsOnError::No));
    let role = Role::Incoming { listens: vec![] };
    let machine = Machine { instance: 8, version: "7.2".into(), memory: Some(1 << 29), role };
    world.report(BRONZE, HypervisorReport::Machine(machine));
    assert_eq!(state_word(&world), "discarding");
    let refused = |ask: &Ask| {
        matches!(ask, Ask::Arrive { act: destination::Act::AnswerPrepare(Err(why)), .. }
            if why.contains("256 MiB") && why.contains("512 MiB"))
    };
    assert!(world.asks.iter().any(refused), "{:?}", world.asks);
}

#[test]
fn who_is_not_welcome_is_told_why() {
    let declined = |spoil: &dyn Fn(&mut Move)| {
        let mut world = waiting();
        let mut plan = coming(1 << 28);
        spoil(&mut plan);
        world.handle(Event::Cluster(Heard::Invited(Box::new(plan))));
        match world.asks.last() {
            Some(Ask::Decline { why, .. }) => why.clone(),
            other => panic!("{other:?}"),
        }
    };
    assert!(declined(&|plan| plan.to = "kvm3".into()).contains("this is kvm1"));
    assert!(declined(&|plan| plan.vm = "gold".into()).contains("no VM gold"));
    assert!(declined(&|plan| plan.disks.clear()).contains("other disks"));
    let mut world = waiting();
    std::sync::Arc::make_mut(&mut world.controller.spec).cluster.as_mut().unwrap().migration.max = 0;
    world.handle(Event::Cluster(Heard::Invited(Box::new(coming(1 << 28)))));
    let Some(Ask::Decline { why, .. }) = world.asks.last() else { panic!("{:?}", world.asks) };
    assert!(why.contains("kvm1 takes no VM now: as many moves as it takes are under way"), "{why}");
}

/// Room may have gone since the summary by which the source has chosen, and a summary does not say which paths are whose.
#[test]
fn a_host_looks_at_its_room_again_when_a_vm_is_to_come() {
    let asked = |reserved: u64, change: &dyn Fn(&mut Spec), beside: bool| {
        let mut spec = clustered(OnPathLoss::Migrate, "hold 60s, then suspend");
        add_vm(&mut spec, "gold", 100, 80);
        spec.vms[0].reservation = Some(ByteRate(reserved << 20));
        change(&mut spec);
        let mut world = waiting_with(spec);
        if beside {
            let ownership = Ownership::Ours { epoch: 1 };
            world.handle(Event::Cluster(Heard::Owner { unit: UnitId::at(1), ownership }));
        }
        world.handle(Event::Cluster(Heard::Invited(Box::new(coming(1 << 28)))));
        match world.asks.last() {
            Some(Ask::Decline { why, .. }) => why.clone(),
            _ => state_word(&world).to_owned(),
        }
    };
    let as_it_is = |_: &mut Spec| {};
    let no_room = "kvm1 does not take it now: it has no room for the VM's reservation of 150.0 MiB/s on the paths \
                   that the VM may use";
    assert_eq!(asked(150, &as_it_is, false), "launching");
    assert_eq!(asked(150, &as_it_is, true), no_room, "80 MiB/s of 200 are another VM's");
    assert_eq!(asked(120, &as_it_is, true), "launching");
    assert_eq!(asked(150, &|spec| spec.vms[0].avoid_paths = vec![PathId(1)], false), no_room);
    assert_eq!(asked(150, &|spec| spec.paths[0].capacity = None, true), "launching", "nobody knows");
}

#[test]
fn a_move_goes_on_after_a_restart_from_what_the_owners_say() {
    let mut world = check(
        clustered(OnPathLoss::Migrate, "hold 60s, then suspend"),
        "
        @1 etcd; owner kvm1; down a; pass
        > 1: bronze hold, ask place vm#0, san0 incident-opened, a path-down
        @1.1 placed bronze kvm2
        > 1.1: ask leave vm#0 probe, bronze vm-migrating
        ",
    );
    transfers(&mut world);
    let saved = world.controller.save_moves();
    assert_eq!(saved.leaving.len(), 1);
    let (mut next, _) = crate::controller::Controller::new(world.spec.clone(), world.now);
    let effects = next.restore_moves(world.now, saved.clone());
    let reads = |effect: &crate::effect::Effect| {
        let read = |act: &source::Act| matches!(act, source::Act::ReadOwners { .. });
        matches!(effect, crate::effect::Effect::Cluster(Ask::Leave { act, .. }) if read(act))
    };
    assert!(effects.iter().any(reads), "{effects:?}");
    assert_eq!(next.save_moves(), saved);
}

#[test]
fn a_disk_whose_rings_do_not_fit_is_told_once_and_named_until_they_do() {
    let mut world = World::new(clustered(OnPathLoss::Failover, "suspend"));
    world.owner("kvm1");
    let disk = world.controller.spec.disks_of_vm(BRONZE).next().unwrap();
    let heard = |why: Option<&str>| Event::Cluster(Heard::Misfit { disk, why: why.map(str::to_owned) });
    world.handle(heard(Some("5 are open, and 4 were handed over")));
    world.handle(heard(Some("another of its rings")));
    assert_eq!(told(&world, "migration-held"), 1);
    let said = world.explain("bronze");
    assert!(said.contains("5 are open, and 4 were handed over"), "{said}");
    assert!(said.contains("waits for its guest to reset that device"), "{said}");
    world.handle(heard(None));
    assert!(!world.explain("bronze").contains("handed over"), "{}", world.explain("bronze"));
}
