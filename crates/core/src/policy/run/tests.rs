//! The transition table, written out as it is drawn, and what may never be sent.

use super::*;
use crate::event::StopsOnError;
use crate::ids::IncidentId;
use crate::policy::{Monitor, Outstanding, Why};

fn at(millis: u64) -> Instant {
    Instant::from_millis(millis)
}

fn cause() -> Cause {
    Cause { incident: Some(IncidentId(1)), why: Why::Operator, rule: "a rule".into() }
}

fn monitor(state: RunState) -> Monitor {
    Monitor::Present { instance: 7, state, stops_on_error: StopsOnError::Yes, since: at(0) }
}

fn name(run: &Run) -> &'static str {
    match run {
        Run::Free { .. } => "free",
        Run::Held { .. } => "held",
        Run::Suspending { .. } => "suspending",
        Run::Withdrawing { .. } => "withdrawing",
        Run::Suspended { .. } => "suspended",
        Run::Resuming { .. } => "resuming",
        Run::Proving { .. } => "proving",
    }
}

fn starts() -> Vec<Run> {
    let (since, instance, cause) = (at(0), 7, cause());
    vec![
        Run::Free { since },
        Run::Held { cause: cause.clone(), since, late: None },
        Run::Suspending { cause: cause.clone(), since, instance, attempt: 1, deadline: at(1000) },
        Run::Withdrawing { cause: cause.clone(), since, late: LateStop { instance, until: at(60_000) } },
        Run::Suspended { cause: cause.clone(), since, instance, stop: StopOrder::Confirmed },
        Run::Resuming { cause: cause.clone(), since, instance, attempt: 1, next_try: at(1000) },
        Run::Proving { cause, since, instance, attempt: 1 },
    ]
}

/// Each input with the run state that the monitor shows when it comes.
fn inputs() -> Vec<(Input, RunState)> {
    vec![
        (Input::Suspend(cause()), RunState::Running),
        (Input::Hold(cause()), RunState::Running),
        (Input::Adopt(cause()), RunState::IoError),
        (Input::Release, RunState::Paused),
        (Input::Revoke, RunState::Paused),
        (Input::Report(RunState::Paused), RunState::Paused),
        (Input::Report(RunState::IoError), RunState::IoError),
        (Input::Report(RunState::Running), RunState::Running),
        (Input::Report(RunState::Other), RunState::Other),
        (Input::Refused, RunState::Running),
        (Input::Elapsed, RunState::Paused),
        (Input::Reconnected, RunState::Running),
        (Input::Replaced, RunState::Running),
    ]
}

#[test]
fn the_transition_table_is_as_drawn() {
    let rows: Vec<String> = starts()
        .iter()
        .map(|start| {
            let cells: Vec<_> = inputs()
                .into_iter()
                .map(|(input, state)| {
                    let mut run = start.clone();
                    let step = run.step(at(100_000), &monitor(state), input);
                    let to = if name(&run) == name(start) { "-" } else { name(&run) };
                    match step.act {
                        Some(Act::Stop { .. }) => format!("{to}+stop"),
                        Some(Act::Continue { .. }) => format!("{to}+cont"),
                        None => to.into(),
                    }
                })
                .collect();
            format!("{}: {}", name(start), cells.join(" "))
        })
        .collect();
    // suspend hold adopt release revoke | paused io-error running other | refused elapsed reconnected replaced
    assert_eq!(
        rows,
        [
            "free: suspending+stop held suspended - - - - - - - - - -",
            "held: suspending+stop - suspended free - - - - - - - - -",
            "suspending: - - - withdrawing - suspended suspended - free - -+stop -+stop free",
            "withdrawing: suspending+stop held suspended - - resuming+cont resuming+cont - free free free - free",
            "suspended: - - - resuming+cont - - - free - - - - free",
            "resuming: - - - - suspended - - proving free - -+cont - free",
            "proving: suspending+stop held suspended - - free resuming - free - free - free",
        ]
    );
}

#[test]
fn cont_goes_only_to_the_process_that_was_stopped_and_stands_still() {
    for start in starts() {
        for (input, _) in inputs() {
            for (instance, state) in
                [(8, RunState::Paused), (8, RunState::IoError), (7, RunState::Running), (7, RunState::Other)]
            {
                let monitor =
                    Monitor::Present { instance, state, stops_on_error: StopsOnError::Yes, since: at(0) };
                let step = start.clone().step(at(100_000), &monitor, input.clone());
                assert!(!matches!(step.act, Some(Act::Continue { .. })), "{start:?} {input:?} {monitor:?}");
            }
        }
    }
}

#[test]
fn an_unconfirmed_stop_is_sent_three_times_then_told_and_goes_on_being_tried_slowly() {
    let mut run = Run::Free { since: at(0) };
    run.step(at(0), &monitor(RunState::Running), Input::Suspend(cause()));
    let mut log = vec![];
    for _ in 0..8 {
        let due = run.deadline().expect("it is tried again");
        let step = run.step(due, &monitor(RunState::Running), Input::Elapsed);
        assert_eq!(step.act, Some(Act::Stop { instance: 7 }));
        log.push((due.as_nanos() / 1_000_000_000, step.note));
    }
    let again = |attempt| Some(Note::StopRepeated { attempt });
    let minute = Duration::from_secs(60);
    assert_eq!(
        log,
        [
            (10, again(2)),
            (20, again(3)),
            (30, Some(Note::StopUnanswered { next_in: minute })),
            (90, again(5)),
            (210, again(6)),
            (450, again(7)),
            (930, again(8)),
            (1530, again(9)),
        ]
    );
    // It is still ours when it stops at last.
    run.step(at(1_600_000), &monitor(RunState::Paused), Input::Report(RunState::Paused));
    assert_eq!(name(&run), "suspended");
}

#[test]
fn cont_is_repeated_with_growing_pauses_and_then_left_to_the_operator() {
    let mut run = Run::Suspended { cause: cause(), since: at(0), instance: 7, stop: StopOrder::Confirmed };
    run.step(at(0), &monitor(RunState::IoError), Input::Release);
    let mut sent = vec![0];
    while let Some(due) = run.deadline() {
        let step = run.step(due, &monitor(RunState::IoError), Input::Elapsed);
        if step.act.is_some() {
            sent.push(due.as_nanos() / 1_000_000_000);
        }
    }
    assert_eq!(sent, [0, 1, 3, 7, 15, 31, 47, 63]);
    assert_eq!(run.cause().map(|c| &c.why), Some(&Why::GaveUp));
}

#[test]
fn a_stop_that_comes_after_somebody_elses_cont_is_still_known_as_ours() {
    let mut run = Run::Free { since: at(0) };
    run.step(at(0), &monitor(RunState::Running), Input::Suspend(cause()));
    run.step(at(10), &monitor(RunState::IoError), Input::Report(RunState::IoError));
    run.step(at(20), &monitor(RunState::Running), Input::Report(RunState::Running));
    assert_eq!(name(&run), "withdrawing");
    let step = run.step(at(30), &monitor(RunState::Paused), Input::Report(RunState::Paused));
    assert_eq!(step.act, Some(Act::Continue { instance: 7 }));
}

#[test]
fn a_late_stop_is_waited_for_as_long_as_nobody_can_see_it() {
    let absent = Monitor::Absent { why: "connection refused".into(), since: at(1) };
    let mut run = Run::Free { since: at(0) };
    run.step(at(0), &monitor(RunState::Running), Input::Suspend(cause()));
    run.step(at(10), &absent, Input::Release);
    for _ in 0..20 {
        run.step(run.deadline().expect("it waits"), &absent, Input::Elapsed);
    }
    // Meanwhile it has to be held for another reason: the stop is not forgotten.
    run.step(at(2_000_000), &absent, Input::Hold(cause()));
    assert_eq!(name(&run), "held");
    run.step(at(2_000_010), &monitor(RunState::Paused), Input::Report(RunState::Paused));
    assert_eq!(name(&run), "suspended");
    assert_eq!(run.instance(), Some(7));
}

#[test]
fn without_a_monitor_no_attempt_is_used_up() {
    let mut run = Run::Free { since: at(0) };
    run.step(at(0), &monitor(RunState::Running), Input::Suspend(cause()));
    let absent = Monitor::Absent { why: "connection refused".into(), since: at(1) };
    for _ in 0..20 {
        let due = run.deadline().expect("it keeps trying");
        assert_eq!(run.step(due, &absent, Input::Elapsed), Step::default());
    }
    let step = run.step(at(900_000), &monitor(RunState::Running), Input::Reconnected);
    assert_eq!(step.act, Some(Act::Stop { instance: 7 }));
}

#[test]
fn who_is_held_while_paths_are_up_has_its_bound_without_a_monitor_too() {
    let why = Why::PathLoss { paths: vec![], requests: Outstanding::Held };
    let mut run = Run::Free { since: at(0) };
    run.step(at(0), &monitor(RunState::Running), Input::Suspend(Cause { why, ..cause() }));
    let absent = Monitor::Absent { why: "connection refused".into(), since: at(1) };
    let due = run.deadline().expect("it is confirmed by then");
    assert_eq!(run.step(due, &absent, Input::Elapsed).note, Some(Note::Held));
    assert_eq!(name(&run), "held");
    // It took effect all the same.
    run.step(at(40_000), &monitor(RunState::Paused), Input::Report(RunState::Paused));
    assert_eq!((name(&run), run.instance()), ("suspended", Some(7)));
}

#[test]
fn what_keeps_a_vm_stopped_may_change() {
    let other = Cause { rule: "another rule".into(), ..cause() };
    for mut run in starts() {
        let before = name(&run);
        let note = run.step(at(5), &monitor(RunState::Running), Input::Retain(other.clone())).note;
        let is_stopped = matches!(run, Run::Suspending { .. } | Run::Suspended { .. });
        assert_eq!((name(&run), note.is_some()), (before, is_stopped));
        assert!(!is_stopped || run.cause() == Some(&other));
    }
}
