//! The value of a secret, from an operator's client to init. It comes as input, not in the request, which is kept in the
//! transcript for auditors; of the value nothing is kept there, not even a digest, which could be guessed from.

use std::time::Duration;

use enclave_init::private::MAX_SECRET_BYTES;
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::{
    frame::{FrameError, Kind},
    reply::{Code, Refusal},
    serve::{Input, ServeError},
};

/// Reads input to its end.
pub(crate) async fn receive(input: &mut Input, idle: Duration) -> Result<Zeroizing<Vec<u8>>, ServeError> {
    // As large as it can get: growing would leave copies behind.
    let mut value = Zeroizing::new(Vec::with_capacity(MAX_SECRET_BYTES));
    loop {
        let frame = timeout(idle, input.next()).await;
        let frame = frame.map_err(|_| Refusal::new(Code::Idle, "no input came"))??;
        let frame = frame.ok_or(FrameError::Truncated)?;
        match frame.kind {
            Kind::Stdin if frame.payload.len() > MAX_SECRET_BYTES - value.len() => {
                let message = format!("a secret has at most {MAX_SECRET_BYTES} bytes");
                return Err(Refusal::new(Code::NoSpace, message).into());
            }
            Kind::Stdin => value.extend_from_slice(&frame.payload),
            Kind::StdinEnd => return Ok(value),
            Kind::Signal => {}
            _ => return Err(Refusal::new(Code::Malformed, "a frame that has no place here").into()),
        }
    }
}
