//! Runs a bridge by hand: `bridge VHOST_SOCKET UDS CID`, until QEMU disconnects or standard input ends.

use std::error::Error;
use std::io::Read;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use vsock_bridge::{Bridge, Config};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [vhost_socket, uds, cid] = arguments.as_slice() else {
        return Err("usage: bridge VHOST_SOCKET UDS CID".into());
    };
    raise_descriptor_limit()?;
    let config = Config { vhost_socket: vhost_socket.into(), uds: uds.into(), guest_cid: cid.parse()? };
    let bridge = Bridge::bind(config)?.spawn()?;
    let input = std::thread::spawn(|| std::io::stdin().read_to_end(&mut Vec::new()));
    while !bridge.is_finished() && !input.is_finished() {
        std::thread::sleep(Duration::from_millis(50));
    }
    bridge.stop();
    Ok(bridge.wait()?)
}

/// Each connection takes a descriptor, and the usual limit of 1024 is soft.
fn raise_descriptor_limit() -> Result<(), rustix::io::Errno> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })
}
