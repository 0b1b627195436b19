//! The examples of RFC 9381, and what has to be refused beside them.

#![allow(clippy::unwrap_used, reason = "a test that fails to prepare has to stop")]

use proptest::prelude::*;
use vrf::{Error, Proof, PublicKey, SecretKey, Suite};

struct Example {
    suite: Suite,
    secret: SecretKey,
    public: Vec<u8>,
    input: Vec<u8>,
    proof: Vec<u8>,
    output: Vec<u8>,
}

fn examples() -> Vec<Example> {
    let file = include_str!("../../../docs/spec/vectors/ecvrf.json");
    let file: serde_json::Value = serde_json::from_str(file).unwrap();
    let examples: Vec<_> = file["valid"]
        .as_array()
        .unwrap()
        .iter()
        .map(|example| {
            let bytes = |name: &str| hex::decode(example[name].as_str().unwrap()).unwrap();
            let suite = u8::try_from(example["suite"].as_u64().unwrap()).unwrap().try_into().unwrap();
            Example {
                suite,
                secret: SecretKey::from_bytes(suite, &bytes("secret_key").try_into().unwrap()).unwrap(),
                public: bytes("public_key"),
                input: bytes("alpha"),
                proof: bytes("proof"),
                output: bytes("output"),
            }
        })
        .collect();
    assert_eq!(examples.len(), 6);
    examples
}

#[test]
fn the_examples_of_the_rfc_are_made_and_verified() {
    for Example { suite, secret, public, input, proof, output } in examples() {
        assert_eq!(secret.public_key().as_bytes(), public);
        let made = secret.prove(&input);
        assert_eq!((made.as_bytes(), made.output().as_bytes()), (&*proof, &*output));
        assert_eq!(secret.output(&input).as_bytes(), output);
        let proof = Proof::from_bytes(suite, &proof).unwrap();
        let public = PublicKey::from_bytes(suite, &public).unwrap();
        assert_eq!(public.verify(&input, &proof).unwrap().as_bytes(), output);
        assert_eq!((output.len(), public.as_bytes().len()), (suite.output_bytes(), suite.public_key_bytes()));
    }
}

#[test]
fn outputs_together_are_those_one_by_one() {
    for suite in [Suite::P256Sha256Tai, Suite::Edwards25519Sha512Tai] {
        let secret = SecretKey::from_bytes(suite, &[3; 32]).unwrap();
        let inputs: Vec<_> = (0..20_u8).map(|count| vec![count; usize::from(count)]).collect();
        for count in [0, 1, 2, 20] {
            let some = &inputs[..count];
            let proven: Vec<_> = some.iter().map(|input| secret.prove(input).output()).collect();
            assert_eq!(secret.outputs(some.iter().map(Vec::as_slice)), proven);
        }
    }
}

#[test]
fn a_proof_holds_for_its_key_and_input_alone() {
    let examples = examples();
    for (i, one) in examples.iter().enumerate() {
        let proof = Proof::from_bytes(one.suite, &one.proof).unwrap();
        for (k, other) in examples.iter().enumerate() {
            let public = PublicKey::from_bytes(other.suite, &other.public).unwrap();
            let held = public.verify(&other.input, &proof);
            assert_eq!(held.is_ok(), i == k, "{i} {k}");
        }
    }
}

/// Every flipped bit makes bytes that are refused: none of a proof is outside what is proven.
#[test]
fn no_bit_of_a_proof_can_be_changed() {
    for Example { suite, public, input, proof, .. } in examples() {
        let public = PublicKey::from_bytes(suite, &public).unwrap();
        for bit in 0..proof.len() * 8 {
            let mut altered = proof.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            let held = Proof::from_bytes(suite, &altered).and_then(|proof| public.verify(&input, &proof));
            assert!(held.is_err(), "{suite:?} bit {bit}");
        }
    }
}

/// Adds the group's order, little-endian, to a scalar.
fn plus_order(scalar: &[u8]) -> Vec<u8> {
    let order = hex::decode("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010").unwrap();
    let mut carry = 0;
    scalar
        .iter()
        .zip(order)
        .map(|(a, b)| {
            let sum = u16::from(*a) + u16::from(b) + carry;
            carry = sum >> 8;
            (sum & 0xff) as u8
        })
        .collect()
}

/// Libraries that reduce instead of comparing take `s + L` for `s`, so that whoever passes a proof on can make a second
/// one of it (RFC 9381, section 5.4.4, step 8).
#[test]
fn a_scalar_above_the_groups_order_is_refused() {
    for Example { suite, proof, .. } in
        examples().into_iter().filter(|e| e.suite == Suite::Edwards25519Sha512Tai)
    {
        let mut second = proof.clone();
        second.splice(48.., plus_order(&proof[48..]));
        assert_ne!(second, proof);
        assert_eq!(Proof::from_bytes(suite, &second), Err(Error::ProofEncoding));
    }
    let order = hex::decode("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551").unwrap();
    for Example { suite, proof, .. } in examples().into_iter().filter(|e| e.suite == Suite::P256Sha256Tai) {
        let mut large = proof.clone();
        large.splice(49.., order.iter().copied());
        assert_eq!(Proof::from_bytes(suite, &large), Err(Error::ProofEncoding));
    }
}

/// The 8-torsion of the curve, in canonical form and not: with such a key a proof for every input would hold.
#[test]
fn a_public_key_of_small_order_is_refused() {
    let small = [
        "0100000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000080",
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0000000000000000000000000000000000000000000000000000000000000080",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    ];
    for hex in small {
        let bytes = hex::decode(hex).unwrap();
        assert_eq!(
            PublicKey::from_bytes(Suite::Edwards25519Sha512Tai, &bytes),
            Err(Error::PublicKey),
            "{hex}"
        );
    }
}

/// y and y + p are the same point to a decoder that reduces: 19 values of y fit twice into 255 bits.
#[test]
fn a_coordinate_above_the_fields_prime_is_refused() {
    let mut on_the_curve = 0;
    for low in 0_u8..19 {
        for sign in [0, 0x80] {
            let mut canonical = [0; 32];
            (canonical[0], canonical[31]) = (low, sign);
            let mut large = [0xff; 32];
            (large[0], large[31]) = (0xed + low, 0x7f | sign);
            on_the_curve +=
                usize::from(PublicKey::from_bytes(Suite::Edwards25519Sha512Tai, &canonical).is_ok());
            let key = PublicKey::from_bytes(Suite::Edwards25519Sha512Tai, &large);
            assert_eq!(key, Err(Error::PublicKey), "{low}");
            let example = examples().pop().unwrap();
            let mut proof = example.proof;
            proof.splice(..32, large);
            assert_eq!(Proof::from_bytes(example.suite, &proof), Err(Error::ProofEncoding), "{low}");
        }
    }
    assert!(on_the_curve > 8, "the canonical forms of some of these are keys");
}

#[test]
fn other_forms_and_lengths_are_refused() {
    let example = examples().remove(0);
    let mut compact = example.public.clone();
    compact[0] = 5;
    assert_eq!(PublicKey::from_bytes(example.suite, &compact), Err(Error::PublicKey));
    for suite in [Suite::P256Sha256Tai, Suite::Edwards25519Sha512Tai] {
        for length in (0..100).filter(|length| *length != suite.public_key_bytes()) {
            let refused = PublicKey::from_bytes(suite, &vec![2; length]);
            assert!(matches!(refused, Err(Error::Length { .. })), "{length}");
        }
        for length in (0..100).filter(|length| *length != suite.proof_bytes()) {
            assert!(
                matches!(Proof::from_bytes(suite, &vec![2; length]), Err(Error::Length { .. })),
                "{length}"
            );
        }
    }
    assert_eq!(SecretKey::from_bytes(Suite::P256Sha256Tai, &[0; 32]).unwrap_err(), Error::SecretKey);
    assert_eq!(SecretKey::from_bytes(Suite::P256Sha256Tai, &[0xff; 32]).unwrap_err(), Error::SecretKey);
    assert_eq!(Suite::try_from(2), Err(Error::UnknownSuite(2)));
}

#[test]
fn a_secret_key_is_not_shown() {
    for Example { secret, .. } in examples() {
        let shown = format!("{secret:?}");
        assert!(shown.contains("PublicKey("), "{shown}");
        assert!(!shown.contains("c9afa9d8") && !shown.contains("9d61b19d"), "{shown}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_is_proven_is_verified(seed: [u8; 32], input in proptest::collection::vec(any::<u8>(), 0..80), p256: bool) {
        let suite = if p256 { Suite::P256Sha256Tai } else { Suite::Edwards25519Sha512Tai };
        if let Ok(secret) = SecretKey::from_bytes(suite, &seed) {
            let proof = secret.prove(&input);
            let public = PublicKey::from_bytes(suite, secret.public_key().as_bytes()).unwrap();
            let decoded = Proof::from_bytes(suite, proof.as_bytes()).unwrap();
            prop_assert_eq!(public.verify(&input, &decoded), Ok(proof.output()));
            prop_assert_eq!(secret.output(&input), proof.output());
            let other = [&input[..], b"x"].concat();
            prop_assert_eq!(public.verify(&other, &decoded), Err(Error::Proof));
        }
    }

    #[test]
    fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 78..83), p256: bool) {
        let suite = if p256 { Suite::P256Sha256Tai } else { Suite::Edwards25519Sha512Tai };
        if let Ok(proof) = Proof::from_bytes(suite, &bytes) {
            prop_assert_eq!(proof.as_bytes(), &bytes[..]);
            let _ = proof.output();
        }
        let _ = PublicKey::from_bytes(suite, bytes.get(..suite.public_key_bytes()).unwrap());
    }
}
