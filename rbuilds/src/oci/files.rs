//! The files of an image store: those of a directory, or those in an archive.
//!
//! In an archive, what the store's documents name may be a link to another entry: `docker save` wrote layers that several
//! images share so. Links are followed inside the archive only, by name, with no file of this machine involved.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    io::{self, Read},
    path::{Path, PathBuf},
};

use serde::de::DeserializeOwned;

use crate::{
    content::Content,
    error::{EntryError, LayerError, OciError},
    limits::{MAX_ARCHIVE_LINKS, MAX_JSON_BYTES},
    path::{EntryPath, printable},
    tree::{Inode, Kind, Layer, NewEntry},
};

/// Where documents and blobs are found by their names.
#[derive(Debug)]
pub(crate) enum Files {
    Directory(PathBuf),
    Archive(BTreeMap<EntryPath, NewEntry>),
}

impl Files {
    pub(crate) fn of_directory(root: &Path) -> Self {
        Self::Directory(root.to_owned())
    }

    /// The files of an archive. A name that stands there twice is refused, since readers disagree on which of the two
    /// counts; directories hold nothing to disagree on.
    pub(crate) fn of_archive(archive: Layer) -> Result<Self, LayerError> {
        let mut files = BTreeMap::new();
        for (path, entry) in archive.entries {
            match files.entry(path) {
                Entry::Vacant(vacant) => {
                    vacant.insert(entry);
                }
                Entry::Occupied(there) if is_directory(there.get()) && is_directory(&entry) => {}
                Entry::Occupied(there) => return Err(EntryError::Duplicate.at(there.key())),
            }
        }
        Ok(Self::Archive(files))
    }

    /// Whether there is something of this name at the top.
    pub(crate) fn has(&self, name: &str) -> bool {
        match self {
            Self::Directory(root) => root.join(name).exists(),
            Self::Archive(files) => files.contains_key(name.as_bytes()),
        }
    }

    /// Opens a file. Names in an archive may come from its documents; those in a directory are made here.
    pub(crate) fn open(&self, file: &str) -> Result<Content, OciError> {
        match self {
            Self::Directory(root) => Content::open_file(&root.join(file)).map_err(|e| read_error(file, e)),
            Self::Archive(files) => find(files, file),
        }
    }

    /// The bytes of a JSON document.
    pub(crate) fn read_json(&self, file: &str) -> Result<Vec<u8>, OciError> {
        read_bounded(&self.open(file)?, file)
    }
}

/// The bytes of a JSON document that was opened.
pub(crate) fn read_bounded(content: &Content, file: &str) -> Result<Vec<u8>, OciError> {
    if content.len() > MAX_JSON_BYTES {
        return Err(OciError::JsonTooLong { file: file.to_owned(), found: content.len() });
    }
    let mut bytes = Vec::new();
    let read = content.open().and_then(|mut reader| reader.read_to_end(&mut bytes));
    read.map(|_| bytes).map_err(|e| read_error(file, e))
}

/// Makes a document of its bytes.
pub(crate) fn parse<T: DeserializeOwned>(file: &str, bytes: &[u8]) -> Result<T, OciError> {
    serde_json::from_slice(bytes).map_err(|source| OciError::Json { file: file.to_owned(), source })
}

fn read_error(file: &str, source: io::Error) -> OciError {
    OciError::Read { file: file.to_owned(), source }
}

fn is_directory(entry: &NewEntry) -> bool {
    matches!(entry, NewEntry::Inode(Inode { kind: Kind::Directory, .. }))
}

fn find(files: &BTreeMap<EntryPath, NewEntry>, file: &str) -> Result<Content, OciError> {
    let parse = |name: &[u8]| {
        EntryPath::parse(name).map_err(|source| OciError::Name { file: printable(name), source })
    };
    let mut path = parse(file.as_bytes())?;
    for _ in 0..=MAX_ARCHIVE_LINKS {
        path = match files.get(path.as_bytes()) {
            None => return Err(OciError::Missing { file: printable(path.as_bytes()) }),
            Some(NewEntry::HardLink(target)) => target.clone(),
            Some(NewEntry::Inode(inode)) => match &inode.kind {
                Kind::File(content) => return Ok(content.clone()),
                Kind::Directory => return Err(OciError::IsDirectory { file: printable(path.as_bytes()) }),
                Kind::Symlink(target) => {
                    let link = || OciError::LinkOutside {
                        file: printable(path.as_bytes()),
                        target: printable(target),
                    };
                    parse(&follow(&path, target).ok_or_else(link)?)?
                }
            },
        };
    }
    Err(OciError::TooManyLinks { file: printable(file.as_bytes()) })
}

/// Where a symbolic link leads. `None` if that is out of the archive.
fn follow(link: &EntryPath, target: &[u8]) -> Option<Vec<u8>> {
    if target.starts_with(b"/") {
        return None;
    }
    let (directory, _) = link.split()?;
    let mut components: Vec<&[u8]> = directory.as_bytes().split(|b| *b == b'/').collect();
    if directory.is_root() {
        components.clear();
    }
    for component in target.split(|b| *b == b'/') {
        match component {
            b"" | b"." => {}
            b".." => {
                components.pop()?;
            }
            name => components.push(name),
        }
    }
    Some(components.join(&b'/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_leads_where_its_directory_says_and_never_out() {
        let follow = |link: &str, target: &str| {
            let led = follow(&EntryPath::parse(link.as_bytes()).unwrap(), target.as_bytes());
            led.map(|path| String::from_utf8(path).unwrap())
        };
        assert_eq!(follow("a/layer.tar", "../b/layer.tar").as_deref(), Some("b/layer.tar"));
        assert_eq!(follow("a/layer.tar", "../b.tar").as_deref(), Some("b.tar"));
        assert_eq!(follow("a/b/c", "./d//e").as_deref(), Some("a/b/d/e"));
        assert_eq!(follow("a", "b").as_deref(), Some("b"));
        assert_eq!(follow("a/layer.tar", "../../b"), None);
        assert_eq!(follow("a", ".."), None);
        assert_eq!(follow("a/layer.tar", "/etc/passwd"), None);
    }
}
