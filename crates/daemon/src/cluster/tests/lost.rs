//! A commit of which no word comes back: what is said then, and what settles it.

use super::*;
use vmpath_lab::etcd::Proxy;

/// kvm1 behind a wire, kvm2 not; kvm1 owns unit a, and the wire waits for the request that gives it to kvm2.
async fn scene(etcd: &Etcd) -> (Proxy, Host, Host) {
    let proxy = Proxy::to(etcd.clients()[0]).expect("a port");
    let mut one = Host::start("kvm1", &[proxy.address()], &["a"]);
    let mut two = Host::start("kvm2", &etcd.clients(), &["a"]);
    one.up().await;
    two.up().await;
    let claimed = one.ask(|ticket| ClusterOrder::Claim { ticket, units: units(&["a"]) }).await;
    assert_eq!(text(&claimed), "done: kvm1 (epoch 1)");
    two.owner("san0/a", "kvm1 (epoch 1)").await;
    (proxy, one, two)
}

fn commit(ticket: Ticket) -> ClusterOrder {
    ClusterOrder::Commit { ticket, id: move_id(1), to: "kvm2".into(), units: at(&[("a", 1)]) }
}

const MARKER: &[u8] = b"{\"host\":\"kvm2\"";

#[tokio::test]
async fn a_commit_whose_reply_is_lost_is_unknown_and_the_owner_tells() {
    let Some(etcd) = etcd(1) else { return };
    let (proxy, mut one, mut two) = scene(&etcd).await;
    proxy.swallow_replies_from(MARKER);
    let outcome = one.ask(commit).await;
    assert!(text(&outcome).starts_with("unknown: "), "never refused: {}", text(&outcome));
    two.owner("san0/a", "kvm2 (epoch 2)").await;
    // Its session ended with the silence; the next one reads everything.
    one.owner("san0/a", "kvm2 (epoch 2)").await;
    let bumped = one.settled(|ticket| ClusterOrder::Bump { ticket, units: at(&[("a", 1)]) }).await;
    assert_eq!(text(&bumped), "there: kvm2 (epoch 2)");
}

#[tokio::test]
async fn a_commit_that_never_arrived_is_unknown_too_and_a_bump_settles_it() {
    let Some(etcd) = etcd(1) else { return };
    let (proxy, mut one, mut two) = scene(&etcd).await;
    proxy.swallow_requests_from(MARKER);
    let outcome = one.ask(commit).await;
    assert!(text(&outcome).starts_with("unknown: "), "never refused: {}", text(&outcome));
    let read = two.ask(|ticket| ClusterOrder::ReadOwners { ticket, units: units(&["a"]) }).await;
    assert_eq!(text(&read), "done: kvm1 (epoch 1)", "which settles nothing");
    proxy.pass();
    let bumped = one.settled(|ticket| ClusterOrder::Bump { ticket, units: at(&[("a", 1)]) }).await;
    assert_eq!(text(&bumped), "done: kvm1 (epoch 2)");
    // If the old commit came now, it would find another epoch.
    assert_eq!(text(&one.settled(commit).await), "there: kvm1 (epoch 2)");
}

#[tokio::test]
async fn an_order_without_a_session_is_surely_not_carried_out() {
    let Some(etcd) = etcd(1) else { return };
    let (proxy, mut one, mut two) = scene(&etcd).await;
    proxy.cut();
    one.forget();
    let why = one.down().await;
    let outcome = one.ask(commit).await;
    assert!(text(&outcome).starts_with("not asked: etcd is away"), "{} after {why}", text(&outcome));
    let bumped = two.ask(|ticket| ClusterOrder::ReadOwners { ticket, units: units(&["a"]) }).await;
    assert_eq!(text(&bumped), "done: kvm1 (epoch 1)");
}
