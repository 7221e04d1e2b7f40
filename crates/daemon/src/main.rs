//! `vmpath`: the daemon and the commands that speak to it, as one binary.
//!
//! It only parses the command line and hands over. Exit status: 0 done, 1 an error or faults, 2 wrong usage.
// A binary exports nothing: here `pub` marks what a module offers to the others.
#![allow(unreachable_pub)]

mod api;
mod backend;
mod cli;
// Without the feature there are no others: what speaks of them stays, so that there is one shape of everything else.
#[cfg_attr(not(feature = "cluster"), allow(dead_code))]
mod cluster;
#[cfg_attr(not(feature = "cluster"), allow(dead_code))]
mod control;
#[cfg_attr(not(feature = "cluster"), allow(dead_code, unused_imports))]
mod dataplane;
mod frontend;
#[cfg_attr(not(feature = "cluster"), allow(dead_code))]
mod hypervisor;
#[cfg(feature = "cluster")]
mod peer;
mod store;
mod sys;
mod telemetry;
#[cfg(test)]
mod testing;

use clap::Parser;
use std::process::ExitCode;

/// A build with deliberate faults takes the one to have from its environment, so that the daemon under test needs no other
/// command line.
#[cfg(feature = "mutants")]
fn choose_mutant() {
    use vmpath_core::mutant::{self, Mutant};
    if let Ok(word) = std::env::var("VMPATH_MUTANT") {
        let chosen = Mutant::parse(&word);
        assert!(chosen.is_some(), "VMPATH_MUTANT: no mutant is called {word:?}");
        mutant::set(chosen);
    }
}

fn main() -> ExitCode {
    #[cfg(feature = "mutants")]
    choose_mutant();
    match cli::Cli::parse().run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("vmpath: {error:#}");
            ExitCode::FAILURE
        }
    }
}
