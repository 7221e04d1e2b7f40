//! What one end makes of it when the hypervisors, or the owners, say something else than was hoped for.

use super::{id, plan};
use crate::migration::destination::{self, Destination};
use crate::migration::source::{self, CONTINUE_WITHIN, Move, Outcome, Source};
use crate::migration::{Answer, DiskHandOver, HandOver, MigrationState, MigrationStatus, VmCarry};
use crate::ownership::{Found, Owner};
use crate::time::{Duration, Instant};

const START: Instant = Instant::from_millis(1000);

fn handed() -> Vec<DiskHandOver> {
    let disk = |of: source::DiskEpoch| DiskHandOver {
        disk: of.disk,
        unit: of.unit.unit,
        epoch: of.unit.epoch,
        queues: vec![],
        quarantine: vec![],
    };
    plan().disks.into_iter().map(disk).collect()
}

fn says(state: MigrationState) -> source::Input {
    let downtime = (state == MigrationState::Completed).then_some(Duration::from_millis(40));
    source::Input::Hypervisor(MigrationStatus {
        state,
        ram_total: 0,
        ram_remaining: 0,
        transferred: 0,
        downtime,
    })
}

/// The owners of all units; none: nobody is.
fn owned(host: Option<&str>, later: u64, by_the_move: bool) -> Vec<Found> {
    let found = |unit: crate::ownership::UnitEpoch| Found {
        unit: unit.unit,
        owner: host.map(|host| Owner {
            host: host.into(),
            epoch: unit.epoch + later,
            move_id: by_the_move.then(|| id(1)),
        }),
    };
    plan().units().into_iter().map(found).collect()
}

fn tell(source: &mut Source, after: Duration, inputs: Vec<source::Input>) -> Vec<source::Act> {
    let step = |input| source.step(START + after, &plan().id, input).acts;
    inputs.into_iter().flat_map(step).collect()
}

/// Its units are the destination's.
fn continuing() -> Source {
    use source::Input;
    let (mut source, _) = Source::begin(START, plan());
    let inputs = vec![
        Input::Probed(Answer::Done(())),
        Input::Claimed(Answer::Done(())),
        Input::Prepared(Answer::Done("tcp:10.0.0.2:49152".into())),
        says(MigrationState::PreSwitchover),
        Input::Settled(Ok(handed())),
        Input::HandedOver(Answer::Done(())),
        Input::Committed(Answer::Done(())),
    ];
    tell(&mut source, Duration::ZERO, inputs);
    assert_eq!(source.state().word(), "continuing");
    source
}

fn asks_there(acts: &[source::Act]) -> bool {
    acts.iter().any(|act| matches!(act, source::Act::Discard { .. }))
}

/// What is left at the source is ended when the VM has moved: QEMU's word alone is not enough.
#[test]
fn what_is_sent_has_moved_when_the_destination_says_so() {
    let mut source = continuing();
    let acts = tell(&mut source, Duration::ZERO, vec![says(MigrationState::Completed)]);
    assert!(asks_there(&acts), "{acts:?}");
    assert_eq!(source.outcome(), None);
    let unheard = Answer::Unknown("no answer".into());
    tell(&mut source, Duration::ZERO, vec![source::Input::Discarded(unheard)]);
    assert!(asks_there(&tell(&mut source, Duration::from_secs(1), vec![source::Input::Elapsed])));
    let there = Answer::Refused("it runs here".into());
    tell(&mut source, Duration::from_secs(1), vec![source::Input::Discarded(there)]);
    let downtime = Some(Duration::from_millis(40));
    assert_eq!(source.outcome(), Some(&Outcome::Moved { downtime }));
}

#[test]
fn where_the_destination_is_silent_the_word_of_qemu_has_to_do() {
    let mut source = continuing();
    tell(&mut source, Duration::ZERO, vec![says(MigrationState::Completed)]);
    let mut at = START;
    while let Some(next) = source.deadline() {
        assert!(next > at, "it asks without a pause");
        at = next;
        source.step(at, &plan().id, source::Input::Elapsed);
    }
    assert_eq!(at, START + CONTINUE_WITHIN);
    assert!(matches!(source.outcome(), Some(Outcome::Moved { .. })));
}

#[test]
fn what_is_sent_and_given_back_is_nobody_s_to_continue_unseen() {
    let mut source = continuing();
    let given_back = source::Input::Owners(Ok(owned(Some("kvm1"), 2, false)));
    let acts = tell(&mut source, Duration::ZERO, vec![says(MigrationState::Completed), given_back]);
    assert!(!acts.iter().any(|act| matches!(act, source::Act::Resume { .. } | source::Act::Revoke)));
    tell(&mut source, Duration::ZERO, vec![says(MigrationState::Completed)]);
    assert_eq!(source.state().word(), "stuck");
}

/// Another host has them, or nobody: nothing that is said at the destination is for this move any more.
#[test]
fn owners_that_have_gone_on_end_it() {
    for failed in [false, true] {
        for (host, later) in [(None, 0), (Some("kvm3"), 2), (Some("kvm2"), 2)] {
            let mut source = continuing();
            if failed {
                tell(&mut source, Duration::ZERO, vec![says(MigrationState::Failed("it broke".into()))]);
                assert_eq!(source.state().word(), "stranded");
            }
            let acts =
                tell(&mut source, Duration::ZERO, vec![source::Input::Owners(Ok(owned(host, later, false)))]);
            assert!(matches!(source.outcome(), Some(Outcome::Moved { .. })), "{host:?}");
            assert!(!acts.iter().any(|act| matches!(act, source::Act::Resume { .. })), "{acts:?}");
        }
    }
}

/// Units are this host's by a move, and a hypervisor waits for it.
fn stored() -> Destination {
    use destination::Input;
    let (mut destination, _) = Destination::begin(START, plan());
    let Move { vm, from, to, .. } = plan();
    let hand_over = HandOver {
        move_id: plan().id,
        vm,
        from,
        to,
        disks: handed(),
        incident: None,
        vm_state: VmCarry::Running,
    };
    for input in [
        Input::Launched(Ok("tcp:10.0.0.2:49152".into())),
        Input::HandOver(Box::new(hand_over)),
        Input::Stored(Ok(())),
    ] {
        destination.step(START, &plan().id, input);
    }
    assert_eq!(destination.state().word(), "stored");
    destination
}

/// It may be the only one that has the VM.
#[test]
fn a_hypervisor_is_not_ended_before_the_owners_are_known() {
    use destination::{Act, Input};
    let ends = |acts: &[Act]| acts.iter().any(|act| matches!(act, Act::End));
    let mut kept = stored();
    let acts = kept.step(START, &plan().id, Input::Discard("it broke".into())).acts;
    assert!(!ends(&acts), "{acts:?}");
    let acts = kept.step(START, &plan().id, Input::Barred(Answer::Done(()))).acts;
    assert!(ends(&acts), "no commit comes any more: {acts:?}");

    let mut landed = stored();
    let inputs = [
        Input::Landed,
        Input::Discard("it broke".into()),
        Input::Barred(Answer::Refused("the owners are others".into())),
        Input::Owners(Ok(owned(Some("kvm2"), 1, true))),
    ];
    let acts: Vec<Act> =
        inputs.into_iter().flat_map(|input| landed.step(START, &plan().id, input).acts).collect();
    assert!(!ends(&acts), "{acts:?}");
    assert_eq!(landed.outcome(), Some(&destination::Outcome::Arrived));
    assert!(acts.iter().any(|act| matches!(act, Act::AnswerDiscard(Err(_)))), "{acts:?}");
    let own = acts.iter().position(|act| matches!(act, Act::Own { .. }));
    assert!(own.is_some() && own < acts.iter().position(|act| *act == Act::Keep), "{acts:?}");
}
