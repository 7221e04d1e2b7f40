//! The checkers of a simulated host's policy.

mod policy;
mod violation;
