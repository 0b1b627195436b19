//! The sending side: one file, a stream, or a tree, walked as it is sent.
//!
//! A directory is read a piece at a time and left as soon as it is done, so memory does not grow with the tree. Within a
//! piece, what is no directory comes first: questions about files are answered before anything else is entered.

use std::{
    collections::{HashMap, VecDeque},
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    fs::{self, Dir, FileType, Mode, OFlags, Stat},
    io::Errno,
};

use super::{
    Outcome, Source,
    confine::look,
    content::{Content, meta, send_stream, size},
    entry::{
        Asked, Digest, Entry, Have, MAX_ASKED, MAX_FILE_BYTES, Meta, Start, Total, decode_have, encode_asked,
    },
    error::TransferError,
    exclude::Excludes,
    meter::Meter,
    partial::open_regular,
    path::{MAX_PATH_BYTES, is_partial_name},
    receive::{CBOR_FALSE, CBOR_TRUE, MAX_DEPTH},
    wire::Wire,
};
use crate::frame::{Kind, MAX_CONTROL_BYTES};

/// Most files with several names that are remembered until all of these came.
const MAX_LINKED_FILES: usize = 1 << 18;

/// Most bytes of one question, but for the last file in it.
const MAX_QUESTION_BYTES: usize = MAX_CONTROL_BYTES - 1024;
/// Most bytes of a question about one file, beside its name.
const ASKED_BYTES: usize = 32;

/// Everything that one transfer needs to know while it sends.
struct Sender<'a> {
    wire: &'a mut Wire,
    meter: &'a Meter,
    /// The receiver has something, and wants to be asked.
    ask: bool,
    hasher: blake3::Hasher,
    total: Total,
    excludes: Excludes,
    /// First paths of files with several names, by device and inode, and how many names are to come.
    linked: HashMap<(u64, u64), (Vec<u8>, u64)>,
}

/// A directory that is being read.
struct Level {
    directory: Dir,
    /// Its path below the root; empty for the root.
    path: Vec<u8>,
    /// Directories in it that were found and not yet entered.
    found: VecDeque<Vec<u8>>,
}

/// Something in a directory that is no directory.
struct Found {
    name: Vec<u8>,
    kind: FileType,
}

/// Sends one transfer.
pub(crate) fn send(wire: &mut Wire, source: Source, meter: &Meter) -> Result<Outcome, TransferError> {
    let ask = match wire.incoming.expect(Kind::Have)?.as_slice() {
        [CBOR_TRUE] => true,
        [CBOR_FALSE] => false,
        _ => return Err(TransferError::Protocol("the first answer is of another shape")),
    };
    let mut sender = Sender {
        wire,
        meter,
        ask,
        hasher: blake3::Hasher::new(),
        total: Total { entries: 0, bytes: 0, digest: [0; 32] },
        excludes: Excludes::default(),
        linked: HashMap::new(),
    };
    let content = match source {
        Source::File { file, shown } => Some(sender.root_file(&file, &shown)?),
        Source::Stream { mut stream, mode } => Some(sender.stream(&mut *stream, mode)?),
        Source::Tree { directory, shown, excludes } => {
            sender.excludes = excludes;
            sender.tree(directory, &shown)?;
            None
        }
    };
    sender.end(content)
}

impl Sender<'_> {
    fn root_file(&mut self, file: &OwnedFd, shown: &[u8]) -> Result<Digest, TransferError> {
        let stat = fs::fstat(file).map_err(|error| TransferError::io(shown, "look at it", error))?;
        if size(&stat) == 0 && has_content(file, shown)? {
            // As the kernel's own files do: what they hold is known when it was read.
            let mut stream = std::fs::File::from(
                file.try_clone().map_err(|error| TransferError::io(shown, "open it", error))?,
            );
            return self.stream(&mut stream, meta(&stat).mode);
        }
        self.meter.expect(size(&stat));
        let have =
            if self.ask { self.ask_about(&[asked(Vec::new(), &stat)])?.remove(0) } else { Have::Nothing };
        self.file(file, &stat, Vec::new(), shown, have)
    }

    fn stream(&mut self, stream: &mut dyn std::io::Read, mode: u32) -> Result<Digest, TransferError> {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let seconds = i64::try_from(now.as_secs()).unwrap_or(0);
        let meta = Meta { mode, seconds, nanoseconds: now.subsec_nanos() };
        let entry = Entry::File { name: Vec::new(), meta, size: None, start: Start::At(0) };
        self.entry(&entry)?;
        let (count, digest) = send_stream(stream, self.wire, self.meter, b"-")?;
        self.total.bytes += count;
        self.hasher.update(&digest);
        Ok(digest)
    }

    fn tree(&mut self, directory: OwnedFd, shown: &[u8]) -> Result<(), TransferError> {
        let stat = fs::fstat(&directory).map_err(|error| TransferError::io(shown, "look at it", error))?;
        self.entry(&Entry::Directory { name: Vec::new(), meta: meta(&stat) })?;
        let mut stack = vec![level(directory, Vec::new(), shown)?];
        while let Some(top) = stack.last_mut() {
            if let Some(name) = top.found.pop_front() {
                let path = joined(&top.path, &name);
                let (opened, stat) = open_directory(top, &name, &path)?;
                self.entry(&Entry::Directory { name, meta: meta(&stat) })?;
                if stack.len() >= MAX_DEPTH {
                    return Err(TransferError::Limit {
                        path,
                        limit: "more than 256 directories within one another",
                    });
                }
                stack.push(level(opened, path.clone(), &path)?);
            } else if !self.piece(top)? {
                stack.pop();
                self.entry(&Entry::Leave)?;
            }
        }
        Ok(())
    }

    /// Sends the next piece of a directory but for the directories in it; false at the directory's end.
    fn piece(&mut self, level: &mut Level) -> Result<bool, TransferError> {
        let mut others = Vec::new();
        let (mut count, mut question_bytes) = (0, 0);
        while count < MAX_ASKED && question_bytes < MAX_QUESTION_BYTES {
            let Some(entry) = level.directory.read() else { break };
            let entry = entry.map_err(|error| TransferError::io(&level.path, "read the directory", error))?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") || is_partial_name(name) {
                continue;
            }
            count += 1;
            question_bytes += name.len() + ASKED_BYTES;
            let path = joined(&level.path, name);
            let kind = match entry.file_type() {
                FileType::Unknown => match self.kind_of(level, name, &path)? {
                    Some(kind) => kind,
                    None => continue,
                },
                known => known,
            };
            if self.excludes.leaves_out(&path, kind == FileType::Directory) {
                continue;
            }
            if kind == FileType::Directory {
                level.found.push_back(name.to_vec());
            } else {
                others.push(Found { name: name.to_vec(), kind });
            }
        }
        self.others(level, others)?;
        Ok(count > 0)
    }

    fn kind_of(&self, level: &Level, name: &[u8], path: &[u8]) -> Result<Option<FileType>, TransferError> {
        let failed = |error: Errno| TransferError::io(path, "look at it", error);
        let found = look(level.directory.fd().map_err(failed)?, name).map_err(failed)?;
        Ok(found.map(|stat| FileType::from_raw_mode(stat.st_mode)))
    }

    fn others(&mut self, level: &Level, others: Vec<Found>) -> Result<(), TransferError> {
        let mut answers = if self.ask { self.ask_about_all(level, &others)? } else { HashMap::new() };
        for found in others {
            self.wire.check_for_refusal()?;
            let path = joined(&level.path, &found.name);
            match found.kind {
                FileType::RegularFile => {
                    let have = answers.remove(&found.name);
                    self.tree_file(level, found.name, &path, have)?;
                }
                FileType::Symlink => self.symlink(level, found.name, &path)?,
                _ => {
                    self.meter.skip(&path);
                    self.entry(&Entry::Skipped { name: found.name })?;
                }
            }
        }
        Ok(())
    }

    fn ask_about_all(
        &mut self,
        level: &Level,
        others: &[Found],
    ) -> Result<HashMap<Vec<u8>, (Asked, Have)>, TransferError> {
        let mut all = Vec::new();
        for found in others.iter().filter(|found| found.kind == FileType::RegularFile) {
            let path = joined(&level.path, &found.name);
            let failed = |error: Errno| TransferError::io(&path, "look at it", error);
            let directory = level.directory.fd().map_err(failed)?;
            if let Some(stat) = look(directory, &found.name).map_err(failed)? {
                all.push(asked(found.name.clone(), &stat));
            }
        }
        if all.is_empty() {
            return Ok(HashMap::new());
        }
        let have = self.ask_about(&all)?;
        Ok(all.into_iter().zip(have).map(|(asked, have)| (asked.name.clone(), (asked, have))).collect())
    }

    fn ask_about(&mut self, asked: &[Asked]) -> Result<Vec<Have>, TransferError> {
        self.wire.outgoing.frame(Kind::Ask, &encode_asked(asked))?;
        self.wire.outgoing.flush()?;
        let have = decode_have(&self.wire.incoming.expect(Kind::Have)?)?;
        if have.len() != asked.len() {
            return Err(TransferError::Protocol("not as many answers as questions"));
        }
        Ok(have)
    }

    fn tree_file(
        &mut self,
        level: &Level,
        name: Vec<u8>,
        path: &[u8],
        answer: Option<(Asked, Have)>,
    ) -> Result<(), TransferError> {
        let directory = level.directory.fd().map_err(|error| TransferError::io(path, "open it", error))?;
        let (file, stat) = match open_regular(directory, &name, path) {
            // It was there a moment ago.
            Err(TransferError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return Err(TransferError::Changed { path: path.to_vec() });
            }
            other => other?,
        };
        if stat.st_nlink > 1
            && let Some(target) = self.earlier_name(&stat, path)?
        {
            return self.entry(&Entry::HardLink { name, target });
        }
        let have = match answer {
            Some((about, have)) if asked(name.clone(), &stat) == about => have,
            _ => Have::Nothing,
        };
        self.file(&file, &stat, name, path, have).map(drop)
    }

    /// The path under which this file came already; if it did not, it is remembered.
    fn earlier_name(&mut self, stat: &Stat, path: &[u8]) -> Result<Option<Vec<u8>>, TransferError> {
        let key = (stat.st_dev, stat.st_ino);
        if let Some((first, rest)) = self.linked.get_mut(&key) {
            *rest = rest.saturating_sub(1);
            let first = first.clone();
            if self.linked.get(&key).is_some_and(|(_, rest)| *rest == 0) {
                self.linked.remove(&key);
            }
            return Ok(Some(first));
        }
        let limit = |limit| Err(TransferError::Limit { path: path.to_vec(), limit });
        if self.linked.len() >= MAX_LINKED_FILES {
            return limit("more than 262144 files whose other names did not come yet");
        }
        if path.len() > MAX_PATH_BYTES {
            return limit("a path longer than 4095 bytes to a file with several names");
        }
        self.linked.insert(key, (path.to_vec(), stat.st_nlink.saturating_sub(1)));
        Ok(None)
    }

    fn file(
        &mut self,
        file: &OwnedFd,
        stat: &Stat,
        name: Vec<u8>,
        path: &[u8],
        have: Have,
    ) -> Result<Digest, TransferError> {
        let size = size(stat);
        if size > MAX_FILE_BYTES {
            return Err(TransferError::Limit { path: path.to_vec(), limit: "a file larger than 16 TiB" });
        }
        if size == 0 && has_content(file, path)? {
            return Err(TransferError::Changed { path: path.to_vec() });
        }
        let content = Content { file: file.as_fd(), stat, path };
        let (start, hasher) = content.start(have, &self.wire.outgoing.beat)?;
        self.entry(&Entry::File { name, meta: meta(stat), size: Some(size), start })?;
        let digest = match start {
            Start::Whole(digest) => {
                self.meter.add_kept(size);
                digest
            }
            Start::At(offset) => {
                self.meter.add_kept(offset);
                content.send(self.wire, offset, hasher, self.meter)?
            }
        };
        self.total.bytes += size;
        self.hasher.update(&digest);
        Ok(digest)
    }

    fn symlink(&mut self, level: &Level, name: Vec<u8>, path: &[u8]) -> Result<(), TransferError> {
        let failed = |error: Errno| TransferError::io(path, "read the link", error);
        let directory = level.directory.fd().map_err(failed)?;
        let target = fs::readlinkat(directory, &name, Vec::new()).map_err(failed)?.into_bytes();
        let stat = look(directory, &name).map_err(failed)?;
        let stat = stat.ok_or_else(|| TransferError::Changed { path: path.to_vec() })?;
        self.entry(&Entry::Symlink { name, meta: meta(&stat), target })
    }

    fn entry(&mut self, entry: &Entry) -> Result<(), TransferError> {
        let covered = entry.encode_for_digest();
        self.hasher.update(&u32::try_from(covered.len()).unwrap_or(u32::MAX).to_be_bytes());
        self.hasher.update(&covered);
        if !matches!(entry, Entry::Leave | Entry::Skipped { .. }) {
            self.total.entries += 1;
            self.meter.add_entry();
        }
        let is_short =
            matches!(entry, Entry::File { start: Start::At(0), .. }) || !matches!(entry, Entry::File { .. });
        let bytes = if is_short { covered } else { entry.encode() };
        self.wire.outgoing.frame(Kind::Entry, &bytes)
    }

    fn end(mut self, content: Option<Digest>) -> Result<Outcome, TransferError> {
        self.total.digest = *self.hasher.finalize().as_bytes();
        self.wire.outgoing.frame(Kind::End, &self.total.encode())?;
        self.wire.outgoing.flush()?;
        if Total::decode(&self.wire.incoming.expect(Kind::End)?)? != self.total {
            return Err(TransferError::Protocol("the receiver confirms something else"));
        }
        Ok(Outcome { total: self.total, content })
    }
}

fn asked(name: Vec<u8>, stat: &Stat) -> Asked {
    let Meta { seconds, nanoseconds, .. } = meta(stat);
    Asked { name, size: size(stat), seconds, nanoseconds }
}

/// Whether a file has content although it says that it is empty.
fn has_content(file: &OwnedFd, path: &[u8]) -> Result<bool, TransferError> {
    let count = rustix::io::retry_on_intr(|| rustix::io::pread(file, &mut [0; 1], 0));
    count.map(|count| count > 0).map_err(|error| TransferError::io(path, "read it", error))
}

fn joined(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() { name.to_vec() } else { [path, name].join(&b'/') }
}

fn level(directory: OwnedFd, path: Vec<u8>, shown: &[u8]) -> Result<Level, TransferError> {
    let directory =
        Dir::new(directory).map_err(|error| TransferError::io(shown, "read the directory", error))?;
    Ok(Level { directory, path, found: VecDeque::new() })
}

/// Opens a directory that was found.
fn open_directory(level: &Level, name: &[u8], path: &[u8]) -> Result<(OwnedFd, Stat), TransferError> {
    let failed = |error: Errno| TransferError::io(path, "open the directory", error);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match fs::openat(level.directory.fd().map_err(failed)?, name, flags, Mode::empty()) {
        Ok(opened) => {
            let stat = fs::fstat(&opened).map_err(failed)?;
            Ok((opened, stat))
        }
        Err(Errno::NOENT) => Err(TransferError::Changed { path: path.to_vec() }),
        Err(error) => Err(failed(error)),
    }
}
