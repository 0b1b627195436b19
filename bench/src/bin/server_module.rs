//! A simulated security module that takes its time, for `bench/server`: `server_module FOLDER MILLISECONDS` serves
//! `FOLDER/nsm` and writes `FOLDER/trusted.pem`, until it is killed. One call at a time, as the hardware: each takes so long
//! and what the simulated module itself takes.

use std::{
    io::{self, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use nsm::sim::{DevelopmentRoot, SimulatedNsm, serve_module};

/// Longer than any request or answer of a module.
const MAX_FRAME_BYTES: u32 = 64 * 1024;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let folder = PathBuf::from(arguments.next().ok_or("a folder is missing")?);
    let delay = arguments.next().and_then(|text| text.into_string().ok()).ok_or("milliseconds are missing")?;
    let delay = Duration::from_millis(delay.parse()?);
    let root = DevelopmentRoot::load_or_create(&folder)?;
    std::fs::write(folder.join("trusted.pem"), root.root_pem())?;
    let module = SimulatedNsm::new(&root, "i-1234567890abcdef0-enc1234567890abcde", &[])?;
    let fast = folder.join("fast");
    let _serving = serve_module(UnixListener::bind(&fast)?, Arc::new(module))?;
    let one_at_a_time = Arc::new(Mutex::new(()));
    for client in UnixListener::bind(folder.join("nsm"))?.incoming() {
        let (client, module, turn) = (client?, UnixStream::connect(&fast)?, Arc::clone(&one_at_a_time));
        thread::spawn(move || slowly(client, module, delay, &turn));
    }
    Ok(())
}

/// Passes frames between the two, each question after `delay`.
fn slowly(mut client: UnixStream, mut module: UnixStream, delay: Duration, turn: &Mutex<()>) -> io::Result<()> {
    loop {
        let question = frame(&mut client)?;
        let _turn = turn.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        thread::sleep(delay);
        module.write_all(&question)?;
        let answer = frame(&mut module)?;
        client.write_all(&answer)?;
    }
}

/// A frame with its length in front.
fn frame(stream: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let body = u32::from_be_bytes(length);
    if body > MAX_FRAME_BYTES {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut frame = length.to_vec();
    frame.resize(4 + body as usize, 0);
    stream.read_exact(&mut frame[4..])?;
    Ok(frame)
}
