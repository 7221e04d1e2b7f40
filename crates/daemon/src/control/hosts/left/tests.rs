use super::{FILE, Holdings, Left};
use crate::sys::boot::BootId;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use vmpath_core::spec::{Source, Spec, parse};

const BOOT: BootId = BootId::from_bytes([7; 16]);

fn spec(dir: &Path, (host, prefix): (&str, &str)) -> Spec {
    let text = format!(
        "[host]\nname = \"{host}\"\nrun_dir = \"{}\"\n[cluster]\netcd = [\"http://127.0.0.1:2379\"]\n\
         prefix = \"{prefix}\"\npeer_listen = \"127.0.0.1:7420\"\npeer_ca = \"/ca.pem\"\npeer_cert = \"/cert.pem\"\n\
         peer_key = \"/key.pem\"\n[[target]]\nname = \"san0\"\n[[target.path]]\nname = \"a\"\n\
         url = \"nbd://10.0.0.1:10809\"\n",
        dir.display()
    );
    parse(&[Source { name: "test.toml", text: &text }]).expect("a configuration").spec
}

fn open(dir: &Path) -> (Left, Holdings) {
    Left::open_in(&spec(dir, ("kvm1", "/vmpath")), BOOT).expect("a cluster")
}

fn holdings(units: &[(&str, u64)]) -> Holdings {
    units.iter().map(|(unit, epoch)| ((*unit).to_owned(), *epoch)).collect()
}

#[test]
fn the_next_process_finds_what_was_held_last() {
    let dir = tempfile::tempdir().unwrap();
    let (mut left, found) = open(dir.path());
    assert_eq!(found, Holdings::new());
    left.say(holdings(&[("san0/a", 3), ("san0/b", 9)])).unwrap();
    assert_eq!(open(dir.path()).1, holdings(&[("san0/a", 3), ("san0/b", 9)]));
    left.say(holdings(&[("san0/b", 10)])).unwrap();
    assert_eq!(open(dir.path()).1, holdings(&[("san0/b", 10)]));
}

#[test]
fn another_boot_another_host_and_another_part_of_etcd_find_nothing() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).0.say(holdings(&[("san0/a", 3)])).unwrap();
    let found = |of, boot| Left::open_in(&spec(dir.path(), of), boot).expect("a cluster").1;
    assert_eq!(found(("kvm2", "/vmpath"), BOOT), Holdings::new());
    assert_eq!(found(("kvm1", "/other"), BOOT), Holdings::new());
    assert_eq!(found(("kvm1", "/vmpath"), BootId::from_bytes([8; 16])), Holdings::new());
    assert_eq!(found(("kvm1", "/vmpath"), BOOT), holdings(&[("san0/a", 3)]));
}

#[test]
fn what_is_damaged_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).0.say(holdings(&[("san0/a", 3)])).unwrap();
    let file = dir.path().join(FILE);
    let whole = fs::read(&file).unwrap();
    for end in 0..whole.len() {
        fs::write(&file, &whole[..end]).unwrap();
        assert_eq!(open(dir.path()).1, Holdings::new(), "{end} bytes of it");
    }
}

/// No new file can be made in the folder; the old one can still be emptied.
#[test]
fn a_file_that_cannot_be_cut_is_emptied_and_one_that_cannot_be_emptied_gives_nothing_away() {
    let dir = tempfile::tempdir().unwrap();
    let (mut left, _) = open(dir.path());
    left.say(holdings(&[("san0/a", 3), ("san0/b", 9)])).unwrap();
    // A folder in the place of the file that is written beside: this fails for root, too.
    fs::create_dir(dir.path().join("units.new")).unwrap();
    left.say(holdings(&[("san0/a", 3), ("san0/b", 9), ("san0/c", 1)])).expect("it says less than that");
    assert_eq!(open(dir.path()).1.len(), 2);
    left.say(holdings(&[("san0/a", 3)])).expect("it is emptied");
    assert_eq!(open(dir.path()).1, Holdings::new());
    // And neither of the two.
    left.says = holdings(&[("san0/a", 3)]);
    fs::remove_file(dir.path().join(FILE)).unwrap();
    fs::create_dir(dir.path().join(FILE)).unwrap();
    fs::set_permissions(dir.path().join(FILE), fs::Permissions::from_mode(0o700)).unwrap();
    assert!(left.say(Holdings::new()).is_err());
    assert_eq!(left.says.len(), 1, "it is tried again");
}
