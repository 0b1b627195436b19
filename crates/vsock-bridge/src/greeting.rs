//! The line by which a host client names the guest port it wants: `CONNECT <port>\n`, answered by `OK <port>\n`
//! once the guest has accepted. A refused client is closed without an answer.
//!
//! The form is Firecracker's (docs/vsock.md there, "Host-Initiated Connections"). The port is plain decimal, the
//! line ends with one line feed, and nothing else may be on it.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

/// Longest greeting accepted, line feed included. The longest sensible one, `CONNECT 4294967294\n`, has 19 bytes.
pub(crate) const MAX_GREETING_BYTES: usize = 32;

/// `VMADDR_PORT_ANY`, which names no port.
const PORT_ANY: u32 = u32::MAX;

const VERB: &[u8] = b"CONNECT ";

/// What the first bytes of a client amount to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Greeting {
    /// So far, so good: more bytes are needed.
    Incomplete,
    /// The client wants this guest port; what follows `length` bytes is data for it.
    Connect { port: u32, length: usize },
    /// No more bytes can make this a greeting.
    Invalid,
}

/// Judges the first bytes of a client. Bytes after the line are not looked at.
pub(crate) fn parse(seen: &[u8]) -> Greeting {
    let window = seen.get(..MAX_GREETING_BYTES).unwrap_or(seen);
    let Some(length) = window.iter().position(|byte| *byte == b'\n') else {
        let promising =
            window.len() < MAX_GREETING_BYTES && window.iter().zip(VERB).all(|(got, want)| got == want);
        return if promising { Greeting::Incomplete } else { Greeting::Invalid };
    };
    let line = window.get(..length).unwrap_or_default();
    match line.strip_prefix(VERB).and_then(port) {
        Some(port) => Greeting::Connect { port, length: length.saturating_add(1) },
        None => Greeting::Invalid,
    }
}

/// The answer to a client whose connection the guest accepted.
pub(crate) fn accepted(port: u32) -> String {
    format!("OK {port}\n")
}

fn port(digits: &[u8]) -> Option<u32> {
    // `u32::from_str` would accept a sign.
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let port: u32 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    (port != PORT_ANY).then_some(port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn finds_the_port_and_leaves_what_follows() {
        assert_eq!(parse(b"CONNECT 5000\nhello"), Greeting::Connect { port: 5000, length: 13 });
        assert_eq!(parse(b"CONNECT 4294967294\n"), Greeting::Connect { port: 4_294_967_294, length: 19 });
    }

    #[test]
    fn waits_for_the_rest_of_a_line() {
        let mut seen = Vec::new();
        for byte in b"CONNECT 5000\n" {
            assert_eq!(parse(&seen), Greeting::Incomplete, "{} bytes", seen.len());
            seen.push(*byte);
        }
    }

    #[test]
    fn refuses_what_is_no_greeting() {
        let lines: [&[u8]; 11] = [
            b"\n",
            b"GET / HTTP/1.1\r\n",
            b"connect 5\n",
            b"CONNECT \n",
            b"CONNECT +5\n",
            b"CONNECT -5\n",
            b"CONNECT 5 \n",
            b"CONNECT 5\r\n",
            b"CONNECT 4294967295\n",
            b"CONNECT 4294967296\n",
            b"CONNECT 00000000000000000000000000000005\n",
        ];
        for line in lines {
            assert_eq!(parse(line), Greeting::Invalid, "{:?}", String::from_utf8_lossy(line));
        }
        assert_eq!(parse(b"CONNECX"), Greeting::Invalid, "a wrong start is refused before its line ends");
        assert_eq!(parse(&[b'C'; MAX_GREETING_BYTES]), Greeting::Invalid);
    }

    proptest! {
        #[test]
        fn every_port_is_understood(port in 0..PORT_ANY, rest in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut seen = format!("CONNECT {port}\n").into_bytes();
            let length = seen.len();
            seen.extend(rest);
            prop_assert_eq!(parse(&seen), Greeting::Connect { port, length });
        }

        #[test]
        fn arbitrary_bytes_do_no_harm(seen in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Greeting::Connect { length, .. } = parse(&seen) {
                prop_assert!(length <= seen.len().min(MAX_GREETING_BYTES));
            }
        }
    }
}
