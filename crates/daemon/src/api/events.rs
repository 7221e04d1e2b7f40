//! `GET /v1/events` and `GET /v1/incidents`: from an address's query to a question to the journal, and its answer.
//!
//! Invariant: what cannot be understood is refused with what to write instead; a name that nobody knows is no empty answer.

use super::error::ApiError;
use super::show::Shown;
use super::{names, wire};
use crate::control::journal::{Filter, OfVm, Page, Past, Query};
use vmpath_core::effect::JournalKind;
use vmpath_core::ids::IncidentId;
use vmpath_core::spec::Spec;
use vmpath_core::view::HostView;

const LIMIT_DEFAULT: usize = 100;
const LIMIT_MAX: usize = 1000;

const HELP: &str = "write it like /v1/events?vm=db1&incident=INC-3&kind=vm-suspended&limit=100; after, limit, vm, path, \
                    incident, kind (again for another), since_unix_us may each be left out";

type Pairs = [(String, String)];

/// # Errors
/// An unknown key, kind or path; a number that is none.
pub(super) fn query(host: &HostView, pairs: &Pairs) -> Result<Query, ApiError> {
    const KEYS: [&str; 7] = ["after", "limit", "vm", "path", "incident", "kind", "since_unix_us"];
    if let Some((key, _)) = pairs.iter().find(|(key, _)| !KEYS.contains(&key.as_str())) {
        return Err(ApiError::bad_request(format!("events are not chosen by `{key}`"), HELP));
    }
    for key in KEYS.into_iter().filter(|key| *key != "kind") {
        if pairs.iter().filter(|(name, _)| name == key).count() > 1 {
            return Err(ApiError::bad_request(format!("`{key}` is given twice"), HELP));
        }
    }
    let limit = number(pairs, "limit")?.map_or(LIMIT_DEFAULT, |n| usize::try_from(n).unwrap_or(LIMIT_MAX));
    let filter = Filter {
        vm: value(pairs, "vm").map(|name| of_vm(host, name)),
        path: value(pairs, "path").map(|name| path(&host.spec, name)).transpose()?,
        incident: value(pairs, "incident").map(incident).transpose()?,
        kinds: pairs
            .iter()
            .filter(|(key, _)| key == "kind")
            .map(|(_, kind)| self::kind(kind))
            .collect::<Result<_, _>>()?,
        since_unix_us: number(pairs, "since_unix_us")?,
    };
    Ok(Query { after: number(pairs, "after")?, limit: limit.min(LIMIT_MAX), filter })
}

fn value<'a>(pairs: &'a Pairs, key: &str) -> Option<&'a str> {
    pairs.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
}

fn number(pairs: &Pairs, key: &str) -> Result<Option<u64>, ApiError> {
    let parse = |text: &str| {
        text.parse()
            .map_err(|_| ApiError::bad_request(format!("{key}: `{text}` is no number from 0 up"), HELP))
    };
    value(pairs, key).map(parse).transpose()
}

/// The VM of this name, with the incident in which it is now: it may have lost a path there, and have no line of its own.
pub(super) fn of_vm(host: &HostView, name: &str) -> OfVm {
    let vm = host.spec.vm_by_name(name);
    let incident = vm.and_then(|vm| host.vms.get(vm.index())?.incident);
    OfVm { name: name.into(), incident }
}

fn path(spec: &Spec, name: &str) -> Result<String, ApiError> {
    let Some((target, path)) = name.split_once('/') else {
        return Err(ApiError::bad_request(format!("path: `{name}` is not TARGET/PATH"), HELP));
    };
    names::path(spec, target, path).map(|_| name.to_owned())
}

/// `INC-3`, or `3`.
pub(super) fn incident(text: &str) -> Result<IncidentId, ApiError> {
    let number = text.strip_prefix("INC-").or_else(|| text.strip_prefix("inc-")).unwrap_or(text);
    number.parse().map(IncidentId).map_err(|_| {
        let help = "an incident is written INC-3, or 3; `vmpath show incidents --all` lists them";
        ApiError::bad_request(format!("`{text}` is no incident's number"), help)
    })
}

fn kind(word: &str) -> Result<JournalKind, ApiError> {
    let known = || JournalKind::ALL.iter().map(|kind| kind.as_str().to_owned());
    let help = || {
        let near = names::near(word, known());
        if near.is_empty() {
            format!("the kinds are {}", known().collect::<Vec<_>>().join(", "))
        } else {
            format!("did you mean {}? docs/api.md lists them all", near.join(" or "))
        }
    };
    JournalKind::parse(word)
        .ok_or_else(|| ApiError::bad_request(format!("there is no kind of event `{word}`"), help()))
}

/// A VM that is neither in the configuration nor in the journal is a slip of the finger.
///
/// # Errors
/// 404, with near names.
pub(super) fn known(spec: &Spec, query: &Query, page: &Page) -> Result<(), ApiError> {
    match &query.filter.vm {
        Some(vm) if page.lines.is_empty() => names::vm(spec, &vm.name).map(drop),
        Some(_) | None => Ok(()),
    }
}

/// Open and past ones, the newest first; what the journal no longer knows of an open one is in its row all the same.
pub(super) fn incidents(shown: &Shown<'_>, past: Vec<Past>) -> wire::Incidents {
    let mut answer = shown.incidents();
    let open: Vec<String> = answer.incidents.iter().map(|row| row.incident.clone()).collect();
    let closed = past.into_iter().filter(|past| !open.contains(&past.incident.to_string()));
    answer.incidents.extend(closed.map(|past| row(&past)));
    answer.incidents.sort_by_key(|row| std::cmp::Reverse(number_of(&row.incident)));
    answer
}

fn number_of(incident: &str) -> u64 {
    incident.trim_start_matches("INC-").parse().unwrap_or(0)
}

pub(super) fn row(past: &Past) -> wire::Incident {
    wire::Incident {
        incident: past.incident.to_string(),
        opened_unix_us: past.opened_unix_us.unwrap_or(0),
        closed_unix_us: past.closed_unix_us,
        summary: past.summary.clone(),
        paths: past.paths.iter().cloned().collect(),
        vms_affected: past.vms.iter().cloned().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn asked(pairs: &[(&str, &str)]) -> Result<Query, String> {
        let pairs: Vec<_> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        query(&testing::snapshot().host, &pairs).map_err(|error| {
            let (error, help) = error.into_words();
            format!("{error} -- {help}")
        })
    }

    #[test]
    fn every_condition_is_read() {
        let query = asked(&[
            ("vm", "bronze"),
            ("path", "san0/a"),
            ("incident", "INC-3"),
            ("kind", "vm-suspended"),
            ("kind", "path-down"),
            ("since_unix_us", "77"),
            ("after", "5"),
            ("limit", "99999"),
        ]);
        let filter = Filter {
            vm: Some(OfVm { name: "bronze".into(), incident: Some(IncidentId(1)) }),
            path: Some("san0/a".into()),
            incident: Some(IncidentId(3)),
            kinds: vec![JournalKind::VmSuspended, JournalKind::PathDown],
            since_unix_us: Some(77),
        };
        assert_eq!(query.unwrap(), Query { after: Some(5), limit: LIMIT_MAX, filter });
        assert_eq!(
            asked(&[]).unwrap(),
            Query { after: None, limit: LIMIT_DEFAULT, filter: Filter::default() }
        );
        assert_eq!(asked(&[("incident", "3")]).unwrap().filter.incident, Some(IncidentId(3)));
    }

    #[test]
    fn what_cannot_be_understood_is_refused_with_help() {
        for (pairs, error, help) in [
            (&[("after", "x")][..], "after: `x` is no number", "after, limit"),
            (&[("after", "1"), ("after", "2")], "`after` is given twice", "limit"),
            (&[("colour", "x")], "not chosen by `colour`", "vm"),
            (&[("kind", "path-dwon")], "no kind of event `path-dwon`", "did you mean path-down"),
            (&[("kind", "everything")], "no kind of event", "the kinds are path-down"),
            (&[("path", "san0")], "is not TARGET/PATH", "path"),
            (&[("path", "san0/q")], "there is no path `san0/q`", "did you mean `san0/a`"),
            (&[("incident", "the last")], "no incident's number", "INC-3"),
        ] {
            let refused = asked(pairs).unwrap_err();
            let (said, helped) = refused.split_once(" -- ").unwrap();
            assert!(said.contains(error) && helped.contains(help), "{refused}");
        }
    }
}
