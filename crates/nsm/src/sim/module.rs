//! A module without hardware.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA384};

use super::chain::Chains;
use super::document::{Claims, ModuleIdError, check_module_id};
use super::root::DevelopmentRoot;
use super::x509::since_epoch;
use crate::error::Error;
use crate::pcr::{PCR_BYTES, PCR_COUNT, Pcr, PcrIndex};
use crate::provider::Transact;
use crate::wire::{AttestationRequest, Description, Digest, ErrorCode, RANDOM_BYTES, Request, Response};

/// PCRs the real module locks before an enclave runs its first instruction: 0 to 15.
const LOCKED_FROM_BOOT: u16 = 16;

/// A Nitro Security Module in software: the real one's registers, limits and documents, under a [`DevelopmentRoot`].
///
/// It keeps its registers in memory: one value stands for one boot of one enclave.
pub struct SimulatedNsm {
    module_id: String,
    bank: Mutex<Bank>,
    chains: Chains,
}

impl SimulatedNsm {
    /// A module as it is when the enclave's boot begins: PCR 0 to 15 locked, `pcrs` set to what the loader measured, all
    /// others zero. AWS names modules `i-INSTANCE-encENCLAVE`; any `module_id` of 1 to 128 bytes
    /// without control characters will do.
    ///
    /// # Errors
    /// When `module_id` is none of these.
    pub fn new(
        root: &DevelopmentRoot,
        module_id: &str,
        pcrs: &[(PcrIndex, [u8; PCR_BYTES])],
    ) -> Result<Self, ModuleIdError> {
        check_module_id(module_id)?;
        Ok(Self {
            module_id: module_id.to_owned(),
            bank: Mutex::new(Bank::at_boot(pcrs)),
            chains: Chains::new(root),
        })
    }

    fn describe_nsm(&self) -> Description {
        let locked = self.with_bank(|bank| {
            let locked = PcrIndex::all().filter(|index| bank.register(*index).locked);
            locked.map(u16::from).collect()
        });
        Description {
            version_major: 1,
            version_minor: 0,
            version_patch: 0,
            module_id: self.module_id.clone(),
            max_pcrs: PCR_COUNT,
            locked_pcrs: locked,
            digest: Digest::Sha384,
        }
    }

    /// A document made at `now`, since the Unix epoch.
    fn attest_at(&self, now: Duration, request: &AttestationRequest) -> Result<Response, ErrorCode> {
        request.check_sizes().map_err(|_| ErrorCode::InputTooLarge)?;
        let claims = Claims {
            module_id: self.module_id.clone(),
            timestamp_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
            pcrs: self.with_bank(|bank| bank.locked().collect()),
            extra: request.clone(),
        };
        let signed = self.chains.at(&self.module_id, now);
        let document = signed.and_then(|chain| claims.sign(&chain));
        let document = document.map_err(|error| {
            tracing::error!(module_id = self.module_id, %error, "cannot sign an attestation document");
            ErrorCode::InternalError
        })?;
        Ok(Response::Attestation { document })
    }

    /// Registers change between two whole requests only.
    fn with_bank<T>(&self, work: impl FnOnce(&mut Bank) -> T) -> T {
        work(&mut self.bank.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn serve(&self, request: &Request) -> Result<Response, ErrorCode> {
        match request {
            Request::DescribePcr { index } => {
                let register = self.with_bank(|bank| Ok(*bank.find(*index)?))?;
                Ok(Response::DescribePcr { lock: register.locked, data: register.value.0.to_vec() })
            }
            Request::ExtendPcr { index, data } => self.with_bank(|bank| {
                let value = &mut bank.find_unlocked(*index)?.value;
                *value = extended(value, data);
                Ok(Response::ExtendPcr { data: value.0.to_vec() })
            }),
            Request::LockPcr { index } => self.with_bank(|bank| {
                bank.find_unlocked(*index)?.locked = true;
                Ok(Response::LockPcr)
            }),
            Request::LockPcrs { range } => self.with_bank(|bank| {
                bank.lock_below(*range)?;
                Ok(Response::LockPcrs)
            }),
            Request::DescribeNsm => Ok(Response::DescribeNsm(self.describe_nsm())),
            Request::Attestation(request) => self.attest_at(since_epoch(), request),
            Request::GetRandom => random(),
        }
    }
}

impl Transact for SimulatedNsm {
    fn transact(&self, request: &Request) -> Result<Response, Error> {
        Ok(self.serve(request).unwrap_or_else(Response::Error))
    }
}

impl fmt::Debug for SimulatedNsm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatedNsm").field("module_id", &self.module_id).finish_non_exhaustive()
    }
}

fn random() -> Result<Response, ErrorCode> {
    let mut random = vec![0; RANDOM_BYTES];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| ErrorCode::InternalError)?;
    Ok(Response::GetRandom { random })
}

/// SHA-384 of the old value and the data.
fn extended(old: &Pcr, data: &[u8]) -> Pcr {
    let mut hash = Context::new(&SHA384);
    hash.update(&old.0);
    hash.update(data);
    let digest = hash.finish();
    Pcr(digest.as_ref().try_into().expect("a SHA-384 digest has 48 bytes"))
}

#[derive(Clone, Copy)]
struct Register {
    value: Pcr,
    locked: bool,
}

/// The 32 registers.
struct Bank([Register; PCR_COUNT as usize]);

impl Bank {
    fn at_boot(pcrs: &[(PcrIndex, [u8; PCR_BYTES])]) -> Self {
        let mut bank = Self(std::array::from_fn(|index| Register {
            value: Pcr::ZERO,
            locked: index < usize::from(LOCKED_FROM_BOOT),
        }));
        for (index, value) in pcrs {
            bank.register_mut(*index).value = Pcr(*value);
        }
        bank
    }

    fn register(&self, index: PcrIndex) -> &Register {
        &self.0[usize::from(index)]
    }

    fn register_mut(&mut self, index: PcrIndex) -> &mut Register {
        &mut self.0[usize::from(index)]
    }

    fn find(&mut self, index: u16) -> Result<&mut Register, ErrorCode> {
        let index = PcrIndex::new(index).map_err(|_| ErrorCode::InvalidIndex)?;
        Ok(self.register_mut(index))
    }

    fn find_unlocked(&mut self, index: u16) -> Result<&mut Register, ErrorCode> {
        match self.find(index)? {
            Register { locked: true, .. } => Err(ErrorCode::ReadOnlyIndex),
            register => Ok(register),
        }
    }

    fn lock_below(&mut self, range: u16) -> Result<(), ErrorCode> {
        let registers = self.0.get_mut(..range.into());
        for register in registers.ok_or(ErrorCode::InvalidIndex)? {
            register.locked = true;
        }
        Ok(())
    }

    fn locked(&self) -> impl Iterator<Item = (PcrIndex, Pcr)> {
        PcrIndex::all()
            .map(|index| (index, self.register(index)))
            .filter(|(_, register)| register.locked)
            .map(|(index, register)| (index, register.value))
    }
}
