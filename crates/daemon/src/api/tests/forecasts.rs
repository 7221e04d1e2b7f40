//! Forecasts and explanations over a real socket, from an owner with a host on which nothing is the matter.

use super::{Served, refused};
use crate::api::client::Ask;
use crate::control::handle::{Fork, Input};
use crate::control::journal::{Bounds, Journal};
use crate::testing;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use vmpath_core::effect::{JournalEntry, JournalKind, Subject};
use vmpath_core::ids::{IncidentId, PathId, VmId};
use vmpath_core::time::Instant;
use vmpath_core::whatif;

fn journal() -> Journal {
    let spec = testing::spec();
    let mut journal = Journal::new(Bounds::of(&spec.host));
    let mut add = |kind, subject, incident: u64, at| {
        let entry = JournalEntry {
            at: Instant::ZERO,
            incident: Some(IncidentId(incident)),
            kind,
            subject,
            reason: format!("{} it was", kind.as_str()),
            until: None,
        };
        journal.append(entry, &spec, at);
    };
    add(JournalKind::IncidentOpened, Subject::Path(PathId(0)), 1, 1_000_000);
    add(JournalKind::VmSuspended, Subject::Vm(VmId(1)), 1, 1_500_000);
    add(JournalKind::IncidentOpened, Subject::Path(PathId(1)), 2, 2_000_000);
    add(JournalKind::IncidentClosed, Subject::Path(PathId(1)), 2, 3_000_000);
    journal
}

/// Answers all questions until nobody asks any more.
fn owner(served: &mut Served) -> JoinHandle<()> {
    let mut inputs = std::mem::replace(&mut served.inputs, mpsc::channel(1).1);
    tokio::spawn(async move {
        let (journal, controller) = (journal(), whatif::healthy(&testing::spec()).0);
        while let Some(input) = inputs.recv().await {
            match input {
                Input::Events { query, reply } => drop(reply.send(journal.read(&query))),
                Input::Incidents { limit, reply } => drop(reply.send(journal.incidents(limit))),
                Input::Incident { incident, reply } => drop(reply.send(journal.incident(incident))),
                Input::Fork { reply } => {
                    let (controller, others) = (Box::new(controller.clone()), None);
                    drop(reply.send(Fork { controller, others }));
                }
                Input::Command { .. } | Input::Reload { .. } | Input::TakeOver { .. } => {
                    panic!("nobody asks for a change")
                }
            }
        }
    })
}

async fn get(served: &Served, at: &str) -> Value {
    served.call(Ask::Get(at.into())).await.unwrap_or_else(|error| panic!("{at}: {error}"))
}

#[tokio::test]
async fn a_forecast_is_asked_of_a_copy() {
    let mut served = Served::start();
    let owner = owner(&mut served);
    let answer = get(&served, "/v1/whatif?lose=san0/a").await;
    assert_eq!((&answer["lose"], &answer["fates"]["suspended"]), (&json!(["san0/a"]), &json!(1)));
    let bronze = &answer["vms"][1];
    assert_eq!(
        (&bronze["name"], &bronze["before"], &bronze["fate"], &bronze["reservation_met"]),
        (&json!("bronze"), &json!("running"), &json!("suspended"), &json!(false))
    );
    assert_eq!(bronze["stages"], json!([{ "after_ms": 1000, "fate": "suspended" }]));
    assert!(bronze["until"].as_str().is_some_and(|until| until.contains("san0/a repaired")), "{bronze}");
    let party = json!({ "vm": "bronze", "priority": 50, "reserved_bytes_per_second": 52_428_800, "kept": false,
                        "gets_bytes_per_second": 41_943_040 });
    assert_eq!(
        (&answer["targets"][0]["standing"], &answer["targets"][0]["parties"][1]),
        (&json!("short"), &party)
    );
    // A target stands for all its paths.
    assert_eq!(get(&served, "/v1/whatif?lose=san0").await["lose"], json!(["san0/a", "san0/b"]));
    for (at, error, help) in [
        ("/v1/whatif", "nothing is supposed", "lose=san0/a"),
        ("/v1/whatif?lose=san0/q", "there is no path `san0/q`", "did you mean `san0/a`"),
        ("/v1/whatif?lose=sam0", "there is no target or `via` component `sam0`", "did you mean `san0`"),
        ("/v1/whatif?loose=san0/a", "`loose` is nothing that can be supposed", "lose=san0/a"),
        ("/v1/whatif?lose=san0/a&drain=san0/a", "both lost and drained", "lose"),
    ] {
        let refused = refused(served.call(Ask::Get(at.into())).await);
        assert!(refused.error.contains(error) && refused.help.contains(help), "{at}: {refused:?}");
    }
    served.server.stop().await;
    owner.abort();
}

fn text(answer: &Value) -> String {
    let sentences = answer["text"].as_array().cloned().unwrap_or_default();
    sentences.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn a_vm_that_is_well_is_told_what_would_come_and_one_that_is_not_the_numbers() {
    let mut served = Served::start();
    let owner = owner(&mut served);
    let gold = get(&served, "/v1/vms/gold/explain").await;
    let told = text(&gold);
    assert!(
        told.starts_with("gold is running, for ") && told.contains(" s; nothing is the matter.\n"),
        "{told}"
    );
    assert!(
        told.contains(
            "san0 carries 100.0 MiB/s of 200.0 MiB/s now, over san0/b; 60.0 MiB/s are reserved there; kept: gold (priority \
             100, 60.0 MiB/s).\ngold is kept: its 60.0 MiB/s fit.\n"
        ),
        "{told}"
    );
    // By the snapshot, only b is up.
    assert!(
        told.contains("If san0/b were lost: it would go on over san0/a, with its whole reservation."),
        "{told}"
    );
    let bronze = get(&served, "/v1/vms/bronze/explain").await;
    assert!(
        text(&bronze).contains(
            "bronze does not run: its 50.0 MiB/s would have to fit into the 40.0 MiB/s that nobody has reserved.\n"
        ),
        "{}",
        text(&bronze)
    );
    let kinds: Vec<_> =
        bronze["events"].as_array().unwrap().iter().map(|event| event["kind"].clone()).collect();
    assert_eq!(kinds, ["incident-opened", "vm-suspended"], "its own and its incident's, and no other");
    assert_eq!(
        (&bronze["capacity"][0]["target"], &bronze["incident"]["incident"]),
        (&json!("san0"), &json!("INC-1"))
    );
    served.server.stop().await;
    owner.abort();
}

#[tokio::test]
async fn paths_and_incidents_are_explained_too() {
    let mut served = Served::start();
    let owner = owner(&mut served);
    let lost = text(&get(&served, "/v1/paths/san0/a/explain").await);
    assert!(
        lost.starts_with("Path san0/a is down, optimized, for 1")
            && lost.contains(
                " s; traffic does not belong here now.
Why: "
            ),
        "{lost}"
    );
    let works = get(&served, "/v1/paths/san0/b/explain").await;
    assert!(text(&works).contains("It may be used by gold, bronze.\n"), "{}", text(&works));
    assert!(
        text(&works).contains(
            "If san0/b were lost, something would happen to 1 of 2 VMs: bronze suspended after 1.0 s."
        ),
        "{}",
        text(&works)
    );
    assert_eq!(works["if_lost"]["fates"]["running"], json!(1));
    let open = text(&get(&served, "/v1/incidents/INC-1/explain").await);
    assert!(open.starts_with("INC-1 is open, for 1"), "{open}");
    let rest = " s: path san0/a lost.\nPaths: san0/a.\nVMs: bronze.\nWaiting: bronze for san0/a up and good for 1 s.";
    assert!(open.ends_with(rest), "{open}");
    let past = get(&served, "/v1/incidents/2/explain").await;
    assert_eq!(text(&past), "INC-2 is over; it lasted 1 s: incident-opened it was.\nPaths: san0/b.");
    assert_eq!(past["events"].as_array().map(Vec::len), Some(2));
    let all = get(&served, "/v1/incidents?all=true").await;
    let ids: Vec<_> =
        all["incidents"].as_array().unwrap().iter().map(|row| row["incident"].clone()).collect();
    assert_eq!(ids, ["INC-2", "INC-1"]);
    let nothing = refused(served.call(Ask::Get("/v1/incidents/9/explain".into())).await);
    assert!(nothing.error.contains("nothing is known of incident INC-9"), "{nothing:?}");
    served.server.stop().await;
    owner.abort();
}
