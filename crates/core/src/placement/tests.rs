//! Rules of placement, held against a model that knows nothing of its tables.

use super::{
    Accepts, Claim, ClusterView, HostIndex, HostSummary, Need, PathNeed, Ranking, Refusal, TargetSummary,
    UnitNeed, UnitSummary, VmPlace, VmSummary, place, place_all,
};
use crate::testing::cases;
use proptest::prelude::*;
use std::collections::BTreeMap;

const MIB: u64 = 1 << 20;
const UNIT_SIZE: u64 = 64 * MIB;

/// One target that carries 200 MiB/s over two paths, of which `free` are left, and one unit that both lead to.
fn host(name: &str, free: u64) -> HostSummary {
    let paths_up = vec!["a".into(), "b".into()];
    let unit = UnitSummary { unit: "root".into(), size: Some(UNIT_SIZE), paths_up };
    let capacity = 200 * MIB;
    let target = TargetSummary {
        target: "san0".into(),
        capacity: Some(capacity),
        reserved: capacity.saturating_sub(free),
        lost: 0,
        units: vec![unit],
    };
    HostSummary {
        host: name.into(),
        version: "1".into(),
        peer: "127.0.0.1:7".parse().unwrap(),
        accepts: Accepts::Yes,
        targets: vec![target],
        vms: vec![knows("db1", VmPlace::Launchable)],
    }
}

fn knows(vm: &str, place: VmPlace) -> VmSummary {
    VmSummary { name: vm.into(), priority: 0, reservation: None, place }
}

fn need(vm: &str, rate: u64) -> Need {
    Need {
        vm: vm.into(),
        from: "kvm0".into(),
        version: "1".into(),
        units: vec![UnitNeed { target: "san0".into(), unit: "root".into(), size: UNIT_SIZE }],
        room: if rate == 0 { vec![] } else { vec![("san0".into(), rate)] },
        whole: false,
        paths: PathNeed { only: vec![], avoid: vec![], at_least: 1 },
        only: None,
    }
}

fn view(hosts: &[HostSummary]) -> ClusterView {
    let mut view = ClusterView::default();
    for host in hosts {
        view.put(host);
    }
    view
}

fn names<'a>(view: &'a ClusterView, ranking: &Ranking) -> Vec<&'a str> {
    ranking.best.iter().map(|host| view.name(*host)).collect()
}

/// Why the only other host refuses, after `change` was done to it or to the need.
fn refusal(change: impl FnOnce(&mut HostSummary, &mut Need)) -> Refusal {
    let (mut other, mut need) = (host("kvm1", 100 * MIB), need("db1", 60 * MIB));
    change(&mut other, &mut need);
    let ranking = place(&need, &view(&[other]));
    assert_eq!(ranking.best, []);
    ranking.refused.into_iter().next().expect("it is refused with a reason").1
}

#[test]
fn the_host_with_more_room_comes_first() {
    let view = view(&[host("kvm1", 20 * MIB), host("kvm2", 90 * MIB), host("kvm3", 50 * MIB)]);
    assert_eq!(names(&view, &place(&need("db1", 10 * MIB), &view)), ["kvm2", "kvm3", "kvm1"]);
}

#[test]
fn it_is_told_what_the_chosen_one_is_better_in() {
    let why = |hosts: &[HostSummary], need: &Need| {
        let view = view(hosts);
        place(need, &view).chosen(need, &view).expect("one will do").why
    };
    let (near, far) = (host("kvm1", 50 * MIB), host("kvm2", 90 * MIB));
    let need = need("db1", 10 * MIB);
    let words = why(&[near.clone(), far], &need);
    assert!(words.contains("kvm2 is the best of 2") && words.contains("at kvm2; "), "{words}");
    assert!(words.ends_with("left at kvm1)"), "{words}");
    assert_eq!(why(std::slice::from_ref(&near), &need), "kvm1 is the only host that will do");
    let named = Need { only: Some("kvm1".into()), ..need };
    assert_eq!(why(&[near], &named), "", "nobody chose");
}

#[test]
fn each_condition_refuses_by_itself_and_in_words() {
    let said = |change: fn(&mut HostSummary, &mut Need)| refusal(change).to_string();
    assert_eq!(said(|h, _| h.version = "2".into()), "its vmpath is 2, and this one 1");
    assert_eq!(
        said(|h, _| h.accepts = Accepts::No("it is shedding".into())),
        "it takes nobody: it is shedding"
    );
    assert_eq!(said(|_, need| need.units[0].unit = "data".into()), "it does not reach san0/data");
    assert_eq!(said(|_, need| need.units[0].target = "san9".into()), "it does not reach san9/root");
    assert_eq!(
        said(|_, need| need.units[0].size += 1),
        "its san0/root has 67108864 bytes, and ours 67108865"
    );
    assert_eq!(
        said(|_, need| need.paths.at_least = 3),
        "2 of its paths to san0/root can be relied on, and 3 must be"
    );
    assert_eq!(
        said(|h, _| h.targets[0].units[0].size = None),
        "0 of its paths to san0/root can be relied on, and 1 must be"
    );
    assert_eq!(
        said(|_, need| need.paths.avoid = vec!["san0/a".into(), "san0/b".into()]),
        "0 of its paths to san0/root can be relied on, and 1 must be"
    );
    assert_eq!(
        said(|_, need| (need.paths.only = vec!["san0/a".into()], need.paths.at_least = 2).0),
        "1 of its paths to san0/root can be relied on, and 2 must be"
    );
    assert_eq!(
        said(|_, need| need.room[0].1 = 101 * MIB),
        "it has 100.0 MiB/s left on san0, and the VM has reserved 101.0 MiB/s"
    );
    assert_eq!(said(|h, _| h.vms[0].place = VmPlace::Known), "the VM has no `launch` in its configuration");
    assert_eq!(said(|h, _| h.vms[0].place = VmPlace::Here), "it says that the VM runs there already");
    assert_eq!(said(|h, need| need.from.clone_from(&h.host)), "the VM is there now");
    assert_eq!(
        said(|h, need| (h.vms.clear(), need.only = Some("kvm1".into())).1),
        "its configuration has no such VM"
    );
}

#[test]
fn what_is_said_of_one_target_s_paths_says_nothing_of_another() {
    let mut need = need("db1", 60 * MIB);
    need.paths.only = vec!["san1/x".into()];
    need.paths.avoid = vec!["san1/a".into()];
    assert_eq!(place(&need, &view(&[host("kvm1", 60 * MIB)])).best.len(), 1);
}

#[test]
fn a_host_of_unknown_capacity_comes_after_all_that_are_known() {
    let mut unknown = host("kvm1", 0);
    unknown.targets[0].capacity = None;
    let view = view(&[unknown, host("kvm2", 70 * MIB)]);
    assert_eq!(names(&view, &place(&need("db1", 60 * MIB), &view)), ["kvm2", "kvm1"]);
}

#[test]
fn a_host_that_is_gone_is_not_chosen_and_one_that_is_back_is() {
    let mut view = view(&[host("kvm1", 50 * MIB)]);
    view.remove("kvm1");
    assert_eq!(place(&need("db1", 0), &view), Ranking::default());
    let mut only = need("db1", 0);
    only.only = Some("kvm1".into());
    assert_eq!(place(&only, &view).refused, [(HostIndex(0), Refusal::Silent)]);
    view.put(&host("kvm1", 50 * MIB));
    assert_eq!(names(&view, &place(&only, &view)), ["kvm1"]);
}

#[test]
fn promised_room_is_taken_until_it_is_given_back() {
    let mut view = view(&[host("kvm1", 100 * MIB)]);
    let claim = Claim { vm: "x".into(), host: "kvm1".into(), target: "san0".into(), rate: 50 * MIB };
    view.claim(&claim);
    assert_eq!(place(&need("db1", 60 * MIB), &view).best, []);
    // A newer summary does not know of it, and takes nothing of it back.
    view.put(&host("kvm1", 100 * MIB));
    assert_eq!(place(&need("db1", 60 * MIB), &view).best, []);
    view.unclaim(&claim);
    assert_eq!(place(&need("db1", 60 * MIB), &view).best.len(), 1);
}

#[test]
fn ten_who_decide_at_once_among_equals_do_not_pile_up() {
    let vms: Vec<_> = (0..10).map(|vm| format!("vm{vm}")).collect();
    let hosts: Vec<_> = (0..20)
        .map(|at| {
            let mut host = host(&format!("kvm{at}"), 50 * MIB);
            host.host = format!("node{at}");
            host.vms = vms.iter().map(|vm| knows(vm, VmPlace::Launchable)).collect();
            host
        })
        .collect();
    let view = view(&hosts);
    let mut chosen = BTreeMap::<HostIndex, u32>::new();
    for vm in &vms {
        *chosen.entry(place(&need(vm, 10 * MIB), &view).best[0]).or_default() += 1;
    }
    // Ten balls into twenty bins: more than three in one come in less than 2 % of draws.
    assert!(chosen.values().all(|many| *many <= 3), "{chosen:?}");
    assert!(chosen.len() >= 6, "{chosen:?}");
}

/// What a host has, as the model knows it.
#[derive(Clone, Debug)]
struct Model {
    name: String,
    /// MiB/s that are left.
    free: u64,
    has_unit: bool,
    accepts: bool,
}

fn hosts() -> impl Strategy<Value = Vec<Model>> {
    let one = (0u64..120, any::<bool>(), prop::bool::weighted(0.9));
    prop::collection::vec(one, 1..12).prop_map(|hosts| {
        let named =
            |(at, (free, has_unit, accepts))| Model { name: format!("h{at}"), free, has_unit, accepts };
        hosts.into_iter().enumerate().map(named).collect()
    })
}

fn summaries(models: &[Model], vms: usize) -> Vec<HostSummary> {
    let of = |model: &Model| {
        let mut summary = host(&model.name, model.free * MIB);
        if !model.has_unit {
            summary.targets[0].units.clear();
        }
        if !model.accepts {
            summary.accepts = Accepts::No("it is full".into());
        }
        summary.vms = (0..vms).map(|vm| knows(&format!("vm{vm}"), VmPlace::Launchable)).collect();
        summary
    };
    models.iter().map(of).collect()
}

/// Reservations in MiB/s.
fn rates() -> impl Strategy<Value = Vec<u64>> {
    prop::collection::vec(1u64..50, 1..25)
}

fn all_needs(rates: &[u64]) -> Vec<Need> {
    rates.iter().enumerate().map(|(at, rate)| need(&format!("vm{at}"), rate * MIB)).collect()
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn no_host_is_overcommitted_and_nobody_goes_where_his_unit_is_not(models in hosts(), rates in rates()) {
        let view = view(&summaries(&models, rates.len()));
        let placed = place_all(&all_needs(&rates), &view);
        let mut taken = vec![0u64; models.len()];
        for (rate, to) in rates.iter().zip(&placed.to) {
            let could = |at: usize| {
                let model = &models[at];
                model.has_unit && model.accepts && model.free >= taken[at] + rate
            };
            match to {
                Some(host) => {
                    let at = models.iter().position(|model| model.name == view.name(*host)).unwrap();
                    prop_assert!(could(at), "h{at} cannot have {rate}");
                    taken[at] += rate;
                }
                None => prop_assert!(!(0..models.len()).any(could), "somebody had room for {rate}"),
            }
        }
        prop_assert!(models.iter().zip(taken).all(|(model, taken)| taken <= model.free));
    }

    #[test]
    fn more_room_never_turns_a_yes_into_a_no(models in hosts(), rate in 1u64..120, more in 0u64..50) {
        let asked = need("vm0", rate * MIB);
        let before = view(&summaries(&models, 1));
        let mut richer = models.clone();
        richer.iter_mut().for_each(|model| model.free += more);
        let after = view(&summaries(&richer, 1));
        let accepted: Vec<_> = place(&asked, &after).best;
        for host in place(&asked, &before).best {
            prop_assert!(accepted.contains(&host));
        }
    }

    #[test]
    fn the_order_in_which_hosts_are_heard_of_changes_nothing(
        models in hosts(),
        rates in rates(),
        turn in any::<prop::sample::Index>(),
    ) {
        let said = summaries(&models, rates.len());
        let mut turned = said.clone();
        turned.rotate_left(turn.index(said.len()));
        let (one, other) = (view(&said), view(&turned));
        for need in all_needs(&rates) {
            let (a, b) = (place(&need, &one), place(&need, &other));
            prop_assert_eq!(names(&one, &a), names(&other, &b));
            let why = |view: &ClusterView, ranking: &Ranking| -> Vec<_> {
                ranking.refused.iter().map(|(host, why)| (view.name(*host).to_owned(), why.clone())).collect()
            };
            prop_assert_eq!(why(&one, &a), why(&other, &b));
        }
    }

    #[test]
    fn every_host_that_knows_the_vm_is_ranked_or_refused(models in hosts(), rate in 1u64..120) {
        let ranking = place(&need("vm0", rate * MIB), &view(&summaries(&models, 1)));
        prop_assert_eq!(ranking.best.len() + ranking.refused.len(), models.len());
    }
}
