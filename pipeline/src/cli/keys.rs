//! What a person types while a program at the other end has the terminal: all of it is that program's, but for one sign to
//! this one. `~.` at the beginning of a line leaves, as with ssh, also when nobody answers any more; `~~` is one tilde.

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream},
    task::JoinHandle,
};

/// Typed bytes that wait for the other end. More than a person types while it does not answer.
const WAITING_BYTES: usize = 64 << 10;
const READ_BYTES: usize = 4096;

/// Reads `terminal` and hands on what is meant for the other end. The task ends when the person leaves.
pub(super) fn read(terminal: impl AsyncRead + Send + Unpin + 'static) -> (DuplexStream, JoinHandle<()>) {
    let (ours, theirs) = tokio::io::duplex(WAITING_BYTES);
    (ours, tokio::spawn(hand_on(terminal, theirs)))
}

async fn hand_on(mut terminal: impl AsyncRead + Unpin, mut other_end: impl AsyncWrite + Unpin) {
    let (mut escapes, mut typed, mut meant) = (Escapes::default(), [0; READ_BYTES], Vec::new());
    loop {
        // A terminal that fails has ended.
        let count = terminal.read(&mut typed).await.unwrap_or(0);
        meant.clear();
        if escapes.take(&typed[..count], &mut meant) {
            return;
        }
        if count == 0 {
            meant.extend(escapes.held());
        }
        if other_end.write_all(&meant).await.is_err() || count == 0 {
            drop(other_end);
            return std::future::pending().await;
        }
    }
}

/// Finds signs to this program among what is typed.
#[derive(Debug, Default)]
struct Escapes(At);

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum At {
    #[default]
    Begin,
    /// Behind a tilde that began a line, and waits for what it means.
    Tilde,
    Within,
}

impl Escapes {
    /// Adds to `meant` what the other end is to get of `typed`. Whether the person leaves.
    fn take(&mut self, typed: &[u8], meant: &mut Vec<u8>) -> bool {
        for byte in typed {
            match (self.0, byte) {
                (At::Tilde, b'.') => return true,
                (At::Begin, b'~') => {
                    self.0 = At::Tilde;
                    continue;
                }
                (At::Tilde, b'~') => {}
                (At::Tilde, _) => meant.push(b'~'),
                _ => {}
            }
            meant.push(*byte);
            self.0 = if matches!(byte, b'\r' | b'\n') { At::Begin } else { At::Within };
        }
        false
    }

    /// What is kept back, when nothing comes that would say what it means.
    fn held(&self) -> &'static [u8] {
        if self.0 == At::Tilde { b"~" } else { b"" }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What reaches the other end, and whether the person left.
    fn typed(keys: &[u8], at_a_time: usize) -> (Vec<u8>, bool) {
        let (mut escapes, mut meant) = (Escapes::default(), Vec::new());
        let left = keys.chunks(at_a_time).any(|keys| escapes.take(keys, &mut meant));
        if !left {
            meant.extend(escapes.held());
        }
        (meant, left)
    }

    #[test]
    fn a_tilde_and_a_dot_leave_only_where_a_line_begins() {
        for at_a_time in [1, 100] {
            let seen = |keys: &[u8]| {
                let (meant, left) = typed(keys, at_a_time);
                (String::from_utf8(meant).unwrap(), left)
            };
            assert_eq!(seen(b"~."), (String::new(), true));
            assert_eq!(seen(b"ls\r~.x"), ("ls\r".into(), true));
            assert_eq!(seen(b"ls\n~."), ("ls\n".into(), true));
            assert_eq!(seen(b"ls ~.\r"), ("ls ~.\r".into(), false));
            assert_eq!(seen(b"~~.\r"), ("~.\r".into(), false));
            assert_eq!(seen(b"~/bin\r~"), ("~/bin\r~".into(), false));
            assert_eq!(seen(b"~\r~."), ("~\r".into(), true));
        }
    }

    #[tokio::test]
    async fn leaving_needs_no_reader_at_the_other_end() {
        let (person, terminal) = tokio::io::duplex(64);
        let (other_end, left) = read(terminal);
        let mut person = person;
        person.write_all(b"ls\r~.").await.unwrap();
        tokio::time::timeout(std::time::Duration::from_secs(60), left).await.unwrap().unwrap();
        drop(other_end);
    }

    proptest! {
        #[test]
        fn what_has_no_tilde_passes(keys in prop::collection::vec(any::<u8>(), 0..200), at_a_time in 1_usize..9) {
            let keys: Vec<u8> = keys.into_iter().filter(|key| *key != b'~').collect();
            prop_assert_eq!(typed(&keys, at_a_time), (keys.clone(), false));
        }
    }
}
