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
    let mut entries = tar::Archive::new(archive.open().map_err(LayerError::Damaged)?);
    let mut reader = Reader::new(role, archive, intake);
    let least = reader.read_entries(entries.entries_with_seek())?;
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
        }
    }

    /// Takes all entries. Gives the length that the archive must have at least.
    fn read_entries<R: Read>(&mut self, entries: io::Result<tar::Entries<'_, R>>) -> Result<u64, LayerError> {
        let mut end = 0;
        for entry in entries.map_err(LayerError::Damaged)?.raw(true) {
            let mut entry = entry.map_err(LayerError::Damaged)?;
            end = entry.raw_file_position().saturating_add(entry.size());
            self.take(&mut entry)?;
        }
        Ok(match self.role {
            Role::Layer => end,
            Role::Rootfs | Role::Container => {
                end.checked_next_multiple_of(BLOCK_BYTES).unwrap_or(u64::MAX).saturating_add(BLOCK_BYTES)
            }
        })
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
        let name = pax.path.clone().or(extensions.name).unwrap_or_else(|| header.path_bytes().into_owned());
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
        let len = found.content_len(entry.size()).map_err(at)?;
        if len > MAX_FILE_BYTES && self.role != Role::Container {
            return Err(at(EntryError::FileTooLarge { found: len }));
        }
        let kind = match header.entry_type() {
            EntryType::Regular | EntryType::Continuous if found.is_directory_name => Kind::Directory,
            EntryType::Regular | EntryType::Continuous => {
                Kind::File(self.archive.part(entry.raw_file_position(), len))
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
            EntryType::Fifo => return self.leave_out_device(path, "named pipe"),
            other => return Err(at(EntryError::UnknownType { found: other.as_byte() })),
        };
        let xattrs = self.take_attributes(&mut found, &kind)?;
        let inode = found.inode(kind, xattrs)?;
        self.layer.entries.push((found.path, NewEntry::Inode(inode)));
        Ok(())
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
        if self.pax.sparse || self.header.entry_type() == EntryType::GNUSparse {
            return Err(EntryError::Sparse);
        }
        if let Some(pax) = self.pax.size.filter(|pax| *pax != header) {
            return Err(EntryError::TwoLengths { pax, header });
        }
        let is_file = matches!(self.header.entry_type(), EntryType::Regular | EntryType::Continuous);
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
