//! Sessions from the first frame to the last, over streams in memory.

#![expect(clippy::unwrap_used, reason = "tests may panic")]

mod admission;
mod background;
mod faults;
mod run;
mod secrets;
mod shell;
mod world;
