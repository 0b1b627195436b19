//! Transfers that a person interrupts.

use std::{
    fs,
    path::Path,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use crate::enclave::{Enclave, eventually, text};

/// So long that it is still under way when it is looked at. If not, that is noticed, and it is tried again.
const FILE_BYTES: usize = 24 << 20;

/// The unfinished file of a transfer into this directory.
fn is_under_way(directory: &Path) -> bool {
    let mut entries = fs::read_dir(directory).unwrap();
    entries.any(|entry| entry.unwrap().file_name().to_string_lossy().ends_with(".partial"))
}

/// Starts a transfer, and stops the server in the middle of it.
fn stopped_half_way(enclave: &Enclave, words: &[&str], directory: &Path) -> Child {
    let server = Pid::from_child(&enclave.server);
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let mut client = enclave.client();
        client.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut client = client.spawn().unwrap();
        while !is_under_way(directory) && client.try_wait().unwrap().is_none() {
            assert!(Instant::now() < end, "a transfer begins");
            std::thread::sleep(Duration::from_millis(1));
        }
        kill_process(server, Signal::STOP).unwrap();
        // All of its threads have stopped when this says so.
        waitpid(Some(server), WaitOptions::UNTRACED).unwrap();
        if is_under_way(directory) && client.try_wait().unwrap().is_none() {
            return client;
        }
        kill_process(server, Signal::CONT).unwrap();
        client.wait().unwrap();
        fs::remove_file(directory.join("file")).unwrap();
    }
}

/// An interrupted transfer said nothing, and left its bar on the screen.
#[test]
fn an_interrupted_transfer_says_that_it_goes_on_and_does() {
    let enclave = Enclave::start();
    let (here, there) = (enclave.path("here"), enclave.path("there"));
    let content: Vec<u8> = (0..FILE_BYTES).map(|at| at.wrapping_mul(0x9e37_79b1).to_le_bytes()[2]).collect();
    fs::create_dir(&there).unwrap();
    fs::write(&here, &content).unwrap();
    let words = ["send-file", here.to_str().unwrap(), &format!("{}/file", there.display())];
    let client = stopped_half_way(&enclave, &words, &there);
    kill_process(Pid::from_child(&client), Signal::INT).unwrap();
    let output = client.wait_with_output().unwrap();
    kill_process(Pid::from_child(&enclave.server), Signal::CONT).unwrap();
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    assert!(text(&output.stderr).contains("the same command goes on from here"), "{output:?}");
    assert!(!there.join("file").exists());
    // Until the server has noticed, it is busy with the first.
    eventually("the same command completes it", || enclave.run(&words).status.success());
    assert!(fs::read(there.join("file")).unwrap() == content);
    assert!(!is_under_way(&there));
}
