//! The scheduler's rules.
