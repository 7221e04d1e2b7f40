//! The stand-in over vhost-user-blk: it must behave as QEMU with such a disk does.

use super::*;
use crate::vhost::fake::{Fake, Faults};

/// A back end with a small disk, and a VM on it with more options.
fn world(options: &str) -> (World, Fake) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("vhost");
    let fake = Fake::start(&socket, 512 << 10);
    let disk = format!("vhost-user:{}", socket.display());
    (World::on(dir, &disk, options), fake)
}

/// Waits until the back end has fetched something and completes nothing.
async fn hold(world: &mut World, fake: &Fake) {
    Faults::set(&fake.faults.hold);
    while fake.open() < 8 {
        world.line(|line| line.get("sample").is_some()).await;
    }
}

#[test]
fn a_load_on_an_honest_back_end_finds_nothing_wrong() {
    run(|| async {
        let (mut world, _fake) = world("--zero 10 --flush-every 8 --queues 2");
        world.progress(300).await;
        let report = world.finish().await;
        assert_eq!(wrong(&report), [0; 4], "{report}");
        assert_eq!(report["touched_while_stopped"], 0);
        assert!(report["blocks_verified"].as_u64() > Some(300) && report["flushes"].as_u64() > Some(10));
    });
}

#[test]
fn stop_is_answered_with_requests_open_and_the_guest_sees_no_error() {
    run(|| async {
        let (mut world, fake) = world("");
        let mut qmp = world.qmp().await;
        world.progress(50).await;
        hold(&mut world, &fake).await;
        assert_eq!(qmp.ask("stop").await["id"], "stop");
        let stopped = world.line(|line| line.get("stopped").is_some()).await;
        assert_eq!((&stopped["stopped"]["answered"], &stopped["stopped"]["open"]), (&json!(true), &json!(8)));
        assert_eq!(qmp.status().await, "paused");
        Faults::clear(&fake.faults.hold);
        qmp.ask("cont").await;
        qmp.event("RESUME").await;
        world.progress(50).await;
        let report = world.finish().await;
        assert_eq!((wrong(&report), report["touched_while_stopped"].as_u64()), ([0; 4], Some(0)), "{report}");
    });
}

#[test]
fn the_guest_lives_on_when_its_back_end_is_killed_and_comes_back() {
    run(|| async {
        let (mut world, fake) = world("");
        world.progress(50).await;
        hold(&mut world, &fake).await;
        let fake = fake.restart();
        let down = world.line(|line| line.get("link").is_some()).await;
        assert_eq!(down["link"]["state"], "down");
        let up = world.line(|line| line.get("link").is_some()).await;
        assert_eq!(up["link"]["state"], "up");
        world.progress(50).await;
        let report = world.finish().await;
        assert_eq!(wrong(&report), [0; 4], "{report}");
        let gap = report["longest_gap_ms"].as_f64().unwrap();
        assert!(gap >= 1000.0, "as long as QEMU's pause before it connects again: {gap}");
        drop(fake);
    });
}

#[test]
fn an_error_is_the_guests_and_stops_no_machine() {
    run(|| async {
        let (mut world, fake) = world("");
        let mut qmp = world.qmp().await;
        world.progress(50).await;
        Faults::set(&fake.faults.fail);
        world.line(|line| line.get("io_error").is_some()).await;
        Faults::clear(&fake.faults.fail);
        assert_eq!(qmp.status().await, "running");
        let report = world.finish().await;
        assert!(report["errors"].as_u64() >= Some(1) && report["mismatches"] == 0, "{report}");
    });
}

#[test]
fn qemus_block_layer_knows_nothing_of_the_disk() {
    run(|| async {
        let (world, _fake) = world("--paused");
        let mut qmp = world.qmp().await;
        assert_eq!(qmp.ask("query-block").await["return"], json!([]));
        let arguments = json!({ "path": "/machine/peripheral/vda/virtio-backend", "property": "werror" });
        let get = json!({ "execute": "qom-get", "arguments": arguments });
        qmp.stream.write_all(format!("{get}\n").as_bytes()).await.unwrap();
        assert_eq!(qmp.answer().await["error"]["class"], "GenericError");
        world.finish().await;
    });
}

#[test]
fn a_back_end_that_completes_twice_is_caught() {
    run(|| async {
        let (mut world, fake) = world("");
        world.progress(50).await;
        Faults::set(&fake.faults.twice);
        world.line(|line| line["sample"]["completed_twice"].as_u64() >= Some(1)).await;
    });
}

#[test]
fn disks_are_named_in_words_that_say_how() {
    let parsed: DiskArg = "vda=vhost-user:/run/vda.sock".parse().unwrap();
    assert_eq!(parsed.place, Place::VhostUser { socket: PathBuf::from("/run/vda.sock") });
    for wrong in ["vda", "=vhost-user:/x", "vda=vhost-user:"] {
        let why = wrong.parse::<DiskArg>().unwrap_err();
        assert!(why.contains("vhost-user:/run/vda.sock"), "{why}");
    }
}
