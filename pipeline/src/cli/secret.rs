//! Where a secret's value comes from.

use std::{
    fs::File,
    io::{self, Read},
};

use enclave_init::private::MAX_SECRET_BYTES;
use rustix::termios::isatty;
use zeroize::Zeroizing;

use super::{Failure, args::SetSecret, terminal};

/// The value: a file's bytes, what is typed at a terminal without its end of line, or the bytes of standard input.
pub(super) fn read(set: &SetSecret) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let value = match &set.from {
        Some(path) => {
            let failed = |error| Failure::Usage(format!("--from {}: {error}", path.display()));
            read_bounded(File::open(path).map_err(failed)?).map_err(failed)?
        }
        None if isatty(io::stdin()) => {
            let prompt = format!("Value of {}: ", set.secret);
            Zeroizing::new(terminal::ask_hidden(&prompt).map_err(Failure::channel)?.as_bytes().to_vec())
        }
        None => {
            read_bounded(io::stdin()).map_err(|error| Failure::Usage(format!("standard input: {error}")))?
        }
    };
    if value.len() > MAX_SECRET_BYTES {
        return Err(Failure::Usage(format!("a secret has at most {MAX_SECRET_BYTES} bytes")));
    }
    Ok(value)
}

fn read_bounded(from: impl Read) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut value = Zeroizing::new(Vec::with_capacity(MAX_SECRET_BYTES + 1));
    from.take(MAX_SECRET_BYTES as u64 + 1).read_to_end(&mut value)?;
    Ok(value)
}
