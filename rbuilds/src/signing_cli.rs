//! The commands around signatures: `measure`, `sign` and `verify-signature`. The comments are the help texts.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use clap::Args;
use rbuilds::{Curve, KeySource, SignError, SignInput, SignatureCheck, Trust};
use x509_cert::der::DateTime;

use crate::print;

/// The signature is not accepted.
const REFUSED: u8 = 1;
/// The key, the certificate or what was asked for is at fault.
const USAGE: u8 = 2;

#[derive(Debug, Args)]
pub(crate) struct MeasureArgs {
    /// The enclave image, made by Glasshouse or any other tool.
    image: PathBuf,
    /// Write the bytes that a signer elsewhere has to sign to this file.
    #[arg(long, value_name = "FILE")]
    to_sign: Option<PathBuf>,
    /// The curve of that signer's key. ECDSA hashes the bytes with SHA-256, SHA-384 or SHA-512.
    #[arg(long, value_name = "CURVE", default_value = "P-384", value_parser = curve, requires = "to_sign")]
    curve: Curve,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("signing").required(true))]
pub(crate) struct SignArgs {
    /// The enclave image, made by Glasshouse or any other tool.
    image: PathBuf,
    /// The private key: P-384, P-256 or P-521, PEM (PKCS#8 or SEC 1), not encrypted.
    #[arg(long, value_name = "FILE", group = "signing")]
    key: Option<PathBuf>,
    /// Have this command sign. It gets the bytes to sign on stdin (ECDSA with the hash of the key's curve) and prints the signature,
    /// DER or r and s; run by sh.
    #[arg(long, value_name = "CMD", group = "signing")]
    command: Option<String>,
    /// Attach this signature, made elsewhere over what `measure --to-sign` wrote: DER, or r and s.
    #[arg(long, value_name = "FILE", group = "signing")]
    signature: Option<PathBuf>,
    /// The certificate for the key, PEM. PCR8 is its digest. Further certificates in the file go into the image too.
    #[arg(long, value_name = "FILE")]
    cert: PathBuf,
    /// Where to write the signed image. Default: in the place of the image.
    #[arg(short, long, value_name = "OUT")]
    output: Option<PathBuf>,
    /// Replace a signature that the image has.
    #[arg(long)]
    replace: bool,
    /// When the certificate has to be valid: RFC 3339 in UTC, or seconds since 1970. Default: now.
    #[arg(long, value_name = "TIME", value_parser = time)]
    at: Option<u64>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct VerifySignatureArgs {
    /// The enclave image, made by Glasshouse or any other tool.
    image: PathBuf,
    /// The certificate that it has to be signed under, PEM. Without this and --root, anybody's signature is good.
    #[arg(long, value_name = "FILE", conflicts_with = "root")]
    cert: Option<PathBuf>,
    /// One or more roots, PEM: the certificate in the image has to lead to one of them.
    #[arg(long, value_name = "FILE")]
    root: Option<PathBuf>,
    /// Refuse a certificate that is not valid at this time: RFC 3339 in UTC, or seconds since 1970. Default: now with
    /// --root; else the certificate's dates are shown and not judged.
    #[arg(long, value_name = "TIME", value_parser = time)]
    at: Option<u64>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs `rbuilds measure`.
pub(crate) fn measure(args: &MeasureArgs) -> Result<ExitCode> {
    let measured = rbuilds::measure(&args.image)?;
    if let Some(path) = &args.to_sign {
        measured.write_bytes_to_sign(args.curve, path)?;
    }
    print(&measured, args.json)?;
    Ok(ExitCode::SUCCESS)
}

/// Runs `rbuilds sign`.
pub(crate) fn sign(args: &SignArgs) -> Result<ExitCode> {
    let at = args.at.map_or_else(now, Ok)?;
    mistakes_apart(try_sign(args, at), |signed| {
        print(&signed, args.json)?;
        Ok(ExitCode::SUCCESS)
    })
}

fn try_sign(args: &SignArgs, at: u64) -> Result<rbuilds::SignedImage, SignError> {
    let key = match (&args.key, &args.command, &args.signature) {
        (Some(path), _, _) => KeySource::File(path),
        (_, Some(command), _) => KeySource::Command(command),
        (_, _, signature) => KeySource::Signature(signature.as_deref().unwrap_or(Path::new(""))),
    };
    let signer = rbuilds::signer(key, &args.cert, at)?;
    let output = args.output.as_deref().unwrap_or(&args.image);
    rbuilds::sign(&SignInput { image: &args.image, output, signer: &signer, replace: args.replace })
}

/// Runs `rbuilds verify-signature`.
pub(crate) fn verify_signature(args: &VerifySignatureArgs) -> Result<ExitCode> {
    let now = now()?;
    mistakes_apart(check(args, now), |check| {
        print(&check, args.json)?;
        Ok(if check.good { ExitCode::SUCCESS } else { ExitCode::from(REFUSED) })
    })
}

fn check(args: &VerifySignatureArgs, now: u64) -> Result<SignatureCheck, SignError> {
    let trust = match (&args.cert, &args.root) {
        (Some(path), _) => Trust::Certificate(rbuilds::certificates(path)?.swap_remove(0)),
        (None, Some(path)) => {
            Trust::Roots { roots: rbuilds::certificates(path)?, at: args.at.unwrap_or(now) }
        }
        (None, None) => Trust::Anyone,
    };
    Ok(rbuilds::check_signature(&args.image, &trust, args.at)?)
}

/// Tells mistakes of the caller's from failures by the exit status.
fn mistakes_apart<T>(
    outcome: Result<T, SignError>,
    done: impl FnOnce(T) -> Result<ExitCode>,
) -> Result<ExitCode> {
    match outcome {
        Ok(value) => done(value),
        Err(error) if error.is_mistake() => {
            // A closed stderr leaves nobody to tell.
            let _ = writeln!(io::stderr(), "rbuilds: {:#}", anyhow::Error::from(error));
            Ok(ExitCode::from(USAGE))
        }
        Err(error) => Err(error.into()),
    }
}

fn curve(text: &str) -> Result<Curve, String> {
    let found = Curve::ALL.into_iter().find(|curve| curve.to_string() == text);
    found.ok_or_else(|| format!("expected one of {}", Curve::ALL.map(|curve| curve.to_string()).join(", ")))
}

fn now() -> Result<u64> {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH);
    Ok(elapsed.context("this machine's clock is before 1970: set it, or give --at")?.as_secs())
}

fn time(text: &str) -> Result<u64, String> {
    let seconds =
        text.parse().ok().or_else(|| Some(text.parse::<DateTime>().ok()?.unix_duration().as_secs()));
    seconds.ok_or_else(|| "expected a time such as 2027-01-31T00:00:00Z, or seconds since 1970".to_owned())
}
