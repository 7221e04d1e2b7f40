//! Who owns a unit: claimed, moved, given back.

use super::*;

const UNITS: &[&str] = &["a", "b"];

async fn two(etcd: &Etcd) -> (Host, Host) {
    let (mut one, mut two) =
        (Host::start("kvm1", &etcd.clients(), UNITS), Host::start("kvm2", &etcd.clients(), UNITS));
    one.up().await;
    two.up().await;
    (one, two)
}

#[tokio::test]
async fn of_two_that_claim_a_unit_one_wins() {
    let Some(etcd) = etcd(1) else { return };
    let (mut one, mut two) = two(&etcd).await;
    one.owner("san0/a", "nobody").await;
    for round in 1..=5 {
        let claim = |ticket| ClusterOrder::Claim { ticket, units: units(UNITS) };
        let tickets = (one.tell(claim), two.tell(claim));
        let answers = (one.answer(tickets.0).await, two.answer(tickets.1).await);
        // Claiming and giving back are a change each.
        let epoch = 2 * round - 1;
        let won = |host: &str| format!("done: {host} (epoch {epoch}), {host} (epoch {epoch})");
        let lost = |host: &str| format!("there: {host} (epoch {epoch}), {host} (epoch {epoch})");
        let winner = match (text(&answers.0), text(&answers.1)) {
            (first, second) if first == won("kvm1") && second == lost("kvm1") => &mut one,
            (first, second) if first == lost("kvm2") && second == won("kvm2") => &mut two,
            both => panic!("{both:?}"),
        };
        let release = |ticket| ClusterOrder::Release { ticket, units: at(&[("a", epoch), ("b", epoch)]) };
        assert_eq!(text(&winner.ask(release).await), "done: nobody, nobody");
    }
}

#[tokio::test]
async fn a_commit_moves_all_units_or_none_and_everybody_is_told() {
    let Some(etcd) = etcd(1) else { return };
    let (mut one, mut two) = two(&etcd).await;
    one.ask(|ticket| ClusterOrder::Claim { ticket, units: units(UNITS) }).await;
    two.owner("san0/b", "kvm1 (epoch 1)").await;
    one.ask(|ticket| ClusterOrder::Bump { ticket, units: at(&[("b", 1)]) }).await;

    let commit = |b: u64| {
        move |ticket| ClusterOrder::Commit {
            ticket,
            id: move_id(1),
            to: "kvm2".into(),
            units: at(&[("a", 1), ("b", b)]),
        }
    };
    let refused = one.ask(commit(1)).await;
    assert_eq!(text(&refused), "there: kvm1 (epoch 1), kvm1 (epoch 2)", "one old epoch, and nothing moves");
    assert_eq!(
        text(&two.ask(commit(2)).await),
        "there: kvm1 (epoch 1), kvm1 (epoch 2)",
        "only the owner gives it away"
    );
    let done = one.ask(commit(2)).await;
    assert_eq!(text(&done), "done: kvm2 (epoch 2), kvm2 (epoch 3)");
    let Outcome::Done { owners, .. } = done else { panic!("done") };
    assert!(
        owners
            .iter()
            .all(|found| found.owner.as_ref().and_then(|owner| owner.move_id.clone()) == Some(move_id(1)))
    );

    two.owner("san0/a", "kvm2 (epoch 2)").await;
    let read = two.ask(|ticket| ClusterOrder::ReadOwners { ticket, units: units(UNITS) }).await;
    assert_eq!(text(&read), "done: kvm2 (epoch 2), kvm2 (epoch 3)");
    assert_eq!(text(&one.ask(commit(2)).await), "there: kvm2 (epoch 2), kvm2 (epoch 3)", "once");
    // The destination's next process begins under an epoch of its own, and the move is still named.
    two.ask(|ticket| ClusterOrder::Bump { ticket, units: at(&[("a", 2)]) }).await;
    let read = one.ask(|ticket| ClusterOrder::ReadOwners { ticket, units: units(&["a"]) }).await;
    let Outcome::Done { owners, .. } = read else { panic!("done") };
    assert_eq!(owners[0].owner.as_ref().and_then(|owner| owner.move_id.clone()), Some(move_id(1)));
}

#[tokio::test]
async fn a_takeover_needs_the_host_and_the_epoch_that_were_fenced() {
    let Some(etcd) = etcd(1) else { return };
    let (mut one, mut two) = two(&etcd).await;
    one.ask(|ticket| ClusterOrder::Claim { ticket, units: units(&["a"]) }).await;
    let take = |from: &'static str, epoch| {
        move |ticket| ClusterOrder::TakeOver { ticket, from: from.into(), units: at(&[("a", epoch)]) }
    };
    assert_eq!(text(&two.ask(take("kvm3", 1)).await), "there: kvm1 (epoch 1)");
    assert_eq!(text(&two.ask(take("kvm1", 2)).await), "there: kvm1 (epoch 1)");
    assert_eq!(text(&two.ask(take("kvm1", 1)).await), "done: kvm2 (epoch 2)");
    one.owner("san0/a", "kvm2 (epoch 2)").await;
}

#[tokio::test]
async fn a_bar_voids_a_commit_that_still_travels() {
    let Some(etcd) = etcd(1) else { return };
    let (mut one, mut two) = two(&etcd).await;
    one.ask(|ticket| ClusterOrder::Claim { ticket, units: units(UNITS) }).await;
    let bar = |owner: &'static str, a, b| {
        move |ticket| ClusterOrder::Bar { ticket, owner: owner.into(), units: at(&[("a", a), ("b", b)]) }
    };
    let commit = |epoch| {
        move |ticket| ClusterOrder::Commit {
            ticket,
            id: move_id(1),
            to: "kvm2".into(),
            units: at(&[("a", epoch), ("b", epoch)]),
        }
    };
    let untouched = "there: kvm1 (epoch 1), kvm1 (epoch 1)";
    assert_eq!(text(&two.ask(bar("kvm2", 1, 1)).await), untouched, "the wrong owner");
    assert_eq!(text(&two.ask(bar("kvm1", 1, 2)).await), untouched, "one wrong epoch, and nothing changes");
    assert_eq!(text(&two.ask(bar("kvm1", 1, 1)).await), "done: kvm1 (epoch 2), kvm1 (epoch 2)");
    assert_eq!(text(&one.ask(commit(1)).await), "there: kvm1 (epoch 2), kvm1 (epoch 2)");
    one.owner("san0/b", "kvm1 (epoch 2)").await;
    // Too late: it is told what came first.
    assert_eq!(text(&one.ask(commit(2)).await), "done: kvm2 (epoch 3), kvm2 (epoch 3)");
    assert_eq!(text(&two.ask(bar("kvm1", 2, 2)).await), "there: kvm2 (epoch 3), kvm2 (epoch 3)");
    let barred = one.ask(bar("kvm2", 3, 3)).await;
    assert_eq!(text(&barred), "done: kvm2 (epoch 4), kvm2 (epoch 4)");
    assert_eq!(moves(&barred), [Some(move_id(1)), Some(move_id(1))], "by the same move");
}

#[tokio::test]
async fn what_came_and_was_not_begun_is_given_back_by_no_move() {
    let Some(etcd) = etcd(1) else { return };
    let (mut one, mut two) = two(&etcd).await;
    one.ask(|ticket| ClusterOrder::Claim { ticket, units: units(UNITS) }).await;
    let commit = |ticket| ClusterOrder::Commit {
        ticket,
        id: move_id(1),
        to: "kvm2".into(),
        units: at(&[("a", 1), ("b", 1)]),
    };
    let give = |b| {
        move |ticket| ClusterOrder::GiveBack { ticket, to: "kvm1".into(), units: at(&[("a", 2), ("b", b)]) }
    };
    assert_eq!(moves(&one.ask(commit).await), [Some(move_id(1)), Some(move_id(1))]);
    let untouched = "there: kvm2 (epoch 2), kvm2 (epoch 2)";
    assert_eq!(text(&one.ask(give(2)).await), untouched, "only the owner gives it away");
    assert_eq!(text(&two.ask(give(1)).await), untouched, "one wrong epoch, and nothing changes");
    let given = two.ask(give(2)).await;
    assert_eq!(text(&given), "done: kvm1 (epoch 3), kvm1 (epoch 3)");
    assert_eq!(moves(&given), [None, None]);
    one.owner("san0/a", "kvm1 (epoch 3)").await;
    assert_eq!(text(&two.ask(give(2)).await), "there: kvm1 (epoch 3), kvm1 (epoch 3)", "once");
}

fn moves(outcome: &Outcome) -> Vec<Option<MoveId>> {
    let Outcome::Done { owners, .. } = outcome else { panic!("{outcome:?}") };
    owners.iter().map(|found| found.owner.as_ref().and_then(|owner| owner.move_id.clone())).collect()
}

#[test]
fn an_answer_to_a_change_tells_what_has_changed_since() {
    let found = |unit: &str, epoch| {
        let owner = vmpath_core::ownership::Owner { host: "kvm1".into(), epoch, move_id: None };
        Found { unit: unit.into(), owner: Some(owner) }
    };
    let (owners, later) = (vec![found("t/a", 1), found("t/b", 1)], [found("t/b", 2)]);
    let done = Outcome::Done { revision: 5, owners: owners.clone() };
    assert_eq!(text(&done.with(&later)), "done: kvm1 (epoch 1), kvm1 (epoch 2)");
    let there = Outcome::Refused(Refusal::There(owners));
    assert_eq!(text(&there.with(&later)), "there: kvm1 (epoch 1), kvm1 (epoch 2)");
}

/// What a watch tells and what calls answer come over different streams, and the owner takes one report at a time.
#[tokio::test]
async fn nothing_is_told_of_a_unit_that_is_older_than_what_was_told_before() {
    const LAST: u64 = 200;
    let Some(etcd) = etcd(1) else { return };
    let (mut one, mut two) = two(&etcd).await;
    one.ask(|ticket| ClusterOrder::Claim { ticket, units: units(&["a"]) }).await;
    let change = async {
        for epoch in 1..LAST {
            let done = one.ask(|ticket| ClusterOrder::Bump { ticket, units: at(&[("a", epoch)]) }).await;
            assert_eq!(text(&done), format!("done: kvm1 (epoch {})", epoch + 1));
        }
    };
    let hear = async {
        let read = |ticket| ClusterOrder::ReadOwners { ticket, units: units(UNITS) };
        for _ in 0..32 {
            two.tell(read);
        }
        let (mut known, mut kinds) = (0, [0, 0]);
        while known < LAST {
            let told = match two.reports.recv().await.expect("a session") {
                ClusterReport::Owner(found) => {
                    kinds[0] += 1;
                    vec![found]
                }
                ClusterReport::Answer { outcome: Outcome::Done { owners, .. }, .. } => {
                    kinds[1] += 1;
                    two.tell(read);
                    owners
                }
                ClusterReport::Up | ClusterReport::Others(_) => vec![],
                other @ (ClusterReport::Down { .. }
                | ClusterReport::NameInUse { .. }
                | ClusterReport::Answer { .. }) => panic!("{other:?}"),
            };
            for found in told.iter().filter(|found| found.unit == "san0/a") {
                let epoch = found.owner.as_ref().map_or(0, |owner| owner.epoch);
                assert!(epoch >= known, "{epoch} after {known}, of {kinds:?}");
                known = epoch;
            }
        }
        assert!(kinds.iter().all(|times| *times > 10), "{kinds:?}");
    };
    let both = async { tokio::join!(change, hear) };
    tokio::time::timeout(PATIENCE, both).await.expect("all of it was told");
}

#[tokio::test]
async fn what_nobody_can_read_belongs_to_nobody_that_may_take_it() {
    let Some(etcd) = etcd(1) else { return };
    etcd.put("/vmpath/owner/san0/a", b"{\"host\":1}").expect("put");
    let mut one = Host::start("kvm1", &etcd.clients(), UNITS);
    one.owner("san0/b", "nobody").await;
    let claimed = one.ask(|ticket| ClusterOrder::Claim { ticket, units: units(&["a"]) }).await;
    assert!(text(&claimed).contains("the owner of san0/a cannot be read"), "{}", text(&claimed));
    etcd.put("/vmpath/owner/san0/a", b"{\"epoch\":9}").expect("put");
    one.owner("san0/a", "nobody").await;
    let claimed = one.ask(|ticket| ClusterOrder::Claim { ticket, units: units(&["a"]) }).await;
    assert_eq!(text(&claimed), "done: kvm1 (epoch 10)");
}

#[tokio::test]
async fn an_order_is_for_a_number_of_units_that_etcd_takes() {
    let Some(etcd) = etcd(1) else { return };
    let mut one = Host::start("kvm1", &etcd.clients(), UNITS);
    one.up().await;
    let many: Vec<String> = (0..=UNITS_MAX).map(|i| format!("san0/u{i}")).collect();
    for units in [vec![], many.clone()] {
        let claimed = one.ask(|ticket| ClusterOrder::Claim { ticket, units }).await;
        assert_eq!(text(&claimed), "not asked: an order is for 1 to 128 units");
    }
    let twice = one.ask(|ticket| ClusterOrder::Claim { ticket, units: units(&["a", "a"]) }).await;
    assert!(text(&twice).contains("duplicate key"), "{}", text(&twice));
    let most = one.ask(|ticket| ClusterOrder::Claim { ticket, units: many[..UNITS_MAX].to_vec() }).await;
    assert!(text(&most).starts_with("done: kvm1 (epoch 1), kvm1"), "{}", text(&most));
    // Who asks what has become of a move asks of all that the host has.
    let all = one.ask(|ticket| ClusterOrder::ReadOwners { ticket, units: many.clone() }).await;
    assert_eq!(text(&all).matches("kvm1 (epoch 1)").count(), UNITS_MAX, "{}", text(&all));
    assert_eq!(text(&all).matches(',').count(), UNITS_MAX, "{}", text(&all));
}
