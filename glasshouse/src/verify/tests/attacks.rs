//! Evidence that is not what it seems. Each has to be refused, and for what it is.

use std::time::Duration;

use attestation::{Roots, Sha256, bundle::Base64};

use super::scene::{IMAGE, NONCE, TLS_KEY, later};
use super::*;

fn verdict(scene: &Scene, change: impl FnOnce(&mut Material, &mut Question)) -> Verdict {
    let asked = file("/app/model.bin", None);
    let (mut material, mut question) = (scene.live(&asked), scene.question(asked));
    change(&mut material, &mut question);
    judge(&material, &question)
}

#[test]
fn what_was_recorded_earlier_does_not_answer_a_new_nonce() {
    let scene = Scene::booted();
    let replayed = verdict(&scene, |material, _| material.own_nonce = Some(vec![8; 32]));
    let expected = format!("nonce: expected {}, found {}", "08".repeat(32), hex::encode(NONCE));
    assert!(refused(&replayed).contains(&expected), "{replayed}");
}

/// Another verifier's place in a batch leads to another root; a place that does not exist, to none.
#[test]
fn a_path_to_another_nonce_is_refused() {
    let scene = Scene::booted();
    let path = |index| attestation::batch::NoncePath { index, size: 2, hashes: vec![Sha256([1; 32])] };
    for index in [0, 1] {
        let other =
            verdict(&scene, |material, _| material.bundle.as_mut().unwrap().batch = Some(path(index)));
        assert!(refused(&other).contains("nonce: expected"), "{other}");
    }
    let nowhere = verdict(&scene, |material, _| material.bundle.as_mut().unwrap().batch = Some(path(2)));
    assert!(refused(&nowhere).contains("position 2 in a batch of 2"), "{nowhere}");
}

#[test]
fn a_man_in_the_middle_with_his_own_certificate_is_refused() {
    let scene = Scene::booted();
    let his = Sha256::of(b"his key");
    let between = verdict(&scene, |material, _| material.source = Source::Connection(his));
    let refusal =
        format!("TLS key: expected {his} (the connection's), found {} (the enclave's)", Sha256::of(TLS_KEY));
    assert_eq!(refused(&between), refusal);
}

#[test]
fn the_document_of_another_enclave_is_refused() {
    let (scene, other) = (Scene::booted(), Scene::of_image(IMAGE + 1));
    // Genuine, under the same root as far as the verifier goes, and of another image.
    let verdict = verdict(&other, |_, question| {
        question.expected.reference_values = scene.question(Questions::default()).expected.reference_values;
    });
    let refusals = refused(&verdict);
    for register in ["PCR0 (enclave image)", "PCR1", "PCR2"] {
        assert!(refusals.contains(register), "{refusals}");
    }
}

#[test]
fn another_root_than_the_trusted_one_is_refused() {
    let (scene, other) = (Scene::booted(), Scene::booted());
    let under = |roots: Roots| refused(&verdict(&scene, |_, question| question.expected.roots = roots));
    assert!(under(Roots::aws()).contains("chain: expected it to lead to AWS Nitro Enclaves Root G1"));
    assert!(under(other.question(Questions::default()).expected.roots).starts_with("chain: "));
}

#[test]
fn an_enclave_in_debug_mode_is_refused() {
    let scene = Scene::of_image(0);
    let debug = verdict(&scene, |_, _| {});
    assert!(refused(&debug).contains("found one in debug mode") && debug.debug);
}

#[test]
fn certificates_that_are_not_valid_at_the_time_are_refused() {
    let scene = Scene::booted();
    let at = |time| refused(&verdict(&scene, |material, _| material.at = Some(time)));
    assert!(
        at(later(Duration::from_secs(5 * 3600))).contains("the leaf certificate: expected to be valid at")
    );
    assert!(at("2001-01-01T00:00:00Z".parse().unwrap()).contains("valid from"));
}

#[test]
fn another_manifest_and_another_baseline_are_not_in_the_measurement() {
    let (scene, other) = (Scene::booted(), Scene::booted());
    let with = |change: &dyn Fn(&mut Bundle)| {
        refused(&verdict(&scene, |material, _| change(material.bundle.as_mut().unwrap())))
    };
    let theirs = other.bundle(&Questions::default());
    assert!(
        with(&|bundle| bundle.baseline = theirs.baseline.clone())
            .contains("measured manifest: expected PCR16")
    );
    assert!(with(&|bundle| bundle.baseline = None).contains("expected a baseline of the files"));
    let changed = |bundle: &mut Bundle| {
        let text = String::from_utf8(bundle.manifest.take().unwrap().0).unwrap();
        bundle.manifest = Some(Base64(text.replace("agent", "tnega").into_bytes()));
    };
    assert!(with(&changed).contains("measured manifest: expected PCR16"));
}

/// Stored values of an image with a monitor have the manifest's digest in place of PCR16.
#[test]
fn the_manifest_is_the_one_that_stored_values_name() {
    let scene = Scene::booted();
    let with = |digest| verdict(&scene, |_, question| question.expected.manifest_sha384 = Some(digest));
    let manifest = scene.bundle(&Questions::default()).manifest.unwrap().0;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA384, &manifest);
    assert!(with(attestation::Pcr(digest.as_ref().try_into().unwrap())).verified);
    assert!(refused(&with(attestation::Pcr([1; 48]))).contains("measured manifest: expected SHA-384"));
}

/// Without the proof of growth a host could show a ledger that was begun anew.
#[test]
fn a_ledger_that_does_not_begin_with_what_was_measured_is_refused() {
    let scene = Scene::booted();
    scene.record("/app/new", Some(b"new"));
    let with = |change: &dyn Fn(&mut Bundle)| {
        refused(&verdict(&scene, |material, _| change(material.bundle.as_mut().unwrap())))
    };
    assert!(with(&|bundle| bundle.consistency.clear()).contains("no proof from 2 to 3 entries"));
    assert!(with(&|bundle| bundle.consistency[0].hashes[0].0[0] ^= 1).contains("ledger since boot"));
}

#[test]
fn proofs_that_are_not_of_the_question_are_refused() {
    let scene = Scene::booted();
    let old = scene.bundle(&file("/app/model.bin", None)).proofs;
    scene.record("/app/model.bin", Some(b"replaced"));
    let with = |change: &dyn Fn(&mut Bundle)| {
        refused(&verdict(&scene, |material, _| change(material.bundle.as_mut().unwrap())))
    };
    // A proof from before the change, and that of another file under this one's name.
    assert!(with(&|bundle| bundle.proofs = old.clone()).contains("the proof is for a log of 2 entries"));
    let other = scene.bundle(&file("/app/old", None)).proofs.remove(0).proof;
    assert!(
        with(&|bundle| bundle.proofs[0].proof = other.clone())
            .contains("where the file is in the map is not shown")
    );
    let bytes = scene.bundle(&file("/app/model.bin", None)).proofs.remove(0).proof.0.len();
    for place in (0..bytes).step_by(7) {
        with(&|bundle| bundle.proofs[0].proof.0[place] ^= 1);
    }
}

/// Every byte of a document is covered by a signature, or is one.
#[test]
fn every_flipped_byte_of_a_document_is_refused() {
    let scene = Scene::booted();
    let document = scene.live(&Questions::default()).document;
    for place in 0..document.len() {
        let flipped = verdict(&scene, |material, _| material.document[place] ^= 1);
        assert!(!flipped.verified && flipped.claims.is_none(), "byte {place}: {flipped}");
    }
}

#[test]
fn who_entered_is_seen() {
    let scene = Scene::booted();
    let asked = |control| verdict(&scene, |_, question| question.control = control);
    proves(&asked(ControlPolicy::NeverEntered), "nobody had entered the enclave");
    assert!(refused(&asked(ControlPolicy::Sealed)).contains("expected: sealed"));
    scene.enter(b"who entered first");
    assert!(refused(&asked(ControlPolicy::NeverEntered)).contains("somebody has entered"));
}
