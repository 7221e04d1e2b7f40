//! What displays show agrees with the rules, and with what the scheduler does.

use super::*;
use crate::schedule::{Party, entitlements};
use proptest::prelude::*;

fn party(shares: u32, reservation: u64, limit: u64) -> Party {
    Party { priority: 100, shares, reservation, limit }
}

#[test]
fn reservations_then_shares_and_nobody_above_its_limit() {
    const NONE: u64 = u64::MAX;
    let check =
        |parties: &[Party], expect: &[u64]| assert_eq!(entitlements(100, parties), expect, "{parties:?}");
    check(&[], &[]);
    check(&[party(1000, 0, NONE), party(3000, 0, NONE)], &[25, 75]);
    check(&[party(1, 60, NONE), party(100_000, 0, NONE)], &[60, 40]);
    check(&[party(1000, 10, NONE), party(1000, 0, NONE)], &[50, 50]);
    check(&[party(1000, 0, 20), party(1000, 0, NONE)], &[20, 80]);
    check(&[party(1000, 0, 20), party(1000, 0, 30)], &[20, 30]);
    check(&[party(1000, 90, 20), party(1000, 0, NONE)], &[20, 80]);
    check(&[party(1, 0, NONE), party(1, 0, NONE), party(1, 0, NONE)], &[34, 33, 33]);
    let gold = Party { priority: 200, ..party(1, 70, NONE) };
    check(&[party(1000, 60, NONE), gold, party(1000, 20, NONE)], &[22, 70, 8]);
}

proptest! {
    #[test]
    fn all_is_given_that_limits_let_them_take(
        capacity in 0..u64::MAX / 4,
        rows in proptest::collection::vec((0..4_u32, 1..100_000_u32, 0..1_u64 << 40, any::<bool>(), 1..1_u64 << 41), 0..20),
    ) {
        let party = |&(priority, shares, reservation, limited, limit): &(u32, u32, u64, bool, u64)| {
            Party { priority, shares, reservation, limit: if limited { limit } else { u64::MAX } }
        };
        let parties: Vec<Party> = rows.iter().map(party).collect();
        let got = entitlements(capacity, &parties);
        let most: u128 = parties.iter().map(|p| u128::from(p.limit)).sum();
        prop_assert_eq!(got.iter().map(|g| u128::from(*g)).sum::<u128>(), most.min(capacity.into()));
        let wanted: u128 = parties.iter().map(|p| u128::from(p.reservation.min(p.limit))).sum();
        for (got, p) in got.iter().zip(&parties) {
            prop_assert!(*got <= p.limit);
            prop_assert!(wanted > capacity.into() || *got >= p.reservation.min(p.limit));
        }
    }
}

#[test]
fn the_scheduler_gives_what_is_shown() {
    let vms = vec![
        VmSpec { reservation: rate(30), shares: 100, ..vm("a") },
        VmSpec { limit: rate(10), ..vm("b") },
        VmSpec { shares: 2000, ..vm("c") },
        vm("d"),
    ];
    let none = u64::MAX;
    let parties =
        [party(100, 30 * MIB, none), party(1000, 0, 10 * MIB), party(2000, 0, none), party(1000, 0, none)];
    let shown = entitlements(100 * MIB, &parties);
    let got = second(vms, vec![], 100);
    for (got, shown) in got.iter().zip(&shown) {
        assert!(got.abs_diff(*shown) * 50 <= *shown, "{got} of {shown}");
    }
}
