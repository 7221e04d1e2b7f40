use super::super::{DISKS_MAX, GROUPS_MAX, PATHS_MAX, Source, TARGETS_MAX, VMS_MAX, parse};
use super::{SMALL, parsed};
use proptest::prelude::*;

const FULL: &str = include_str!("full.toml");

/// Pieces that have a meaning somewhere, put where they have none.
const PIECES: [&str; 25] = [
    "[",
    "]",
    "[[",
    "]]",
    "{",
    "}",
    "\"",
    "'",
    "\"\"\"",
    "=",
    ".",
    ",",
    "#",
    "\n",
    "é",
    "\0",
    "\\",
    "0",
    "-1",
    "[[vm]]",
    "[[group]]",
    "group = \"tools\"\n",
    "avoid = [\"a\"]\n",
    "[host]",
    "name = \"db1\"\n",
];

fn boundary(text: &str, at: usize) -> usize {
    let mut at = at % (text.len() + 1);
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// Cuts a stretch out of the text and puts a piece there.
fn mutated(text: &str, (from, length, piece): (usize, usize, usize)) -> String {
    let from = boundary(text, from);
    let to = boundary(text, (from + length).min(text.len())).max(from);
    format!("{}{}{}", &text[..from], PIECES[piece % PIECES.len()], &text[to..])
}

/// Whatever is said points into the text, in order.
fn reports_well(text: &str) {
    let said = match parsed(text) {
        Ok(parsed) => parsed.warnings,
        Err(faults) => {
            assert!(!faults.is_empty());
            faults
        }
    };
    let lines = u32::try_from(text.matches('\n').count()).expect("small") + 1;
    assert!(
        said.iter().all(|f| (1..=lines).contains(&f.line) && f.column >= 1 && !f.message.is_empty()),
        "{said:?}"
    );
    assert!(said.is_sorted_by_key(|f| (f.line, f.column)));
}

proptest! {
    #[test]
    fn no_mutation_panics(edits in prop::collection::vec((0_usize..4096, 0_usize..24, 0_usize..64), 1..6)) {
        let text = edits.into_iter().fold(FULL.to_owned(), |text, edit| mutated(&text, edit));
        reports_well(&text);
    }

    #[test]
    fn no_text_panics(text in "[\\[\\]a-z=\".{}, \n]{0,80}") {
        reports_well(&text);
    }
}

#[test]
fn every_prefix_and_every_lost_line_is_reported() {
    for end in (0..FULL.len()).step_by(7) {
        reports_well(&FULL[..end]);
    }
    for lost in 0..FULL.lines().count() {
        let rest = FULL.lines().enumerate().filter(|(i, _)| *i != lost).map(|(_, line)| line);
        reports_well(&rest.collect::<Vec<_>>().join("\n"));
    }
}

#[test]
fn too_much_is_refused_and_does_not_take_long() {
    let huge = "#".repeat(5 << 20);
    let faults = parse(&[Source { name: "disk.img", text: &huge }]).expect_err("too large");
    assert!(faults[0].to_string().starts_with("disk.img:1:1: this file has more than 4194304 bytes"));
    let many: String = (0..2000).map(|i| format!("[[vm]]\nname = \"v{i}\"\n")).collect();
    let faults = parsed(&format!("{SMALL}{many}")).expect_err("too many");
    assert_eq!(super::lines(&faults), ["2062:1 this is one VM too many: 1024 are the most"]);
}

/// As large as it may be; slow only if something compares everything with everything.
#[test]
fn the_largest_configuration_is_read() {
    let mut text = String::new();
    for target in 0..TARGETS_MAX {
        text += &format!("[[target]]\nname = 't{target}'\n");
        for path in 0..PATHS_MAX / TARGETS_MAX {
            text += &format!(
                "[[target.path]]\nname = 'p{path}'\ncapacity = '1 MiB/s'\nurl = 'nbd://10.{path}.0.{target}:1'\n"
            );
        }
    }
    for group in 0..GROUPS_MAX {
        text += &format!("[[group]]\nname = 'g{group}'\nreservation = '3 MiB/s'\n");
    }
    for vm in 0..VMS_MAX {
        let (group, target) = (vm / 2, vm % TARGETS_MAX);
        text += &format!("[[vm]]\nname = 'v{vm}'\ngroup = 'g{group}'\nreservation = '1 MiB/s'\n");
        text += &format!("paths = ['p1', 't{target}/p2', 'p3']\navoid = ['t{target}/p3']\n");
        for disk in 0..DISKS_MAX / VMS_MAX {
            let (target, socket) = (vm % TARGETS_MAX, format!("/run/{vm}-{disk}"));
            text += &format!(
                "[[vm.disk]]\nname = 'd{disk}'\nunit = 't{target}/u{vm}-{disk}'\nnbd = '{socket}'\n"
            );
        }
    }
    let spec = super::good(&text);
    assert_eq!((spec.paths.len(), spec.disks.len()), (PATHS_MAX, DISKS_MAX));
    assert_eq!(super::good(&text).rebase(&spec), Ok(spec));
}
