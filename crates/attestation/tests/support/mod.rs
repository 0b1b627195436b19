//! Makes attestation documents under certificates of its own, right in every way or wrong in one.
//!
//! Names no type of the crate under test, so that its unit tests can include it too.

#![allow(dead_code, reason = "every test program uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};
use minicbor::Encoder;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P384_SHA384, SignatureAlgorithm, date_time_ymd,
};

/// A time at which all certificates are valid, unless a test changes them: 2025-06-01T00:00:00Z.
pub(crate) const NOW_SECS: u64 = 1_748_736_000;

/// The place of a certificate in the chain, for a test to change it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Root,
    /// Counted from the root's side, beginning with 1: its index in `cabundle`.
    Intermediate(usize),
    Leaf,
}

/// What a certificate is made of.
pub(crate) struct Plan {
    pub(crate) params: CertificateParams,
    pub(crate) algorithm: &'static SignatureAlgorithm,
}

/// A chain of certificates and the leaf's key.
#[derive(Clone)]
pub(crate) struct Chain {
    /// Root first (DER).
    pub(crate) bundle: Vec<Vec<u8>>,
    pub(crate) leaf: Vec<u8>,
    pub(crate) leaf_key_pkcs8: Vec<u8>,
}

impl Chain {
    /// A chain like AWS's: a root, three intermediates, a leaf.
    pub(crate) fn new() -> Self {
        Chain::with(3, |_, _| {})
    }

    /// A chain with `intermediates` between root and leaf, each certificate changed by `change` before it is made.
    pub(crate) fn with(intermediates: usize, change: impl FnMut(Place, &mut Plan)) -> Self {
        Authority::with(intermediates, change).leaf(|_| {})
    }

    pub(crate) fn root(&self) -> &[u8] {
        &self.bundle[0]
    }
}

/// A chain without the leaf, which can issue several.
pub(crate) struct Authority<F> {
    bundle: Vec<Vec<u8>>,
    issuer: Issuer<'static, KeyPair>,
    change: F,
}

impl<F: FnMut(Place, &mut Plan)> Authority<F> {
    pub(crate) fn with(intermediates: usize, mut change: F) -> Self {
        let mut plan = ca_plan("root");
        change(Place::Root, &mut plan);
        let key = KeyPair::generate_for(plan.algorithm).unwrap();
        let mut bundle = vec![plan.params.self_signed(&key).unwrap().der().to_vec()];
        let mut issuer = Issuer::new(plan.params, key);
        for number in 1..=intermediates {
            let mut plan = ca_plan(&format!("intermediate {number}"));
            change(Place::Intermediate(number), &mut plan);
            let key = KeyPair::generate_for(plan.algorithm).unwrap();
            bundle.push(plan.params.signed_by(&key, &issuer).unwrap().der().to_vec());
            issuer = Issuer::new(plan.params, key);
        }
        Authority { bundle, issuer, change }
    }

    /// Issues a leaf.
    pub(crate) fn leaf(&mut self, change: impl FnOnce(&mut Plan)) -> Chain {
        let mut plan = plan("leaf");
        plan.params.is_ca = IsCa::ExplicitNoCa;
        plan.params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        (self.change)(Place::Leaf, &mut plan);
        change(&mut plan);
        let key = KeyPair::generate_for(plan.algorithm).unwrap();
        Chain {
            bundle: self.bundle.clone(),
            leaf: plan.params.signed_by(&key, &self.issuer).unwrap().der().to_vec(),
            leaf_key_pkcs8: key.serialize_der(),
        }
    }
}

fn plan(name: &str) -> Plan {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(2025, 1, 1);
    params.not_after = date_time_ymd(2026, 1, 1);
    Plan { params, algorithm: &PKCS_ECDSA_P384_SHA384 }
}

fn ca_plan(name: &str) -> Plan {
    let mut plan = plan(name);
    plan.params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    plan.params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    plan
}

/// The fields of a payload, each with its encoded value, in order.
#[derive(Clone)]
pub(crate) struct Payload {
    pub(crate) fields: Vec<(String, Vec<u8>)>,
    pub(crate) indefinite: bool,
}

impl Payload {
    /// A payload that is right in every way, with the certificates of `chain`, PCRs 0 to 15 set to their own number
    /// repeated, and null for all that is optional.
    pub(crate) fn new(chain: &Chain) -> Self {
        let pcrs: Vec<_> = (0..16).map(|n| (u64::from(n), vec![n + 1; 48])).collect();
        let mut payload = Payload { fields: Vec::new(), indefinite: false };
        payload.set("module_id", text("i-0123456789abcdef0-enc0123456789abcdef"));
        payload.set("digest", text("SHA384"));
        payload.set("timestamp", uint(NOW_SECS * 1000));
        payload.set("pcrs", pcr_map(&pcrs));
        payload.set("certificate", bytes(&chain.leaf));
        payload.set("cabundle", array(&chain.bundle));
        payload.set("public_key", null());
        payload.set("user_data", null());
        payload.set("nonce", null());
        payload
    }

    /// Sets a field, in its old place if it was there.
    pub(crate) fn set(&mut self, field: &str, value: Vec<u8>) -> &mut Self {
        match self.fields.iter_mut().find(|(name, _)| name == field) {
            Some((_, old)) => *old = value,
            None => self.add(field, value),
        }
        self
    }

    /// Adds a field, even if it is already there.
    pub(crate) fn add(&mut self, field: &str, value: Vec<u8>) {
        self.fields.push((field.to_owned(), value));
    }

    pub(crate) fn remove(&mut self, field: &str) -> &mut Self {
        self.fields.retain(|(name, _)| name != field);
        self
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut encoding = Vec::new();
        if self.indefinite {
            encoding.push(0xbf);
        } else {
            Encoder::new(&mut encoding).map(self.fields.len() as u64).unwrap();
        }
        for (name, value) in &self.fields {
            encoding.extend(text(name));
            encoding.extend(value);
        }
        encoding.extend(self.indefinite.then_some(0xff));
        encoding
    }

    /// The document, signed with the leaf key of `chain`.
    pub(crate) fn sign(&self, chain: &Chain) -> Vec<u8> {
        let payload = self.encode();
        let signature = sign(&chain.leaf_key_pkcs8, PROTECTED, &payload);
        envelope(PROTECTED, &[0xa0], &payload, &signature)
    }

    /// The document with bytes that only have the length of a signature.
    pub(crate) fn unsigned(&self) -> Vec<u8> {
        envelope(PROTECTED, &[0xa0], &self.encode(), &[0; 96])
    }
}

/// The protected header of every Nitro document: `{1: -35}`.
pub(crate) const PROTECTED: &[u8] = &[0xa1, 0x01, 0x38, 0x22];

/// A COSE_Sign1 of four parts, `unprotected` being encoded already.
pub(crate) fn envelope(protected: &[u8], unprotected: &[u8], payload: &[u8], signature: &[u8]) -> Vec<u8> {
    [&[0x84][..], &bytes(protected), unprotected, &bytes(payload), &bytes(signature)].concat()
}

/// An ES384 signature over the Sig_structure.
pub(crate) fn sign(key_pkcs8: &[u8], protected: &[u8], payload: &[u8]) -> Vec<u8> {
    let message =
        [&[0x84][..], &text("Signature1"), &bytes(protected), &bytes(&[]), &bytes(payload)].concat();
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, key_pkcs8).unwrap();
    key.sign(&SystemRandom::new(), &message).unwrap().as_ref().to_vec()
}

pub(crate) fn text(value: &str) -> Vec<u8> {
    minicbor::to_vec(value).unwrap()
}

pub(crate) fn uint(value: u64) -> Vec<u8> {
    minicbor::to_vec(value).unwrap()
}

pub(crate) fn null() -> Vec<u8> {
    vec![0xf6]
}

pub(crate) fn bytes(value: &[u8]) -> Vec<u8> {
    let mut encoding = Vec::new();
    Encoder::new(&mut encoding).bytes(value).unwrap();
    encoding
}

/// An array of byte strings.
pub(crate) fn array(items: &[Vec<u8>]) -> Vec<u8> {
    let mut encoding = Vec::new();
    Encoder::new(&mut encoding).array(items.len() as u64).unwrap();
    encoding.extend(items.iter().flat_map(|item| bytes(item)));
    encoding
}

/// A map of numbers to byte strings.
pub(crate) fn pcr_map(entries: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let mut encoding = Vec::new();
    Encoder::new(&mut encoding).map(entries.len() as u64).unwrap();
    for (index, value) in entries {
        encoding.extend(uint(*index));
        encoding.extend(bytes(value));
    }
    encoding
}
