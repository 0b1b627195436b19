//! A vhost-user vsock device that joins a virtual machine to Unix sockets.
//!
//! QEMU's `nitro-enclave` machine takes its vsock device from another process, over a vhost-user socket
//! (`-chardev socket,id=c,path=VHOST_SOCKET -M nitro-enclave,vsock=c,...`). A [`Bridge`] is that process, or a part of
//! it: guest programs keep speaking plain `AF_VSOCK` to their parent, CID 3 (or 2), and the host's programs speak to
//! Unix sockets in Firecracker's hybrid style:
//!
//! - A host client connects to `UDS`, sends `CONNECT <port>\n` and reads `OK <port>\n` once the guest has accepted;
//!   from there on the stream is the connection. A refused client is closed without `OK`. The client may send data
//!   right behind its line.
//! - When the guest connects to a port P of the host, the bridge connects to `UDS_P`. If nobody listens there, the
//!   guest is refused at once.
//!
//! Connections are streams with flow control in both directions and half-close. Datagrams and sequenced packets are
//! refused. The host's `AF_VSOCK` is never touched. Each open connection takes a descriptor: a caller that expects a
//! thousand must have the limit (`RLIMIT_NOFILE`) for them; at the limit clients wait.
//!
//! The guest is not trusted: see `mux` for what bounds it. The parts are `packet` and `greeting` (what goes over the
//! wires), `credit`, `connection` and `mux` (what it means, without any IO), `streams` and `device` (moving the bytes)
//! and `bridge` (setting up and taking down). Called by `glasshouse run --backend qemu`.

#![forbid(unsafe_code)]

mod bridge;
mod connection;
mod credit;
mod device;
mod greeting;
mod mux;
mod packet;
mod streams;

pub use bridge::{Bridge, Config, Error, Handle};
