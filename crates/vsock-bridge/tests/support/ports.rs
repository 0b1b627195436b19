//! What the guest listens for.
//!
//! Shared by the test and the guest it boots.

/// Reads one line, does what it says, answers with one line.
pub(crate) const CONTROL: u32 = 5000;
/// Sends back what it reads, and ends when that does.
pub(crate) const ECHO: u32 = 5001;
/// Reads a pattern to its end, then answers with the verdict.
pub(crate) const SINK: u32 = 5002;
/// Reads the numbers `seed length chunk`, eight bytes each, and sends that pattern in writes of `chunk` bytes.
pub(crate) const SOURCE: u32 = 5003;
/// Accepts and never reads.
pub(crate) const STALL: u32 = 5004;
/// Reads nothing for a while, then acts like [`SINK`].
pub(crate) const SLOW: u32 = 5005;
/// Acts like [`SOURCE`] and [`SINK`] at once: request first, then both patterns, then the verdict.
pub(crate) const DUPLEX: u32 = 5006;
/// Nobody listens here.
pub(crate) const NOBODY: u32 = 5999;
/// Where the guest announces itself to the host: it writes a byte and wants it back.
pub(crate) const HEARTBEAT: u32 = 9000;
/// That byte.
pub(crate) const HEARTBEAT_BYTE: u8 = 0xb7;
