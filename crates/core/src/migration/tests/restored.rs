//! A source whose former process has died, perhaps with its host.

use super::{id, plan, unit};
use crate::migration::Answer;
use crate::migration::source::{Act, Input, Reached, Saved, Source};
use crate::ownership::{Found, Owner, UnitEpoch};
use crate::time::Instant;

const NOW: Instant = Instant::from_millis(5000);

fn read(units: &[UnitEpoch]) -> Input {
    let owner = |epoch| Some(Owner { host: "kvm1".into(), epoch, move_id: None });
    let found = units.iter().map(|u| Found { unit: u.unit.clone(), owner: owner(u.epoch) });
    Input::Owners(Ok(found.collect()))
}

fn units(by: u64) -> Vec<UnitEpoch> {
    vec![unit("san0/db1-root", 3 + by), unit("san0/db1-data", 8 + by)]
}

/// If its host was dead somebody may be taking them over under the epochs that are read: his change must come to nothing.
#[test]
fn what_it_reads_as_its_own_is_raised_before_it_goes_on() {
    for reached in [Reached::Begun, Reached::Committed] {
        let saved = Saved { plan: plan(), began: NOW, reached };
        let (mut source, _) = Source::restore(NOW, saved);
        let step = source.step(NOW, &id(1), read(&units(1)));
        assert_eq!(step.acts, [Act::Bump { units: units(1) }]);
        // Not answered: they are read and raised again.
        let step = source.step(NOW, &id(1), Input::Bumped(Answer::Unknown("no answer".into())));
        assert_eq!(step.acts, []);
        let step = source.step(NOW, &id(1), read(&units(2)));
        assert_eq!(step.acts, [Act::Bump { units: units(2) }]);
        let step = source.step(NOW, &id(1), Input::Bumped(Answer::Done(())));
        assert_eq!(step.acts.first(), Some(&Act::Own { units: units(3) }), "{reached:?}");
    }
}
