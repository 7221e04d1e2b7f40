//! etcd without its leader, without its quorum, without an answer; and what is right again by itself.

use super::*;
use vmpath_lab::etcd::Proxy;

#[tokio::test]
async fn a_leader_that_is_killed_costs_a_moment() {
    let Some(mut etcd) = etcd(3) else { return };
    let mut hosts = vec![];
    for name in ["kvm1", "kvm2", "kvm3"] {
        let mut host = Host::start(name, &etcd.clients(), &["a"]);
        host.up().await;
        host.publish();
        hosts.push(host);
    }
    let leader = etcd.leader().expect("a leader");
    etcd.kill(leader);
    for host in &mut hosts {
        // Whoever had that member goes to another; the others wait for the election.
        let read = host.settled(|ticket| ClusterOrder::ReadOwners { ticket, units: units(&["a"]) }).await;
        assert_eq!(text(&read), "done: nobody");
        host.view("three hosts", |view| names(view) == ["kvm1", "kvm2", "kvm3"]).await;
    }
    etcd.restart(leader).expect("it starts");
    etcd.wait_ready(PATIENCE).expect("ready");
    let claimed = hosts[0].settled(|ticket| ClusterOrder::Claim { ticket, units: units(&["a"]) }).await;
    assert_eq!(text(&claimed), "done: kvm1 (epoch 1)");
    hosts[2].owner("san0/a", "kvm1 (epoch 1)").await;
}

#[tokio::test]
async fn without_a_quorum_orders_are_refused_and_then_all_is_as_before() {
    let Some(mut etcd) = etcd(3) else { return };
    let mut one = Host::start("kvm1", &etcd.clients(), &["a"]);
    one.up().await;
    one.publish();
    one.view("itself", |view| names(view) == ["kvm1"]).await;
    let claimed = one.ask(|ticket| ClusterOrder::Claim { ticket, units: units(&["a"]) }).await;
    assert_eq!(text(&claimed), "done: kvm1 (epoch 1)");
    one.forget();
    etcd.kill(0);
    etcd.kill(1);
    one.down().await;
    let bumped = one.ask(|ticket| ClusterOrder::Bump { ticket, units: at(&[("a", 1)]) }).await;
    // An order that went to the last member in that very moment may be unknown; it is never called refused by etcd.
    assert!(
        text(&bumped).starts_with("not asked: ") || text(&bumped).starts_with("unknown: "),
        "{}",
        text(&bumped)
    );
    one.forget();
    etcd.restart(0).expect("it starts");
    etcd.restart(1).expect("it starts");
    one.up().await;
    let bumped = one.settled(|ticket| ClusterOrder::Bump { ticket, units: at(&[("a", 1)]) }).await;
    assert_eq!(text(&bumped), "done: kvm1 (epoch 2)");
}

#[tokio::test]
async fn a_member_that_hangs_is_left_for_another() {
    let Some(etcd) = etcd(3) else { return };
    let proxies: Vec<Proxy> =
        etcd.clients().into_iter().map(|member| Proxy::to(member).expect("a port")).collect();
    let members: Vec<SocketAddr> = proxies.iter().map(Proxy::address).collect();
    let mut one = Host::start("kvm1", &members, &["a"]);
    one.up().await;
    one.forget();
    // Which member has the session is nobody's business: each hangs in turn.
    for at in 0..3 {
        etcd.freeze(at).expect("it runs");
        let read = one.settled(|ticket| ClusterOrder::ReadOwners { ticket, units: units(&["a"]) }).await;
        assert_eq!(text(&read), "done: nobody");
        etcd.thaw(at).expect("it runs");
        etcd.wait_ready(PATIENCE).expect("ready");
    }
}

#[tokio::test]
async fn a_lease_that_ran_out_takes_the_host_away_and_it_comes_back() {
    let Some(etcd) = etcd(1) else { return };
    let proxy = Proxy::to(etcd.clients()[0]).expect("a port");
    let mut one = Host::start("kvm1", &[proxy.address()], &["a"]);
    let mut two = Host::start("kvm2", &etcd.clients(), &["a"]);
    one.publish();
    two.publish();
    two.view("both", |view| names(view) == ["kvm1", "kvm2"]).await;
    let claimed = one.ask(|ticket| ClusterOrder::Claim { ticket, units: units(&["a"]) }).await;
    assert_eq!(text(&claimed), "done: kvm1 (epoch 1)");
    proxy.cut();
    two.view("kvm2 alone", |view| names(view) == ["kvm2"]).await;
    // A lease that ran out is no proof of anything: the unit is still kvm1's.
    let claimed = two.ask(|ticket| ClusterOrder::Claim { ticket, units: units(&["a"]) }).await;
    assert_eq!(text(&claimed), "there: kvm1 (epoch 1)");
    proxy.pass();
    two.view("both again", |view| names(view) == ["kvm1", "kvm2"]).await;
    one.view("both again", |view| names(view) == ["kvm1", "kvm2"]).await;
}

#[tokio::test]
async fn nobody_there_is_told_for_each_member() {
    let closed: Vec<SocketAddr> =
        ["127.0.0.1:1", "127.0.0.1:2"].map(|text| text.parse().expect("an address")).to_vec();
    let mut one = Host::start("kvm1", &closed, &["a"]);
    let why = one.down().await;
    assert!(
        why.contains("127.0.0.1:1: ") && why.contains("127.0.0.1:2: ") && why.contains("refused"),
        "{why}"
    );
    let asked = one.ask(|ticket| ClusterOrder::ReadOwners { ticket, units: units(&["a"]) }).await;
    assert!(text(&asked).starts_with("not asked: etcd is away ("), "{}", text(&asked));
}
