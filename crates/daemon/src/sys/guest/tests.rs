use super::*;
use crate::sys::socket;
use proptest::prelude::*;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;

const MIB: u64 = 1 << 20;

fn file(bytes: u64) -> File {
    let fd = memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&fd, bytes).unwrap();
    File::from(fd)
}

fn place(gpa: u64, user: u64, bytes: u64, offset: u64) -> Place {
    Place { gpa, user, bytes, offset }
}

#[test]
fn a_region_beyond_its_file_is_refused() {
    let file = file(MIB);
    let mut memory = GuestMemory::default();
    for bad in [
        place(0, 0, MIB + 1, 0),
        place(0, 0, MIB, 1),
        place(0, 0, 1, u64::MAX),
        place(0, 0, 0, 0),
        place(u64::MAX, 0, 4096, 0),
        place(0, u64::MAX, 4096, 0),
    ] {
        assert_eq!(memory.add(bad, &file).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{bad:?}");
    }
    let (a, _b) = UnixStream::pair().unwrap();
    assert!(memory.add(place(0, 0, 1, 0), &a).is_err(), "a socket has no bytes");
    memory.add(place(0, 0, MIB, 0), &file).unwrap();
    assert!(memory.add(place(MIB - 1, 8 * MIB, 4096, 0), &file).is_err(), "overlaps for the guest");
    assert!(memory.add(place(8 * MIB, MIB - 1, 4096, 0), &file).is_err(), "overlaps for the front end");
}

#[test]
fn addresses_lead_to_their_bytes_and_nowhere_else() {
    let file = file(4 * MIB);
    let mut memory = GuestMemory::default();
    memory.add(place(16 * MIB, 100 * MIB, MIB, MIB), &file).unwrap();
    memory.add(place(0, 200 * MIB, MIB, 3 * MIB), &file).unwrap();
    assert!(memory.write(16 * MIB + 5, b"first"));
    assert!(memory.write(MIB - 6, b"second"));
    let mut bytes = [0; 6];
    file.read_exact_at(&mut bytes[..5], MIB + 5).unwrap();
    assert_eq!(&bytes[..5], b"first");
    file.read_exact_at(&mut bytes, 4 * MIB - 6).unwrap();
    assert_eq!(&bytes, b"second");
    assert_eq!(memory.gpa_of(100 * MIB + 7), Some(16 * MIB + 7));
    assert_eq!(memory.gpa_of(101 * MIB), None);
    assert!(!memory.read(MIB - 5, &mut bytes), "beyond the end");
    assert!(!memory.read(MIB, &mut bytes), "in no region");
    assert!(!memory.write(u64::MAX - 2, b"second"), "around the end");
    assert!(memory.window(2, 8, 8).is_none(), "not aligned");
    assert!(memory.window(MIB - 8, 16, 8).is_none());
    let window = memory.window(8, 16, 8).unwrap();
    assert!(memory.remove(place(0, 200 * MIB, MIB, 0)));
    assert!(!memory.remove(place(0, 200 * MIB, MIB, 0)));
    window.u64(8).store(7, std::sync::atomic::Ordering::Relaxed);
    assert!(!memory.read(8, &mut bytes), "no longer the guest's");
}

#[test]
fn the_kernel_reads_and_writes_guest_memory_in_place() {
    let file = file(MIB);
    let mut memory = GuestMemory::default();
    memory.add(place(0, 0, MIB, 0), &file).unwrap();
    assert!(memory.write(100, b"payload"));
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut out = Pieces::default();
    assert!(memory.push(&mut out, 100, 7));
    assert!(!memory.push(&mut out, MIB - 3, 7));
    assert_eq!(socket::send(&ours, &mut out).unwrap(), 7);
    let spill = Spill::new(3);
    let mut into = Pieces::default();
    assert!(memory.push(&mut into, 200, 4));
    spill.push(&mut into, 0, 3);
    assert_eq!(socket::receive(&theirs, &mut into).unwrap(), 7);
    let mut bytes = [0; 7];
    assert!(memory.read(200, &mut bytes[..4]));
    spill.read(0, &mut bytes[4..]);
    assert_eq!(&bytes, b"payload");
}

proptest! {
    /// At any alignment, a copy moves its bytes and no others.
    #[test]
    fn copies_are_exact(at in 0u64..64, bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let file = file(4096);
        let mut memory = GuestMemory::default();
        memory.add(place(0, 0, 4096, 0), &file).unwrap();
        prop_assert!(memory.write(at, &bytes));
        let mut all = vec![0; 4096];
        file.read_exact_at(&mut all, 0).unwrap();
        let mut expected = vec![0; 4096];
        expected[at as usize..at as usize + bytes.len()].copy_from_slice(&bytes);
        prop_assert_eq!(&all, &expected);
        let mut back = vec![0; bytes.len()];
        prop_assert!(memory.read(at, &mut back));
        prop_assert_eq!(back, bytes);
    }
}
