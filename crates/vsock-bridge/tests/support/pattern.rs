//! A stream of bytes that tells if any of it was lost, doubled, reordered or swapped with another's: it starts with its
//! seed, eight bytes little-endian, and goes on with a block that the seed determines, over and over. The block's
//! length is prime, so that no loss of whole packets or pages goes unnoticed.
//!
//! Shared by the test and the guest it boots.

/// Length of the repeated block.
const PERIOD_BYTES: usize = 4093;

/// Most bytes that [`Pattern::at`] gives at once.
pub(crate) const MAX_CHUNK_BYTES: usize = 256 * 1024;

/// Length of the seed in front.
pub(crate) const SEED_BYTES: usize = 8;

/// The bytes after the seed.
#[derive(Debug)]
pub(crate) struct Pattern {
    seed: u64,
    /// The block, repeated so that a chunk from anywhere in it is one slice.
    bytes: Vec<u8>,
}

impl Pattern {
    /// The pattern of a seed.
    pub(crate) fn new(seed: u64) -> Self {
        // Marsaglia's xorshift64, started off zero.
        let mut state = seed ^ 0x9e37_79b9_7f4a_7c15;
        let block: Vec<u8> = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .take(PERIOD_BYTES)
        .collect();
        Self { seed, bytes: block.repeat(MAX_CHUNK_BYTES / PERIOD_BYTES + 2) }
    }

    /// What the stream starts with.
    pub(crate) fn seed(&self) -> [u8; SEED_BYTES] {
        self.seed.to_le_bytes()
    }

    /// The `length` bytes from `offset` on, counted after the seed.
    pub(crate) fn at(&self, offset: usize, length: usize) -> &[u8] {
        let start = offset % PERIOD_BYTES;
        &self.bytes[start..start + length]
    }
}

/// Checks a stream as it comes.
#[derive(Debug, Default)]
pub(crate) struct Checker {
    seed: Vec<u8>,
    pattern: Option<Pattern>,
    count: usize,
    corrupt: bool,
}

impl Checker {
    /// Takes the next bytes.
    pub(crate) fn take(&mut self, mut bytes: &[u8]) {
        while self.pattern.is_none() && !bytes.is_empty() {
            self.seed.push(bytes[0]);
            bytes = &bytes[1..];
            if let Ok(seed) = self.seed.as_slice().try_into() {
                self.pattern = Some(Pattern::new(u64::from_le_bytes(seed)));
            }
        }
        let Some(pattern) = &self.pattern else {
            return;
        };
        for chunk in bytes.chunks(MAX_CHUNK_BYTES) {
            self.corrupt |= pattern.at(self.count, chunk.len()) != chunk;
            self.count += chunk.len();
        }
    }

    /// How many bytes came after the seed, and whether all were right: `12345 intact`.
    pub(crate) fn verdict(&self) -> String {
        format!("{} {}", self.count, if self.corrupt { "corrupt" } else { "intact" })
    }
}
