//! Limits, in bytes and in requests.

use super::*;
use proptest::prelude::*;

#[test]
fn a_limit_holds_and_the_rest_goes_to_the_others() {
    let got = second(vec![VmSpec { limit: rate(10), ..vm("a") }, vm("b")], vec![], 100);
    assert!(near(got[0], 10) && near(got[1], 90), "{got:?}");
}

#[test]
fn a_limit_on_requests_holds() {
    let got = second(vec![VmSpec { limit_iops: Some(160), ..vm("a") }, vm("b")], vec![], 100);
    assert!(near(got[0], 10), "160 requests of 64 KiB: {got:?}");
}

#[test]
fn one_over_its_limit_says_when_it_may_go() {
    let limited = VmSpec { limit: rate(1), limit_burst: Duration::from_millis(20), ..vm("a") };
    let mut world = World::new(&spec(vec![limited], vec![]), &[MIB]);
    assert!(world.step().is_some());
    assert_eq!(world.turn(), None);
    assert!(world.throttled(VmId(0)));
    let at = world.scheduler.wake().expect("it waits");
    assert_eq!(at, START + Duration::from_millis(980), "a second's worth, less the burst");
    world.now = Instant::from_nanos(at.as_nanos() - 1);
    assert_eq!(world.turn(), None);
    world.now = at;
    assert!(world.turn().is_some() && !world.throttled(VmId(0)));
    world.step();
    world.scheduler.leave(VmId(0), world.class);
    assert_eq!(world.scheduler.wake(), None, "nobody waits");
}

/// Over an hour a limited VM has had far less than its shares; that is no claim against those who come then.
#[test]
fn having_been_limited_is_no_credit() {
    let vms = |limit| vec![VmSpec { limit, ..vm("a") }, vm("b")];
    let mut world = World::new(&spec(vms(rate(1)), vec![]), &[64 * KIB]);
    world.run(100 * MIB, Duration::from_secs(60));
    world.scheduler.configure(&spec(vms(None), vec![]), world.now);
    let from = world.now;
    world.run(100 * MIB, Duration::from_secs(1));
    let got = world.bytes_since(from);
    assert!(near(got[0], 50) && near(got[1], 50), "{got:?}");
}

fn check(served: &[(Instant, u64)], per_second: u64, burst: Duration) -> Result<(), TestCaseError> {
    let most = served.iter().map(|(_, amount)| *amount).max().unwrap_or(0);
    for first in 0..served.len() {
        let mut sum = 0;
        for (at, amount) in &served[first..] {
            sum += u128::from(*amount);
            let time = (at.since(served[first].0) + burst).as_nanos();
            let allowed = u128::from(per_second) * time / 1_000_000_000 + u128::from(most);
            prop_assert!(sum <= allowed, "{sum} of {allowed} from {} to {at}", served[first].0);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// However the requests and pauses fall, in no window more than the rate's worth, the burst and one request.
    #[test]
    fn no_window_exceeds_a_limit(
        limit in 100_000..50_000_000_u64,
        iops in 10..5000_u64,
        burst in 0..30_000_000_u64,
        asks in proptest::collection::vec((1..400_000_u64, 0..40_000_000_u64, any::<bool>()), 300),
    ) {
        let burst = Duration::from_nanos(burst);
        let one = VmSpec { limit: Some(ByteRate(limit)), limit_iops: Some(iops), limit_burst: burst, ..vm("a") };
        let mut world = World::new(&spec(vec![one, vm("b")], vec![]), &[0]);
        world.scheduler.leave(VmId(1), world.class);
        let mut served = vec![];
        for (bytes, pause, waits_on) in asks {
            world.sizes[0] = bytes;
            if world.step().is_some() {
                served.push((world.now, bytes));
            }
            if waits_on {
                world.now = world.scheduler.wake().unwrap_or(world.now).max(world.now);
            } else {
                world.now += Duration::from_nanos(pause);
            }
        }
        check(&served, limit, burst)?;
        let requests: Vec<(Instant, u64)> = served.iter().map(|(at, _)| (*at, 1)).collect();
        check(&requests, iops, burst)?;
    }
}
