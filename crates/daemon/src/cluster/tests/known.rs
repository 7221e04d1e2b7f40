//! What hosts know of each other: summaries, room, names, passwords.

use super::*;
use serde_json::json;
use std::fs;
use vmpath_core::placement::{Accepts, HostIndex, Need, PathNeed, UnitNeed, place};
use vmpath_lab::certs::{Authority, HostFiles, Validity};

#[tokio::test]
async fn hosts_see_each_other_and_only_what_is_new() {
    let Some(etcd) = etcd(1) else { return };
    let mut one = Host::start("kvm1", &etcd.clients(), &["a"]);
    let mut two = Host::start("kvm2", &etcd.clients(), &["a"]);
    one.publish();
    two.publish();
    let view = one.view("both", |view| names(view) == ["kvm1", "kvm2"]).await;
    assert_eq!(*view.hosts[1], host("kvm2", 2));
    let mut shedding = host("kvm2", 2);
    shedding.accepts = Accepts::No("shedding".into());
    two.cluster.order(ClusterOrder::Publish(Box::new(shedding))).expect("room");
    one.view("kvm2 shedding", |view| view.hosts.iter().any(|host| host.accepts != Accepts::Yes)).await;
    let (mut placed, nobody) = (ClusterView::default(), Others::default());
    view.update(&nobody, &mut placed);
    let ranked = |placed: &ClusterView| -> Vec<String> {
        place(&need(), placed).best.iter().map(|at: &HostIndex| placed.name(*at).to_owned()).collect()
    };
    assert_eq!(ranked(&placed), ["kvm2"], "what was read is what is placed by");
    nobody.update(&view, &mut placed);
    assert_eq!(ranked(&placed), [""; 0]);
    // Somebody else's cluster in the same etcd is not seen.
    let mut third = Host::with("kvm3", &etcd.clients(), &["a"], "prefix = '/other'");
    third.publish();
    third.view("itself alone", |view| names(view) == ["kvm3"]).await;
    // What an operator deletes by mistake is said again.
    etcd.delete_prefix("/vmpath/host/").expect("deleted");
    one.forget();
    one.view("both again", |view| names(view) == ["kvm1", "kvm2"]).await;
}

/// VM `vm0` of kvm1, with one disk on u0.
fn need() -> Need {
    Need {
        vm: "vm0".into(),
        from: "kvm1".into(),
        version: "0.1.0".into(),
        units: vec![UnitNeed { target: "san0".into(), unit: "u0".into(), size: 1 << 30 }],
        room: vec![("san0".into(), 1 << 20)],
        whole: false,
        paths: PathNeed { only: vec![], avoid: vec![], at_least: 2 },
        only: None,
    }
}

#[tokio::test]
async fn of_two_decisions_on_one_view_one_gets_the_room() {
    let Some(etcd) = etcd(1) else { return };
    let mut one = Host::start("kvm1", &etcd.clients(), &["a"]);
    let mut two = Host::start("kvm2", &etcd.clients(), &["a"]);
    one.publish();
    let seen = &one.view("itself", |view| names(view) == ["kvm1"]).await;
    two.up().await;
    let room = |id: &str, host: &str| Room {
        id: id.into(),
        vm: "db1".into(),
        host: host.into(),
        targets: vec![("san0".into(), 5)],
    };
    let claim = |id: &'static str, host: &'static str, seen: &Arc<Others>| {
        let seen = Arc::clone(seen);
        move |ticket| ClusterOrder::ClaimRoom {
            ticket,
            room: room(id, host),
            seen,
            ttl: Duration::from_secs(30),
        }
    };
    let tickets = (one.tell(claim("m1", "kvm9", seen)), two.tell(claim("m2", "kvm9", seen)));
    let mut answers = [text(&one.answer(tickets.0).await), text(&two.answer(tickets.1).await)];
    answers.sort_unstable();
    assert_eq!(answers, ["crowded", "done: "]);
    // Who waits for the other's claim decides again; another host's room is another matter.
    let view = two.view("a claim", |view| view.rooms.len() == 1).await;
    assert_eq!(text(&two.ask(claim("m3", "kvm9", &view)).await), "done: ");
    assert_eq!(text(&two.ask(claim("m4", "kvm8", seen)).await), "done: ");
    two.cluster.order(ClusterOrder::DropRoom { id: "m3".into() }).expect("room");
    two.view("m3 gone", |view| view.rooms.len() == 2 && view.rooms.iter().all(|room| room.id != "m3")).await;
    // A decision that nobody ended ends by itself; etcd grants no less than two seconds.
    let brief = |ticket| ClusterOrder::ClaimRoom {
        ticket,
        room: room("m5", "kvm7"),
        seen: Arc::clone(seen),
        ttl: Duration::from_secs(1),
    };
    assert_eq!(text(&two.ask(brief).await), "done: ");
    two.view("m5", |view| view.rooms.iter().any(|room| room.id == "m5")).await;
    two.view("m5 gone", |view| view.rooms.iter().all(|room| room.id != "m5")).await;
}

#[tokio::test]
async fn a_name_belongs_to_one_machine() {
    let Some(etcd) = etcd(1) else { return };
    etcd.put("/vmpath/machine/kvm1", b"another machine").expect("put");
    let mut one = Host::start("kvm1", &etcd.clients(), &["a"]);
    let why = one.down().await;
    assert!(
        why.contains("another machine has this host's name") && why.contains("/vmpath/machine/kvm1"),
        "{why}"
    );
    etcd.delete_prefix("/vmpath/machine/kvm1").expect("deleted");
    one.up().await;
}

#[tokio::test]
async fn a_password_opens_and_is_never_said() {
    let Some(etcd) = etcd(1) else { return };
    let post = |path: &str, body: serde_json::Value| drop(etcd.post(path, &body).expect(path));
    for user in ["root", "kvm"] {
        post("/v3/auth/user/add", json!({ "name": user, "password": "s3cret" }));
        post("/v3/auth/role/add", json!({ "name": user }));
        post("/v3/auth/user/grant", json!({ "user": user, "role": user }));
    }
    // "/vmpath" to "/vmpatI" (base64), readable and writable: what docs/config.md asks for.
    let range = json!({ "permType": "READWRITE", "key": "L3ZtcGF0aA==", "range_end": "L3ZtcGF0aQ==" });
    post("/v3/auth/role/grant", json!({ "name": "kvm", "perm": range }));
    post("/v3/auth/enable", json!({}));
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("password");
    fs::write(&file, "wr0ng\n").expect("written");
    let more = format!("user = 'kvm'\npassword_file = '{}'", file.display());
    let mut one = Host::with("kvm1", &etcd.clients(), &["a"], &more);
    let why = one.down().await;
    assert!(why.contains("authentication failed") && !why.contains("wr0ng"), "{why}");
    fs::write(&file, "s3cret\n").expect("written");
    one.up().await;
    let claimed = one.ask(|ticket| ClusterOrder::Claim { ticket, units: units(&["a"]) }).await;
    assert_eq!(text(&claimed), "done: kvm1 (epoch 1)");
    let mut two = Host::with("kvm2", &etcd.clients(), &["a"], "");
    assert!(two.down().await.contains("user"), "without a password nobody gets in");
}

#[tokio::test]
async fn a_certificate_opens_and_another_authoritys_does_not() {
    if etcd(0).is_none() {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let authority = |name: &str| {
        let dir = dir.path().join(name);
        fs::create_dir(&dir).expect("a directory");
        Authority::make(&dir).expect("openssl")
    };
    let (ours, others) = (authority("ours"), authority("others"));
    let issue = |by: &Authority, name: &str| by.issue(name, Validity::Now).expect("openssl");
    let etcd = Etcd::on_loopback_with_tls(&issue(&ours, "localhost")).expect("etcd starts");
    let member = [format!("'https://localhost:{}'", etcd.clients()[0].port())];
    let host = |HostFiles { ca, .. }: &HostFiles, own: Option<&HostFiles>| {
        let own = own.map(|HostFiles { cert, key, .. }| {
            format!("etcd_cert = '{}'\netcd_key = '{}'", cert.display(), key.display())
        });
        Host::of(&spec(
            "kvm1",
            &member,
            &["a"],
            &format!("etcd_ca = '{}'\n{}", ca.display(), own.unwrap_or_default()),
        ))
    };
    let (good, bad) = (issue(&ours, "kvm1"), issue(&others, "kvm1"));
    let mut welcome = host(&good, Some(&good));
    welcome.up().await;
    assert_eq!(
        text(&welcome.ask(|ticket| ClusterOrder::Claim { ticket, units: units(&["a"]) }).await),
        "done: kvm1 (epoch 1)"
    );
    let why = host(&bad, Some(&good)).down().await;
    assert!(why.contains("certificate"), "an etcd that somebody else vouches for: {why}");
    for stranger in [None, Some(&bad)] {
        let why = host(&good, stranger).down().await;
        assert!(why.contains("ertificate") || why.contains("closed") || why.contains("reset"), "{why}");
    }
}
