//! A simulated security module behind a socket, for `bench/control`: `control_module FOLDER` serves `FOLDER/nsm` and
//! writes `FOLDER/trusted.pem`, until it is killed.

use std::{os::unix::net::UnixListener, path::PathBuf, sync::Arc};

use nsm::sim::{DevelopmentRoot, SimulatedNsm, serve_module};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = PathBuf::from(std::env::args_os().nth(1).ok_or("a folder is missing")?);
    let root = DevelopmentRoot::load_or_create(&folder)?;
    std::fs::write(folder.join("trusted.pem"), root.root_pem())?;
    let module = SimulatedNsm::new(&root, "i-1234567890abcdef0-enc1234567890abcde", &[])?;
    let _serving = serve_module(UnixListener::bind(folder.join("nsm"))?, Arc::new(module))?;
    loop {
        std::thread::park();
    }
}
