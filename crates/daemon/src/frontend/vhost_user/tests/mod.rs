//! A session against the `vhost` crate's own front end and a driver that lays its ring by hand.

mod bad_guest;
mod driver;
mod going_on;
mod life;
mod migration;
mod moving;
mod protocol;
