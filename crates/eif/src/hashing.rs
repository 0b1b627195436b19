//! Measures an image while its bytes pass by once.
//!
//! PCR0 covers everything that boots, PCR1 a prefix of the same bytes, PCR2 the rest: so one running hash gives the
//! first two (its state is cloned where the prefix ends) and a second one the third. SHA-384 is what assembling an
//! image spends its time on, and one stream of it cannot use two processors, so each hash has a thread of its own
//! and the caller's thread is left with input, output and checksum. Chunks are shared, not copied, and come back to
//! the ring they were lent from. Memory is bounded: no more than a ring of chunks is ever on its way.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use aws_lc_rs::digest::{self, SHA384};

use crate::measurements::{Measurements, PCR_BYTES, extended_once};

/// The piece in which content is read, hashed and written, in bytes: large enough that handing it to another thread
/// costs nothing beside hashing it, small enough to stay in a processor's cache.
const CHUNK_BYTES: usize = 256 * 1024;
/// How many chunks may wait for one hash.
const QUEUE_CHUNKS: usize = 16;
/// As many chunks as may wait, one being hashed, one on its way to the queue and one being filled: so a chunk is free
/// again when it is its turn.
const RING_CHUNKS: usize = QUEUE_CHUNKS + 3;

/// Which registers a section's data goes into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Kernel, command line and first ramdisk: PCR0 and PCR1.
    Boot,
    /// Further ramdisks: PCR0 and PCR2.
    Application,
    /// Metadata and signature: none.
    Unmeasured,
}

/// PCR0, PCR1 and PCR2 in the making.
#[derive(Debug)]
pub(crate) struct Measurer {
    image: HashThread,
    /// Where PCR1 will be told, once what boots has ended.
    boot: Option<Receiver<[u8; PCR_BYTES]>>,
    application: Option<HashThread>,
}

impl Measurer {
    pub(crate) fn start() -> io::Result<Self> {
        Ok(Self { image: HashThread::start("pcr0")?, boot: None, application: None })
    }

    /// Takes in the next chunk of a section. Boot sections come before application sections.
    pub(crate) fn update(&mut self, role: Role, chunk: &Arc<Chunk>) -> io::Result<()> {
        if role == Role::Unmeasured {
            return Ok(());
        }
        if role == Role::Application {
            self.end_boot();
            if self.application.is_none() {
                self.application = Some(HashThread::start("pcr2")?);
            }
        }
        debug_assert!(
            role == Role::Application || self.boot.is_none(),
            "what boots comes before the application"
        );
        self.image.update(chunk.clone());
        if let Some(application) = &self.application {
            application.update(chunk.clone());
        }
        Ok(())
    }

    /// The registers; PCR8 is the caller's to add.
    pub(crate) fn finish(&mut self) -> Measurements {
        self.end_boot();
        let pcr0 = self.image.register();
        let pcr2 = self.application.as_ref().map(HashThread::register);
        Measurements {
            pcr0: received(&pcr0),
            pcr1: self.boot.as_ref().map(received).expect("the end of what boots was marked above"),
            pcr2: pcr2.as_ref().map_or_else(|| extended_once(digest::Context::new(&SHA384)), received),
            pcr8: None,
        }
    }

    fn end_boot(&mut self) {
        if self.boot.is_none() {
            self.boot = Some(self.image.register());
        }
    }
}

/// Chunks lent out in turn.
#[derive(Debug)]
pub(crate) struct ChunkRing {
    chunks: Vec<Arc<Chunk>>,
    current: usize,
}

impl ChunkRing {
    pub(crate) fn new() -> Self {
        Self { chunks: (0..RING_CHUNKS).map(|_| Arc::default()).collect(), current: 0 }
    }

    /// The chunk being filled.
    pub(crate) fn current(&mut self) -> &mut Chunk {
        let slot = &mut self.chunks[self.current];
        if Arc::get_mut(slot).is_none() {
            // A hash that gets only some of the sections may still hold an old chunk: leave it that one.
            *slot = Arc::default();
        }
        Arc::get_mut(slot).expect("nobody else has this chunk")
    }

    /// Ends the filling of the current chunk and hands it out; the next one is empty.
    pub(crate) fn take(&mut self) -> Arc<Chunk> {
        let full = self.chunks[self.current].clone();
        self.current = (self.current + 1) % RING_CHUNKS;
        self.current().clear();
        full
    }
}

/// A piece of a section.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    /// Allocated at first use: a small image needs one chunk, not a ring of them.
    buffer: Vec<u8>,
    filled: usize,
}

impl Chunk {
    pub(crate) fn filled(&self) -> &[u8] {
        &self.buffer[..self.filled]
    }

    /// Room for more, empty when the chunk is full. What is put there counts once [`Chunk::advance`] says so.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        if self.buffer.is_empty() {
            self.buffer.resize(CHUNK_BYTES, 0);
        }
        &mut self.buffer[self.filled..]
    }

    pub(crate) fn advance(&mut self, bytes: usize) {
        self.filled += bytes;
        assert!(self.filled <= self.buffer.len(), "no more was put into the chunk than it had room for");
    }

    pub(crate) fn clear(&mut self) {
        self.filled = 0;
    }

    pub(crate) fn is_full(&self) -> bool {
        self.filled == CHUNK_BYTES
    }
}

/// One running SHA-384, on a thread of its own, which ends when this is dropped.
#[derive(Debug)]
struct HashThread {
    queue: SyncSender<Message>,
}

enum Message {
    Data(Arc<Chunk>),
    Report(SyncSender<[u8; PCR_BYTES]>),
}

impl HashThread {
    fn start(name: &str) -> io::Result<Self> {
        let (queue, messages) = sync_channel(QUEUE_CHUNKS);
        std::thread::Builder::new().name(name.to_owned()).spawn(move || hash(&messages))?;
        Ok(Self { queue })
    }

    fn update(&self, chunk: Arc<Chunk>) {
        self.send(Message::Data(chunk));
    }

    /// The register that holds what was sent so far, once the thread has come to it.
    fn register(&self) -> Receiver<[u8; PCR_BYTES]> {
        let (reply, register) = sync_channel(1);
        self.send(Message::Report(reply));
        register
    }

    fn send(&self, message: Message) {
        self.queue.send(message).expect("the hash thread listens until the queue is closed");
    }
}

fn received(register: &Receiver<[u8; PCR_BYTES]>) -> [u8; PCR_BYTES] {
    register.recv().expect("the hash thread answers until the queue is closed")
}

fn hash(messages: &Receiver<Message>) {
    let mut running = digest::Context::new(&SHA384);
    for message in messages {
        match message {
            Message::Data(chunk) => running.update(chunk.filled()),
            // Whoever asked may have given up meanwhile; then nobody needs the answer.
            Message::Report(reply) => drop(reply.send(extended_once(running.clone()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn register(parts: &[&[u8]]) -> [u8; PCR_BYTES] {
        let mut measured = digest::Context::new(&SHA384);
        parts.iter().for_each(|part| measured.update(part));
        extended_once(measured)
    }

    fn send(measurer: &mut Measurer, ring: &mut ChunkRing, role: Role, byte: u8) {
        ring.current().room()[..3].fill(byte);
        ring.current().advance(3);
        measurer.update(role, &ring.take()).unwrap();
    }

    #[test]
    fn each_register_gets_its_own_sections() {
        let (mut measurer, mut ring) = (Measurer::start().unwrap(), ChunkRing::new());
        send(&mut measurer, &mut ring, Role::Boot, b'k');
        send(&mut measurer, &mut ring, Role::Unmeasured, b'm');
        send(&mut measurer, &mut ring, Role::Boot, b'r');
        send(&mut measurer, &mut ring, Role::Application, b'a');
        let measured = measurer.finish();
        assert_eq!(measured.pcr0, register(&[b"kkkrrraaa"]));
        assert_eq!(measured.pcr1, register(&[b"kkkrrr"]));
        assert_eq!(measured.pcr2, register(&[b"aaa"]));
    }

    #[test]
    fn chunks_in_flight_are_never_written_over() {
        let (mut measurer, mut ring) = (Measurer::start().unwrap(), ChunkRing::new());
        let mut expected = Vec::new();
        for round in 0..20 * RING_CHUNKS {
            let byte = u8::try_from(round % 251).unwrap();
            expected.extend([byte; 3]);
            send(&mut measurer, &mut ring, Role::Application, byte);
        }
        let measured = measurer.finish();
        assert_eq!(measured.pcr0, register(&[&expected]));
        assert_eq!(measured.pcr2, measured.pcr0);
        assert_eq!(measured.pcr1, register(&[]));
    }
}
