//! An etcd that does not know what it has said: emptied, or as it was in a backup. Nobody believes it, and it is put right by hand.

use super::*;

/// A new etcd where the one of before was, with nothing in it.
fn emptied(etcd: &mut Etcd) {
    etcd.empty(0).expect("it starts");
    etcd.wait_ready(PATIENCE).expect("ready");
}

/// Until the session is refused for that. Reports of the restart come before.
async fn refused(host: &mut Host) -> String {
    loop {
        let why = host.down().await;
        if why.contains("etcd has gone back") {
            return why;
        }
    }
}

#[tokio::test]
async fn an_emptied_etcd_is_refused_until_it_says_what_was_known() {
    let Some(mut etcd) = etcd(1) else { return };
    let mut one = Host::start("kvm1", &etcd.clients(), &["a"]);
    let mut two = Host::start("kvm2", &etcd.clients(), &["a"]);
    two.up().await;
    let claimed = one.settled(|ticket| ClusterOrder::Claim { ticket, units: units(&["a"]) }).await;
    assert_eq!(text(&claimed), "done: kvm1 (epoch 1)");
    let bumped = one.settled(|ticket| ClusterOrder::Bump { ticket, units: at(&[("a", 1)]) }).await;
    assert_eq!(text(&bumped), "done: kvm1 (epoch 2)");
    two.owner("san0/a", "kvm1 (epoch 2)").await;
    for host in [&mut one, &mut two] {
        host.forget();
    }
    emptied(&mut etcd);
    for host in [&mut one, &mut two] {
        let why = refused(host).await;
        let known = r#"put /vmpath/owner/san0/a '{"host":"kvm1","epoch":2}'"#;
        assert!(why.contains(known), "{why}");
        assert!(
            !host.said.iter().any(|report| matches!(report, ClusterReport::Owner(_))),
            "nothing is believed"
        );
    }
    // The emptied etcd would give it to whoever asks.
    let claimed = two.ask(|ticket| ClusterOrder::Claim { ticket, units: units(&["a"]) }).await;
    assert!(text(&claimed).starts_with("not asked: "), "{}", text(&claimed));
    let read = one.ask(|ticket| ClusterOrder::ReadOwners { ticket, units: units(&["a"]) }).await;
    assert!(text(&read).starts_with("not asked: "), "{}", text(&read));
    etcd.put("/vmpath/owner/san0/a", br#"{"host":"kvm1","epoch":2}"#).expect("put");
    for host in [&mut one, &mut two] {
        host.forget();
        host.up().await;
    }
    // Revisions are lower than those of before, and what follows is heard all the same.
    let bumped = one.settled(|ticket| ClusterOrder::Bump { ticket, units: at(&[("a", 2)]) }).await;
    assert_eq!(text(&bumped), "done: kvm1 (epoch 3)");
    two.owner("san0/a", "kvm1 (epoch 3)").await;
}

#[tokio::test]
async fn a_process_that_is_started_afterwards_notices_it_too() {
    let Some(mut etcd) = etcd(1) else { return };
    let members = [format!("'http://{}'", etcd.clients()[0])];
    let (spec, process) = (spec("kvm1", &members, &["a"], ""), Process::of_test(1, &[], "machine of kvm1"));
    let mut one = Host::of(&spec);
    let claimed = one.settled(|ticket| ClusterOrder::Claim { ticket, units: units(&["a"]) }).await;
    assert_eq!(text(&claimed), "done: kvm1 (epoch 1)");
    let file = one.state.path().join("owners.json");
    let kept = async {
        while !std::fs::read_to_string(&file).is_ok_and(|text| text.contains("kvm1")) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, kept).await.expect("it is written");
    let Host { cluster, state, .. } = one;
    drop(cluster);
    emptied(&mut etcd);
    let mut next = Host::kept_in(state, &spec, &process);
    let why = refused(&mut next).await;
    assert!(why.contains(r#"put /vmpath/owner/san0/a '{"host":"kvm1","epoch":1}'"#), "{why}");
    etcd.put("/vmpath/owner/san0/a", br#"{"host":"kvm1","epoch":1}"#).expect("put");
    next.forget();
    next.up().await;
    next.owner("san0/a", "kvm1 (epoch 1)").await;
}

#[tokio::test]
async fn a_backup_in_which_no_owner_is_older_is_used_at_once() {
    let Some(mut etcd) = etcd(1) else { return };
    for _ in 0..50 {
        etcd.put("/something", b"else").expect("put");
    }
    let mut one = Host::start("kvm1", &etcd.clients(), &["a"]);
    one.up().await;
    one.forget();
    emptied(&mut etcd);
    one.up().await;
    // Nobody had it, as is known from a later revision: that does not hide who has it now.
    let claimed = one.settled(|ticket| ClusterOrder::Claim { ticket, units: units(&["a"]) }).await;
    assert_eq!(text(&claimed), "done: kvm1 (epoch 1)");
    one.owner("san0/a", "kvm1 (epoch 1)").await;
    let read = one.ask(|ticket| ClusterOrder::ReadOwners { ticket, units: units(&["a"]) }).await;
    assert_eq!(text(&read), "done: kvm1 (epoch 1)");
}
