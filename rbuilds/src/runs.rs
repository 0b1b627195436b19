//! Compressed files of layers kept between builds: runs of blocks of a file system (`docs/spec/erofs.md`), each made of the
//! files that some neighbouring layers have in the image.
//!
//! `layers/HEX.run` in the cache folder holds the blocks, then what each part has, its length, and the BLAKE3 of all that. HEX
//! names this very program, and of each file the digest of the layer that it came from, which this build has checked, and
//! its place there. So what another program, or other files, made has another name, and what was damaged since has another
//! digest. Nothing proves that whoever wrote it compressed those files: `verify` takes none of it (decision 0032).

use std::{
    fs::File,
    io::{self, BufWriter, Read, Seek, SeekFrom, Write},
    path::Path,
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use aws_lc_rs::digest::{Context, SHA256};
use erofs::Run;

use crate::{
    Digest,
    content::Content,
    digest::HashingReader,
    layer_cache::LayerCache,
    output::Output,
    source::Origin,
    tree::{Inode, Kind},
};

/// Separates these names from other digests.
const DOMAIN: &[u8] = b"glasshouse run of blocks 1\0";
/// The digest and the length at the end of a file.
const END_BYTES: u64 = 32 + 8;
/// Longest description of a run's parts, in bytes: of 64 GiB.
const MAX_PARTS_BYTES: u64 = 512 << 10;
const BUFFER_BYTES: usize = 256 << 10;

/// A run and its blocks.
#[derive(Clone, Debug)]
pub(crate) struct KeptRun {
    pub(crate) run: Run,
    pub(crate) blocks: Content,
}

/// What a run with these files is called, if it is known where each of them is from.
pub(crate) fn name<'a>(
    origins: &[Origin],
    files: impl Iterator<Item = (usize, &'a Inode)>,
) -> Option<Digest> {
    let mut context = Context::new(&SHA256);
    context.update(DOMAIN);
    context.update(this_program()?.as_ref());
    for (layer, inode) in files {
        let number = |context: &mut Context, number: u64| context.update(&number.to_le_bytes());
        match &inode.kind {
            Kind::Directory => {}
            Kind::Symlink(target) => {
                context.update(b"l");
                number(&mut context, target.len() as u64);
                context.update(target);
            }
            Kind::File(content) => {
                let origin = origins.get(layer)?;
                context.update(b"f");
                context.update(origin.diff_id.as_ref());
                number(&mut context, content.offset_in(&origin.archive)?);
                number(&mut context, content.len());
            }
        }
    }
    Some(Digest::from_output(&context.finish()))
}

/// The digest of the running program: another one may choose, order or compress otherwise.
fn this_program() -> Option<Digest> {
    static PROGRAM: OnceLock<Option<Digest>> = OnceLock::new();
    let digest = || {
        let mut reader = HashingReader::new(File::open("/proc/self/exe").ok()?);
        io::copy(&mut reader, &mut io::sink()).ok()?;
        Some(reader.digest())
    };
    *PROGRAM.get_or_init(digest)
}

/// Looks these runs up, as many at a time as there are processors.
pub(crate) fn find_all(cache: &LayerCache, names: &[Option<Digest>]) -> Vec<Option<KeptRun>> {
    let found = Mutex::new(vec![None; names.len()]);
    let next = AtomicUsize::new(0);
    let look = || loop {
        let index = next.fetch_add(1, Ordering::Relaxed);
        let Some(name) = names.get(index) else { return };
        let run = name.as_ref().and_then(|name| cache.find_run(name, read));
        if let Some(place) = found.lock().unwrap_or_else(PoisonError::into_inner).get_mut(index) {
            *place = run;
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from).min(names.len()) {
            scope.spawn(look);
        }
    });
    found.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Reads a kept run, if it is as it was written.
fn read(file: &Content) -> Option<KeptRun> {
    let data_bytes = file.len().checked_sub(END_BYTES)?;
    let mut hashed = file.part(0, file.len() - 32).open().ok()?;
    let mut digest = blake3::Hasher::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match hashed.read(&mut buffer).ok()? {
            0 => break,
            n => digest.update(buffer.get(..n)?),
        };
    }
    let mut end = [0; 40];
    file.read_exact_at(&mut end, data_bytes).ok()?;
    let (parts_bytes, expected) = end.split_first_chunk::<8>()?;
    if digest.finalize().as_bytes() != expected {
        return None;
    }
    let parts_bytes = u64::from_le_bytes(*parts_bytes);
    let blocks_bytes = data_bytes.checked_sub(parts_bytes).filter(|_| parts_bytes <= MAX_PARTS_BYTES)?;
    let mut parts = vec![0; usize::try_from(parts_bytes).ok()?];
    file.read_exact_at(&mut parts, blocks_bytes).ok()?;
    let run = Run::from_bytes(parts);
    (run.blocks().checked_mul(4096) == Some(blocks_bytes))
        .then(|| KeptRun { run, blocks: file.part(0, blocks_bytes) })
}

/// The file that a run is written to.
pub(crate) struct RunFile {
    file: BufWriter<Hashed>,
    /// Where it is kept.
    output: Option<Output>,
}

struct Hashed {
    file: File,
    digest: Option<blake3::Hasher>,
}

impl RunFile {
    /// Begins a file that has a place in the cache, or else one without a name in `folder`.
    pub(crate) fn create(cache: Option<(&LayerCache, &Digest)>, folder: &Path) -> io::Result<Self> {
        let output = cache.and_then(|(cache, name)| cache.begin_run(name).ok());
        let (output, file) = match output {
            Some(mut output) => {
                let file = output.file().try_clone()?;
                (Some(output), file)
            }
            None => (None, tempfile::tempfile_in(folder)?),
        };
        let digest = output.is_some().then(blake3::Hasher::new);
        Ok(Self { file: BufWriter::with_capacity(BUFFER_BYTES, Hashed { file, digest }), output })
    }

    /// The blocks that were written. They are kept if that is possible.
    pub(crate) fn finish(mut self, run: &Run) -> io::Result<Content> {
        if self.output.is_some() {
            self.file.write_all(run.as_bytes())?;
            self.file.write_all(&(run.as_bytes().len() as u64).to_le_bytes())?;
        }
        let Hashed { mut file, digest } = self.file.into_inner()?;
        if let (Some(output), Some(digest)) = (self.output, digest) {
            file.write_all(digest.finalize().as_bytes())?;
            let _ = output.publish();
        }
        file.seek(SeekFrom::Start(0))?;
        Ok(Content::slice(file.into(), 0, run.blocks() * 4096))
    }
}

impl Write for RunFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        if let Some(digest) = &mut self.digest {
            digest.update(bytes.get(..written).unwrap_or_default());
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
