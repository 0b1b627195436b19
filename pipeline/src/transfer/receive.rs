//! The receiving side: takes entries as they come and makes them, below one directory and nowhere else.
//!
//! Entries name one component each, and directories are held open while what is in them comes, so that nothing that
//! happens to their paths meanwhile leads elsewhere. Nothing is followed, and nothing is written to but new files.

use std::{
    collections::HashMap,
    io::Write,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use rustix::{
    fs::{self, AtFlags, FileType, Mode, OFlags},
    io::Errno,
};

use super::{
    Outcome, ReceiveOptions, Target,
    answer::{Held, answer},
    confine::{Place, expect_kind, look, open_beneath_without_links},
    entry::{Digest, Entry, MAX_FILE_BYTES, Meta, Start, Total, decode_asked, encode_have},
    error::TransferError,
    inflow::{Inflow, Sink},
    meter::Meter,
    partial::{Partial, apply, check_replaceable, is_same, open_regular, remove_stale, times},
    path::partial_name,
    wire::Wire,
};
use crate::frame::Kind;

/// Most directories within one another.
pub const MAX_DEPTH: usize = 256;

/// Everything that one transfer needs to know while it receives.
pub(crate) struct Receiver<'a> {
    pub(crate) wire: &'a mut Wire,
    pub(crate) meter: &'a Meter,
    options: ReceiveOptions,
    place: Option<Place>,
    is_tree: bool,
    mode: Option<u32>,
    stack: Vec<Level>,
    /// Path of the present directory, for messages.
    path: Vec<u8>,
    /// What was said to be here, until its entry comes.
    pub(crate) held: HashMap<Vec<u8>, Held>,
    hasher: blake3::Hasher,
    total: Total,
    content: Option<Digest>,
    root_came: bool,
}

/// A directory that is being filled.
struct Level {
    directory: Arc<OwnedFd>,
    meta: Meta,
    is_new: bool,
    path_length: usize,
}

/// Where an entry belongs.
pub(crate) struct Spot {
    pub(crate) directory: Arc<OwnedFd>,
    pub(crate) name: Vec<u8>,
    /// For messages.
    pub(crate) path: Vec<u8>,
}

/// Receives one transfer into `target`.
pub(crate) fn receive(
    wire: &mut Wire,
    target: Target,
    options: ReceiveOptions,
    meter: &Meter,
) -> Result<Outcome, TransferError> {
    let (place, is_tree, mode, stream) = match target {
        Target::File { place, mode } => (Some(place), false, mode, None),
        Target::Tree(place) => (Some(place), true, None, None),
        Target::Stream(stream) => (None, false, None, Some(stream)),
    };
    let mut receiver = Receiver {
        wire,
        meter,
        options,
        place,
        is_tree,
        mode,
        stack: Vec::new(),
        path: Vec::new(),
        held: HashMap::new(),
        hasher: blake3::Hasher::new(),
        total: Total { entries: 0, bytes: 0, digest: [0; 32] },
        content: None,
        root_came: false,
    };
    receiver.run(stream)
}

impl Receiver<'_> {
    fn run(&mut self, mut stream: Option<Box<dyn Write + Send>>) -> Result<Outcome, TransferError> {
        let ask = self.options.resume && self.has_something()?;
        self.wire.outgoing.frame(Kind::Have, &[if ask { CBOR_TRUE } else { CBOR_FALSE }])?;
        self.wire.outgoing.flush()?;
        loop {
            let head = self.wire.incoming.head()?;
            let payload = self.wire.incoming.payload(head)?;
            match head.kind {
                Kind::Entry => self.entry(&payload, stream.as_mut())?,
                Kind::Ask if ask => self.answer(&payload)?,
                Kind::End => return self.end(&payload),
                _ => return Err(TransferError::Protocol("a frame that does not belong here")),
            }
        }
    }

    /// Whether there is anything that could be gone on with.
    fn has_something(&self) -> Result<bool, TransferError> {
        let Some(place) = &self.place else { return Ok(false) };
        let directory = place.directory.as_fd();
        let there = look(directory, &place.name).and_then(|found| {
            Ok(found.is_some() || (!self.is_tree && Partial::is_there(directory, &place.name)?))
        });
        there.map_err(|error| TransferError::io(&place.shown, "look at it", error))
    }

    fn entry(
        &mut self,
        payload: &[u8],
        stream: Option<&mut Box<dyn Write + Send>>,
    ) -> Result<(), TransferError> {
        let entry = Entry::decode(payload)?;
        self.admit(&entry)?;
        let covered = entry.encode_for_digest();
        self.hasher.update(&u32::try_from(covered.len()).unwrap_or(u32::MAX).to_be_bytes());
        self.hasher.update(&covered);
        match entry {
            Entry::File { name, meta, size, start } => {
                let digest = match stream {
                    Some(stream) => self.pour(stream, size, start)?,
                    None => self.file(&name, meta, size, start)?,
                };
                self.hasher.update(&digest);
                self.content = Some(digest);
            }
            Entry::Directory { name, meta } => self.enter(&name, meta)?,
            Entry::Symlink { name, meta, target } => self.symlink(&name, meta, &target)?,
            Entry::HardLink { name, target } => self.hard_link(&name, &target)?,
            Entry::Skipped { name } => self.meter.skip(&self.path_of(&name)),
            Entry::Leave => self.leave()?,
        }
        Ok(())
    }

    /// Counts an entry, and refuses one that has no place where the transfer is.
    fn admit(&mut self, entry: &Entry) -> Result<(), TransferError> {
        let is_root = match entry {
            Entry::File { name, .. } => name.is_empty() && !self.is_tree,
            Entry::Directory { name, .. } => name.is_empty() && self.is_tree,
            _ => false,
        };
        let fits = if self.root_came {
            let nameless =
                matches!(entry, Entry::File { name, .. } | Entry::Directory { name, .. } if name.is_empty());
            !self.stack.is_empty() && !nameless
        } else {
            is_root
        };
        if !fits {
            return Err(TransferError::Protocol("an entry that does not belong here"));
        }
        self.root_came = true;
        if matches!(entry, Entry::Leave | Entry::Skipped { .. }) {
            return Ok(());
        }
        self.total.entries += 1;
        self.meter.add_entry();
        if self.total.entries > self.options.max_entries {
            return Err(self.limit("more entries than are allowed"));
        }
        Ok(())
    }

    fn pour(
        &mut self,
        stream: &mut Box<dyn Write + Send>,
        size: Option<u64>,
        start: Start,
    ) -> Result<Digest, TransferError> {
        if start != Start::At(0) {
            return Err(TransferError::Protocol("a file that does not begin at its beginning"));
        }
        let mut inflow = self.inflow(b"-", size);
        let digest = inflow.take(&mut Sink::Stream(stream), 0, blake3::Hasher::new())?;
        self.total.bytes += inflow.position;
        stream.flush().map_err(|error| TransferError::io(b"-", "write it", error))?;
        Ok(digest)
    }

    fn inflow<'b>(&'b mut self, path: &'b [u8], size: Option<u64>) -> Inflow<'b> {
        let allowed = self.options.max_bytes.saturating_sub(self.total.bytes).min(MAX_FILE_BYTES);
        Inflow { wire: self.wire, meter: self.meter, path, size, allowed, position: 0 }
    }

    fn file(
        &mut self,
        name: &[u8],
        mut meta: Meta,
        size: Option<u64>,
        start: Start,
    ) -> Result<Digest, TransferError> {
        let Spot { directory, name, path } = self.where_is(name)?;
        meta.mode = self.mode.unwrap_or_else(|| self.masked(meta.mode));
        let held = self.held.remove(&name);
        let (offset, mut partial, hasher) = match (start, held) {
            (Start::Whole(digest), Some(Held::Whole(stat, ours))) if digest == ours => {
                let (file, now) = open_regular(directory.as_fd(), &name, &path)?;
                if !is_same(&stat, &now) {
                    return Err(TransferError::Changed { path });
                }
                apply(file.as_fd(), meta)
                    .map_err(|error| TransferError::io(&path, "set its metadata", error))?;
                self.total.bytes += size.unwrap_or(0);
                self.meter.add_kept(size.unwrap_or(0));
                return Ok(digest);
            }
            (Start::At(0), held) => {
                check_replaceable(directory.as_fd(), &name, &path)?;
                let mut partial = match held {
                    Some(Held::Part(partial, _)) => *partial,
                    _ => Partial::open(&directory, &name, &path)?,
                };
                partial.restart().map_err(|error| TransferError::io(&path, "empty it", error))?;
                (0, partial, blake3::Hasher::new())
            }
            (Start::At(offset), Some(Held::Part(partial, hasher))) if offset == partial.length() => {
                self.meter.add_kept(offset);
                (offset, *partial, *hasher)
            }
            _ => return Err(TransferError::Protocol("a file that begins where this side has nothing")),
        };
        partial.take_up();
        let mut inflow = self.inflow(&path, size);
        let result = inflow.take(&mut Sink::File(&mut partial), offset, hasher);
        self.total.bytes += inflow.position;
        let digest = result.inspect_err(|error| {
            if error.is_resumable() {
                partial.keep();
            }
        })?;
        partial
            .finish(&name, meta, self.options.durable)
            .map_err(|error| TransferError::io(&path, "finish it", error))?;
        Ok(digest)
    }

    fn enter(&mut self, name: &[u8], meta: Meta) -> Result<(), TransferError> {
        if self.stack.len() >= MAX_DEPTH {
            return Err(self.limit("more than 256 directories within one another"));
        }
        let is_root = self.stack.is_empty();
        let Spot { directory: parent, name, path } = self.where_is(name)?;
        let (directory, is_new) = make_or_open(parent.as_fd(), &name, &path)?;
        let path_length = self.path.len();
        if !is_root {
            self.path = self.path_of(&name);
        }
        let meta = Meta { mode: self.masked(meta.mode), ..meta };
        self.stack.push(Level { directory: Arc::new(directory), meta, is_new, path_length });
        self.held.clear();
        Ok(())
    }

    fn leave(&mut self) -> Result<(), TransferError> {
        self.held.clear();
        let Some(level) = self.stack.pop() else {
            return Err(TransferError::Protocol("the end of a directory that did not begin"));
        };
        let path = self.path.clone();
        self.path.truncate(level.path_length);
        let failed = |error| TransferError::io(&path, "complete the directory", error);
        let directory = level.directory.as_fd();
        if !level.is_new {
            remove_stale(directory).map_err(failed)?;
        }
        // A directory that nobody named keeps its mode and time: it is where the user happens to be.
        let nameless = self.stack.is_empty() && self.place.as_ref().is_some_and(|place| place.name == b".");
        if !nameless {
            apply(directory, level.meta).map_err(failed)?;
        }
        if self.options.durable { fs::fsync(directory).map_err(failed) } else { Ok(()) }
    }

    fn symlink(&mut self, name: &[u8], meta: Meta, target: &[u8]) -> Result<(), TransferError> {
        let Spot { directory, name, path } = self.where_is(name)?;
        let failed = |error| TransferError::io(&path, "create the symbolic link", error);
        match fs::symlinkat(target, &*directory, &name) {
            Err(Errno::EXIST) => {
                check_replaceable(directory.as_fd(), &name, &path)?;
                self.replace(&directory, &name, |temporary| fs::symlinkat(target, &*directory, temporary))
            }
            other => other,
        }
        .map_err(failed)?;
        fs::utimensat(&*directory, &name, &times(meta), AtFlags::SYMLINK_NOFOLLOW).map_err(failed)
    }

    fn hard_link(&mut self, name: &[u8], target: &[u8]) -> Result<(), TransferError> {
        let Spot { directory, name, path } = self.where_is(name)?;
        let failed = |error| TransferError::io(&path, "create the hard link", error);
        let root = self.stack.first().map(|level| Arc::clone(&level.directory));
        let root = root.ok_or(TransferError::Protocol("a hard link outside of a tree"))?;
        let (above, last) = match target.iter().rposition(|&byte| byte == b'/') {
            Some(at) => (&target[..at], &target[at + 1..]),
            None => (&b""[..], target),
        };
        let parent = open_beneath_without_links(root.as_fd(), above, OFlags::PATH | OFlags::DIRECTORY)
            .map_err(failed)?;
        let found = look(parent.as_fd(), last).map_err(failed)?.ok_or_else(|| failed(Errno::NOENT))?;
        expect_kind(target, &found, FileType::RegularFile)?;
        match fs::linkat(&parent, last, &*directory, &name, AtFlags::empty()) {
            Err(Errno::EXIST) => {
                check_replaceable(directory.as_fd(), &name, &path)?;
                let there = look(directory.as_fd(), &name).map_err(failed)?;
                if there.is_some_and(|there| is_same(&there, &found)) {
                    return Ok(());
                }
                self.replace(&directory, &name, |temporary| {
                    fs::linkat(&parent, last, &*directory, temporary, AtFlags::empty())
                })
            }
            other => other,
        }
        .map_err(failed)
    }

    /// Makes something under a temporary name and renames it over what is there.
    fn replace(
        &self,
        directory: &Arc<OwnedFd>,
        name: &[u8],
        make: impl FnOnce(&[u8]) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let temporary = partial_name(name);
        match fs::unlinkat(&**directory, &temporary, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
        make(&temporary)?;
        fs::renameat(&**directory, &temporary, &**directory, name)
    }

    fn answer(&mut self, payload: &[u8]) -> Result<(), TransferError> {
        let asked = decode_asked(payload)?;
        self.held.clear();
        let mut have = Vec::with_capacity(asked.len());
        for one in asked {
            if one.name.is_empty() != (self.stack.is_empty() && !self.is_tree) {
                return Err(TransferError::Protocol("a question about a file that cannot come"));
            }
            let spot = self.where_is(&one.name)?;
            have.push(answer(self, spot, &one)?);
        }
        self.wire.outgoing.frame(Kind::Have, &encode_have(&have))?;
        self.wire.outgoing.flush()
    }

    fn end(&mut self, payload: &[u8]) -> Result<Outcome, TransferError> {
        if !self.root_came || !self.stack.is_empty() {
            return Err(TransferError::Protocol("the end came too early"));
        }
        self.total.digest = *self.hasher.finalize().as_bytes();
        if Total::decode(payload)? != self.total {
            let path = self.place.as_ref().map_or(b"-".to_vec(), |place| place.shown.clone());
            return Err(TransferError::Digest { path });
        }
        self.wire.outgoing.frame(Kind::End, &self.total.encode())?;
        self.wire.outgoing.flush()?;
        Ok(Outcome { total: self.total, content: if self.is_tree { None } else { self.content } })
    }

    /// The directory, name and shown path of an entry. The root's are those that the user gave.
    fn where_is(&self, name: &[u8]) -> Result<Spot, TransferError> {
        if let Some(level) = self.stack.last() {
            let (directory, path) = (Arc::clone(&level.directory), self.path_of(name));
            return Ok(Spot { directory, name: name.to_vec(), path });
        }
        let Some(place) = &self.place else {
            return Err(TransferError::Protocol("an entry that does not belong here"));
        };
        let directory = place
            .directory
            .try_clone()
            .map_err(|error| TransferError::io(&place.shown, "open its directory", error))?;
        Ok(Spot { directory: Arc::new(directory), name: place.name.clone(), path: place.shown.clone() })
    }

    fn path_of(&self, name: &[u8]) -> Vec<u8> {
        if self.path.is_empty() { name.to_vec() } else { [&self.path, name].join(&b'/') }
    }

    fn masked(&self, mode: u32) -> u32 {
        if self.options.special_bits { mode } else { mode & 0o1777 }
    }

    fn limit(&self, limit: &'static str) -> TransferError {
        TransferError::Limit { path: self.path.clone(), limit }
    }
}

/// Opens a directory to fill, and says whether it is new. A link to one is not one.
fn make_or_open(parent: BorrowedFd<'_>, name: &[u8], path: &[u8]) -> Result<(OwnedFd, bool), TransferError> {
    let failed = |error| TransferError::io(path, "open the directory", error);
    let is_new = match fs::mkdirat(parent, name, Mode::RWXU) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(error) => return Err(TransferError::io(path, "create the directory", error)),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = match fs::openat(parent, name, flags, Mode::empty()) {
        Err(error @ (Errno::NOTDIR | Errno::LOOP)) => {
            if let Some(found) = look(parent, name).map_err(failed)? {
                expect_kind(path, &found, FileType::Directory)?;
            }
            return Err(failed(error));
        }
        other => other.map_err(failed)?,
    };
    if !is_new {
        let stat = fs::fstat(&directory).map_err(failed)?;
        if stat.st_mode & 0o700 != 0o700 {
            fs::fchmod(&directory, Mode::from_raw_mode(stat.st_mode & 0o7777 | 0o700)).map_err(failed)?;
        }
    }
    Ok((directory, is_new))
}

/// The answer of a receiver that has nothing, as CBOR.
pub(crate) const CBOR_FALSE: u8 = 0xf4;
/// The answer of one that has something and wants to be asked.
pub(crate) const CBOR_TRUE: u8 = 0xf5;
