//! A shell as a person has it, in whose terminal the client is started like any other program.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::OwnedFd,
    sync::mpsc,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use crate::enclave::{Enclave, PROGRAM, text};

/// Somebody at a terminal in which a shell of this machine runs the client, and then says how it ended.
struct Person {
    keyboard: File,
    screen: mpsc::Receiver<Vec<u8>>,
    controller: OwnedFd,
    pid: Pid,
}

impl Person {
    fn with_a_shell(enclave: &Enclave) -> Self {
        let mut person = Self::who_asks_for_a_shell(enclave);
        person.types(b"echo begin=$TERM; stty size; tty\r");
        let shown = person.sees("/dev/pts/");
        assert!(shown.contains("begin=xterm\r\n30 90\r\n"), "{shown:?}");
        person
    }

    fn who_asks_for_a_shell(enclave: &Enclave) -> Self {
        let client = enclave.client();
        let words: Vec<_> = client.get_args().map(|word| format!("'{}'", word.to_str().unwrap())).collect();
        let line = format!("{PROGRAM} {}", words.join(" "));
        // The client's number is that of the shell which becomes it.
        let line = format!("sh -c 'echo $$ >$HOME/client; exec \"$@\"' - {line} shell -- sh -i");
        let script = format!("stty sane; {line}; echo code=$?; stty -a; echo all do''ne; read x");
        let launch = sys::pid1::Launch {
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            env: vec![
                ("PATH".into(), "/usr/bin:/bin".into()),
                ("HOME".into(), enclave.folder.path().into()),
                ("TERM".into(), "xterm".into()),
            ],
            confinement: None,
        };
        let person = sys::session::spawn_on_terminal(&launch, 90, 30).unwrap();
        let controller = person.controller.try_clone().unwrap();
        let keyboard = File::from(person.controller);
        let screen = screen(keyboard.try_clone().unwrap());
        Self { keyboard, screen, controller, pid: person.pid }
    }

    fn types(&mut self, keys: &[u8]) {
        self.keyboard.write_all(keys).unwrap();
    }

    /// Reads until the terminal has shown `wanted`.
    fn sees(&mut self, wanted: &str) -> String {
        let mut shown = String::new();
        while !shown.contains(wanted) {
            let more = self.screen.recv_timeout(Duration::from_secs(60));
            shown.push_str(&text(&more.unwrap_or_else(|_| panic!("no {wanted:?} in {shown:?}"))));
        }
        shown
    }

    /// The terminal inside gets this size.
    fn has_inside(&mut self, size: &str) {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            self.types(b"stty size; echo asked=''1\r");
            if self.sees("asked=1").contains(size) {
                return;
            }
            assert!(Instant::now() < end, "the size inside follows");
        }
    }

    /// The client has ended like this, and the terminal is as it was.
    fn is_back(&mut self, code: u8) -> String {
        let shown = self.sees("all done");
        assert!(shown.contains(&format!("code={code}\r\n")), "{shown:?}");
        assert!(
            shown.contains(" icanon") && shown.contains(" echo ") && shown.contains("\nopost"),
            "{shown:?}"
        );
        shown
    }
}

/// What the terminal shows, until nobody has it any more.
fn screen(mut terminal: File) -> mpsc::Receiver<Vec<u8>> {
    let (sender, screen) = mpsc::channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = terminal.read(&mut buffer) {
            if sender.send(buffer[..count].to_vec()).is_err() {
                return;
            }
        }
    });
    screen
}

impl Drop for Person {
    fn drop(&mut self) {
        sys::session::kill_session(self.pid);
        let _ = waitpid(Some(self.pid), WaitOptions::empty());
    }
}

#[test]
fn a_shell_is_like_a_local_one_and_leaves_the_terminal_as_it_was() {
    let enclave = Enclave::start();
    let mut person = Person::with_a_shell(&enclave);
    // Ctrl-C is for what runs inside. The line before it is echoed once, by the terminal inside.
    // What waits says so itself: before it is in the foreground, an interrupt is the shell's.
    person.types(b"sh -c 'echo wait\"\"ing; exec sleep 1000'\r");
    person.sees("waiting");
    person.types(&[3]);
    person.types(b"\recho alive=yes''yes\r");
    person.sees("alive=yesyes");
    sys::session::resize(&person.controller, 100, 40).unwrap();
    person.has_inside("40 100");
    person.types(b"exit 7\r");
    person.is_back(7);
}

/// The size was taken before the enclave was connected to and watched afterwards: a window that changed in between, while a
/// passphrase was typed for example, was not the one that the shell was told of.
#[test]
fn a_window_that_changes_before_the_shell_begins_has_its_new_size_there() {
    let enclave = Enclave::start();
    encrypt_the_key(&enclave);
    let mut person = Person::who_asks_for_a_shell(&enclave);
    person.sees("Passphrase of");
    sys::session::resize(&person.controller, 100, 40).unwrap();
    person.types(b"secret\r");
    // What is typed before the question has its answer is dropped.
    person.sees("\r\n");
    person.has_inside("40 100");
    person.types(b"exit 7\r");
    person.is_back(7);
}

fn encrypt_the_key(enclave: &Enclave) {
    let mut encrypt = std::process::Command::new("ssh-keygen");
    encrypt.args(["-q", "-p", "-P", "", "-N", "secret", "-f"]).arg(enclave.path("alice"));
    assert!(encrypt.output().unwrap().status.success());
}

/// The signal ended the client while nothing that was typed was shown, and so it stayed. And the question was there before the
/// silence: what was typed at once was shown, and lost.
#[test]
fn a_passphrase_is_not_shown_and_the_question_can_be_left() {
    let enclave = Enclave::start();
    encrypt_the_key(&enclave);
    let mut person = Person::who_asks_for_a_shell(&enclave);
    person.sees("Passphrase of");
    person.types(b"secr\x03");
    let shown = person.is_back(130);
    assert!(!shown.contains("secr"), "{shown:?}");
}

/// In raw mode Ctrl-C goes to the enclave. When that answered no more, nothing that a person typed ended the client.
#[test]
fn a_shell_can_be_left_when_nobody_answers() {
    let enclave = Enclave::start();
    let mut person = Person::with_a_shell(&enclave);
    let server = Pid::from_child(&enclave.server);
    kill_process(server, Signal::STOP).unwrap();
    person.types(b"ls\r\x03\r~.");
    let shown = person.is_back(130);
    kill_process(server, Signal::CONT).unwrap();
    assert!(shown.contains("pipeline: left"), "{shown:?}");
}

/// Shells ignore the signal that ends programs, and it was handed on to them: the client could only be killed, which left its
/// terminal raw.
#[test]
fn a_client_on_a_terminal_is_ended_by_the_signal_for_that() {
    let enclave = Enclave::start();
    let mut person = Person::with_a_shell(&enclave);
    let client = std::fs::read_to_string(enclave.path("client")).unwrap();
    kill_process(Pid::from_raw(client.trim().parse().unwrap()).unwrap(), Signal::TERM).unwrap();
    person.is_back(143);
}

#[test]
fn a_killed_server_gives_the_terminal_back() {
    let mut enclave = Enclave::start();
    let mut person = Person::with_a_shell(&enclave);
    enclave.server.kill().unwrap();
    enclave.server.wait().unwrap();
    let shown = person.is_back(125);
    assert!(shown.contains("pipeline: "), "{shown:?}");
}
