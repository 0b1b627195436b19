//! Reads a tar archive (ustar, PAX, GNU) into the changes it makes.
//!
//! Headers are read by the `tar` crate; extension records are put together here, since its own reading of them loses
//! records after a newline and takes records of any length into memory.

use std::io::{self, Read};

use erofs::Xattr;
use tar::{EntryType, Header};

use crate::{
    content::Content,
    error::{EntryError, LayerError},
    intake::Intake,
    limits::{MAX_EXTENSION_BYTES, MAX_FILE_BYTES, MAX_TARGET_BYTES},
    notes::NoteKind,
    path::{EntryPath, printable},
    pax::Pax,
    sniff::not_an_archive,
    sparse::{SparseMap, Spool},
    tree::{Inode, Kind, Layer, NewEntry, Whiteout},
};

/// Length of a block: headers and contents begin at a multiple of it.
pub(crate) const BLOCK_BYTES: u64 = 512;
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
const AUFS_METADATA: &[u8] = b".wh..wh.";

/// What an archive is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// A layer: names with `.wh.` take away from lower layers. Its digests are checked, so a missing end mark, which
    /// some writers leave out, can do no harm.
    Layer,
    /// A whole file system: every name is a name, and the end mark has to be there.
    Rootfs,
    /// The files of an image store, which are no files of an image: they have every name, any length, and the end mark
    /// has to be there.
    Container,
}

/// Reads an archive that was unpacked. Files' bytes stay where they are in it.
pub(crate) fn read(archive: &Content, role: Role, intake: &mut Intake) -> Result<Layer, LayerError> {
    if archive.len() == 0 && role != Role::Layer {
        return Err(not_an_archive(b""));
    }
    let mut reader = Reader::new(role, archive, intake);
    let least = reader.read_entries()?;
    reader.finish(least)
}

struct Reader<'a> {
    role: Role,
    archive: &'a Content,
    intake: &'a mut Intake,
    layer: Layer,
    /// What global PAX headers said.
    global: Pax,
    /// What the extension records before the next entry say.
    next: Extensions,
    /// Where in the archive the entries are read from that the `tar` crate counts from.
    base: u64,
    /// Where the next header is, if the `tar` crate does not know.
    resume: Option<u64>,
    spool: Spool,
}

#[derive(Default)]
struct Extensions {
    pax: Option<Pax>,
    name: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
}

impl<'a> Reader<'a> {
    fn new(role: Role, archive: &'a Content, intake: &'a mut Intake) -> Self {
        Self {
            role,
            archive,
            intake,
            layer: Layer::default(),
            global: Pax::default(),
            next: Extensions::default(),
            base: 0,
            resume: None,
            spool: Spool::default(),
        }
    }

    /// Takes all entries. Gives the length that the archive must have at least.
    fn read_entries(&mut self) -> Result<u64, LayerError> {
        let mut end = self.read_until_lost()?;
        while let Some(base) = self.resume.take() {
            self.base = base;
            end = self.read_until_lost()?.max(base);
        }
        Ok(match self.role {
            Role::Layer => end,
            Role::Rootfs | Role::Container => {
                end.checked_next_multiple_of(BLOCK_BYTES).unwrap_or(u64::MAX).saturating_add(BLOCK_BYTES)
            }
        })
    }

    /// Takes entries up to the last, or to one behind which only [`Self::resume`] knows the next. Gives where the last ends.
    fn read_until_lost(&mut self) -> Result<u64, LayerError> {
        let rest = self.archive.len().checked_sub(self.base).ok_or(LayerError::Truncated)?;
        let rest = self.archive.part(self.base, rest);
        let mut archive = tar::Archive::new(rest.open().map_err(LayerError::Damaged)?);
        let mut end = 0;
        for entry in archive.entries_with_seek().map_err(LayerError::Damaged)?.raw(true) {
            let mut entry = entry.map_err(|e| self.unreadable(e, end == 0))?;
            end = self.position(&entry).saturating_add(entry.size());
            self.take(&mut entry)?;
            if self.resume.is_some() {
                break;
            }
        }
        Ok(end)
    }

    /// Where an entry's content begins in the archive.
    fn position<R: Read>(&self, entry: &tar::Entry<'_, R>) -> u64 {
        self.base.saturating_add(entry.raw_file_position())
    }

    /// A header that cannot be read. If it is the first, the file is something else.
    fn unreadable(&self, error: io::Error, is_first: bool) -> LayerError {
        if is_first && self.base == 0 {
            let mut beginning = Vec::new();
            let read = self.archive.open().and_then(|r| r.take(BLOCK_BYTES).read_to_end(&mut beginning));
            let is_archive = beginning.get(257..262) == Some(b"ustar");
            if read.is_ok() && !is_archive {
                return not_an_archive(&beginning);
            }
        }
        // The message of the `tar` crate has bytes of the archive in it.
        let is_plain = !error.to_string().chars().any(char::is_control);
        LayerError::Damaged(if is_plain { error } else { io::Error::from(error.kind()) })
    }

    fn finish(self, least: u64) -> Result<Layer, LayerError> {
        if self.archive.len() < least { Err(LayerError::Truncated) } else { Ok(self.layer) }
    }

    /// Takes one header and what belongs to it.
    fn take<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>) -> Result<(), LayerError> {
        match entry.header().entry_type() {
            EntryType::XGlobalHeader => {
                let records = self.extension(entry)?;
                let global = std::mem::take(&mut self.global);
                self.global = global.extend(&records).ok_or(LayerError::BadExtension)?;
            }
            EntryType::XHeader => {
                let records = self.extension(entry)?;
                let known = self.next.pax.take().unwrap_or_else(|| self.global.clone());
                self.next.pax = Some(known.extend(&records).ok_or(LayerError::BadExtension)?);
            }
            EntryType::GNULongName => self.next.name = Some(without_nul(self.extension(entry)?)),
            EntryType::GNULongLink => self.next.target = Some(without_nul(self.extension(entry)?)),
            _ => self.take_file(entry)?,
        }
        Ok(())
    }

    /// The content of an extension record.
    fn extension<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>) -> Result<Vec<u8>, LayerError> {
        let len = entry.size();
        if len > MAX_EXTENSION_BYTES {
            return Err(LayerError::ExtensionTooLong { found: len });
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).map_err(LayerError::Damaged)?;
        if bytes.len() as u64 != len {
            return Err(LayerError::Damaged(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(bytes)
    }

    /// Takes an entry that is a file of some kind.
    fn take_file<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>) -> Result<(), LayerError> {
        let extensions = std::mem::take(&mut self.next);
        let pax = extensions.pax.unwrap_or_else(|| self.global.clone());
        let header = entry.header().clone();
        let named = pax.sparse.name.clone().or_else(|| pax.path.clone()).or(extensions.name);
        let name = named.unwrap_or_else(|| header.path_bytes().into_owned());
        let target = pax
            .link_path
            .clone()
            .or(extensions.target)
            .or_else(|| header.link_name_bytes().map(|t| t.into_owned()))
            .unwrap_or_default();
        self.intake.take_entry(name.len() + target.len() + pax.xattrs.bytes())?;
        let path = EntryPath::parse(&name).map_err(|e| e.at(printable(&name)))?;
        if self.role == Role::Layer && self.take_whiteout(&path)? {
            return Ok(());
        }
        let found = Found { path, is_directory_name: name.ends_with(b"/"), target, header, pax };
        self.take_found(found, entry)
    }

    /// Takes a name that takes away from lower layers. False if it is an ordinary name.
    fn take_whiteout(&mut self, path: &EntryPath) -> Result<bool, LayerError> {
        let Some((directory, name)) = path.split() else { return Ok(false) };
        if directory.as_bytes().split(|b| *b == b'/').any(|c| c.starts_with(WHITEOUT)) {
            return Err(EntryError::BadWhiteout.at(path));
        }
        let whiteout = match name.strip_prefix(WHITEOUT) {
            None => return Ok(false),
            Some(_) if name == OPAQUE => Whiteout::Opaque(directory),
            Some(_) if name.starts_with(AUFS_METADATA) => {
                self.intake.note(NoteKind::AufsMetadataLeftOut, path);
                return Ok(true);
            }
            Some(b"" | b"." | b"..") => return Err(EntryError::BadWhiteout.at(path)),
            Some(hidden) => Whiteout::Path(directory.join(hidden).map_err(|e| e.at(path))?),
        };
        self.layer.whiteouts.push(whiteout);
        Ok(true)
    }

    fn take_found<R: Read>(
        &mut self,
        mut found: Found,
        entry: &mut tar::Entry<'_, R>,
    ) -> Result<(), LayerError> {
        let Found { path, header, .. } = &found;
        let at = |e: EntryError| e.at(path);
        let stored = self.archive.part(self.position(entry), found.content_len(entry.size()).map_err(at)?);
        let kind = match header.entry_type() {
            EntryType::Regular | EntryType::Continuous if found.is_directory_name => Kind::Directory,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                Kind::File(self.file(&found, stored)?)
            }
            EntryType::Directory => Kind::Directory,
            EntryType::Symlink => Kind::Symlink(found.symlink_target().map_err(at)?),
            EntryType::Link => {
                let target = EntryPath::parse(&found.target).map_err(at)?;
                self.layer.entries.push((found.path, NewEntry::HardLink(target)));
                return Ok(());
            }
            EntryType::Char => return self.leave_out_device(path, "character device"),
            EntryType::Block => return self.leave_out_device(path, "block device"),
            EntryType::Fifo if self.role != Role::Container && !path.is_below(b"dev") => {
                self.intake.note(NoteKind::PipeLeftOut, path);
                // What a lower layer had in its place is gone all the same.
                self.layer.whiteouts.push(Whiteout::Path(found.path));
                return Ok(());
            }
            EntryType::Fifo => return self.leave_out_device(path, "named pipe"),
            other => return Err(at(EntryError::UnknownType { found: other.as_byte() })),
        };
        let xattrs = self.take_attributes(&mut found, &kind)?;
        let inode = found.inode(kind, xattrs)?;
        self.layer.entries.push((found.path, NewEntry::Inode(inode)));
        Ok(())
    }

    /// The content of a file, put together if it was stored without its holes.
    fn file(&mut self, found: &Found, stored: Content) -> Result<Content, LayerError> {
        let at = |e: EntryError| e.at(&found.path);
        let (map, stored) = match found.header.entry_type() {
            EntryType::GNUSparse => {
                let begin = stored.offset_in(self.archive).ok_or(LayerError::Truncated)?;
                let behind = self.archive.part(begin, self.archive.len().saturating_sub(begin));
                let (map, before) =
                    SparseMap::old(&found.header, &behind).ok_or_else(|| at(EntryError::Sparse))?;
                let next = stored.len().checked_next_multiple_of(BLOCK_BYTES).ok_or(LayerError::Truncated)?;
                self.resume = Some(begin.saturating_add(before).saturating_add(next));
                (Some(map), behind.part(before, stored.len()))
            }
            _ if found.pax.sparse.is_sparse() => {
                let (map, before) = found.pax.sparse.map(&stored).ok_or_else(|| at(EntryError::Sparse))?;
                let left = stored.len().checked_sub(before).ok_or(LayerError::Truncated)?;
                (Some(map), stored.part(before, left))
            }
            _ => (None, stored),
        };
        let len = map.as_ref().map_or(stored.len(), |map| map.real_bytes);
        if len > MAX_FILE_BYTES && (self.role != Role::Container || map.is_some()) {
            return Err(at(EntryError::FileTooLarge { found: len }));
        }
        let Some(map) = map else { return Ok(stored) };
        self.intake.take_bytes(len)?;
        self.spool.write(&map, &stored, &self.intake.folder, at)
    }

    fn leave_out_device(&mut self, path: &EntryPath, kind: &'static str) -> Result<(), LayerError> {
        if self.role == Role::Container || !path.is_below(b"dev") {
            return Err(EntryError::Device { kind }.at(path));
        }
        self.intake.note(NoteKind::DeviceLeftOut, path);
        Ok(())
    }

    /// The extended attributes of an entry. Symbolic links have none that are kept.
    fn take_attributes(&mut self, found: &mut Found, kind: &Kind) -> Result<Box<[Xattr]>, LayerError> {
        let xattrs = std::mem::take(&mut found.pax.xattrs);
        if self.role == Role::Container {
            return Ok(Box::default());
        }
        let is_symlink = matches!(kind, Kind::Symlink(_));
        if xattrs.left_out || is_symlink && !xattrs.is_empty() {
            self.intake.note(NoteKind::AttributesLeftOut, &found.path);
        }
        match is_symlink {
            true => Ok(Box::default()),
            false => xattrs.into_checked().map_err(|e| e.at(&found.path)),
        }
    }
}

/// One entry, its extension records worked in.
struct Found {
    path: EntryPath,
    /// The name ends with `/`, which makes a directory of a regular file in archives older than ustar.
    is_directory_name: bool,
    target: Vec<u8>,
    header: Header,
    pax: Pax,
}

impl Found {
    /// How many bytes of content the entry has, refusing what archive programs disagree on.
    fn content_len(&self, header: u64) -> Result<u64, EntryError> {
        if let Some(pax) = self.pax.size.filter(|pax| *pax != header) {
            return Err(EntryError::TwoLengths { pax, header });
        }
        let is_file = matches!(
            self.header.entry_type(),
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse
        );
        if header > 0 && (!is_file || self.is_directory_name) {
            return Err(EntryError::UnexpectedContent { found: header });
        }
        Ok(header)
    }

    fn symlink_target(&self) -> Result<Vec<u8>, EntryError> {
        check_symlink_target(&self.target)?;
        Ok(self.target.clone())
    }

    fn inode(&self, kind: Kind, xattrs: Box<[Xattr]>) -> Result<Inode, LayerError> {
        let number = |pax: Option<u64>, header: io::Result<u64>| -> Result<u32, LayerError> {
            let found = pax.map_or(header, Ok).map_err(LayerError::Damaged)?;
            // The largest number means "do not change" to chown.
            let id = u32::try_from(found).ok().filter(|id| *id != u32::MAX);
            id.ok_or_else(|| EntryError::Owner { found }.at(&self.path))
        };
        Ok(Inode {
            mode: self.header.mode().map_err(LayerError::Damaged)? & 0o7777,
            uid: number(self.pax.uid, self.header.uid())?,
            gid: number(self.pax.gid, self.header.gid())?,
            kind,
            xattrs,
        })
    }
}

/// Refuses targets that the kernel would skip without a word.
pub(crate) fn check_symlink_target(target: &[u8]) -> Result<(), EntryError> {
    if target.is_empty() || target.len() > MAX_TARGET_BYTES {
        return Err(EntryError::TargetLength { found: target.len() });
    }
    if target.contains(&0) {
        return Err(EntryError::NulByte);
    }
    Ok(())
}

/// GNU long names end with a NUL.
fn without_nul(mut name: Vec<u8>) -> Vec<u8> {
    if name.last() == Some(&0) {
        name.pop();
    }
    name
}
