//! The options that say which enclave is expected, the same for every program.

use std::{
    error::Error,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use attestation::{Pcr, PcrIndex, ReferenceValues, Roots};

use crate::{
    Registers,
    image::MeasuredImage,
    reference::{MAX_REFERENCE_BYTES, Reference},
};

/// Longest file of roots, in bytes.
const MAX_ROOT_BYTES: u64 = 64 << 10;

/// Options that say which enclave is expected.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Which enclave it has to be")]
pub struct ExpectedArgs {
    /// The image that should be running: its PCRs are computed from the file.
    #[arg(long, value_name = "EIF", global = true)]
    pub image: Option<PathBuf>,
    /// Reference values as `glasshouse build` wrote them (app.eif.json).
    #[arg(long, value_name = "FILE", global = true)]
    pub reference: Option<PathBuf>,
    /// The value of one register, as in --pcr 0=HEX or --pcr0 HEX, in place of that of --image or --reference.
    /// Repeatable.
    #[arg(long = "pcr", value_name = "INDEX=HEX", global = true)]
    pub pcrs: Vec<String>,
    #[command(flatten)]
    /// The same with the register in the option's name.
    pub named: NamedPcrs,
    /// Ask only whether the evidence is genuine, whatever the image.
    #[arg(long, global = true)]
    pub any_image: bool,
    /// Trust this root (PEM) instead of AWS's, as for enclaves that are simulated.
    #[arg(long, value_name = "PEM", global = true)]
    pub root: Option<PathBuf>,
    /// Accept an enclave in debug mode, which its host can look into.
    #[arg(long, global = true)]
    pub allow_debug: bool,
}

/// Values of single registers, 96 hex digits each.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct NamedPcrs {
    /// The whole image.
    #[arg(long, value_name = "HEX", global = true, hide_short_help = true)]
    pub pcr0: Option<String>,
    /// Kernel and boot ramdisk.
    #[arg(long, value_name = "HEX", global = true, hide_short_help = true)]
    pub pcr1: Option<String>,
    /// Application.
    #[arg(long, value_name = "HEX", global = true, hide_short_help = true)]
    pub pcr2: Option<String>,
    /// The parent instance's IAM role.
    #[arg(long, value_name = "HEX", global = true, hide_short_help = true)]
    pub pcr3: Option<String>,
    /// The parent instance's id.
    #[arg(long, value_name = "HEX", global = true, hide_short_help = true)]
    pub pcr4: Option<String>,
    /// The image's signing certificate.
    #[arg(long, value_name = "HEX", global = true, hide_short_help = true)]
    pub pcr8: Option<String>,
    /// The measured manifest, and where files are watched their state at boot.
    #[arg(long, value_name = "HEX", global = true, hide_short_help = true)]
    pub pcr16: Option<String>,
}

impl NamedPcrs {
    fn given(&self) -> impl Iterator<Item = (&'static str, &str)> {
        [
            ("0", &self.pcr0),
            ("1", &self.pcr1),
            ("2", &self.pcr2),
            ("3", &self.pcr3),
            ("4", &self.pcr4),
            ("8", &self.pcr8),
            ("16", &self.pcr16),
        ]
        .into_iter()
        .filter_map(|(index, value)| Some((index, value.as_deref()?)))
    }
}

/// Which enclave is expected, and under which root.
#[derive(Clone, Debug)]
pub struct Expected {
    /// Who may have signed the evidence.
    pub roots: Roots,
    /// Which image it has to be. No registers at all when nothing says so, which no appraisal accepts.
    pub reference_values: ReferenceValues,
    /// Whether an enclave that its host can look into will do.
    pub allow_debug: bool,
    /// The measured manifest, byte for byte, where an image was given.
    pub manifest: Option<Vec<u8>>,
    /// SHA-384 of the measured manifest, where stored values have it in place of PCR16.
    pub manifest_sha384: Option<Pcr>,
}

/// Why it cannot be said what is expected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExpectedError {
    /// A file cannot be used.
    #[error("{option} {}", .path.display())]
    File {
        /// The option that names it.
        option: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// An option is no register's value.
    #[error("--pcr {0:?} is not INDEX=HEX with a register's number and 96 hex digits")]
    Register(String),
    /// Image and stored values are not of the same enclave.
    #[error("--image and --reference disagree about {index}: {image} and {reference}")]
    Disagree {
        /// Which register.
        index: PcrIndex,
        /// Its value by the image.
        image: Pcr,
        /// Its value by the stored values.
        reference: Pcr,
    },
    /// Any image and a certain one at once.
    #[error("--any-image asks for no register's value: leave it out, or what says which image")]
    AnyImage,
}

impl ExpectedError {
    /// Whether the options themselves are wrong, rather than what they lead to.
    pub fn is_usage(&self) -> bool {
        !matches!(self, Self::File { .. })
    }
}

impl ExpectedArgs {
    /// Whether anything says which image.
    pub fn says_something(&self) -> bool {
        self.image.is_some()
            || self.reference.is_some()
            || self.any_image
            || !self.pcrs.is_empty()
            || self.named.given().next().is_some()
    }

    /// Reads what the options name.
    ///
    /// # Errors
    /// [`ExpectedError`]
    pub fn read(&self) -> Result<Expected, ExpectedError> {
        let registers = self.single()?;
        let sources = self.image.is_some() || self.reference.is_some() || !registers.is_empty();
        if self.any_image && sources {
            return Err(ExpectedError::AnyImage);
        }
        let Files { mut values, manifest, manifest_sha384 } = self.files()?;
        values.extend(registers);
        let reference_values = match self.any_image {
            true => ReferenceValues::AnyImage,
            false => ReferenceValues::Pcrs(values),
        };
        let roots = self.roots()?;
        Ok(Expected { roots, reference_values, allow_debug: self.allow_debug, manifest, manifest_sha384 })
    }

    /// What image and stored values say, which has to agree.
    fn files(&self) -> Result<Files, ExpectedError> {
        let stored = self.reference.as_deref().map(stored).transpose()?;
        let manifest_sha384 = stored.as_ref().and_then(|stored| stored.manifest_sha384);
        let stored = stored.map(|stored| stored.registers).unwrap_or_default();
        let Some(path) = &self.image else {
            return Ok(Files { values: stored, manifest: None, manifest_sha384 });
        };
        let measured = MeasuredImage::open(path).map_err(|error| failed("--image", path)(error.into()))?;
        let mut values = measured.registers;
        for (index, reference) in stored {
            let image = *values.entry(index).or_insert(reference);
            if image != reference {
                return Err(ExpectedError::Disagree { index, image, reference });
            }
        }
        Ok(Files { values, manifest: Some(measured.manifest), manifest_sha384 })
    }

    /// Registers given one by one, in either spelling.
    fn single(&self) -> Result<Registers, ExpectedError> {
        let pairs = self.pcrs.iter().map(|text| {
            let pair = text.split_once('=').ok_or_else(|| ExpectedError::Register(text.clone()));
            pair.and_then(|(index, value)| register(index, value))
        });
        pairs.chain(self.named.given().map(|(index, value)| register(index, value))).collect()
    }

    fn roots(&self) -> Result<Roots, ExpectedError> {
        let Some(path) = &self.root else { return Ok(Roots::aws()) };
        let failed = failed("--root", path);
        let pem = read(path, MAX_ROOT_BYTES).map_err(&failed)?;
        Roots::custom(&pem).map_err(|error| failed(error.into()))
    }
}

/// What files say is expected.
struct Files {
    values: Registers,
    manifest: Option<Vec<u8>>,
    manifest_sha384: Option<Pcr>,
}

fn register(index: &str, value: &str) -> Result<(PcrIndex, Pcr), ExpectedError> {
    let number = index.parse::<u8>().ok().and_then(|index| PcrIndex::new(index).ok());
    let wrong = || ExpectedError::Register(format!("{index}={value}"));
    Ok((number.ok_or_else(wrong)?, value.parse().map_err(|_| wrong())?))
}

fn stored(path: &Path) -> Result<Reference, ExpectedError> {
    let failed = failed("--reference", path);
    // One byte more than allowed, which the decoder then refuses by name.
    let bytes = read(path, MAX_REFERENCE_BYTES as u64 + 1).map_err(&failed)?;
    Reference::decode(&bytes).map_err(|error| failed(error.into()))
}

fn read(path: &Path, limit: u64) -> Result<Vec<u8>, Box<dyn Error + Send + Sync>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn failed(option: &'static str, path: &Path) -> impl Fn(Box<dyn Error + Send + Sync>) -> ExpectedError {
    let path = path.to_owned();
    move |source| ExpectedError::File { option, path: path.clone(), source }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        expected: ExpectedArgs,
    }

    fn read(words: &[&str]) -> Result<Registers, ExpectedError> {
        let words = [&["program"], words].concat();
        match Program::try_parse_from(words).unwrap().expected.read()?.reference_values {
            ReferenceValues::Pcrs(registers) => Ok(registers),
            ReferenceValues::AnyImage => panic!("these words name registers"),
        }
    }

    #[test]
    fn both_spellings_of_a_register_mean_the_same() {
        let value = "ab".repeat(48);
        let pair = format!("0={value}");
        let expected = Registers::from([(PcrIndex::IMAGE, Pcr([0xab; 48]))]);
        assert_eq!(read(&["--pcr", &pair]).unwrap(), expected);
        assert_eq!(read(&["--pcr0", &value]).unwrap(), expected);
        let all = ["0", "1", "2", "3", "4", "8", "16"].map(|index| (format!("--pcr{index}"), index));
        for (option, index) in &all {
            let registers = read(&[option, &value]).unwrap();
            assert_eq!(registers.keys().map(|i| i.number().to_string()).collect::<Vec<_>>(), [*index]);
        }
    }

    #[test]
    fn what_is_no_register_is_a_mistake_in_the_options() {
        let value = "ab".repeat(48);
        for word in ["0", "0=", "0=ab", &format!("32={value}"), &format!("x={value}"), &format!("={value}")] {
            let error = read(&["--pcr", word]).unwrap_err();
            assert!(matches!(error, ExpectedError::Register(_)) && error.is_usage(), "{word}: {error}");
        }
        let both = read(&["--any-image", "--pcr0", &value]).unwrap_err();
        assert!(matches!(both, ExpectedError::AnyImage) && both.is_usage());
    }

    #[test]
    fn a_single_register_replaces_the_stored_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.eif.json");
        let (stored, given) = ("ab".repeat(48), "cd".repeat(48));
        std::fs::write(&path, format!(r#"{{"version":1,"pcrs":{{"0":"{stored}","2":"{stored}"}}}}"#))
            .unwrap();
        let registers = read(&["--reference", path.to_str().unwrap(), "--pcr0", &given]).unwrap();
        assert_eq!(registers[&PcrIndex::IMAGE], Pcr([0xcd; 48]));
        assert_eq!(registers[&PcrIndex::APPLICATION], Pcr([0xab; 48]));
        let gone = read(&["--reference", "/nowhere/at/all"]).unwrap_err();
        assert!(!gone.is_usage());
    }
}
