//! Which enclave a client expects: the image's registers, and the root under which it is evidence.
//!
//! The same options as those of `glasshouse verify`.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use attestation::{
    Appraisal, Pcr, PcrIndex, Policy, ReferenceValues, Roots, UnixTime, appraise, binding::Statement, verify,
};
use channel::Evidence;

/// What a client expects of the enclave it talks to.
#[derive(Clone, Debug)]
pub struct Expected {
    /// Who may have signed the evidence.
    pub roots: Roots,
    /// Which image it has to be.
    pub reference_values: ReferenceValues,
    /// Whether an enclave that its host can look into will do.
    pub allow_debug: bool,
}

/// Options that say which enclave is expected.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Which enclave it has to be")]
pub struct ExpectedArgs {
    /// The image that should be running: its PCRs are computed from the file.
    #[arg(long, value_name = "EIF", env = "PIPELINE_IMAGE", global = true)]
    pub image: Option<PathBuf>,
    /// Reference values as `glasshouse build` wrote them (app.eif.json).
    #[arg(long, value_name = "FILE", env = "PIPELINE_REFERENCE", global = true)]
    pub reference: Option<PathBuf>,
    /// The value of one register, as in --pcr 0=HEX. Repeatable.
    #[arg(long = "pcr", value_name = "INDEX=HEX", global = true)]
    pub pcrs: Vec<String>,
    /// Talk to whatever image runs there, as long as its evidence is genuine.
    #[arg(long, global = true)]
    pub any_image: bool,
    /// Trust this root (PEM) instead of AWS's, as for enclaves that are simulated.
    #[arg(long, value_name = "PEM", env = "PIPELINE_ROOT", global = true)]
    pub root: Option<PathBuf>,
    /// Accept an enclave in debug mode, which its host can look into.
    #[arg(long, global = true)]
    pub allow_debug: bool,
}

/// Why it cannot be said what is expected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExpectedError {
    /// Nothing says which image.
    #[error(
        "nothing says which image has to run there: give --image, --reference or --pcr, or --any-image to talk to any"
    )]
    Nothing,
    /// A file cannot be used.
    #[error("{option} {}", .path.display())]
    File {
        /// The option that names it.
        option: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An option is no register's value.
    #[error("--pcr {0:?} is not INDEX=HEX with a register's 96 hex digits")]
    Register(String),
}

/// The enclave is not the one expected.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct Unexpected(pub Vec<String>);

impl ExpectedArgs {
    /// Reads what the options name.
    ///
    /// # Errors
    /// [`ExpectedError`]
    pub fn read(&self) -> Result<Expected, ExpectedError> {
        let mut pcrs = BTreeMap::new();
        if let Some(path) = &self.reference {
            pcrs.extend(stored(path)?);
        }
        if let Some(path) = &self.image {
            pcrs.extend(measured(path)?);
        }
        for text in &self.pcrs {
            let wrong = || ExpectedError::Register(text.clone());
            let (index, value) = text.split_once('=').ok_or_else(wrong)?;
            let index =
                index.parse::<u8>().ok().and_then(|index| PcrIndex::new(index).ok()).ok_or_else(wrong)?;
            pcrs.insert(index, value.parse().map_err(|_| wrong())?);
        }
        let reference_values = match (self.any_image, pcrs.is_empty()) {
            (true, true) => ReferenceValues::AnyImage,
            (_, false) => ReferenceValues::Pcrs(pcrs),
            (false, true) => return Err(ExpectedError::Nothing),
        };
        let roots = match &self.root {
            None => Roots::aws(),
            Some(path) => {
                let failed = failed("--root", path);
                let pem = fs::read(path).map_err(|error| failed(error.into()))?;
                Roots::custom(&pem).map_err(|error| failed(error.into()))?
            }
        };
        Ok(Expected { roots, reference_values, allow_debug: self.allow_debug })
    }
}

fn failed(
    option: &'static str,
    path: &Path,
) -> impl Fn(Box<dyn std::error::Error + Send + Sync>) -> ExpectedError {
    let path = path.to_owned();
    move |source| ExpectedError::File { option, path: path.clone(), source }
}

fn stored(path: &Path) -> Result<Vec<(PcrIndex, Pcr)>, ExpectedError> {
    let failed = failed("--reference", path);
    let bytes = fs::read(path).map_err(|error| failed(error.into()))?;
    let report: rbuilds::BuildReport =
        serde_json::from_slice(&bytes).map_err(|error| failed(error.into()))?;
    report.pcrs.iter().map(|(index, value)| register(*index, value.0).map_err(&failed)).collect()
}

fn measured(path: &Path) -> Result<Vec<(PcrIndex, Pcr)>, ExpectedError> {
    let failed = failed("--image", path);
    let file = fs::File::open(path).map_err(|error| failed(error.into()))?;
    let mut image = eif::Eif::open(std::io::BufReader::with_capacity(1 << 20, file))
        .map_err(|error| failed(error.into()))?;
    let measured = image.measure().map_err(|error| failed(error.into()))?;
    let manifest = rbuilds::measured_manifest(path).map_err(|error| failed(error.into()))?;
    let registers = rbuilds::registers(&measured, &manifest);
    registers.iter().map(|(index, value)| register(*index, value.0).map_err(&failed)).collect()
}

fn register(index: u8, value: [u8; 48]) -> Result<(PcrIndex, Pcr), Box<dyn std::error::Error + Send + Sync>> {
    Ok((PcrIndex::new(index)?, Pcr(value)))
}

impl Expected {
    /// Whether a channel's evidence is that of the enclave expected, about this very connection. Returns the head of the
    /// enclave's control chain.
    ///
    /// # Errors
    /// [`Unexpected`] with every reason.
    pub fn appraise(&self, evidence: &Evidence) -> Result<Option<[u8; 32]>, Unexpected> {
        let one = |reason: &dyn std::fmt::Display| Unexpected(vec![reason.to_string()]);
        let now = UnixTime::try_from(SystemTime::now()).map_err(|error| one(&error))?;
        let verified = verify(&evidence.document, &self.roots, now).map_err(|error| one(&error))?;
        let policy = Policy {
            nonce: Some(evidence.nonce.to_vec()),
            binding: evidence.binding(),
            allow_debug: self.allow_debug,
            ..Policy::new(self.reference_values.clone())
        };
        let Appraisal { statement, .. } = appraise(&verified, &policy)
            .map_err(|refused| Unexpected(refused.refusals.iter().map(ToString::to_string).collect()))?;
        Ok(match statement {
            Some(Statement::Channel { control_head, .. }) => control_head.map(|head| head.0),
            _ => None,
        })
    }
}
