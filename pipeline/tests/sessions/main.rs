//! Sessions from the first frame to the last, over streams in memory.

mod admission;
mod background;
mod faults;
mod run;
mod shell;
mod world;
