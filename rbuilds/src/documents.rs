//! The two documents that go with an image: what is in it, and how it came to be.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    thread,
};

use aws_lc_rs::digest::{Context, SHA256};

use crate::{
    BuildReport, Digest, Error, Note, NoteKind,
    error::WriteError,
    output::Output,
    provenance::{Facts, statement},
    sbom::{Framework, Inventory, Unread, render},
    source::Application,
};

/// How many files a note names before it only counts.
const MAX_EXAMPLES: usize = 5;
/// How much of an image is hashed at a time.
const HASH_BYTES: usize = 256 << 10;

/// The SBOM and the provenance of an image. The same inputs give the same bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Documents {
    /// CycloneDX 1.6 JSON (`docs/spec/sbom.md`).
    pub sbom: String,
    /// An in-toto statement with SLSA provenance, not signed (`docs/spec/provenance.md`).
    pub provenance: String,
    /// What the SBOM does not hold although the image says there is something.
    pub notes: Vec<Note>,
}

/// Where the documents of an image stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocumentPaths {
    /// `app.eif.sbom.json` for `app.eif`.
    pub sbom: PathBuf,
    /// `app.eif.provenance.json` for `app.eif`.
    pub provenance: PathBuf,
}

impl DocumentPaths {
    /// Those of this image.
    pub fn beside(image: &Path) -> Self {
        let beside = |ending: &str| {
            let mut path = OsString::from(image);
            path.push(ending);
            path.into()
        };
        Self { sbom: beside(".sbom.json"), provenance: beside(".provenance.json") }
    }
}

impl Documents {
    /// Writes both beside their image, each whole or not at all.
    ///
    /// # Errors
    /// [`Error::Write`] names the one that cannot be written.
    pub fn write_beside(&self, image: &Path) -> Result<DocumentPaths, Error> {
        let paths = DocumentPaths::beside(image);
        let sbom = prepare(&paths.sbom, &self.sbom)?;
        let provenance = prepare(&paths.provenance, &self.provenance)?;
        sbom.commit().map_err(|e| unwritable(&paths.sbom, e))?;
        provenance.commit().map_err(|e| unwritable(&paths.provenance, e))?;
        Ok(paths)
    }
}

fn prepare(path: &Path, text: &str) -> Result<Output, Error> {
    let write = || -> io::Result<Output> {
        let mut output = Output::create(path)?;
        output.file().write_all(text.as_bytes())?;
        Ok(output)
    };
    write().map_err(|e| unwritable(path, e))
}

fn unwritable(path: &Path, source: io::Error) -> Error {
    Error::Write { path: path.to_owned(), source: WriteError::File(source) }
}

/// What a build knows when its image is written.
#[derive(Debug)]
pub(crate) struct Made<'a> {
    pub(crate) report: &'a BuildReport,
    pub(crate) application: &'a Application,
    /// The measured manifest, canonical JSON.
    pub(crate) manifest: &'a [u8],
    pub(crate) kernel_version: &'a str,
    /// Where there is room for temporary files.
    pub(crate) folder: &'a Path,
    /// The image, to be hashed.
    pub(crate) image: &'a File,
}

/// Makes the documents of an image.
///
/// # Errors
/// When the image cannot be read back.
pub(crate) fn describe(made: &Made<'_>) -> io::Result<Documents> {
    // The image is read once more while the application's files are looked through.
    let (image, inventory) = thread::scope(|scope| {
        let image = scope.spawn(|| image_digest(made.image));
        let inventory = Inventory::of(&made.application.tree, made.folder);
        (image.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), inventory)
    });
    let framework = Framework { report: made.report, kernel_version: made.kernel_version };
    let sbom = render(&inventory, &framework);
    let provenance = statement(&Facts {
        report: made.report,
        image: image?,
        manifest: made.manifest,
        layers: &made.application.layers,
        sbom: Digest::of(sbom.as_bytes()),
    });
    Ok(Documents { sbom, provenance, notes: notes(&inventory) })
}

fn notes(inventory: &Inventory) -> Vec<Note> {
    let unread = inventory.unread();
    let count = unread.len() as u64 + inventory.beyond_limits();
    if count == 0 {
        return Vec::new();
    }
    let name = |file: &Unread| format!("{} ({})", file.path, file.reason.0);
    vec![Note {
        kind: NoteKind::PackagesUnread,
        count,
        examples: unread.iter().take(MAX_EXAMPLES).map(name).collect(),
    }]
}

/// The digest of an image file from its beginning. Reading where the file stands is left to others.
pub(crate) fn image_digest(file: &File) -> io::Result<Digest> {
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; HASH_BYTES];
    let mut position = 0;
    loop {
        match file.read_at(&mut buffer, position) {
            Ok(0) => return Ok(Digest::from_output(&context.finish())),
            Ok(n) => {
                context.update(&buffer[..n]);
                position += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}
