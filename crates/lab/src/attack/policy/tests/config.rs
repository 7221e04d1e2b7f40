//! Random configurations, as text through the real parser.

use std::fmt::Write as _;
use vmpath_core::spec::{Source, Spec, parse};

/// SplitMix64.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % sides
    }

    pub(super) fn one_in(&mut self, sides: u64) -> bool {
        self.roll(sides) == 0
    }

    pub(super) fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.roll(from.len() as u64)).expect("small")].clone()
    }
}

pub(super) fn parsed(text: &str) -> Spec {
    match parse(&[Source { name: "test.toml", text }]) {
        Ok(parsed) => parsed.spec,
        Err(faults) => panic!("{faults:?}\n{text}"),
    }
}

pub(super) fn random(dice: &mut Dice) -> String {
    let mut text = String::new();
    let when = dice.pick(&["unmet", "reserved", "reserved"]);
    _ = writeln!(text, "[host]\nshed_when = \"{when}\"");
    let targets = 1 + dice.roll(2);
    for target in 0..targets {
        let failback = dice.pick(&["immediate", "immediate", "after 7s", "manual"]);
        let proof = dice.pick(&["500ms", "1s", "4s"]);
        _ = writeln!(
            text,
            "[[target]]\nname = \"san{target}\"\nfailback = \"{failback}\"\nrepair_after = \"{proof}\""
        );
        for path in 0..2 + dice.roll(2) {
            _ = writeln!(
                text,
                "[[target.path]]\nname = \"p{path}\"\nurl = \"nbd://10.0.{target}.{path}:10809\""
            );
            if !dice.one_in(8) {
                let rate = dice.pick(&[60, 100, 100, 140]);
                _ = writeln!(text, "capacity = \"{rate} MiB/s\"");
            }
        }
    }
    for vm in 0..3 + dice.roll(3) {
        random_vm(&mut text, dice, vm, targets);
    }
    text
}

fn random_vm(text: &mut String, dice: &mut Dice, vm: u64, targets: u64) {
    let priority = dice.pick(&[10, 10, 50, 100]);
    _ = writeln!(text, "[[vm]]\nname = \"vm{vm}\"\npriority = {priority}\nqmp = \"/run/vm{vm}.qmp\"");
    let loss = dice.pick(&["failover", "failover", "suspend", "failover+suspend", "failover+migrate"]);
    let when = dice.pick(&["always", "outranked"]);
    let resume = dice.pick(&["repair", "repair", "failback"]);
    let hold = dice.roll(12);
    let ladder = match dice.roll(7) {
        5 => format!("hold {hold}s, then suspend 20s, then fail"),
        6 => format!("migrate, then hold {hold}s, then suspend 30s"),
        0 | 1 => format!("hold {hold}s, then suspend"),
        2 => "suspend".into(),
        3 => format!("hold {hold}s, then fail"),
        _ => format!("hold {hold}s, then migrate, then suspend"),
    };
    let may_suspend = dice.one_in(2);
    _ = writeln!(
        text,
        "on_path_loss = \"{loss}\"\nwhen = \"{when}\"\nresume = \"{resume}\"\non_no_path = \"{ladder}\"\nmay_suspend = {may_suspend}"
    );
    if !dice.one_in(3) {
        _ = writeln!(text, "reservation = \"{} MiB/s\"", dice.pick(&[20, 40, 80, 100]));
    }
    if dice.one_in(5) {
        _ = writeln!(text, "min_paths = 2");
    } else if dice.one_in(5) {
        _ = writeln!(text, "avoid = [\"san0/p0\"]");
    }
    let front = dice.pick(&["nbd", "nbd", "vhost_user"]);
    for target in 0..targets {
        if target == 0 || dice.one_in(2) {
            _ = writeln!(
                text,
                "[[vm.disk]]\nname = \"d{target}\"\nunit = \"san{target}/u{vm}\"\n{front} = \"/run/vm{vm}-{target}.sock\""
            );
        }
    }
}
