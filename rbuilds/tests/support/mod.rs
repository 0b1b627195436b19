//! Makes inputs for builds: archives, image layouts, and the files that boot an image.

#![allow(dead_code, reason = "each test program uses a part of this")]

pub(crate) mod server;
pub(crate) mod stack;

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
};

use eif::{
    Architecture, Eif,
    cpio::{Entry, Kind, Reader},
};
use manifest::Manifest;
use rbuilds::{
    BuildInput, BuildReport, Digest, Error, Kernel, Limits, NoteKind, RegistryOptions, Verification, build,
    verify,
};
use serde_json::{Value, json};
use stack::{Listing, Seen, name_links};

/// A folder with everything a build needs but the application.
pub(crate) struct Workshop {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) limits: Limits,
    pub(crate) registry: RegistryOptions,
    /// What the kernel is for.
    pub(crate) architecture: Architecture,
}

impl Workshop {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("bzImage"), b"a kernel").unwrap();
        fs::write(dir.path().join("guest"), b"the guest binary").unwrap();
        fs::create_dir(dir.path().join("out")).unwrap();
        let registry = RegistryOptions {
            cache: Some(dir.path().join("cache")),
            mirrors: Some(dir.path().join("registries.toml")),
            ..RegistryOptions::default()
        };
        Self { dir, limits: Limits::default(), registry, architecture: Architecture::X86_64 }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn output(&self) -> PathBuf {
        self.path("out/app.eif")
    }

    /// Builds what `image = {...}` says, with a command so that a plain root file system will do, and without the note that the
    /// image lacks it.
    pub(crate) fn build(&self, image: &str) -> Result<BuildReport, Error> {
        let mut report =
            self.build_text(&format!("name = \"test\"\nimage = {image}\n[app]\ncommand = [\"/bin/app\"]\n"))?;
        report.notes.retain(|note| note.kind != NoteKind::ProgramNotThere);
        Ok(report)
    }

    pub(crate) fn build_text(&self, text: &str) -> Result<BuildReport, Error> {
        self.with_input(text, &self.output(), |input| build(input, &|_| {}))
    }

    /// Builds the same again beside the image and compares.
    pub(crate) fn verify(&self, image: &str) -> Result<Verification, Error> {
        let text = format!("name = \"test\"\nimage = {image}\n[app]\ncommand = [\"/bin/app\"]\n");
        self.with_input(&text, &self.path("again.eif"), |input| verify(&self.output(), input, &|_| {}))
    }

    fn with_input<T>(&self, text: &str, output: &Path, then: impl FnOnce(&BuildInput<'_>) -> T) -> T {
        let manifest = Manifest::parse(text).unwrap();
        let guest = self.path("guest");
        let input = BuildInput {
            manifest: &manifest,
            base_dir: self.dir.path(),
            guest_binary: &guest,
            kernel: Kernel { architecture: self.architecture, ..Kernel::new(self.path("bzImage"), None) },
            output,
            limits: self.limits,
            registry: self.registry.clone(),
            build_time: 0,
            signer: None,
        };
        then(&input)
    }

    /// Builds what is refused and shows that nothing is left of it.
    pub(crate) fn refuse(&self, image: &str) -> Error {
        let error = self.build(image).expect_err("this input has to be refused");
        let left: Vec<_> = self.path("out").read_dir().unwrap().collect();
        assert!(left.is_empty(), "left behind: {left:?}");
        error
    }

    /// The application's files in the image built last.
    pub(crate) fn application(&self) -> BTreeMap<Vec<u8>, Unpacked> {
        entries(&self.output(), 1)
            .into_iter()
            .filter_map(|(name, entry)| {
                let name = if name == b"rootfs" { b"rootfs/" } else { &name[..] };
                Some((name.strip_prefix(b"rootfs/")?.to_vec(), entry))
            })
            .collect()
    }
}

/// An entry and its content.
pub(crate) type Unpacked = (Entry, Vec<u8>);

/// The entries of one ramdisk of an image, checked to be in order.
pub(crate) fn entries(image: &Path, ramdisk: usize) -> Vec<(Vec<u8>, Unpacked)> {
    let mut eif = Eif::open(fs::File::open(image).unwrap()).unwrap();
    let section = eif.ramdisks().nth(ramdisk).unwrap();
    let mut archive = Reader::new(eif.read(&section).unwrap(), section.size);
    let mut found = Vec::new();
    while let Some(entry) = archive.next_entry().unwrap() {
        let mut content = Vec::new();
        if matches!(entry.kind, Kind::File { .. }) {
            archive.read_to_end(&mut content).unwrap();
        }
        found.push((entry.name.clone(), (entry, content)));
    }
    assert!(found.is_sorted_by(|(a, _), (b, _)| a < b), "entries are not sorted");
    found
}

/// The whole chain of causes, as a person sees it.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |e| e.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Writes archives entry by entry, with names that the `tar` crate would refuse to write.
#[derive(Clone, Default)]
pub(crate) struct Tar(Vec<u8>);

impl Tar {
    pub(crate) fn header(kind: u8, name: &[u8], target: &[u8], size: u64, mode: u32) -> tar::Header {
        let mut header = tar::Header::new_ustar();
        let old = header.as_old_mut();
        old.name[..name.len().min(100)].copy_from_slice(&name[..name.len().min(100)]);
        old.linkname[..target.len().min(100)].copy_from_slice(&target[..target.len().min(100)]);
        old.linkflag = [kind];
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(12345);
        header.set_size(size);
        header.set_cksum();
        header
    }

    pub(crate) fn raw(mut self, header: &tar::Header, content: &[u8]) -> Self {
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn put(self, kind: u8, name: &[u8], target: &[u8], content: &[u8], mode: u32) -> Self {
        let long = name.len() > 100 || target.len() > 100;
        let this = if long {
            let records = [pax_record("path", name), pax_record("linkpath", target)].concat();
            self.pax(&records)
        } else {
            self
        };
        this.raw(&Self::header(kind, name, target, content.len() as u64, mode), content)
    }

    pub(crate) fn pax(self, records: &[u8]) -> Self {
        self.raw(&Self::header(b'x', b"pax", b"", records.len() as u64, 0o644), records)
    }

    pub(crate) fn file(self, name: &str, content: &[u8]) -> Self {
        self.put(b'0', name.as_bytes(), b"", content, 0o644)
    }

    pub(crate) fn dir(self, name: &str) -> Self {
        self.put(b'5', name.as_bytes(), b"", b"", 0o755)
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.put(b'2', name.as_bytes(), target.as_bytes(), b"", 0o777)
    }

    pub(crate) fn link(self, name: &str, target: &str) -> Self {
        self.put(b'1', name.as_bytes(), target.as_bytes(), b"", 0o644)
    }

    /// The archive with its end mark.
    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }

    /// The archive without one.
    pub(crate) fn cut(self) -> Vec<u8> {
        self.0
    }
}

pub(crate) fn pax_record(key: &str, value: &[u8]) -> Vec<u8> {
    let body = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
    let mut len = body.len();
    while len != body.len() + len.to_string().len() {
        len = body.len() + len.to_string().len();
    }
    [len.to_string().as_bytes(), &body].concat()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    pub(crate) fn pack(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::None => bytes.to_vec(),
            Self::Gzip => gzip(bytes),
            Self::Zstd => {
                ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
            }
        }
    }

    fn suffix(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Gzip => "+gzip",
            Self::Zstd => "+zstd",
        }
    }
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// An image layout directory being made.
pub(crate) struct LayoutDir {
    pub(crate) root: PathBuf,
    pub(crate) index: Vec<Value>,
}

impl LayoutDir {
    pub(crate) fn new(root: PathBuf) -> Self {
        fs::create_dir_all(root.join("blobs/sha256")).unwrap();
        fs::write(root.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Self { root, index: Vec::new() }
    }

    pub(crate) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.to_hex())
    }

    pub(crate) fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = Digest::of(bytes);
        fs::write(self.blob_path(&digest), bytes).unwrap();
        json!({"mediaType": media_type, "digest": digest.to_string(), "size": bytes.len()})
    }

    pub(crate) fn json_blob(&self, media_type: &str, value: &Value) -> Value {
        self.blob(media_type, &serde_json::to_vec(value).unwrap())
    }

    /// A layer's descriptor and diff_id.
    pub(crate) fn layer(&self, tar: &[u8], compression: Compression) -> (Value, Digest) {
        let media_type = format!("application/vnd.oci.image.layer.v1.tar{}", compression.suffix());
        (self.blob(&media_type, &compression.pack(tar)), Digest::of(tar))
    }

    /// An image manifest's descriptor.
    pub(crate) fn image(&self, layers: &[(Value, Digest)], run: &Value, architecture: &str) -> Value {
        let diff_ids: Vec<String> = layers.iter().map(|(_, id)| id.to_string()).collect();
        let config = json!({
            "architecture": architecture, "os": "linux", "config": run, "created": "2020-01-01T00:00:00Z",
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let blobs: Vec<&Value> = layers.iter().map(|(blob, _)| blob).collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": self.json_blob("application/vnd.oci.image.config.v1+json", &config),
            "layers": blobs,
        });
        self.json_blob(MANIFEST, &manifest)
    }

    pub(crate) fn write_index(&self) {
        let index = json!({"schemaVersion": 2, "manifests": self.index});
        fs::write(self.root.join("index.json"), serde_json::to_vec(&index).unwrap()).unwrap();
    }
}

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A layout in the workshop's `image` with one image of these layers.
pub(crate) fn simple_layout(workshop: &Workshop, layers: &[Vec<u8>], compression: Compression) -> LayoutDir {
    let mut layout = LayoutDir::new(workshop.path("image"));
    let layers: Vec<_> = layers.iter().map(|tar| layout.layer(tar, compression)).collect();
    let mut image = layout.image(&layers, &json!({}), "amd64");
    image["annotations"] = json!({"org.opencontainers.image.ref.name": "latest"});
    layout.index.push(image);
    layout.write_index();
    layout
}

/// What the image built last holds, for comparison with the model.
pub(crate) fn listing(workshop: &Workshop) -> Listing {
    let mut listing = Listing::new();
    let mut contents: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    for (path, (entry, content)) in workshop.application() {
        let path = String::from_utf8(path).unwrap();
        let mode = entry.permissions;
        let seen = match entry.kind {
            Kind::Directory => Seen::Directory { mode },
            Kind::Symlink { target } => Seen::Symlink { target: String::from_utf8(target).unwrap() },
            Kind::File { link: None, .. } => Seen::File { mode, content, first_name: path.clone() },
            Kind::File { link: Some(link), .. } => {
                contents.insert(link.group, content);
                Seen::File { mode, content: Vec::new(), first_name: format!("group {}", link.group) }
            }
            other => panic!("{path}: {other:?}"),
        };
        listing.insert(path, seen);
    }
    for seen in listing.values_mut() {
        if let Seen::File { content, first_name, .. } = seen
            && let Some(group) = first_name.strip_prefix("group ")
        {
            // Contents come with the last name, which was inserted last.
            *content = contents[&group.parse().unwrap()].clone();
        }
    }
    name_links(&mut listing);
    listing
}
