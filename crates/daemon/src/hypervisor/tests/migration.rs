//! A migration as its source's monitor tells it: the order of the commands, what is told up, and every way to end.

use super::{INSTANCE, Qemu, at, connected, talk};
use crate::hypervisor::Order;
use crate::hypervisor::session::Session;
use proptest::prelude::*;
use vmpath_core::event::{HypervisorReport, Role, RunState};
use vmpath_core::migration::MigrationState;
use vmpath_core::time::Duration;

const ACTIVE: &str = r#"{"status":"active","ram":{"total":100,"remaining":60,"transferred":40}}"#;
const WAITS: &str = r#"{"status":"pre-switchover","ram":{"total":100,"remaining":5,"transferred":95}}"#;
const COMPLETED: &str =
    r#"{"status":"completed","downtime":31,"ram":{"total":100,"remaining":0,"transferred":100}}"#;
const CANCELLED: &str = r#"{"status":"cancelled"}"#;
const FAILED: &str = r#"{"status":"failed","error-desc":"Unable to write to socket: Broken pipe"}"#;

fn event(status: &str) -> Vec<u8> {
    format!("{{\"event\":\"MIGRATION\",\"data\":{{\"status\":\"{status}\"}}}}\r\n").into_bytes()
}

fn migrate() -> Order {
    Order::Migrate { instance: INSTANCE, uri: "tcp:10.0.0.2:49152".into() }
}

const CONTINUE: Order = Order::MigrateContinue { instance: INSTANCE };
const CANCEL: Order = Order::MigrateCancel { instance: INSTANCE };

/// The states told since, in words; and what was refused.
fn told(session: &mut Session) -> Vec<String> {
    let word = |report| match report {
        HypervisorReport::Migration(status) => Some(status.state.to_string()),
        HypervisorReport::MigrationRefused { order, why } => Some(format!("{order:?} refused: {why}")),
        HypervisorReport::Deaf { why } => Some(format!("deaf: {why}")),
        HypervisorReport::Connected { .. }
        | HypervisorReport::Lost { .. }
        | HypervisorReport::State(_)
        | HypervisorReport::Refused { .. }
        | HypervisorReport::Machine(_) => None,
    };
    session.take_reports().into_iter().filter_map(word).collect()
}

/// A session whose migration stands at the given state.
fn migrating(qemu: &mut Qemu, at_state: &str, answer: &'static str) -> Session {
    let (mut session, _) = connected(qemu);
    qemu.migration = answer;
    session.order(migrate(), at(10));
    talk(&mut session, qemu, at(10));
    session.feed(&event(at_state), at(11)).expect("an event");
    talk(&mut session, qemu, at(11));
    assert_eq!(told(&mut session).last().map(String::as_str), Some(at_state));
    session
}

#[test]
fn a_whole_migration_in_its_order() {
    let mut qemu = Qemu::new();
    let (mut session, _) = connected(&mut qemu);
    qemu.told.clear();
    session.order(migrate(), at(10));
    qemu.migration = r#"{"status":"setup"}"#;
    talk(&mut session, &mut qemu, at(10));
    assert_eq!(told(&mut session), ["setup"]);
    let names: Vec<&str> = qemu.told.iter().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(names, ["migrate-set-capabilities", "migrate-set-parameters", "migrate"]);
    assert!(qemu.told[0].contains("pause-before-switchover"), "{:?}", qemu.told);
    qemu.migration = ACTIVE;
    assert_eq!(session.deadline(), at(210), "it is asked again before long");
    session.tick(at(210)).expect("patience");
    talk(&mut session, &mut qemu, at(210));
    let reports = session.take_reports();
    let [HypervisorReport::Migration(status)] = &reports[..] else { panic!("{reports:?}") };
    assert_eq!((status.ram_total, status.ram_remaining, status.transferred), (100, 60, 40));
    session.tick(at(410)).expect("patience");
    talk(&mut session, &mut qemu, at(410));
    assert!(told(&mut session).is_empty(), "nothing has changed");
    qemu.migration = WAITS;
    session.feed(&event("pre-switchover"), at(420)).expect("an event");
    assert_eq!(told(&mut session), ["pre-switchover"], "told before anything is asked");
    talk(&mut session, &mut qemu, at(420));
    session.order(CONTINUE, at(430));
    session.feed(&event("device"), at(431)).expect("an event");
    qemu.migration = COMPLETED;
    qemu.status = "postmigrate";
    talk(&mut session, &mut qemu, at(432));
    session.feed(&event("completed"), at(433)).expect("an event");
    talk(&mut session, &mut qemu, at(433));
    assert_eq!(told(&mut session), ["pre-switchover", "device", "completed"]);
    assert_eq!(session.deadline(), at(5432), "nobody asks on and on");
    session.order(Order::Continue { instance: INSTANCE }, at(440));
    let reports = session.take_reports();
    assert!(
        matches!(&reports[..], [HypervisorReport::Refused { why }] if why.contains("elsewhere")),
        "it must never run twice: {reports:?}"
    );
}

#[test]
fn without_the_stop_before_the_switchover_nothing_is_sent() {
    for refused in ["migrate-set-capabilities", "migrate-set-parameters", "migrate"] {
        let mut qemu = Qemu { refuses: vec![refused], ..Qemu::new() };
        let (mut session, _) = connected(&mut qemu);
        session.order(migrate(), at(10));
        talk(&mut session, &mut qemu, at(10));
        let why = format!("Start refused: QEMU refused `{refused}`: not now");
        assert_eq!(told(&mut session), [why]);
        let sent = qemu.told.iter().any(|line| line.starts_with("migrate {"));
        assert_eq!(sent, refused == "migrate");
        qemu.refuses.clear();
        qemu.migration = ACTIVE;
        session.order(migrate(), at(20));
        talk(&mut session, &mut qemu, at(20));
        assert_eq!(told(&mut session), ["active"], "it can be tried again");
    }
}

#[test]
fn orders_that_do_not_fit_the_state_are_refused() {
    let mut qemu = Qemu::new();
    let (mut session, _) = connected(&mut qemu);
    session.order(CONTINUE, at(1));
    assert_eq!(told(&mut session), ["Continue refused: the migration is not at its switchover: none"]);
    session.order(Order::Migrate { instance: INSTANCE + 1, uri: String::new() }, at(2));
    assert!(told(&mut session)[0].contains("another QEMU"));
    session.order(migrate(), at(3));
    session.order(migrate(), at(4));
    assert_eq!(told(&mut session), ["Start refused: a migration is on already: none"]);
    qemu.migration = ACTIVE;
    talk(&mut session, &mut qemu, at(5));
    session.order(migrate(), at(6));
    session.order(CONTINUE, at(7));
    let refused = "Start refused: a migration is on already: active";
    let too_early = "Continue refused: the migration is not at its switchover: active";
    assert_eq!(told(&mut session), ["active", refused, too_early]);
}

#[test]
fn a_cancel_is_heard_at_any_state() {
    let mut qemu = Qemu::new();
    let (mut session, _) = connected(&mut qemu);
    session.order(migrate(), at(1));
    session.order(CANCEL, at(2));
    talk(&mut session, &mut qemu, at(2));
    assert_eq!(told(&mut session), ["Start refused: it was cancelled before it began"]);
    assert!(!qemu.told.iter().any(|line| line.starts_with("migrate {")), "{:?}", qemu.told);
    for (state, answer) in [("active", ACTIVE), ("pre-switchover", WAITS)] {
        let mut qemu = Qemu::new();
        let mut session = migrating(&mut qemu, state, answer);
        session.order(CANCEL, at(20));
        session.feed(&event("cancelling"), at(21)).expect("an event");
        qemu.migration = r#"{"status":"cancelled"}"#;
        talk(&mut session, &mut qemu, at(21));
        assert_eq!(told(&mut session), ["cancelling", "cancelled"]);
    }
}

#[test]
fn a_failure_is_told_with_its_reason_each_time() {
    let mut qemu = Qemu::new();
    let (mut session, _) = connected(&mut qemu);
    for round in 1..3 {
        qemu.migration = r#"{"status":"failed","error-desc":"Connection refused"}"#;
        session.order(migrate(), at(round * 100));
        talk(&mut session, &mut qemu, at(round * 100));
        assert_eq!(told(&mut session), ["failed: Connection refused"], "round {round}");
    }
    qemu.migration = r#"{"status":"failed"}"#;
    session.order(migrate(), at(900));
    talk(&mut session, &mut qemu, at(900));
    assert_eq!(told(&mut session), ["failed: QEMU gives no reason"]);
}

#[test]
fn a_qemu_that_answers_nothing_is_deaf_and_then_dead_except_while_it_sends_the_devices() {
    let mut qemu = Qemu::new();
    let mut session = migrating(&mut qemu, "active", ACTIVE);
    let mut seen = Vec::new();
    let broken = loop {
        let now = session.deadline();
        match session.tick(now) {
            Ok(()) => seen.extend(told(&mut session)),
            Err(why) => break (now, why),
        }
    };
    assert!(seen.len() >= 3 && seen.iter().all(|word| word.contains("last active")), "{seen:?}");
    assert!(broken.1.contains("not answered") && broken.0 <= at(11_500), "{broken:?}");

    let mut qemu = Qemu::new();
    let mut session = migrating(&mut qemu, "pre-switchover", WAITS);
    session.order(CONTINUE, at(100));
    session.feed(&event("device"), at(101)).expect("an event");
    // The destination takes nothing for a minute: QEMU sends with its lock held.
    session.order(CANCEL, at(200));
    while session.deadline() < at(60_000) {
        let now = session.deadline();
        session.tick(now).expect("it is not dead: it sends");
    }
    let seen = told(&mut session);
    assert!(seen.iter().filter(|word| word.contains("last device")).count() > 20, "{seen:?}");
    assert!(seen.contains(&"Cancel refused: no answer to `migrate_cancel`".to_owned()), "{seen:?}");
    qemu.migration = r#"{"status":"failed"}"#;
    talk(&mut session, &mut qemu, at(61_000));
    assert_eq!(told(&mut session), ["failed: QEMU gives no reason"]);
    // And from now on silence is death again.
    let mut end = session.deadline();
    while session.tick(end).is_ok() {
        end = session.deadline();
        assert!(end < at(80_000), "a dead monitor is never found");
    }
}

#[test]
fn a_new_session_finds_a_migration_on_its_way() {
    let at_switchover = Qemu { migration: WAITS, status: "finish-migrate", ..Qemu::new() };
    for (mut qemu, expect) in [
        (at_switchover, Some(MigrationState::PreSwitchover)),
        (Qemu { migration: ACTIVE, ..Qemu::new() }, Some(MigrationState::Active)),
        (
            Qemu { migration: COMPLETED, status: "postmigrate", ..Qemu::new() },
            Some(MigrationState::Completed),
        ),
        // It came here by that one.
        (Qemu { migration: r#"{"status":"completed"}"#, ..Qemu::new() }, None),
        (Qemu { migration: r#"{"status":"cancelled"}"#, ..Qemu::new() }, Some(MigrationState::Cancelled)),
    ] {
        let (mut session, reports) = connected(&mut qemu);
        let found = reports.into_iter().find_map(|report| match report {
            HypervisorReport::Migration(status) => Some(status.state),
            _ => None,
        });
        assert_eq!(found, expect, "{}", qemu.migration);
        let polls = matches!(expect, Some(MigrationState::PreSwitchover | MigrationState::Active));
        assert_eq!(session.deadline() == at(200), polls, "{}", qemu.migration);
        if expect == Some(MigrationState::PreSwitchover) {
            session.order(CONTINUE, at(5));
            talk(&mut session, &mut qemu, at(5));
            assert!(qemu.told.iter().any(|line| line.starts_with("migrate-continue")));
        }
    }
}

#[test]
fn an_incoming_process_is_told_as_such_until_the_vm_is_there() {
    let listens = r#"{"socket-address":[{"port":"49152","host":"10.0.0.2","type":"inet"}]}"#;
    let mut qemu = Qemu { status: "inmigrate", migration: listens, ..Qemu::new() };
    let (mut session, reports) = connected(&mut qemu);
    let role = reports.iter().find_map(|report| match report {
        HypervisorReport::Machine(machine) => Some((machine.role.clone(), machine.memory)),
        _ => None,
    });
    let listens = vec!["tcp:10.0.0.2:49152".to_owned()];
    assert_eq!(role, Some((Role::Incoming { listens }, Some(256 << 20))));
    session.order(migrate(), at(1));
    assert_eq!(told(&mut session), ["Start refused: QEMU itself waits for a VM"]);
    session.order(Order::Continue { instance: INSTANCE }, at(2));
    assert!(matches!(&session.take_reports()[..], [HypervisorReport::Refused { .. }]));
    // Its own side of the stream is nobody's business here; that the VM runs is.
    qemu.migration = r#"{"status":"active"}"#;
    session.feed(&event("active"), at(4)).expect("an event");
    talk(&mut session, &mut qemu, at(4));
    assert!(told(&mut session).is_empty());
    (qemu.migration, qemu.status) = (r#"{"status":"completed"}"#, "running");
    session.feed(&Qemu::event("RESUME"), at(5)).expect("an event");
    session.feed(&event("completed"), at(5)).expect("an event");
    talk(&mut session, &mut qemu, at(5));
    let running = HypervisorReport::State(RunState::Running);
    let reports = session.take_reports();
    assert!(reports.contains(&running), "{reports:?}");
    assert!(!reports.iter().any(|report| matches!(report, HypervisorReport::Migration(_))), "{reports:?}");
}

/// It would take a running VM with it.
#[test]
fn only_what_a_vm_has_left_is_ended() {
    for (status, migration, ends) in [
        ("postmigrate", COMPLETED, true),
        ("postmigrate", CANCELLED, false),
        ("postmigrate", FAILED, false),
        ("postmigrate", "{}", false),
        ("running", COMPLETED, false),
        ("paused", COMPLETED, false),
        ("inmigrate", COMPLETED, false),
    ] {
        let mut qemu = Qemu { status, migration, ..Qemu::new() };
        let (mut session, _) = connected(&mut qemu);
        session.order(Order::Quit { instance: INSTANCE }, at(1));
        session.order(Order::Quit { instance: INSTANCE + 1 }, at(1));
        talk(&mut session, &mut qemu, at(1));
        let quits = qemu.told.iter().filter(|line| line.starts_with("quit")).count();
        assert_eq!(quits, usize::from(ends), "{status} {migration}");
    }
}

/// The run states told since.
fn stood(session: &mut Session) -> Vec<RunState> {
    let state = |report| match report {
        HypervisorReport::State(state) | HypervisorReport::Connected { state, .. } => Some(state),
        HypervisorReport::Lost { .. }
        | HypervisorReport::Refused { .. }
        | HypervisorReport::Machine(_)
        | HypervisorReport::Migration(_)
        | HypervisorReport::MigrationRefused { .. }
        | HypervisorReport::Deaf { .. } => None,
    };
    session.take_reports().into_iter().filter_map(state).collect()
}

/// QEMU's migration thread says `completed` before it takes the lock under which the process changes its state and its downtime is
/// known (`migration_iteration_finish`).
#[test]
fn what_is_completed_is_told_when_the_process_stands_so() {
    let mut qemu = Qemu::new();
    let mut session = migrating(&mut qemu, "pre-switchover", WAITS);
    qemu.status = "finish-migrate";
    session.feed(b"{\"event\":\"STOP\"}\r\n", at(12)).expect("an event");
    talk(&mut session, &mut qemu, at(12));
    assert_eq!(stood(&mut session), [RunState::Other]);
    qemu.migration = r#"{"status":"completed","downtime":0}"#;
    session.feed(&event("completed"), at(20)).expect("an event");
    talk(&mut session, &mut qemu, at(20));
    let early: Vec<_> = session.take_reports();
    let is_over = |report: &HypervisorReport| match report {
        HypervisorReport::Migration(status) => status.state == MigrationState::Completed,
        _ => false,
    };
    assert!(!early.iter().any(is_over), "{early:?}");
    (qemu.status, qemu.migration) = ("postmigrate", COMPLETED);
    let soon = session.deadline();
    assert!(soon <= at(220), "asked again only at {soon:?}");
    session.tick(soon).expect("a poll");
    talk(&mut session, &mut qemu, soon);
    let reports = session.take_reports();
    let over = reports.iter().find_map(|report| match report {
        HypervisorReport::Migration(status) if is_over(report) => Some(status.downtime),
        _ => None,
    });
    assert_eq!(over, Some(Some(Duration::from_millis(31))), "{reports:?}");
    assert_eq!(reports.last(), Some(&HypervisorReport::State(RunState::Sent)), "{reports:?}");
}

/// QEMU leaves a VM that was stopped before in `postmigrate`, also when it has not gone.
#[test]
fn a_stopped_vm_that_did_not_go_is_stopped_and_can_be_continued() {
    for (how, end) in [("cancelled", CANCELLED), ("failed", FAILED)] {
        let mut qemu = Qemu { status: "paused", ..Qemu::new() };
        let mut session = migrating(&mut qemu, "pre-switchover", WAITS);
        (qemu.status, qemu.migration) = ("postmigrate", end);
        session.feed(&event(how), at(20)).expect("an event");
        talk(&mut session, &mut qemu, at(20));
        assert_eq!(stood(&mut session).last(), Some(&RunState::Paused), "{how}");
        qemu.told.clear();
        session.order(Order::Continue { instance: INSTANCE }, at(30));
        talk(&mut session, &mut qemu, at(30));
        assert!(qemu.told.iter().any(|line| line.starts_with("cont")), "{how}: {:?}", qemu.told);
    }
}

/// How the one before ended says nothing: the VM would run twice.
#[test]
fn a_stopped_vm_that_somebody_else_has_sent_is_not_taken_for_stopped() {
    let mut qemu = Qemu { status: "paused", ..Qemu::new() };
    let mut session = migrating(&mut qemu, "active", ACTIVE);
    qemu.migration = CANCELLED;
    session.feed(&event("cancelled"), at(20)).expect("an event");
    talk(&mut session, &mut qemu, at(20));
    assert_eq!(stood(&mut session).last(), Some(&RunState::Paused));
    (qemu.status, qemu.migration) = ("postmigrate", COMPLETED);
    session.tick(session.deadline()).expect("a poll");
    talk(&mut session, &mut qemu, at(6000));
    assert_eq!(stood(&mut session), [RunState::Other, RunState::Sent]);
    qemu.told.clear();
    session.order(Order::Continue { instance: INSTANCE }, at(6010));
    talk(&mut session, &mut qemu, at(6010));
    assert!(qemu.told.is_empty(), "{:?}", qemu.told);
}

#[test]
fn a_new_session_tells_how_a_process_stands_once_it_knows() {
    for (end, expected) in
        [(COMPLETED, RunState::Sent), (CANCELLED, RunState::Paused), (FAILED, RunState::Paused)]
    {
        let mut qemu = Qemu { status: "postmigrate", migration: end, ..Qemu::new() };
        let (_, reports) = connected(&mut qemu);
        let told = reports.iter().find_map(|report| match report {
            HypervisorReport::Connected { state, .. } => Some(*state),
            _ => None,
        });
        assert_eq!(told, Some(expected), "{end}");
    }
    // One that does not say is not asked on and on.
    let mut qemu = Qemu { status: "postmigrate", refuses: vec!["query-migrate"], ..Qemu::new() };
    let (mut session, reports) = connected(&mut qemu);
    assert!(session.is_ready());
    assert!(
        reports
            .iter()
            .any(|report| matches!(report, HypervisorReport::Connected { state: RunState::Other, .. }))
    );
    session.order(Order::Continue { instance: INSTANCE }, at(1));
    assert!(matches!(&session.take_reports()[..], [HypervisorReport::Refused { .. }]));
}

#[test]
fn a_question_by_order_is_always_answered() {
    let mut qemu = Qemu::new();
    let (mut session, _) = connected(&mut qemu);
    for _ in 0..2 {
        session.order(Order::QueryMigrate { instance: INSTANCE }, at(1));
        talk(&mut session, &mut qemu, at(1));
        assert_eq!(told(&mut session), ["none"]);
    }
    let mut qemu = Qemu::new();
    let mut session = migrating(&mut qemu, "active", ACTIVE);
    session.tick(at(300)).expect("a poll");
    session.order(Order::QueryMigrate { instance: INSTANCE }, at(300));
    talk(&mut session, &mut qemu, at(300));
    assert_eq!(told(&mut session), ["active"], "by an answer that was asked for after the order");
}

#[test]
fn answers_of_another_shape_end_the_connection_or_are_none() {
    let mut qemu = Qemu::new();
    let mut session = migrating(&mut qemu, "active", ACTIVE);
    session.tick(at(300)).expect("a poll");
    qemu.migration = "[]";
    let sent = std::mem::take(session.output());
    assert!(session.feed(&qemu.answer(&sent), at(300)).unwrap_err().contains("query-migrate"));
    let mut old = Qemu { refuses: vec!["query-memory-size-summary", "query-migrate"], ..Qemu::new() };
    let (_, reports) = connected(&mut old);
    assert!(
        matches!(&reports[..], [_, HypervisorReport::Machine(machine)] if machine.memory == Some(5)),
        "{reports:?}"
    );
}

/// Something that may happen to a session, at any time.
#[derive(Debug, Clone)]
enum Step {
    Order(u8),
    Event(&'static str),
    /// From now on QEMU answers so.
    Answers(&'static str),
    Refuses(&'static str),
    Talk,
    Wait(u64),
}

fn any_step() -> impl Strategy<Value = Step> {
    let states =
        ["none", "setup", "active", "pre-switchover", "device", "completed", "failed", "cancelled", "x"];
    let answers =
        vec!["{}", ACTIVE, WAITS, COMPLETED, r#"{"status":"failed"}"#, r#"{"status":"cancelling"}"#];
    let commands = vec!["migrate", "migrate-continue", "migrate_cancel", "migrate-set-capabilities"];
    prop_oneof![
        (0_u8..7).prop_map(Step::Order),
        prop::sample::select(states.to_vec()).prop_map(Step::Event),
        prop::sample::select(answers).prop_map(Step::Answers),
        prop::sample::select(commands).prop_map(Step::Refuses),
        Just(Step::Talk),
        (0_u64..3000).prop_map(Step::Wait),
    ]
}

fn order(number: u8) -> Order {
    let (instance, uri) = (INSTANCE, "tcp:h:1".to_owned());
    match number {
        0 => Order::Stop { instance },
        1 => Order::Continue { instance },
        2 => Order::Migrate { instance, uri },
        3 => CONTINUE,
        4 => CANCEL,
        _ => Order::QueryMigrate { instance },
    }
}

proptest! {
    /// Whatever happens: `migrate` only right behind the capabilities and limits that QEMU took for it, `migrate-continue` only
    /// when a switchover was the last that was told, no order without an end, and a bounded number of open questions.
    #[test]
    fn any_course_of_events(steps in prop::collection::vec(any_step(), 1..60)) {
        let mut qemu = Qemu::new();
        let (mut session, _) = connected(&mut qemu);
        let (mut now, mut last) = (0, MigrationState::None);
        for step in steps {
            qemu.told.clear();
            let mut broken = false;
            match step {
                Step::Order(number) => {
                    let before = session.output().len();
                    session.order(order(number), at(now));
                    let sent = String::from_utf8_lossy(&session.output()[before..]).into_owned();
                    prop_assert!(!sent.contains("migrate-continue") || last == MigrationState::PreSwitchover);
                }
                Step::Event(state) => broken = session.feed(&event(state), at(now)).is_err(),
                Step::Answers(answer) => qemu.migration = answer,
                Step::Refuses(name) => qemu.refuses = vec![name],
                Step::Talk => talk(&mut session, &mut qemu, at(now)),
                Step::Wait(ms) => {
                    now += ms;
                    broken = session.tick(at(now)).is_err();
                }
            }
            let commands: Vec<&str> = qemu.told.iter().filter_map(|line| line.split(' ').next()).collect();
            if let Some(place) = commands.iter().position(|name| *name == "migrate") {
                let before = commands[..place].iter().filter(|name| **name == "migrate-set-parameters").count();
                prop_assert!(before > 0, "{commands:?}");
                prop_assert!(!qemu.refuses.contains(&"migrate-set-capabilities"), "{commands:?}");
            }
            for report in session.take_reports() {
                if let HypervisorReport::Migration(status) = report {
                    last = status.state;
                }
            }
            prop_assert!(session.output().iter().filter(|byte| **byte == b'\n').count() <= 16);
            if broken {
                break;
            }
        }
    }
}
