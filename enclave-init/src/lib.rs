//! PID 1 of an enclave: mounts, heartbeat, entropy, supervision and logs.
//!
//! The same code is the first process of a virtual machine and, on the `local` backend, of a PID namespace. It measures
//! the manifest before it starts anything the manifest names, and refuses to start anything if it cannot. It opens no
//! door: the host can ask it to shut down and can read what it reports, and nothing else.
//!
//! Logic without system calls: [`mod@event`], `lines`, `outbox`, `accounts`, `supervisor`, `health`. System calls without logic:
//! `mounts`, `process`, and `sys::pid1`. `shell` joins them.
//!
//! The multi-call binary of the image calls [`main_entry`]. The control channel asks [`users`] and [`mod@private`]. The `glasshouse` command reads [`mod@event`].

#![forbid(unsafe_code)]

mod accounts;
mod application;
mod boot;
mod capture;
mod control;
pub mod event;
mod health;
mod host;
mod journal;
pub mod ledger;
mod lines;
mod measure;
mod mounts;
mod network;
mod notify;
mod outbox;
mod place;
pub mod private;
mod secrets;
mod services;
mod shell;
mod supervisor;
mod tail;
pub mod users;

use std::{ffi::OsString, process::ExitCode};

use rustix::system::RebootCommand;

pub use crate::lines::MAX_LINE_BYTES;
use crate::{event::Exit, place::Place};

/// The host's port that answers the heartbeat.
pub const HEARTBEAT_PORT: u32 = 9000;

/// The enclave's port for `docs/spec/init-control.md`.
pub const CONTROL_PORT: u32 = 9001;

/// The host's port for `docs/spec/event-stream.md`.
pub const EVENTS_PORT: u32 = 9100;

/// The byte of the heartbeat, there and back. It is what AWS's own init and `nitro-cli` exchange.
pub const HEARTBEAT_BYTE: u8 = 0xB7;

/// The exit code of an enclave that refused to start its services, the one container runtimes use for that.
pub const REFUSED_CODE: u8 = 125;

/// Runs init until the enclave ends; `args` are the words after the program's name.
///
/// Knows `--local DIR`, the directory of the sockets that stand in for vsock in namespaces, and passes over all other
/// words: the kernel hands init the words of its command line that it does not know.
///
/// In a virtual machine this does not return: it ends with a reboot, which ends the enclave.
pub fn main_entry(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let place = Place::from_args(args);
    let exit = run(&place);
    rustix::fs::sync();
    if place == Place::Machine {
        // Only fails without CAP_SYS_BOOT, and then exiting is all that is left: the kernel ends with its PID 1.
        let _ = rustix::system::reboot(RebootCommand::Restart);
    }
    ExitCode::from(exit.code)
}

fn run(place: &Place) -> Exit {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime needs only an epoll and an eventfd descriptor, and PID 1 has opened nothing yet");
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, boot::boot_and_run(place))
}
