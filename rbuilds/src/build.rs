//! From a manifest and its inputs to an image file.

use std::{
    fmt,
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use eif::{Architecture, BuildMetadata, Metadata, Signer, Source, Writer};
use manifest::{ImageFormat, ImageSource, Manifest};

use crate::{
    BuildReport, Digest, Error, Limits, REPORT_VERSION, RegistryOptions,
    digest::HashingReader,
    documents::{self, Documents, Made},
    error::WriteError,
    format,
    inputs::check_input,
    intake::Intake,
    layer_cache::LayerCache,
    memory::{FRAMEWORK_ENTRIES, Held, memory_needed},
    notes::Notes,
    output::{Output, directory_of},
    platform, ports,
    ramdisk::{BootFile, Files, write_application, write_boot},
    report::{manifest_digest, registers},
    rootfs_image::{self, MOUNT_POINTS},
    services,
    source::{Application, take_in},
    time::{LAST_SECOND, rfc3339},
    tree::{Kind, Tree},
    xattrs,
};

/// The command line for a kernel with everything built in.
pub const DEFAULT_CMDLINE: &str = "reboot=k panic=30 pci=off nomodules console=ttyS0 random.trust_cpu=on";

/// The command line for a kernel that loads `nsm.ko`.
pub const DEFAULT_CMDLINE_WITH_MODULE: &str = "reboot=k panic=30 pci=off console=ttyS0 random.trust_cpu=on";

/// Everything an image is made of. The same input gives the same bytes, whoever builds it, where and when.
#[derive(Clone, Debug)]
pub struct BuildInput<'a> {
    /// What to build.
    pub manifest: &'a Manifest,
    /// The directory that the manifest's paths are relative to.
    pub base_dir: &'a Path,
    /// The static multi-call binary that becomes `/init`.
    pub guest_binary: &'a Path,
    /// What boots it.
    pub kernel: Kernel,
    /// The image file to write. Unpacked layers are held in its file system meanwhile.
    pub output: &'a Path,
    /// What inputs may ask for.
    pub limits: Limits,
    /// How an image is pulled, if it is in a registry.
    pub registry: RegistryOptions,
    /// The time in the image's metadata, which nothing measures, in seconds since 1970: `SOURCE_DATE_EPOCH`, else 0.
    pub build_time: u64,
    /// Who signs the image, if anybody. The signature differs each time, the registers do not.
    pub signer: Option<&'a Signer>,
}

/// A kernel and how it is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// The kernel: a `bzImage`, for aarch64 an `Image`.
    pub bzimage: PathBuf,
    /// The processors it is for, and with it the whole image.
    pub architecture: Architecture,
    /// Its command line.
    pub cmdline: String,
    /// The driver of the security module, for kernels that do not have it built in.
    pub nsm_ko: Option<PathBuf>,
    /// Whether it reads the application's files from a compressed file system; `None` if that is not known.
    pub reads_file_systems: Option<bool>,
}

impl Kernel {
    /// A kernel for x86-64 of which nothing else is known, with the default command line: [`DEFAULT_CMDLINE`], or
    /// [`DEFAULT_CMDLINE_WITH_MODULE`].
    pub fn new(bzimage: impl Into<PathBuf>, nsm_ko: Option<PathBuf>) -> Self {
        let cmdline = if nsm_ko.is_some() { DEFAULT_CMDLINE_WITH_MODULE } else { DEFAULT_CMDLINE };
        Self {
            bzimage: bzimage.into(),
            architecture: Architecture::X86_64,
            cmdline: cmdline.to_owned(),
            nsm_ko,
            reads_file_systems: None,
        }
    }
}

/// What a build is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step<'a> {
    /// Reading and checking a layer.
    Layer {
        /// Its place, the lowest being 1.
        number: usize,
        /// How many there are.
        of: usize,
        /// Its length as it is stored, in bytes.
        bytes: u64,
    },
    /// Receiving a part of an image from a registry.
    Pull {
        /// Its place, the first being 1.
        number: usize,
        /// How many there are, with those that are here already.
        of: usize,
        /// Its length in bytes.
        bytes: u64,
    },
    /// Listing an image archive and, if it is compressed, unpacking it.
    Archive {
        /// The archive.
        path: &'a Path,
    },
    /// Reading a root file system.
    Rootfs {
        /// The archive or directory.
        path: &'a Path,
    },
    /// Compressing the application's files into a file system.
    Compress {
        /// Files, directories and links in it.
        files: u64,
        /// What the files hold, in bytes.
        bytes: u64,
    },
    /// Writing and measuring the image.
    Write {
        /// Files, directories and links in it.
        files: u64,
        /// What the files hold, in bytes.
        bytes: u64,
    },
}

impl fmt::Display for Step<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        match *self {
            Self::Layer { number, of, bytes } => {
                write!(f, "reading layer {number} of {of} ({} MiB)", mib(bytes))
            }
            Self::Pull { number, of, bytes } => {
                write!(f, "receiving part {number} of {of} ({} MiB)", mib(bytes))
            }
            Self::Archive { path } | Self::Rootfs { path } => write!(f, "reading {}", path.display()),
            Self::Compress { files, bytes } => {
                write!(f, "compressing {files} files ({} MiB)", mib(bytes))
            }
            Self::Write { files, bytes } => {
                write!(f, "writing and measuring {files} files ({} MiB)", mib(bytes))
            }
        }
    }
}

/// Called at the beginning of each step.
pub type Progress<'a> = &'a dyn Fn(Step<'_>);

/// Builds an image and puts it in the place of `input.output`, whole or not at all.
///
/// # Errors
/// [`Error`] names what is wrong with which input. Nothing is left behind then, and an older image stays as it was.
pub fn build(input: &BuildInput<'_>, progress: Progress<'_>) -> Result<BuildReport, Error> {
    build_and(input, progress, |_| Ok(())).map(|(report, ())| report)
}

/// Builds as [`build`] does, and says what packages the image holds and how it came to be. The image is read once more.
///
/// # Errors
/// As [`build`].
pub fn build_documented(
    input: &BuildInput<'_>,
    progress: Progress<'_>,
) -> Result<(BuildReport, Documents), Error> {
    build_and(input, progress, documents::describe)
}

fn build_and<D>(
    input: &BuildInput<'_>,
    progress: Progress<'_>,
    document: impl FnOnce(&Made<'_>) -> io::Result<D>,
) -> Result<(BuildReport, D), Error> {
    if input.build_time > LAST_SECOND {
        return Err(Error::BuildTime { found: input.build_time });
    }
    if !matches!(input.manifest.image, ImageSource::Dockerfile(_)) {
        check_input(&input.manifest.image, input.base_dir)?;
    }
    let unwritable = |e: io::Error| write_error(input, e);
    let architecture = input.kernel.architecture;
    platform::check_kernel(input.manifest.architecture, architecture)?;
    let format = format::choose(input.manifest.format, &input.kernel)?;
    let cmdline = format::cmdline(&input.kernel, format);
    let mut output = Output::create(input.output).map_err(unwritable)?;
    let mut boot = BootInputs::open(input)?;
    let layer_cache = LayerCache::open(&input.registry);
    let mut intake = Intake::new(input.limits, directory_of(input.output), layer_cache.clone(), architecture);
    let application = take_in(&input.manifest.image, input.base_dir, &input.registry, &mut intake, progress)?;
    let measured = input.manifest.resolve(&application.config)?;
    platform::check_age(&input.kernel.bzimage, &boot.kernel_version, &measured)?;
    platform::check_services(&measured, &application.tree, architecture)?;
    let manifest = measured.to_canonical_json();
    let (files, bytes) = extent(&application.tree);
    let files_of = match format {
        ImageFormat::Cpio => Files::Each(&application.tree),
        ImageFormat::Erofs => {
            progress(Step::Compress { files, bytes });
            let runs = layer_cache.as_ref().filter(|_| input.registry.reuse_compressed);
            let made = rootfs_image::make(&application, directory_of(input.output), runs);
            Files::Image(made.map_err(|e| write_error(input, e))?)
        }
    };
    progress(Step::Write { files, bytes });
    let measurements = write_image(input, &cmdline, &mut boot, &manifest, &files_of, output.file())
        .map_err(|e| write_error(input, e))?;
    let eif_bytes = output.file().metadata().map_err(unwritable)?.len();
    let mut notes = intake.into_notes();
    if format == ImageFormat::Cpio {
        xattrs::note_dropped(&application.tree, &mut notes);
    }
    let published: Vec<_> = measured.published_ports().collect();
    services::note(&measured, &application.tree, &mut notes);
    ports::note(&application.config.exposed_ports, &published, &mut notes);
    let report = BuildReport {
        pcrs: registers(&measurements, &manifest),
        manifest_sha384: manifest_digest(&manifest),
        files,
        content_bytes: bytes,
        eif_bytes,
        memory_mib: Some(memory_needed(&held(eif_bytes, &boot, &manifest, &files_of))),
        cmdline,
        ..describe(input, &boot, &application, notes)
    };
    let made = Made {
        report: &report,
        application: &application,
        manifest: &manifest,
        kernel_version: &boot.kernel_version,
        folder: directory_of(input.output),
        image: output.file(),
    };
    let documents = document(&made).map_err(unwritable)?;
    output.commit().map_err(unwritable)?;
    // What cannot be cleaned now is cleaned by the next build.
    let _ = layer_cache.map(|cache| cache.evict());
    Ok((report, documents))
}

fn write_error(input: &BuildInput<'_>, source: impl Into<WriteError>) -> Error {
    Error::Write { path: input.output.to_owned(), source: source.into() }
}

/// How many entries there are, and how many bytes their files hold.
fn extent(tree: &Tree) -> (u64, u64) {
    let mut files = 0;
    let mut contents = std::collections::BTreeMap::new();
    for (_, id, inode) in tree.iter() {
        files += 1;
        if let Kind::File(content) = &inode.kind {
            contents.insert(id, content.len());
        }
    }
    (files, contents.into_values().sum())
}

/// What the image takes at boot, without reading it again; [`crate::held_by`] says the same of the file.
fn held(eif_bytes: u64, boot: &BootInputs, manifest: &[u8], files: &Files<'_>) -> Held {
    let mut held = Held { image_bytes: eif_bytes, entries: FRAMEWORK_ENTRIES, ..Held::default() };
    match files {
        Files::Each(tree) => held.add_tree(tree),
        Files::Image(_) => MOUNT_POINTS.iter().for_each(|_| held.add_entry(0)),
    }
    held.add_entry(manifest.len() as u64);
    held.add_entry(boot.guest_binary.len);
    boot.nsm_ko.iter().for_each(|module| held.add_entry(module.len));
    held
}

fn write_image(
    input: &BuildInput<'_>,
    cmdline: &str,
    boot: &mut BootInputs,
    manifest: &[u8],
    files: &Files<'_>,
    output: &mut File,
) -> Result<eif::Measurements, WriteError> {
    let metadata = metadata(input, boot.kernel_version.clone());
    let resources = input.manifest.resources;
    let options = eif::Options {
        default_memory_bytes: u64::from(resources.memory_mib) << 20,
        default_cpus: u64::from(resources.cpus),
        architecture: input.kernel.architecture,
    };
    let kernel = Source::reader(&mut boot.kernel.reader, boot.kernel.len);
    let mut image = Writer::create(output, &options, kernel, cmdline, &metadata)?;
    image.ramdisk_with(|section| {
        let nsm_ko = boot.nsm_ko.as_mut().map(BootInput::file);
        write_boot(section, boot.guest_binary.file(), nsm_ko)
    })?;
    image.ramdisk_with(|section| write_application(section, manifest, files))?;
    Ok(image.finish(input.signer)?)
}

fn metadata(input: &BuildInput<'_>, kernel_version: String) -> Metadata {
    Metadata {
        image_name: input.manifest.name.clone(),
        image_version: "1.0".to_owned(),
        build: BuildMetadata {
            build_time: rfc3339(input.build_time),
            build_tool: "glasshouse".to_owned(),
            build_tool_version: env!("CARGO_PKG_VERSION").to_owned(),
            operating_system: "Linux".to_owned(),
            kernel_version,
        },
        docker_info: serde_json::Value::Null,
        custom: serde_json::Value::Null,
    }
}

fn describe(
    input: &BuildInput<'_>,
    boot: &BootInputs,
    application: &Application,
    notes: Notes,
) -> BuildReport {
    BuildReport {
        version: REPORT_VERSION,
        name: input.manifest.name.clone(),
        pcrs: Default::default(),
        manifest_sha384: None,
        kernel: boot.kernel.digest(),
        cmdline: String::new(),
        guest_binary: boot.guest_binary.digest(),
        nsm_ko: boot.nsm_ko.as_ref().map(BootInput::digest),
        image_manifest: application.image_manifest,
        files: 0,
        content_bytes: 0,
        eif_bytes: 0,
        memory_mib: None,
        notes: notes.into_vec(),
    }
}

/// The files that boot an image, opened before any long work begins.
struct BootInputs {
    kernel: BootInput,
    kernel_version: String,
    guest_binary: BootInput,
    nsm_ko: Option<BootInput>,
}

/// One of them, hashed as it is read.
struct BootInput {
    reader: HashingReader<BufReader<File>>,
    len: u64,
}

impl BootInputs {
    fn open(input: &BuildInput<'_>) -> Result<Self, Error> {
        let (kernel, kernel_version) =
            open_kernel(&input.kernel.bzimage).map_err(|source| open_error(&input.kernel.bzimage, source))?;
        let open = |path: &Path| -> Result<BootInput, Error> {
            let beginning = beginning(path).map_err(|source| open_error(path, source))?;
            platform::check_program(&beginning, &path.display().to_string(), input.kernel.architecture)?;
            BootInput::open(path).map_err(|source| open_error(path, source))
        };
        Ok(Self {
            kernel,
            kernel_version,
            guest_binary: open(input.guest_binary)?,
            nsm_ko: input.kernel.nsm_ko.as_deref().map(open).transpose()?,
        })
    }
}

/// As much of a program as says what it is for.
fn beginning(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn open_error(path: &Path, source: io::Error) -> Error {
    Error::File { doing: "open", path: path.to_owned(), source }
}

impl BootInput {
    fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        let reader = HashingReader::new(BufReader::new(file));
        Ok(Self { reader, len: metadata.len() })
    }

    fn file(&mut self) -> BootFile<'_> {
        BootFile { content: &mut self.reader, len: self.len }
    }

    /// The digest of the file, once it was read to its end.
    fn digest(&self) -> Digest {
        self.reader.digest()
    }
}

fn open_kernel(path: &Path) -> io::Result<(BootInput, String)> {
    let version = kernel_version(&mut File::open(path)?)?;
    let version = version.unwrap_or_else(|| "unknown".to_owned());
    Ok((BootInput::open(path)?, version))
}

/// The version in a `bzImage`, for people who look at the metadata (Linux, `Documentation/arch/x86/boot.rst`: `header`
/// at 0x202, `kernel_version` at 0x20e, relative to 0x200).
fn kernel_version(kernel: &mut (impl Read + Seek)) -> io::Result<Option<String>> {
    let mut setup = Vec::new();
    kernel.by_ref().take(0x210).read_to_end(&mut setup)?;
    let (Some(b"HdrS"), Some(&[low, high])) = (setup.get(0x202..0x206), setup.get(0x20e..0x210)) else {
        return Ok(None);
    };
    kernel.seek(SeekFrom::Start(0x200 + u64::from(u16::from_le_bytes([low, high]))))?;
    let mut text = Vec::new();
    kernel.by_ref().take(128).read_to_end(&mut text)?;
    let word = text.split(|b| !b.is_ascii_graphic()).next().filter(|w| !w.is_empty());
    Ok(word.map(|w| String::from_utf8_lossy(w).into_owned()))
}
