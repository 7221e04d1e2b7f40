//! Virtual-time tests of the whole controller. `world` drives it, `check` compares a script with what happened.

mod checker;
mod commands;
mod explain;
mod hypervisors;
mod leave;
mod loss;
mod no_path;
mod random;
mod restart;
mod restore;
mod seeing;
mod shedding;
mod windows;
mod world;
