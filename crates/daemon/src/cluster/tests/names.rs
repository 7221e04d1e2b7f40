//! One name, two processes: a copy of a machine, or a process and the next one.

use super::*;
use vmpath_lab::etcd::Proxy;

/// kvm1 as process `id`, which knows that the `former` are dead.
fn kvm1(members: &[SocketAddr], id: u64, former: &[u64]) -> Host {
    let members: Vec<String> = members.iter().map(|member| format!("'http://{member}'")).collect();
    let process = Process::of_test(id, former, "a machine and its copy");
    Host::as_process(&spec("kvm1", &members, &["a"], ""), &process)
}

impl Host {
    async fn name_in_use(&mut self) -> String {
        let why = |report: &ClusterReport| match report {
            ClusterReport::NameInUse { why } => Some(why.clone()),
            ClusterReport::Up
            | ClusterReport::Down { .. }
            | ClusterReport::Owner(_)
            | ClusterReport::Others(_)
            | ClusterReport::Answer { .. } => None,
        };
        self.hear("word of another one", why).await
    }
}

fn claim(ticket: Ticket) -> ClusterOrder {
    ClusterOrder::Claim { ticket, units: units(&["a"]) }
}

#[tokio::test]
async fn a_copy_of_a_machine_that_lives_never_speaks_in_its_name() {
    let Some(etcd) = etcd(1) else { return };
    let mut one = kvm1(&etcd.clients(), 1, &[]);
    one.up().await;
    let mut copy = kvm1(&etcd.clients(), 2, &[]);
    assert!(copy.name_in_use().await.contains("another vmpath has this host's name"));
    while !copy.name_in_use().await.contains("another machine uses the name kvm1") {}
    let refused = text(&copy.ask(claim).await);
    assert!(refused.starts_with("not asked: etcd is away (another machine uses the name kvm1"), "{refused}");
    assert_eq!(text(&one.settled(claim).await), "done: kvm1 (epoch 1)", "who was there first goes on");
    // It is silent, and that is no proof of its death: only one that knows better takes its place.
    drop(one);
    let mut next = kvm1(&etcd.clients(), 3, &[1]);
    next.up().await;
    drop(next);
    let mut stranger = kvm1(&etcd.clients(), 4, &[]);
    stranger.up().await;
    assert!(!copy.said.contains(&ClusterReport::Up));
    let refused = text(&copy.ask(claim).await);
    assert!(refused.starts_with("not asked: "), "{refused}");
    assert!(!copy.said.contains(&ClusterReport::Up));
}

#[tokio::test]
async fn the_next_process_goes_on_at_once_if_it_knows_that_the_one_before_is_dead() {
    let Some(etcd) = etcd(1) else { return };
    let mut one = kvm1(&etcd.clients(), 1, &[]);
    one.up().await;
    assert_eq!(text(&one.settled(claim).await), "done: kvm1 (epoch 1)");
    drop(one);
    let mut next = kvm1(&etcd.clients(), 3, &[1, 2]);
    next.up().await;
    assert!(next.said.is_empty(), "{:?}", next.said);
    drop(next);
    // It waits for the lease of one of which it knows nothing.
    let mut booted = kvm1(&etcd.clients(), 4, &[]);
    let why = booted.name_in_use().await;
    assert!(why.contains("its lease runs out within 2 s"), "{why}");
    booted.up().await;
}

#[tokio::test]
async fn who_comes_back_and_finds_its_name_taken_says_so_and_waits() {
    let Some(etcd) = etcd(1) else { return };
    let proxy = Proxy::to(etcd.clients()[0]).expect("a port");
    let mut one = kvm1(&[proxy.address()], 1, &[]);
    one.up().await;
    proxy.cut();
    one.down().await;
    let mut other = kvm1(&etcd.clients(), 2, &[]);
    other.up().await;
    one.forget();
    proxy.pass();
    one.name_in_use().await;
    drop(other);
    one.up().await;
}
