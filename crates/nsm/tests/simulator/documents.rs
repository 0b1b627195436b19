//! Documents of the simulated module.

use attestation::{Document, Policy, ReferenceValues, Roots, UnixTime};
use nsm::wire::{Request, Response};
use nsm::{AttestationRequest, Error, ErrorCode, Provider, Transact};

use crate::{MODULE_ID, new_module, new_root, now, pcr, verify, with_nonce};

#[test]
fn a_document_verifies_under_its_root_as_simulated() {
    let (_dir, root) = new_root();
    let module = new_module(&root);
    let request = AttestationRequest {
        user_data: Some(vec![1; 512]),
        nonce: Some(vec![2; 512]),
        public_key: Some(vec![3; 1024]),
    };
    let verified = verify(&module.attest(&request).unwrap(), &root).unwrap();
    assert_eq!(verified.module_id(), MODULE_ID);
    assert_eq!(verified.user_data(), request.user_data.as_deref());
    assert_eq!(verified.nonce(), request.nonce.as_deref());
    assert_eq!(verified.public_key(), request.public_key.as_deref());
    assert!(verified.timestamp().as_secs().abs_diff(now().as_secs()) < 60);

    let policy = Policy::new(ReferenceValues::AnyImage);
    let appraisal = attestation::appraise(&verified, &policy).unwrap();
    assert!(appraisal.is_simulated());
}

#[test]
fn absent_fields_are_null_and_empty_ones_empty() {
    let (_dir, root) = new_root();
    let module = new_module(&root);
    let bare = module.attest(&AttestationRequest::default()).unwrap();
    let bare = verify(&bare, &root).unwrap();
    assert_eq!((bare.user_data(), bare.nonce(), bare.public_key()), (None, None, None));
    let request = AttestationRequest { user_data: Some(vec![]), ..Default::default() };
    let empty = verify(&module.attest(&request).unwrap(), &root).unwrap();
    assert_eq!(empty.user_data(), Some(&[][..]));
}

#[test]
fn a_document_is_worth_nothing_under_another_root() {
    let (_dir, root) = new_root();
    let (_other_dir, other) = new_root();
    let document = new_module(&root).attest(&with_nonce(b"n")).unwrap();
    assert!(verify(&document, &root).is_ok());
    assert!(verify(&document, &other).is_err());
    assert!(attestation::verify(&document, &Roots::aws(), now()).is_err());
}

#[test]
fn a_changed_document_does_not_verify() {
    let (_dir, root) = new_root();
    let nonce = b"the verifier's own nonce";
    let mut document = new_module(&root).attest(&with_nonce(nonce)).unwrap();
    let at = document.windows(nonce.len()).position(|part| part == nonce).unwrap();
    document[at] ^= 1;
    assert!(verify(&document, &root).is_err());
}

#[test]
fn a_document_has_the_shape_of_awss() {
    // Compared byte by byte where genuine documents agree: envelope, payload head, signature length.
    let (_dir, root) = new_root();
    let bytes = new_module(&root).attest(&AttestationRequest::default()).unwrap();
    assert_eq!(hex::encode(&bytes[..7]), "8444a1013822a0".to_owned());
    assert_eq!(bytes[bytes.len() - 98..][..2], [0x58, 96]);

    let document = Document::decode(&bytes).unwrap();
    assert_eq!(document.cabundle.len(), 4);
    assert_eq!(document.cabundle[0], root.root_der());
    let numbers: Vec<_> = document.pcrs.keys().map(ToString::to_string).collect();
    let expected: Vec<_> = (0..16).map(|n| attestation::PcrIndex::new(n).unwrap().to_string()).collect();
    assert_eq!(numbers, expected);
}

#[test]
fn the_leaf_is_valid_for_three_hours() {
    let (_dir, root) = new_root();
    let document = new_module(&root).attest(&AttestationRequest::default()).unwrap();
    let roots = Roots::custom(root.root_der()).unwrap();
    let at = |offset: i64| {
        let time = now().as_secs().saturating_add_signed(offset);
        attestation::verify(&document, &roots, UnixTime::from_secs(time)).is_ok()
    };
    // A minute of it lies before the document, for clocks that are behind.
    assert!(at(0) && at(-30) && at(3 * 3600 - 120));
    assert!(!at(-120) && !at(3 * 3600));
}

#[test]
fn documents_in_a_row_share_their_certificates() {
    // Verifiers cache issuers by their bytes; one chain a document would defeat that, and cost four keys each.
    let (_dir, root) = new_root();
    let module = new_module(&root);
    let one = Document::decode(&module.attest(&with_nonce(b"1")).unwrap()).unwrap();
    let two = Document::decode(&module.attest(&with_nonce(b"2")).unwrap()).unwrap();
    assert_eq!(one.certificate, two.certificate);
    assert_eq!(one.cabundle, two.cabundle);
}

#[test]
fn oversized_fields_are_refused_before_and_by_the_module() {
    let (_dir, root) = new_root();
    let module = new_module(&root);
    let fields = [
        ("user_data", 513, 512, AttestationRequest { user_data: Some(vec![0; 513]), ..Default::default() }),
        ("nonce", 513, 512, AttestationRequest { nonce: Some(vec![0; 513]), ..Default::default() }),
        (
            "public_key",
            1025,
            1024,
            AttestationRequest { public_key: Some(vec![0; 1025]), ..Default::default() },
        ),
    ];
    for (field, found, limit, request) in fields {
        let error = module.attest(&request).unwrap_err();
        let Error::InputTooLarge(error) = error else { panic!("{error:?}") };
        assert_eq!((error.field, error.found, error.limit), (field, found, limit));
        let response = module.transact(&Request::Attestation(request)).unwrap();
        assert_eq!(response, Response::Error(ErrorCode::InputTooLarge), "{field}");
    }
}

#[test]
fn locked_registers_are_in_documents_and_others_are_not() {
    // An extended but unlocked PCR is invisible to a verifier.
    let (_dir, root) = new_root();
    let module = new_module(&root);
    let sixteen = attestation::PcrIndex::new(16).unwrap();
    let value = module.extend_pcr(pcr(16), b"configuration").unwrap();
    let before = module.attest(&AttestationRequest::default()).unwrap();
    assert_eq!(verify(&before, &root).unwrap().pcr(sixteen), None);
    module.lock_pcr(pcr(16)).unwrap();
    let after = module.attest(&AttestationRequest::default()).unwrap();
    let found = verify(&after, &root).unwrap().pcr(sixteen).unwrap();
    assert_eq!(found.0, value.0);
}
