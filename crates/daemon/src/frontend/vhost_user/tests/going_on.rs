//! A front end that goes on with a new process as if it were the one before: no handshake, and no memory.

use super::super::note::Forgotten;
use super::super::{Changes, Fetched, Origin, Session, SessionEnd};
use super::driver::{FEATURES, Guest, Link, MEMORY, OUT, READ, SIZE, USER, memfd, ring_at, shape, whole};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use tempfile::TempDir;
use vhost::vhost_user::VhostUserFrontend;
use vhost::{VhostBackend, VhostUserMemoryRegionInfo};
use vmpath_protocol::virtio_blk::request::Status;

/// A guest, and the note that its back ends leave each other.
struct World {
    folder: TempDir,
    guest: Guest,
}

impl World {
    /// With a device that has been negotiated.
    fn new() -> (Self, Link) {
        let world = Self { folder: tempfile::tempdir().unwrap(), guest: Guest::new() };
        let path = world.note();
        let mut link = Link::new(shape()).go_on(|socket| with_note(socket, path));
        link.negotiate(FEATURES);
        (world, link)
    }

    /// With a device that runs.
    fn started() -> (Self, Link) {
        let (mut world, mut link) = Self::new();
        link.start(&mut world.guest, 0);
        (world, link)
    }

    fn note(&self) -> PathBuf {
        self.folder.path().join("memory")
    }

    fn go_on(&self, link: Link) -> Link {
        link.go_on(|socket| with_note(socket, self.note()))
    }

    /// As QEMU 7.2 starts a device that it takes for negotiated, and whose memory it takes for told.
    fn restart(&self, link: &mut Link, base: u16) -> Changes {
        self.say_restart(link, base, |link, say| link.with(say).1)
    }

    /// How the session ends when the front end tries that.
    fn restart_fails(&self, link: &mut Link) -> SessionEnd {
        self.say_restart(link, 0, |link, say| {
            say(&mut link.front);
            link.end()
        })
    }

    fn say_restart<R>(
        &self,
        link: &mut Link,
        base: u16,
        with: impl FnOnce(&mut Link, Box<dyn FnOnce(&mut vhost::vhost_user::Frontend) + Send>) -> R,
    ) -> R {
        let (call, kick) = (link.call.try_clone().unwrap(), link.kick.try_clone().unwrap());
        let (layout, file) = self.guest.inflight.as_ref().unwrap();
        let (layout, file) = (*layout, file.try_clone().unwrap());
        let say = move |front: &mut vhost::vhost_user::Frontend| {
            front.set_features(FEATURES).unwrap();
            front.set_inflight_fd(&layout, file.as_raw_fd()).unwrap();
            front.set_vring_num(0, SIZE).unwrap();
            front.set_vring_base(0, base).unwrap();
            front.set_vring_addr(0, &ring_at(None)).unwrap();
            front.set_vring_kick(0, &kick).unwrap();
            front.set_vring_call(0, &call).unwrap();
            front.set_vring_enable(0, true).unwrap();
        };
        with(link, Box::new(say))
    }

    fn edit(&self, change: impl FnOnce(&str) -> String) {
        let text = std::fs::read_to_string(self.note()).unwrap();
        let changed = change(&text);
        assert_ne!(text, changed);
        std::fs::write(self.note(), changed).unwrap();
    }
}

fn with_note(socket: UnixStream, path: PathBuf) -> Session {
    Session::new(socket, shape()).unwrap().with_note(path)
}

/// What is damaged, how, and what must be said of it.
type Damage = (&'static str, fn(&str) -> String, fn(&Forgotten) -> bool);

fn another_boot(note: &str) -> String {
    let at = note.find("boot ").unwrap() + 5;
    format!("{}{:032x}{}", &note[..at], 1, &note[at + 32..])
}

fn extra(file: &File) -> VhostUserMemoryRegionInfo {
    VhostUserMemoryRegionInfo {
        guest_phys_addr: 1 << 30,
        memory_size: 4096,
        userspace_addr: USER + (1 << 30),
        mmap_offset: 0,
        mmap_handle: file.as_raw_fd(),
    }
}

#[test]
fn what_was_open_when_the_vm_was_stopped_is_finished_by_the_next_process() {
    let (mut world, mut link) = World::started();
    for head in [0, 3, 6] {
        world.guest.write(Guest::data_at(head), &[head as u8 + 1; 512]);
        world.guest.ask(head, OUT, u64::from(head), 512);
        link.fetch();
    }
    link.session.complete(0, 3, Status::Ok);
    link.session.notify();
    assert_eq!(link.stop().0, 3);

    let mut link = world.go_on(link);
    let changes = world.restart(&mut link, 3);
    assert!(changes.presumed && changes.unnoted.is_none() && changes.started.contains(0));
    for head in [0, 6] {
        let request = link.fetch();
        assert_eq!((request.head, request.origin), (head, Origin::Replayed));
        assert_eq!(link.send(head, 0, 512), [head as u8 + 1; 512], "the guest's own memory");
        link.session.complete(0, head, Status::Ok);
    }
    link.session.notify();
    let results: Vec<_> = std::iter::from_fn(|| world.guest.result()).collect();
    assert_eq!(results, [(3, 0), (0, 0), (6, 0)]);
    world.guest.ask(9, READ, 0, 512);
    assert_eq!(link.fetch().origin, Origin::New);
    // And it can be done again.
    link.stop();
    let mut link = world.go_on(link);
    assert!(world.restart(&mut link, 4).presumed);
    assert_eq!(link.fetch().head, 9);
}

#[test]
fn the_base_of_a_ring_that_never_ran_here_means_nothing() {
    let (mut world, mut link) = World::started();
    for head in [0, 3] {
        world.guest.ask(head, READ, 0, 512);
        link.fetch();
        link.session.complete(0, head, Status::Ok);
    }
    link.session.notify();
    // Killed while the guest ran; the front end is silent until its VM is stopped and continued.
    let mut link = world.go_on(link);
    let (base, changes) = link.stop();
    assert!(changes.presumed);
    world.guest.ask(6, READ, 0, 512);
    world.restart(&mut link, base);
    assert_eq!(link.fetch().head, 6, "nothing is done twice");
    assert_eq!(link.session.fetch(0), Fetched::Empty);
}

#[test]
fn what_a_front_end_says_of_its_memory_changes_what_it_had_said() {
    let (mut world, link) = World::started();
    let more = memfd(4096);
    more.write_all_at(&[9; 512], 0).unwrap();
    let mut link = world.go_on(link);
    link.with(|front| front.add_mem_region(&extra(&more)).unwrap());
    world.restart(&mut link, 0);
    world.guest.lay(0, OUT, 0, 512);
    world.guest.describe(1, 1 << 30, 512, (super::driver::NEXT, 2));
    world.guest.offer(0);
    link.fetch();
    assert_eq!(link.send(0, 0, 512), [9; 512]);
    // The next one finds both, and can be told that one is gone.
    let mut link = world.go_on(link);
    link.with(|front| front.remove_mem_region(&extra(&more)).unwrap());
    world.restart(&mut link, 0);
    assert!(matches!(link.session.fetch(0), Fetched::Broken(_)), "a buffer in memory that is gone");
}

#[test]
fn a_handshake_says_that_nothing_has_been_told() {
    let (mut world, link) = World::started();
    let mut link = link.go_on(|socket| with_note(socket, world.note()));
    link.negotiate(FEATURES);
    let mut silent = world.go_on(link);
    world.restart(&mut silent, 0);
    assert!(matches!(silent.session.fetch(0), Fetched::Broken(_)), "no memory, no ring");
    let mut link = world.go_on(silent);
    let region = whole(&world.guest.memory);
    let (_, changes) = link.with(move |front| front.add_mem_region(&region).unwrap());
    assert!(changes.presumed);
    world.restart(&mut link, 0);
    world.guest.ask(0, READ, 0, 512);
    link.fetch();
}

#[test]
fn memory_that_may_be_anothers_is_not_mapped() {
    let own = std::process::id();
    let damage: [Damage; 7] = [
        (
            "pid",
            |t| t.replace("front-end ", "front-end 1"),
            |f| matches!(f, Forgotten::AnotherProcess { .. }),
        ),
        ("start", |t| t.replace("\nregion", "0\nregion"), |f| matches!(f, Forgotten::Ended)),
        ("boot", another_boot, |f| matches!(f, Forgotten::Ended)),
        ("cut", |t| t.replace("boot ", "boot 0"), |f| matches!(f, Forgotten::Damaged)),
        ("inode", |t| format!("{}7\n", t.trim_end()), |f| matches!(f, Forgotten::NoFile { .. })),
        ("size", |t| t.replace(&format!(" {MEMORY} "), " 8388608 "), |f| matches!(f, Forgotten::Unfit(_))),
        ("form", |t| t.replace("memory 1", "memory 2"), |f| matches!(f, Forgotten::Damaged)),
    ];
    for (what, change, is_right) in damage {
        let (world, link) = World::started();
        assert!(std::fs::read_to_string(world.note()).unwrap().contains(&format!("front-end {own} ")));
        world.edit(change);
        match world.restart_fails(&mut world.go_on(link)) {
            SessionEnd::Forgotten(why) => assert!(is_right(&why), "{what}: {why}"),
            other => panic!("{what}: {other}"),
        }
    }
    let (world, link) = World::started();
    std::fs::remove_file(world.note()).unwrap();
    let end = world.restart_fails(&mut world.go_on(link));
    assert!(matches!(end, SessionEnd::Forgotten(Forgotten::NoNote)), "{end}");
    assert!(end.to_string().contains("power the VM off and on"));
}

#[test]
fn a_note_that_cannot_be_written_is_told_and_nothing_more() {
    let mut guest = Guest::new();
    let mut link = Link::new(shape()).go_on(|socket| with_note(socket, "/proc/none/memory".into()));
    link.negotiate(FEATURES);
    let changes = link.start(&mut guest, 0);
    assert!(changes.unnoted.is_some() && !changes.presumed && changes.started.contains(0));
}
