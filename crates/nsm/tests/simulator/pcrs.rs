//! Registers of the simulated module.

use nsm::sim::SimulatedNsm;
use nsm::wire::{Request, Response};
use nsm::{Digest, ErrorCode, Pcr, PcrIndex, Provider, Transact};

use crate::{MODULE_ID, new_module, new_root, pcr, refusal};

#[test]
fn a_new_module_has_its_measurements_and_sixteen_locks() {
    let (_dir, root) = new_root();
    let module = new_module(&root);
    let description = module.describe().unwrap();
    assert_eq!(description.module_id, MODULE_ID);
    assert_eq!((description.max_pcrs, description.digest), (32, Digest::Sha384));
    assert_eq!(description.locked_pcrs, (0..16).collect());
    for index in PcrIndex::all() {
        let state = module.describe_pcr(index).unwrap();
        let expected = match u8::from(index) {
            0 => Pcr([0xa0; 48]),
            2 => Pcr([0xa2; 48]),
            _ => Pcr::ZERO,
        };
        assert_eq!((state.value, state.locked), (expected, u8::from(index) < 16), "{index}");
    }
}

#[test]
fn extending_is_sha384_of_the_old_value_and_the_data() {
    // SHA-384 of 48 zeros and "a", then of that and nothing, by another implementation (coreutils' sha384sum).
    let once =
        "4148ab74acc29a66f8502dd70154f2b0c89e3731ee76989b8c15b11818504520956d700550a311dea049d12c4f6b2730";
    let twice =
        "748f1265e8ac2c6bac2e6bc3055abebd5a456267bf4311dc1cc53c43dcad5718e07d0bf16e5358f5324e4fe342527d8b";
    let (_dir, root) = new_root();
    let module = new_module(&root);
    assert_eq!(module.extend_pcr(pcr(16), b"a").unwrap().to_string(), once);
    assert_eq!(module.extend_pcr(pcr(16), b"").unwrap().to_string(), twice);
    let state = module.describe_pcr(pcr(16)).unwrap();
    assert_eq!((state.value.to_string().as_str(), state.locked), (twice, false));
}

#[test]
fn a_locked_register_stays_as_it_is() {
    let (_dir, root) = new_root();
    let module = new_module(&root);
    let value = module.extend_pcr(pcr(16), b"a").unwrap();
    module.lock_pcr(pcr(16)).unwrap();
    assert_eq!(refusal(module.extend_pcr(pcr(16), b"b")), ErrorCode::ReadOnlyIndex);
    assert_eq!(refusal(module.lock_pcr(pcr(16))), ErrorCode::ReadOnlyIndex);
    assert_eq!(refusal(module.extend_pcr(pcr(0), b"b")), ErrorCode::ReadOnlyIndex);
    let state = module.describe_pcr(pcr(16)).unwrap();
    assert_eq!((state.value, state.locked), (value, true));
    assert!(module.describe().unwrap().is_locked(pcr(16)));
}

#[test]
fn a_range_locks_all_below_it() {
    let (_dir, root) = new_root();
    let module = new_module(&root);
    module.lock_pcrs(18).unwrap();
    assert_eq!(module.describe().unwrap().locked_pcrs, (0..18).collect());
    module.lock_pcrs(32).unwrap();
    assert_eq!(module.describe().unwrap().locked_pcrs.len(), 32);
    assert_eq!(refusal(module.lock_pcrs(33)), ErrorCode::InvalidIndex);
}

#[test]
fn there_is_no_register_32() {
    let (_dir, root) = new_root();
    let module = new_module(&root);
    let requests = [
        Request::DescribePcr { index: 32 },
        Request::LockPcr { index: 32 },
        Request::ExtendPcr { index: 65535, data: vec![] },
    ];
    for request in requests {
        let response = module.transact(&request).unwrap();
        assert_eq!(response, Response::Error(ErrorCode::InvalidIndex), "{request:?}");
    }
}

#[test]
fn random_bytes_come_in_any_number_and_differ() {
    let (_dir, root) = new_root();
    let module = new_module(&root);
    let one = module.random(1000).unwrap();
    assert_eq!(one.len(), 1000);
    assert_ne!(one, module.random(1000).unwrap());
    let Ok(Response::GetRandom { random }) = module.transact(&Request::GetRandom) else { panic!() };
    assert_eq!(random.len(), 256);
}

#[test]
fn a_module_needs_a_printable_name_of_some_length() {
    let (_dir, root) = new_root();
    for name in ["", "line\nbreak", &"m".repeat(129)] {
        assert!(SimulatedNsm::new(&root, name, &[]).is_err(), "{name:?}");
    }
    assert!(SimulatedNsm::new(&root, &"m".repeat(128), &[]).is_ok());
}
