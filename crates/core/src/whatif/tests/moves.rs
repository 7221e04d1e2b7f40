//! Where VMs would go, if the other hosts are as they say.

use super::{MIB, fates, question, spec};
use crate::cluster::Heard;
use crate::event::Event;
use crate::ownership::Ownership;
use crate::placement::{Accepts, ClusterView, HostSummary, TargetSummary, UnitSummary, VmPlace, VmSummary};
use crate::whatif::{Others, ask, healthy};
use std::sync::Arc;

const CLUSTER: &str = "
[cluster]
etcd = [\"http://10.0.0.9:2379\"]
peer_listen = \"10.0.0.1:7420\"
peer_ca = \"/ca.pem\"
peer_cert = \"/cert.pem\"
peer_key = \"/key.pem\"
";
const UNIT_BYTES: u64 = 1 << 30;

/// A host that could have both VMs, with so much left.
fn kvm2(room: u64) -> ClusterView {
    let unit =
        |unit: &str| UnitSummary { unit: unit.into(), size: Some(UNIT_BYTES), paths_up: vec!["a".into()] };
    let vm = |name: &str| VmSummary {
        name: name.into(),
        priority: 50,
        reservation: None,
        place: VmPlace::Launchable,
    };
    let mut view = ClusterView::default();
    view.put(&HostSummary {
        host: "kvm2".into(),
        version: crate::VERSION.into(),
        peer: ([10, 0, 0, 2], 7420).into(),
        accepts: Accepts::Yes,
        targets: vec![TargetSummary {
            target: "san0".into(),
            capacity: Some(room),
            reserved: 0,
            lost: 0,
            units: vec![unit("silver"), unit("bronze")],
        }],
        vms: vec![vm("silver"), vm("bronze")],
    });
    view
}

/// All paths are lost, `room` is left at the other host; none: nothing is known of it.
fn all_lost(room: Option<u64>) -> String {
    let ladder = "on_no_path = \"migrate, then hold 1s, then suspend\"\nlaunch = \"/bin/launch\"";
    let spec = spec(CLUSTER, &[("silver", 60, 40, ladder), ("bronze", 50, 40, ladder)]);
    let mut text = Arc::unwrap_or_clone(spec);
    for (disk, name) in text.disks.iter_mut().zip(["silver", "bronze"]) {
        // One on NBD stays while its requests are open.
        disk.nbd_socket = None;
        disk.vhost_user = Some(format!("/run/{name}.sock").into());
    }
    let spec = Arc::new(text);
    let (mut controller, now) = healthy(&spec);
    controller.handle(now, Event::Cluster(Heard::Up { nonce: 1 }));
    for unit in spec.unit_ids() {
        let ownership = Ownership::Ours { epoch: 1 };
        controller.handle(now, Event::Cluster(Heard::Owner { unit, ownership }));
    }
    let others = room.map(|room| {
        let sizes = vec![Some(UNIT_BYTES); spec.units.len()];
        Others { view: Arc::new(kvm2(room)), sizes }
    });
    fates(&ask(controller, now, &question(&spec, &["san0/a", "san0/b"], &[]), others))
}

#[test]
fn they_go_where_there_is_room_for_all_that_were_promised_it() {
    let both = all_lost(Some(100 * MIB));
    assert!(both.contains("silver elsewhere") && both.contains("bronze elsewhere"), "{both}");
    let one = all_lost(Some(60 * MIB));
    assert_eq!(one.matches("elsewhere").count(), 1, "{one}");
    assert_eq!(one.matches("suspended").count(), 1, "{one}");
}

#[test]
fn who_knows_of_no_other_host_foresees_what_comes_next() {
    let none = all_lost(None);
    assert_eq!(none.matches("suspended").count(), 2, "{none}");
}
