//! Virtual-time tests of the whole controller. `world` drives it, `check` compares a script with what happened.

mod checker;
mod commands;
mod discards;
mod drain;
mod erred;
mod explain;
mod flapping;
mod hypervisors;
mod ladder;
mod leave;
mod loss;
mod many;
mod moves;
mod no_path;
mod random;
mod restart;
mod restore;
mod returning;
mod seeing;
mod shedding;
mod switchover;
mod whereabouts;
mod windows;
mod world;
