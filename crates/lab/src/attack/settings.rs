//! What half of the seeds have besides: components that paths share, `min_paths`, and a configuration that changes while the
//! host runs and things are broken.
//!
//! Invariant: its draws come from a stream of their own, so a seed without it is what it was before there was any of this.
//! Rejected: new kinds of faults in the draws of the old ones; every seed would have become another world.
//! It does not know what a reload may not change: `rebase` refuses that, and here nothing is asked that it refuses.

use super::faults::LULL_AFTER;
use super::rng::Rng;
use super::tally::Fault as Kind;
use super::world::{Event, Weather, World};
use std::sync::Arc;
use vmpath_core::event::Event as Told;
use vmpath_core::spec::{Source, Spec, parse};

const HEADS: [&str; 3] = ["[[vm]]", "[[target.path]]", "[[target]]"];

/// A file's sections, each from its head on.
fn sections(text: &str) -> Vec<Vec<String>> {
    let mut sections: Vec<Vec<String>> = vec![vec![]];
    for line in text.lines() {
        if line.starts_with("[[") {
            sections.push(vec![]);
        }
        if let Some(section) = sections.last_mut() {
            section.push(line.to_owned());
        }
    }
    sections
}

fn joined(sections: &[Vec<String>]) -> String {
    sections.iter().flatten().map(|line| format!("{line}\n")).collect()
}

fn is(section: &[String], head: usize) -> bool {
    section.first().is_some_and(|line| line == HEADS[head])
}

fn has(section: &[String], key: &str) -> bool {
    section.iter().any(|line| line.starts_with(&format!("{key} = ")))
}

/// Gives the key another value, if the section has it.
fn replace(section: &mut [String], key: &str, value: &str) {
    let start = format!("{key} = ");
    if let Some(line) = section.iter_mut().find(|line| line.starts_with(&start)) {
        *line = start + value;
    }
}

/// The configuration with what it did not have: paths of all targets that share switches, VMs that want two paths.
pub(super) fn enriched(text: &str, rng: &mut Rng) -> String {
    let shares = rng.percent(70);
    let mut sections = sections(text);
    let mut of_target = 0;
    for section in &mut sections {
        if is(section, 2) {
            of_target = 0;
        } else if is(section, 1) {
            if shares {
                section.push(format!("via = \"switch{}\"", of_target % 2));
            }
            of_target += 1;
        } else if is(section, 0) && !has(section, "avoid") && rng.percent(35) {
            section.push("min_paths = 2".into());
        }
    }
    joined(&sections)
}

/// The configuration after somebody has edited it: what VMs want, and what paths carry.
fn edited(text: &str, rng: &mut Rng) -> String {
    let ladders = [
        "hold 60s, then suspend",
        "hold 1s, then suspend",
        "hold 2s, then fail",
        "suspend",
        "hold 4s, then suspend 15s, then fail",
    ];
    let mut sections = sections(text);
    for section in &mut sections {
        if is(section, 1) && rng.percent(20) {
            replace(section, "capacity", rng.pick(&["\"10 MiB/s\"", "\"40 MiB/s\""]));
        }
        if !is(section, 0) || rng.percent(50) {
            continue;
        }
        replace(section, "priority", rng.pick(&["10", "50", "100", "200"]));
        replace(section, "shares", rng.pick(&["1", "1000", "2000"]));
        replace(section, "reservation", rng.pick(&["\"1 MiB/s\"", "\"4 MiB/s\"", "\"12 MiB/s\""]));
        replace(section, "may_suspend", rng.pick(&["true", "false"]));
        replace(section, "resume", rng.pick(&["\"repair\"", "\"repair\"", "\"failback\""]));
        if rng.percent(50) {
            replace(section, "on_no_path", &format!("\"{}\"", rng.pick(&ladders)));
        }
        if rng.percent(30) && !has(section, "avoid") {
            let before = section.len();
            section.retain(|line| !line.starts_with("min_paths = "));
            if section.len() == before {
                section.push("min_paths = 2".into());
            }
        }
    }
    joined(&sections)
}

impl World {
    /// From time to time, while there is chaos.
    pub(super) fn change(&mut self) {
        // Guests that are never served ask for nothing: let them.
        if self.weather != Weather::Chaos || self.now > LULL_AFTER {
            return;
        }
        let after = self.extra.millis(1500..15_000);
        self.at(after, Event::Change);
        if self.extra.percent(70) { self.reload() } else { self.component_fails() }
    }

    /// Somebody edits the configuration, and the process reads it: at once, or when it starts next.
    fn reload(&mut self) {
        let text = edited(&self.scene.text, &mut self.extra);
        match rebased(&text, &self.scene.spec) {
            Err(why) => self.violated("reload", format!("refused: {why}\n{text}")),
            Ok(spec) => {
                self.fault(Kind::Reload, self.scene.spec.vms.len());
                self.trace.say(self.now, || format!("the configuration is now:\n{text}"));
                (self.scene.text, self.scene.spec) = (text, Arc::new(spec));
                let spec = Arc::clone(&self.scene.spec);
                self.tell_control(Told::Reload(spec));
            }
        }
    }

    /// A switch is restarted: all paths that go through it, of whatever target, are refused or swallowed for a while.
    fn component_fails(&mut self) {
        let all: Vec<String> = self.scene.spec.paths.iter().flat_map(|path| path.via.clone()).collect();
        if all.is_empty() {
            return;
        }
        let component = all[self.extra.index(all.len())].clone();
        let its = |path: &usize| self.scene.spec.paths[*path].via.contains(&component);
        let paths: Vec<usize> = (0..self.scene.spec.paths.len()).filter(its).collect();
        self.fault(Kind::Component, paths.len());
        let swallows = self.extra.percent(50);
        for path in paths {
            if swallows { self.blackhole(path, 5000) } else { self.reset(path, 8000) }
        }
    }
}

fn rebased(text: &str, running: &Spec) -> Result<Spec, String> {
    let parsed = parse(&[Source { name: "simulated.toml", text }]).map_err(|faults| format!("{faults:?}"))?;
    parsed.spec.rebase(running).map_err(|refusals| refusals.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attack::scene::Scene;

    /// What is made of any configuration is one that the parser reads and that a running process takes over.
    #[test]
    fn every_edit_is_taken_over() {
        for seed in 0..300 {
            let (mut rng, mut extra) = (Rng::new(seed), Rng::new(seed + 1));
            let mut scene = Scene::new(seed, &mut rng, Some(&mut extra));
            for _ in 0..5 {
                scene.text = edited(&scene.text, &mut extra);
                match rebased(&scene.text, &scene.spec) {
                    Ok(spec) => scene.spec = Arc::new(spec),
                    Err(why) => panic!("seed {seed}: {why}\n{}", scene.text),
                }
            }
        }
    }
}
