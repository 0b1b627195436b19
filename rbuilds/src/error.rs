//! Everything that can go wrong with a build, from the whole down to one entry of one layer.

use std::{io, path::PathBuf};

use crate::{
    Digest,
    limits::{
        MAX_ARCHIVE_LINKS, MAX_COMPONENT_BYTES, MAX_FILE_BYTES, MAX_INDEX_DEPTH, MAX_JSON_BYTES, MAX_LAYERS,
        MAX_TARGET_BYTES, MAX_XATTRS_BYTES,
    },
};

/// Why an image was not built or not read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file of this machine could not be used.
    #[error("cannot {doing} {}", path.display())]
    File {
        /// What was being done, as a verb: `open`, `write`.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The manifest asks for other processors than the kernel is for.
    #[error(
        "image.architecture is {wanted}, but the kernel is for {found}: name one for {wanted} with --kernel"
    )]
    KernelArchitecture {
        /// What the manifest says.
        wanted: &'static str,
        /// What the kernel is.
        found: &'static str,
    },
    /// A program is for other processors than the kernel.
    #[error("{program} is for {found}, the kernel for {expected}")]
    ProgramArchitecture {
        /// The program, as it is named on the command line or in the manifest.
        program: String,
        /// What it says that it is for.
        found: String,
        /// What the kernel is for.
        expected: &'static str,
    },
    /// What the manifest names is not there, or is something else.
    #[error(transparent)]
    Input(#[from] crate::InputError),
    /// The image layout is broken, or does not hold the image asked for.
    #[error("the image layout {} cannot be used", layout.display())]
    Oci {
        /// The layout's directory.
        layout: PathBuf,
        /// What is wrong with it.
        #[source]
        source: OciError,
    },
    /// A Dockerfile is an input of builders of container images; what they make is one of ours.
    #[error(
        "{} is a Dockerfile: give the container image that was built from it, saved as an archive (--archive)",
        path.display()
    )]
    Dockerfile {
        /// The Dockerfile.
        path: PathBuf,
    },
    /// The image archive is broken, or does not hold the image asked for.
    #[error("the image archive {} cannot be used", path.display())]
    Archive {
        /// The archive.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: LayerError,
    },
    /// The image could not be pulled.
    #[error("cannot pull {image}")]
    Registry {
        /// The image's name in full.
        image: String,
        /// What went wrong.
        #[source]
        source: Box<crate::RegistryError>,
    },
    /// A layer is broken or asks for what an image cannot hold.
    #[error("layer {number} of {of}, {digest}, cannot be used")]
    Layer {
        /// The layer's place, the lowest being 1.
        number: usize,
        /// How many layers the image has.
        of: usize,
        /// The layer's digest, as it is stored if the image says so, else unpacked.
        digest: Digest,
        /// What is wrong with it.
        #[source]
        source: LayerError,
    },
    /// A root file system, archive or directory, is broken or asks for what an image cannot hold.
    #[error("the root file system {} cannot be used", path.display())]
    Rootfs {
        /// The archive or directory.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: LayerError,
    },
    /// The manifest and the image do not make a whole.
    #[error("the manifest and the image do not make a whole")]
    Resolve(#[from] manifest::ResolveError),
    /// The image file could not be written.
    #[error("cannot write the image file {}", path.display())]
    Write {
        /// The image file asked for.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: WriteError,
    },
    /// The time given for the image's metadata is beyond the year 9999.
    #[error("the build time, {found} seconds since 1970, is after the year 9999")]
    BuildTime {
        /// The time given, in seconds since 1970.
        found: u64,
    },
    /// The kernel cannot read the format asked for.
    #[error(
        "{} cannot boot an image in the format \"erofs\": its configuration lacks the file system, loop devices or \
         overlays; leave `image.format` out of glasshouse.toml, or use the kernel of `make kernel`", path.display()
    )]
    KernelWithoutErofs {
        /// The kernel.
        path: PathBuf,
    },
    /// The kernel lacks a system call that a part of the framework is built on.
    #[error(
        "{} is Linux {version}, and `[{part}]` in glasshouse.toml needs Linux 5.6 or later: use the kernel of `make kernel`, or \
         leave that part out", path.display()
    )]
    KernelTooOld {
        /// The kernel.
        path: PathBuf,
        /// What it says of itself.
        version: String,
        /// The part of the manifest.
        part: &'static str,
    },
    /// The image file is not an image or is damaged.
    #[error("{} is not a usable enclave image file", path.display())]
    Image {
        /// The image file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: eif::ReadError,
    },
    /// A ramdisk of the image is damaged.
    #[error("ramdisk {number} of {} is damaged", path.display())]
    Ramdisk {
        /// The image file.
        path: PathBuf,
        /// The ramdisk, the first being 0.
        number: usize,
        /// What is wrong with it.
        #[source]
        source: eif::cpio::ReadError,
    },
    /// The image was not built by this program: it has no measured manifest.
    #[error("{} has no {} in its second ramdisk, so Glasshouse did not build it", path.display(), crate::MANIFEST_PATH)]
    NoManifest {
        /// The image file.
        path: PathBuf,
    },
    /// An entry of a ramdisk cannot be unpacked.
    #[error("the ramdisk's entry {entry} cannot be unpacked")]
    Unpack {
        /// The entry's name, escaped where it is not plain text.
        entry: String,
        /// What is wrong with it.
        #[source]
        source: UnpackError,
    },
}

impl Error {
    /// Whether the manifest or what it names has to be another one, as opposed to an input that is damaged or a machine
    /// that fails.
    pub fn is_mistake(&self) -> bool {
        match self {
            Self::Input(_)
            | Self::Dockerfile { .. }
            | Self::Resolve(_)
            | Self::KernelArchitecture { .. }
            | Self::ProgramArchitecture { .. }
            | Self::KernelWithoutErofs { .. }
            | Self::KernelTooOld { .. }
            | Self::BuildTime { .. } => true,
            Self::Oci { source, .. } => source.is_mistake(),
            Self::Archive { source, .. } | Self::Rootfs { source, .. } => source.is_mistake(),
            _ => false,
        }
    }
}

/// Why a media type is not read, and what to do.
fn unread(media_type: &str) -> &'static str {
    match media_type {
        m if m.ends_with("+encrypted") => "which is encrypted: give the image decrypted",
        m if m.starts_with("application/vnd.docker.distribution.manifest.v1") => {
            "Docker's first form of images, without digests of their contents: convert it (`skopeo copy --format oci`)"
        }
        "" => "though a media type has to be given",
        _ => "which this program does not read",
    }
}

impl OciError {
    fn is_mistake(&self) -> bool {
        matches!(
            self,
            Self::NotAnImage
                | Self::NoImage { .. }
                | Self::NoSuchTag { .. }
                | Self::Ambiguous { .. }
                | Self::NoPlatform { .. }
        )
    }
}

impl LayerError {
    fn is_mistake(&self) -> bool {
        match self {
            Self::Blob(source) => source.is_mistake(),
            Self::NotAnArchive { .. } | Self::ImageAsRootfs { .. } => true,
            _ => false,
        }
    }
}

/// Why an image file could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The image's parts could not be put together.
    #[error(transparent)]
    Image(#[from] eif::WriteError),
    /// A ramdisk could not be written.
    #[error(transparent)]
    Ramdisk(#[from] eif::cpio::WriteError),
    /// The application's files could not be put into a file system.
    #[error(transparent)]
    FileSystem(#[from] erofs::WriteError),
    /// A file of the application could not be opened again.
    #[error("cannot read the application's {path}")]
    Content {
        /// The file's path inside the image.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file could not be begun, or not be given its name.
    #[error(transparent)]
    File(#[from] io::Error),
}

/// Why an entry of a ramdisk could not be unpacked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnpackError {
    /// Its name leads out of the directory or is too long.
    #[error("it {0}")]
    Name(#[source] EntryError),
    /// The file system in it cannot be read.
    #[error(transparent)]
    FileSystem(#[from] erofs::ReadError),
    /// The system refused; a path through a symbolic link is one that leads to "not a directory".
    #[error(transparent)]
    File(#[from] io::Error),
}

/// What is wrong with an OCI image layout, or with an archive of an image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OciError {
    /// A file of the layout could not be read.
    #[error("cannot read its {file}")]
    Read {
        /// The file's path inside the layout.
        file: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A JSON document is longer than any real one.
    #[error("its {file} has {found} bytes, more than the {MAX_JSON_BYTES} allowed")]
    JsonTooLong {
        /// The document's path inside the layout.
        file: String,
        /// Its length in bytes.
        found: u64,
    },
    /// A JSON document is not what it should be.
    #[error("its {file} is not a valid document of its kind")]
    Json {
        /// The document's path inside the layout.
        file: String,
        /// Line, column and reason.
        #[source]
        source: serde_json::Error,
    },
    /// Another version of the layout.
    #[error("it has image layout version {found:?}, this program reads 1.x")]
    LayoutVersion {
        /// The version found.
        found: String,
    },
    /// Another schema of manifest or index.
    #[error("its {file} has schema version {found}, this program reads version 2")]
    SchemaVersion {
        /// The document's path inside the layout.
        file: String,
        /// The version found.
        found: u32,
    },
    /// A blob's length is not the one its descriptor gives.
    #[error("blob {digest} has {found} bytes, its descriptor says {expected}")]
    BlobSize {
        /// The blob.
        digest: Digest,
        /// The length in the descriptor, in bytes.
        expected: u64,
        /// The length of the file, in bytes.
        found: u64,
    },
    /// A blob's bytes are not those its name promises.
    #[error("blob {expected} is damaged or was replaced: its bytes have digest {found}")]
    BlobDigest {
        /// The digest in the descriptor.
        expected: Digest,
        /// The digest of the bytes.
        found: Digest,
    },
    /// An archive that holds no image.
    #[error(
        "it holds neither an image layout (`oci-layout`) nor what `docker save` writes (`manifest.json`); \
         an archive of a root file system goes under `rootfs`"
    )]
    NotAnImage,
    /// A file that a document of the archive names is not in it.
    #[error("it has no {file}")]
    Missing {
        /// The file's path inside the archive.
        file: String,
    },
    /// A document of the archive gives a name that no file in it can have.
    #[error("the name {file:?} in it")]
    Name {
        /// The name found.
        file: String,
        /// What is wrong with it.
        #[source]
        source: EntryError,
    },
    /// A directory where a file is expected.
    #[error("its {file} is a directory")]
    IsDirectory {
        /// Its path inside the archive.
        file: String,
    },
    /// A symbolic link that leads out of the archive.
    #[error("its {file} is a symbolic link to {target}, which is outside of the archive")]
    LinkOutside {
        /// The link's path inside the archive.
        file: String,
        /// Its target.
        target: String,
    },
    /// Links behind links, perhaps in a circle.
    #[error("its {file} is behind more than {MAX_ARCHIVE_LINKS} links")]
    TooManyLinks {
        /// The first link's path inside the archive.
        file: String,
    },
    /// The tag asked for is not there.
    #[error("it has no image tagged {tag:?}; the tags it has: {tags:?}")]
    NoSuchTag {
        /// The tag asked for.
        tag: String,
        /// The tags there are.
        tags: Vec<String>,
    },
    /// The layout has several images and none was asked for, or several have the tag.
    #[error("it holds {found} images for {wanted}, so `tag` has to name one; the tags it has: {tags:?}")]
    Ambiguous {
        /// The platform, as the kernel has it.
        wanted: &'static str,
        /// How many there are.
        found: usize,
        /// Their tags.
        tags: Vec<String>,
    },
    /// No image is for the platform of an enclave.
    #[error("it has no image for {wanted}, which the kernel is for; the platforms it has: {found:?}")]
    NoPlatform {
        /// The platform, as the kernel has it.
        wanted: &'static str,
        /// The platforms there are.
        found: Vec<String>,
    },
    /// Indexes behind indexes.
    #[error("its image indexes are nested more than {MAX_INDEX_DEPTH} deep")]
    IndexTooDeep,
    /// A media type that cannot be read.
    #[error("{digest} has media type {found:?}, {}", unread(found))]
    MediaType {
        /// The blob.
        digest: Digest,
        /// The media type found.
        found: String,
    },
    /// A manifest of something that is stored like an image.
    #[error("{digest} is no container image: its configuration is {found:?}")]
    NoImage {
        /// The manifest.
        digest: Digest,
        /// The media type of its configuration.
        found: String,
    },
    /// The configuration lists more or fewer layers than the manifest.
    #[error("its manifest lists {layers} layers, its configuration {diff_ids}")]
    LayerCount {
        /// Layers in the manifest.
        layers: usize,
        /// `diff_ids` in the configuration.
        diff_ids: usize,
    },
    /// More layers than any real image has.
    #[error("it has {found} layers, more than the {MAX_LAYERS} allowed")]
    TooManyLayers {
        /// Layers in the manifest.
        found: usize,
    },
}

/// What is wrong with a layer, a root file system or an image archive.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayerError {
    /// The blob could not be opened or is not the one described.
    #[error(transparent)]
    Blob(#[from] OciError),
    /// A file of this machine could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The archive or its compression is damaged.
    #[error("the archive is damaged")]
    Damaged(#[source] io::Error),
    /// It is a file of another kind.
    #[error("it is {found}: {remedy}")]
    NotAnArchive {
        /// What it begins like.
        found: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// The files are those of a container image, not those in one.
    #[error("it holds a container image (`{marker}`), not the files in one: say `{key}` instead")]
    ImageAsRootfs {
        /// The file that tells.
        marker: &'static str,
        /// The key of the manifest that takes it.
        key: &'static str,
    },
    /// The archive ends before its end mark.
    #[error("the archive is truncated: it ends before its last file does, or without the closing zero block")]
    Truncated,
    /// The archive unpacks to something else than the image's configuration says.
    #[error("the layer unpacks to {found}, the image's configuration says {expected} (diff_id)")]
    DiffId {
        /// The digest in the configuration.
        expected: Digest,
        /// The digest of the unpacked archive.
        found: Digest,
    },
    /// More unpacked bytes than allowed: perhaps a decompression bomb.
    #[error("it unpacks to more than the {limit} bytes allowed for a whole image")]
    UnpackedTooLarge {
        /// [`crate::Limits::unpacked_bytes`].
        limit: u64,
    },
    /// More entries than allowed.
    #[error("the image has more than the {limit} files allowed")]
    TooManyEntries {
        /// [`crate::Limits::entries`].
        limit: u64,
    },
    /// More bytes of names than allowed.
    #[error("the image's file names and attributes have more than the {limit} bytes allowed")]
    NamesTooLong {
        /// [`crate::Limits::name_bytes`].
        limit: u64,
    },
    /// A PAX or GNU extension record is longer than any real one.
    #[error(
        "an extension record has {found} bytes, more than the {} allowed",
        crate::limits::MAX_EXTENSION_BYTES
    )]
    ExtensionTooLong {
        /// Its length in bytes.
        found: u64,
    },
    /// A PAX extension record is malformed.
    #[error("a PAX extension record is malformed")]
    BadExtension,
    /// The temporary file for unpacked layers could not take more.
    #[error("cannot store the unpacked files; is the disk full?")]
    Spool(#[source] io::Error),
    /// One entry cannot be part of an image.
    #[error("the entry {entry}")]
    Entry {
        /// The entry's name, escaped where it is not plain text.
        entry: String,
        /// What is wrong with it.
        #[source]
        source: EntryError,
    },
}

/// Why one entry of an archive or a directory cannot be part of an image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// A `..` in its name.
    #[error("has a `..` in its name, which could lead out of the image")]
    ParentComponent,
    /// A NUL byte in its name or target.
    #[error("has a NUL byte in its name or target")]
    NulByte,
    /// A name that stands twice in an image archive.
    #[error("is in the archive twice, and programs disagree on which one counts")]
    Duplicate,
    /// A path longer than the kernel unpacks.
    #[error("has a path of {found} bytes, more than the {limit} with which the kernel unpacks it")]
    PathTooLong {
        /// Its length in bytes.
        found: usize,
        /// The most it may have, in bytes.
        limit: usize,
    },
    /// A component longer than Linux file systems take.
    #[error("has a path component of {found} bytes, more than the {MAX_COMPONENT_BYTES} Linux takes")]
    ComponentTooLong {
        /// Its length in bytes.
        found: usize,
    },
    /// Its directory is a symbolic link.
    #[error("would be written through the symbolic link {link}")]
    ThroughSymlink {
        /// The link.
        link: String,
    },
    /// Its directory is a file.
    #[error("is inside {parent}, which is not a directory")]
    NotInDirectory {
        /// The file.
        parent: String,
    },
    /// The root is not a directory.
    #[error("would replace the root directory by something else")]
    RootNotDirectory,
    /// A symbolic link whose target is empty or too long.
    #[error("is a symbolic link with a target of {found} bytes; 1 to {MAX_TARGET_BYTES} are allowed")]
    TargetLength {
        /// Length of the target in bytes.
        found: usize,
    },
    /// A hard link to what is not there.
    #[error("is a hard link to {target}, which is not in the image")]
    MissingTarget {
        /// The target.
        target: String,
    },
    /// A hard link to a directory.
    #[error("is a hard link to {target}, which is a directory")]
    DirectoryTarget {
        /// The target.
        target: String,
    },
    /// A whiteout that names nothing, itself, its parent, or has something inside it.
    #[error("is not a valid whiteout")]
    BadWhiteout,
    /// A sparse file whose pieces do not fit together.
    #[error("is stored as a sparse file, and its map does not fit what is stored")]
    Sparse,
    /// A device or named pipe outside `/dev`.
    #[error("is a {kind}, which an image may have below /dev only, where it is left out")]
    Device {
        /// `character device`, `block device` or `named pipe`.
        kind: &'static str,
    },
    /// A type of entry that is not a file, directory, link or device.
    #[error("has the unknown tar type {found:#04x}")]
    UnknownType {
        /// The type byte.
        found: u8,
    },
    /// A link, directory or device with a length, on which archive programs disagree.
    #[error("has no content by its type but {found} bytes by its header")]
    UnexpectedContent {
        /// The length in the header, in bytes.
        found: u64,
    },
    /// Two lengths for one file.
    #[error("has {pax} bytes by its PAX record and {header} by its header")]
    TwoLengths {
        /// In the PAX record.
        pax: u64,
        /// In the header.
        header: u64,
    },
    /// A file larger than a ramdisk can hold.
    #[error("has {found} bytes, more than the {MAX_FILE_BYTES} a file in a ramdisk can have")]
    FileTooLarge {
        /// Its length in bytes.
        found: u64,
    },
    /// An extended attribute that Linux would not take.
    #[error("has an extended attribute, {name}, which {problem}")]
    Attribute {
        /// Its name, escaped where it is not plain text.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// More of extended attributes than a file can have.
    #[error("has extended attributes of {found} bytes, more than the {MAX_XATTRS_BYTES} a file can have")]
    AttributesTooLong {
        /// Their names and values, in bytes.
        found: usize,
    },
    /// An owner that is not a 32-bit number, or the number that means "no owner".
    #[error("belongs to user or group {found}; 0 to 4294967294 are allowed")]
    Owner {
        /// The number found.
        found: u64,
    },
}

impl EntryError {
    /// Says which entry it is about.
    pub(crate) fn at(self, entry: impl ToString) -> LayerError {
        LayerError::Entry { entry: entry.to_string(), source: self }
    }
}
