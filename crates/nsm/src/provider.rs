//! What every module does for its callers, whatever it is made of.
//!
//! A module kind implements [`Transact`], one request to one response, and has [`Provider`] from that: the checks on
//! what goes out and what comes back are the same for the device, a remote module and one in this process.

use crate::error::Error;
use crate::pcr::{Pcr, PcrIndex, PcrState};
use crate::wire::{AttestationRequest, Description, Request, Response};

/// A Nitro Security Module. Calls block; a module serves one at a time.
pub trait Provider: Send + Sync {
    /// Version, identity, PCRs.
    ///
    /// # Errors
    /// When the module cannot be reached, refuses or answers nonsense; so with every method here.
    fn describe(&self) -> Result<Description, Error>;

    /// Value of one PCR and whether it is locked.
    ///
    /// # Errors
    /// As [`Provider::describe`].
    fn describe_pcr(&self, index: PcrIndex) -> Result<PcrState, Error>;

    /// Sets a PCR to SHA-384 of its value followed by `data`, and returns the new value.
    ///
    /// # Errors
    /// [`Error::Module`] with `ReadOnlyIndex` when it is locked; [`Error::RequestTooLarge`] for more than about 4 KiB.
    fn extend_pcr(&self, index: PcrIndex, data: &[u8]) -> Result<Pcr, Error>;

    /// Locks one PCR until the enclave ends. Attestation documents carry locked PCRs only.
    ///
    /// # Errors
    /// [`Error::Module`] with `ReadOnlyIndex` when it is locked already.
    fn lock_pcr(&self, index: PcrIndex) -> Result<(), Error>;

    /// Locks PCR 0 to `range - 1`; those locked already stay so.
    ///
    /// # Errors
    /// [`Error::Module`] with `InvalidIndex` when `range` is over 32.
    fn lock_pcrs(&self, range: u16) -> Result<(), Error>;

    /// A signed attestation document (untagged `COSE_Sign1`) that carries what `request` asks.
    ///
    /// # Errors
    /// [`Error::InputTooLarge`] when a field is over its limit.
    fn attest(&self, request: &AttestationRequest) -> Result<Vec<u8>, Error>;

    /// `len` random bytes from the module, which gives up to 256 a call.
    ///
    /// # Errors
    /// [`Error::NoEntropy`] when the module runs dry.
    fn random(&self, len: usize) -> Result<Vec<u8>, Error>;
}

/// One request to a module, one response from it. Implementing this is implementing [`Provider`].
pub trait Transact: Send + Sync {
    /// Has `request` served. A module's refusal is a response ([`Response::Error`]), not an error.
    ///
    /// # Errors
    /// When no proper response came.
    fn transact(&self, request: &Request) -> Result<Response, Error>;
}

impl<T: Transact> Provider for T {
    fn describe(&self) -> Result<Description, Error> {
        match ask(self, &Request::DescribeNsm)? {
            Response::DescribeNsm(description) => Ok(description),
            other => Err(unexpected(&Request::DescribeNsm, &other)),
        }
    }

    fn describe_pcr(&self, index: PcrIndex) -> Result<PcrState, Error> {
        let request = Request::DescribePcr { index: index.into() };
        match ask(self, &request)? {
            Response::DescribePcr { lock, data } => Ok(PcrState { locked: lock, value: pcr(data)? }),
            other => Err(unexpected(&request, &other)),
        }
    }

    fn extend_pcr(&self, index: PcrIndex, data: &[u8]) -> Result<Pcr, Error> {
        let request = Request::ExtendPcr { index: index.into(), data: data.to_vec() };
        match ask(self, &request)? {
            Response::ExtendPcr { data } => pcr(data),
            other => Err(unexpected(&request, &other)),
        }
    }

    fn lock_pcr(&self, index: PcrIndex) -> Result<(), Error> {
        let request = Request::LockPcr { index: index.into() };
        match ask(self, &request)? {
            Response::LockPcr => Ok(()),
            other => Err(unexpected(&request, &other)),
        }
    }

    fn lock_pcrs(&self, range: u16) -> Result<(), Error> {
        let request = Request::LockPcrs { range };
        match ask(self, &request)? {
            Response::LockPcrs => Ok(()),
            other => Err(unexpected(&request, &other)),
        }
    }

    fn attest(&self, request: &AttestationRequest) -> Result<Vec<u8>, Error> {
        request.check_sizes()?;
        let request = Request::Attestation(request.clone());
        match ask(self, &request)? {
            Response::Attestation { document } => Ok(document),
            other => Err(unexpected(&request, &other)),
        }
    }

    fn random(&self, len: usize) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            match ask(self, &Request::GetRandom)? {
                Response::GetRandom { random } if random.is_empty() => return Err(Error::NoEntropy),
                Response::GetRandom { random } => bytes.extend(random),
                other => return Err(unexpected(&Request::GetRandom, &other)),
            }
        }
        bytes.truncate(len);
        Ok(bytes)
    }
}

fn ask(module: &(impl Transact + ?Sized), request: &Request) -> Result<Response, Error> {
    match module.transact(request)? {
        Response::Error(code) => Err(Error::Module(code)),
        response => Ok(response),
    }
}

fn unexpected(asked: &Request, answered: &Response) -> Error {
    Error::UnexpectedResponse { asked: asked.name(), answered: answered.name() }
}

fn pcr(data: Vec<u8>) -> Result<Pcr, Error> {
    match data.try_into() {
        Ok(value) => Ok(Pcr(value)),
        Err(data) => Err(Error::PcrLength { found: data.len() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A module that gives the same answer to everything.
    struct Parrot(Response);

    impl Transact for Parrot {
        fn transact(&self, _: &Request) -> Result<Response, Error> {
            Ok(self.0.clone())
        }
    }

    #[test]
    fn an_answer_to_another_question_is_an_error() {
        let refused = Parrot(Response::LockPcr).describe();
        assert!(matches!(
            refused,
            Err(Error::UnexpectedResponse { asked: "DescribeNSM", answered: "LockPCR" })
        ));
    }

    #[test]
    fn an_empty_answer_ends_the_collection_of_entropy() {
        let refused = Parrot(Response::GetRandom { random: vec![] }).random(1);
        assert!(matches!(refused, Err(Error::NoEntropy)));
        let none = Parrot(Response::GetRandom { random: vec![] }).random(0);
        assert_eq!(none.unwrap(), Vec::<u8>::new());
    }

    #[test]
    fn entropy_is_collected_over_several_calls_and_cut_to_length() {
        let random = vec![7; 256];
        let bytes = Parrot(Response::GetRandom { random }).random(600).unwrap();
        assert_eq!(bytes, vec![7; 600]);
    }

    #[test]
    fn a_pcr_value_of_another_length_is_an_error() {
        let answer = Response::ExtendPcr { data: vec![0; 32] };
        let refused = Parrot(answer).extend_pcr(PcrIndex::new(16_u8).unwrap(), b"x");
        assert!(matches!(refused, Err(Error::PcrLength { found: 32 })));
    }
}
