//! Rules of the path choice, one table each, and properties against a naive reference.

mod properties;
mod rules;
