//! Files and trees between a client and a server in one process.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod confinement;
mod faults;
mod hostile;
mod round_trip;
mod support;
