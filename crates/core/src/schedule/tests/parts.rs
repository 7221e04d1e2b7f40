//! The parts alone: the tournament and the lows, against a scan.

use crate::schedule::lows::Lows;
use crate::schedule::tree::{NEVER, Tree};
use proptest::prelude::*;

proptest! {
    #[test]
    fn a_tournament_knows_what_a_scan_finds(
        places in 1..70_usize,
        sets in proptest::collection::vec((0..70_usize, prop_oneof![0..20_u64, Just(NEVER)]), 1..200),
        (from, to, key) in (0..70_usize, 0..70_usize, 0..20_u64),
    ) {
        let mut tree = Tree::new(places);
        let mut keys = vec![NEVER; places];
        for (place, key) in sets {
            tree.set(place % places, key);
            keys[place % places] = key;
            let least = (0..places).min_by_key(|i| keys[*i]).map(|i| (keys[i], i as u32));
            prop_assert!(least == Some((tree.winner().key, tree.winner().who)));
        }
        let (from, to) = (from % places, to % (places + 1));
        let least = (from..to).min_by_key(|i| keys[*i]).filter(|i| keys[*i] != NEVER);
        let found = tree.least(from..to);
        prop_assert_eq!(least, (found.key != NEVER).then_some(found.who as usize));
        prop_assert_eq!(tree.first_up_to(key), keys.iter().position(|k| *k <= key));
    }
}

/// More nested lows than are kept: what is given back is too little, never too much.
#[test]
fn beyond_what_is_kept_a_refund_errs_to_the_safe_side() {
    let mut lows = Lows::default();
    for number in 1..=1000 {
        lows.note(number * 2, u128::from(number) * 10);
    }
    assert_eq!(lows.clone().take_back(1, 100, 20_000), 10, "the oldest still knows the lowest");
    assert!(lows.clone().take_back(101, 1_000_000, 20_000) <= 510);
    assert_eq!(lows.take_back(1999, 1_000_000, 20_000), 10_000);
}
