//! vmpath wire protocols.
