//! Packets in and out of the TUN device, on a thread of their own.
//!
//! The thread owns the table of connections, so the path of a packet takes no lock.

use std::{
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    sync::{self, Arc, mpsc::TrySendError},
    thread,
    time::{Duration, Instant},
};

use intercept::{
    flows::{Decision, Flows, Listeners, Step, Wanted},
    packet::{Packet, Transport},
};
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    io::Errno,
};
use sys::tun::VNET_HEADER_BYTES;
use tokio::{
    sync::{mpsc, oneshot},
    time::sleep,
};

/// The longest packet with its header: TCP comes in pieces of up to 64 KiB.
const FRAME_BYTES: usize = VNET_HEADER_BYTES + 65_536 + 256;

/// How many packets are read before others get their turn.
const TURNS: usize = 64;

/// How often the table of connections is tidied, and how long the thread sleeps at most.
const TIDY_EVERY: Duration = Duration::from_secs(1);
const TIDY: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// Commands that wait.
const QUEUE: usize = 4096;

/// How soon to try again when too many wait.
const FULL_PAUSE: Duration = Duration::from_millis(5);

/// What the thread is told.
#[derive(Debug)]
enum Command {
    /// What became of the connection with this peer.
    Decide { peer: SocketAddr, decision: Decision },
    /// A frame to be written.
    Write(Vec<u8>),
}

/// What the thread tells.
#[derive(Debug)]
pub(super) enum Event {
    /// A program wants a connection.
    Wanted(Wanted),
    /// A program sent a datagram.
    Datagram(Datagram),
}

/// A datagram that a program sent.
#[derive(Debug)]
pub(super) struct Datagram {
    /// The whole packet.
    pub(super) bytes: Vec<u8>,
    /// Its headers.
    pub(super) packet: Packet,
}

impl Datagram {
    pub(super) fn payload(&self) -> &[u8] {
        self.packet.payload(&self.bytes)
    }
}

/// The device before its thread runs.
#[derive(Debug)]
pub(super) struct Device {
    file: OwnedFd,
    flows: Flows,
}

impl Device {
    pub(super) fn new(file: OwnedFd, listeners: Listeners, max_connections: usize) -> Self {
        Self { file, flows: Flows::new(listeners, max_connections) }
    }

    /// Starts the thread. It ends when nobody is left to command it; the receiver hears of an end that was not asked for.
    pub(super) fn start(
        self,
        events: mpsc::Sender<Event>,
    ) -> io::Result<(Commands, oneshot::Receiver<io::Error>)> {
        let (tell, told) = oneshot::channel();
        let (sender, commands) = sync::mpsc::sync_channel(QUEUE);
        let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let rung = Arc::clone(&bell);
        thread::Builder::new().name("device".into()).spawn(move || {
            if let Err(error) = serve(self, &rung, &commands, events) {
                // Nobody listens any more at the end.
                let _ = tell.send(error);
            }
        })?;
        Ok((Commands { sender, bell }, told))
    }
}

/// The way to the device's thread.
#[derive(Clone, Debug)]
pub(super) struct Commands {
    sender: sync::mpsc::SyncSender<Command>,
    bell: Arc<OwnedFd>,
}

impl Commands {
    /// Has a frame written, unless too many wait.
    pub(super) fn write(&self, frame: Vec<u8>) {
        // A packet may be lost.
        let _ = self.send(Command::Write(frame));
    }

    /// Has a program told what became of its connection.
    pub(super) async fn decide(&self, peer: SocketAddr, decision: Decision) {
        while let Err(TrySendError::Full(_)) = self.send(Command::Decide { peer, decision }) {
            sleep(FULL_PAUSE).await;
        }
    }

    fn send(&self, command: Command) -> Result<(), TrySendError<Command>> {
        self.sender.try_send(command)?;
        // Only fails when it rings already.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
        Ok(())
    }
}

/// Why the thread ended.
pub(super) fn why(told: Result<io::Error, oneshot::error::RecvError>) -> io::Error {
    told.unwrap_or_else(|_| io::Error::other("its thread ended"))
}

fn serve(
    device: Device,
    bell: &OwnedFd,
    commands: &sync::mpsc::Receiver<Command>,
    events: mpsc::Sender<Event>,
) -> io::Result<()> {
    let Device { file, flows } = device;
    let mut pump = Pump { flows, events, buffer: vec![0; FRAME_BYTES] };
    let mut tidied = Instant::now();
    loop {
        let mut waits = [PollFd::new(&file, PollFlags::IN), PollFd::new(bell, PollFlags::IN)];
        match poll(&mut waits, Some(&TIDY)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        // Empties it, or finds that it did not ring.
        let _ = rustix::io::read(bell, &mut [0; 8]);
        loop {
            match commands.try_recv() {
                Ok(command) => pump.obey(&file, command),
                Err(sync::mpsc::TryRecvError::Empty) => break,
                Err(sync::mpsc::TryRecvError::Disconnected) => return Ok(()),
            }
        }
        pump.take(&file)?;
        if tidied.elapsed() >= TIDY_EVERY {
            tidied = Instant::now();
            pump.flows.expire(tidied);
        }
    }
}

struct Pump {
    flows: Flows,
    events: mpsc::Sender<Event>,
    buffer: Vec<u8>,
}

impl Pump {
    /// Takes the packets that are there, up to a number.
    fn take(&mut self, file: &OwnedFd) -> io::Result<()> {
        let now = Instant::now();
        for _ in 0..TURNS {
            match rustix::io::read(file, &mut self.buffer) {
                Ok(length) => self.handle(file, now, length),
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    fn handle(&mut self, file: &OwnedFd, now: Instant, length: usize) {
        let Some(frame) = self.buffer.get_mut(..length) else { return };
        let Some(bytes) = frame.get(VNET_HEADER_BYTES..) else { return };
        let packet = match Packet::parse(bytes) {
            Ok(packet) => packet,
            Err(reason) => {
                tracing::trace!(%reason, "packet dropped");
                return;
            }
        };
        match packet.transport {
            Transport::Tcp { .. } => match self.flows.take(now, frame, &packet) {
                Step::Write => write(file, frame),
                Step::Answer(frame) => write(file, &frame),
                // A program whose packet is dropped here sends it again.
                Step::Ask(wanted) => drop(self.events.try_send(Event::Wanted(wanted))),
                Step::Drop => {}
            },
            Transport::Udp => {
                let datagram = Datagram { bytes: bytes.to_vec(), packet };
                // Datagrams may be lost.
                drop(self.events.try_send(Event::Datagram(datagram)));
            }
            Transport::Other(protocol) => tracing::trace!(protocol, "packet dropped"),
        }
    }

    fn obey(&mut self, file: &OwnedFd, command: Command) {
        match command {
            Command::Decide { peer, decision } => {
                if let Some(frame) = self.flows.decide(Instant::now(), peer, decision) {
                    write(file, &frame);
                }
            }
            Command::Write(frame) => write(file, &frame),
        }
    }
}

/// What the kernel does not take is lost, as packets are.
fn write(file: &OwnedFd, frame: &[u8]) {
    if let Err(error) = rustix::io::write(file, frame) {
        tracing::debug!(%error, bytes = frame.len(), "packet not taken");
    }
}
