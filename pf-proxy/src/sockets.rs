//! Room for datagrams in the kernel.

use std::os::fd::AsFd;

use rustix::net::sockopt;

/// Bytes of datagrams that may wait for us while we are busy. The kernel's default, 208 KiB with all that it counts beside
/// the bytes themselves, is over after about ninety full packets; a QUIC server's first flight on a fast path is more.
const WAITING_BYTES: usize = 1 << 20;

/// Gives a socket room for bursts, as much as the system lets us have: without privilege that is `net.core.rmem_max`.
pub(crate) fn make_room(socket: &impl AsFd) {
    if sockopt::set_socket_recv_buffer_size_force(socket, WAITING_BYTES).is_err() {
        // The kernel takes what it may give; less room is no error.
        let _ = sockopt::set_socket_recv_buffer_size(socket, WAITING_BYTES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_never_gets_less_room_than_it_had() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let before = sockopt::socket_recv_buffer_size(&socket).unwrap();
        make_room(&socket);
        assert!(sockopt::socket_recv_buffer_size(&socket).unwrap() >= before);
    }
}
