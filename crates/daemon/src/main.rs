//! `vmpath`: the daemon and the commands that speak to it, as one binary.
//!
//! It only parses the command line and hands over. Exit status: 0 done, 1 an error or faults, 2 wrong usage.
// A binary exports nothing: here `pub` marks what a module offers to the others.
#![allow(unreachable_pub)]

mod api;
mod backend;
mod cli;
mod control;
mod dataplane;
mod frontend;
mod hypervisor;
mod store;
mod sys;
mod telemetry;
#[cfg(test)]
mod testing;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::Cli::parse().run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("vmpath: {error:#}");
            ExitCode::FAILURE
        }
    }
}
