//! vmpath laboratory.
