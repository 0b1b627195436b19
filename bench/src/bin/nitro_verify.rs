//! Verifies a genuine attestation document, against one P-384 verification of the same library and against the crate
//! `attestation-doc-validation`, in turn and in the same run.
//!
//! That crate reads the clock, so the program has to run at the document's time; without it the crate is left out:
//!
//! ```text
//! TZ=UTC FAKETIME_DONT_FAKE_MONOTONIC=1 faketime -f '@2022-10-13 09:00:00' target/release/nitro_verify
//! ```
//!
//! `faketime` is a Debian package; the variable leaves the clock alone that durations are measured with. Ours gets the time
//! passed in either way. The argument is the number of rounds (500). Goals: the full chain at most 5.2 times and a remembered
//! issuer at most 2.1 times a P-384 verification, at least 3.3 and 8 times as fast as the crate.
//!
//! Ratios are printed of the medians and of the fastest runs. On a busy machine only the latter mean something: the longer a
//! run, the likelier it is interrupted, which lengthens the median of the long ones alone.

use std::error::Error;
use std::hint::black_box;
use std::time::{Duration, Instant, SystemTime};

use attestation::{Roots, UnixTime, Verifier, verify};
use attestation_doc_validation::validate_and_parse_attestation_doc;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P384_SHA384_FIXED, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const DOCUMENT: &[u8] = include_bytes!("../../../crates/attestation/testdata/evervault_valid.cose");
const MESSAGE: &[u8] = b"one message of about the length of a digest";

struct Contestant<'a> {
    name: &'static str,
    run: Box<dyn Fn() + 'a>,
    times: Vec<Duration>,
}

impl<'a> Contestant<'a> {
    fn new(name: &'static str, run: impl Fn() + 'a) -> Self {
        Contestant { name, run: Box::new(run), times: Vec::new() }
    }

    /// The median and the fastest, in microseconds.
    fn summary(&mut self) -> [f64; 2] {
        self.times.sort_unstable();
        [self.times[self.times.len() / 2], self.times[0]].map(|time| time.as_secs_f64() * 1e6)
    }
}

fn main() -> Result<()> {
    let rounds = std::env::args().nth(1).map_or(Ok(500), |text| text.parse::<usize>())?.max(1);
    let at: UnixTime = "2022-10-13T08:58:02Z".parse()?;

    let key = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING)?;
    let public_key = UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, key.public_key().as_ref().to_vec());
    let signature = key.sign(&SystemRandom::new(), MESSAGE)?;
    let roots = Roots::aws();
    let verifier = Verifier::new(roots.clone());
    verifier.verify(DOCUMENT, at)?;

    let mut contestants = vec![
        Contestant::new("P-384 verification", || {
            public_key.verify(black_box(MESSAGE), signature.as_ref()).expect("our own signature");
        }),
        Contestant::new("full chain", || {
            black_box(verify(black_box(DOCUMENT), &roots, at)).expect("a genuine document");
        }),
        Contestant::new("remembered issuer", || {
            black_box(verifier.verify(black_box(DOCUMENT), at)).expect("a genuine document");
        }),
    ];
    match validate_and_parse_attestation_doc(DOCUMENT) {
        Ok(_) => contestants.push(Contestant::new("attestation-doc-validation", || {
            black_box(validate_and_parse_attestation_doc(black_box(DOCUMENT))).expect("a genuine document");
        })),
        Err(error) => {
            let now = UnixTime::try_from(SystemTime::now())?;
            println!("skipped: attestation-doc-validation refuses at {now} ({error}); run under faketime");
        }
    }
    measure(&mut contestants, rounds);
    report(&mut contestants);
    Ok(())
}

/// Runs the contestants in turn, so that whatever else the machine does reaches all of them.
fn measure(contestants: &mut [Contestant<'_>], rounds: usize) {
    for _ in 0..rounds {
        for contestant in &mut *contestants {
            // Not measured: it fills the caches, which the one before has emptied more or less thoroughly.
            (contestant.run)();
            let start = Instant::now();
            (contestant.run)();
            contestant.times.push(start.elapsed());
        }
    }
}

fn report(contestants: &mut [Contestant<'_>]) {
    let summaries: Vec<_> = contestants.iter_mut().map(Contestant::summary).collect();
    println!("{:<28} {:>11} {:>11}", "", "median", "fastest");
    for (contestant, [median, fastest]) in contestants.iter().zip(&summaries) {
        println!("{:<28} {median:8.1} us {fastest:8.1} us", contestant.name);
    }
    let [one, full, remembered, ..] = summaries[..] else { return };
    print_ratio("full chain / P-384", full, one, "at most 5.2");
    print_ratio("remembered issuer / P-384", remembered, one, "at most 2.1");
    if let Some(&peer) = summaries.get(3) {
        print_ratio("crate / full chain", peer, full, "at least 3.3");
        print_ratio("crate / remembered issuer", peer, remembered, "at least 8");
    }
}

fn print_ratio(what: &str, [median, fastest]: [f64; 2], [by_median, by_fastest]: [f64; 2], goal: &str) {
    println!("{what:<28} {:11.2} {:11.2}   goal: {goal}", median / by_median, fastest / by_fastest);
}
