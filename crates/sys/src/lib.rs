//! System calls that need unsafe code, each behind a safe function.
//!
//! Every other crate of the workspace forbids unsafe code; what cannot be had from `rustix` lives here, one module a
//! caller: [`allocator`] for servers that give memory back, [`fanotify`] for a monitor that holds who opens files, [`loop_device`] for a file system in a file, [`nsm`] for the Nitro Security Module's ioctl, [`pid1`] for an init
//! process, [`session`] for what operators run, [`namespace`] for entering Linux namespaces, [`transparent`] for connections from
//! somebody else's address, [`tun`] for a TUN device,
//! [`vsock`] for socket options. Nothing here decides policy.

pub mod allocator;
pub mod fanotify;
pub mod loop_device;
pub mod namespace;
pub mod nsm;
pub mod pid1;
pub mod session;
pub mod transparent;
pub mod tun;
pub mod vsock;
