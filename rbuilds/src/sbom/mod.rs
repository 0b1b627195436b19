//! What packages an application's files say they belong to.
//!
//! Files are chosen by name; of programs, only the tables that tell where their sections are. Everything is untrusted:
//! what is read is bounded, and what is malformed is named in the inventory and fails nothing. Nothing is resolved,
//! downloaded or looked up, so the same files give the same inventory.

mod apk;
mod cyclonedx;
mod dpkg;
pub(crate) mod elf;
mod fields;
mod go;
mod node;
mod purl;
mod python;
mod rpm;
mod rust;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, BufReader, Read},
    path::Path,
};

use crate::{
    Digest,
    content::Content,
    path::EntryPath,
    tree::{InodeId, Kind, Tree},
    unpacked::digest_of,
};
pub(crate) use cyclonedx::{Framework, render};
use elf::Elf;
use purl::Purl;
pub(crate) use rpm::is_header as is_rpm_header;

/// Longest database of dpkg or apk, in bytes.
const MAX_DATABASE_BYTES: u64 = 64 << 20;
/// Longest file of one package, and longest `os-release`, in bytes.
const MAX_PACKAGE_FILE_BYTES: u64 = 1 << 20;
/// Longest name or version of a package, in bytes.
const MAX_WORD_BYTES: usize = 512;
/// Most text that an inventory holds, in bytes, so that an image cannot make a build need much memory.
const MAX_INVENTORY_BYTES: usize = 16 << 20;
/// Most files that could not be read by name; more are counted.
const MAX_UNREAD: usize = 1000;

/// What was found in a tree of files.
#[derive(Debug, Default)]
pub(crate) struct Inventory {
    os: Os,
    /// By package URL.
    packages: BTreeMap<String, Package>,
    programs: Vec<Program>,
    unread: Vec<Unread>,
    /// How many more could not be read.
    more_unread: u64,
    /// How much text this holds.
    bytes: usize,
    /// Packages that had no room any more.
    left_out: u64,
}

/// A package, wherever it was found.
#[derive(Debug)]
struct Package {
    name: String,
    version: Option<String>,
    licence: Option<String>,
    /// The files that tell of it.
    places: BTreeSet<String>,
}

/// A program that says what it was built of.
#[derive(Debug)]
struct Program {
    path: String,
    digest: Digest,
    /// Package URLs.
    packages: BTreeSet<String>,
}

/// A file that should tell of packages, and does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unread {
    /// Its path in the image.
    pub(crate) path: String,
    pub(crate) reason: Malformed,
}

/// Why nothing could be learnt of a package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

impl Malformed {
    const UNREADABLE: Self = Self("it could not be read");
    const TOO_LONG: Self = Self("longer than such a file is read");
    const RPM_IN_BERKELEY_DB: Self = Self("rpm database of Berkeley DB, which no kept library reads");
    const RPM_IN_NDB: Self = Self("rpm database in the format ndb, which no library reads but rpm's own");
}

/// One package as a parser finds it.
#[derive(Debug, PartialEq, Eq)]
struct Item {
    name: String,
    version: Option<String>,
    purl: String,
    licence: Option<String>,
}

impl Item {
    /// Checks what an image says of a package.
    fn new(name: &str, version: Option<&str>, purl: &Purl, licence: Option<&str>) -> Result<Self, Malformed> {
        let is_word = |text: &str| {
            (1..=MAX_WORD_BYTES).contains(&text.len())
                && !text.contains(|c: char| c.is_control() || c.is_whitespace())
        };
        if !is_word(name) || !version.is_none_or(is_word) {
            return Err(Malformed("a package whose name or version is none"));
        }
        // A longer one is a text, not a name.
        let licence =
            licence.filter(|l| (1..=MAX_WORD_BYTES).contains(&l.len()) && !l.contains(char::is_control));
        Ok(Self {
            name: name.to_owned(),
            version: version.map(str::to_owned),
            purl: purl.to_string(),
            licence: licence.map(str::to_owned),
        })
    }
}

/// The distribution, as `os-release(5)` names it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Os {
    id: Option<String>,
    version: Option<String>,
    name: Option<String>,
}

impl Os {
    fn parse(text: &[u8]) -> Self {
        let text = String::from_utf8_lossy(text);
        let value = |key: &str| {
            let line = text.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='))?;
            let value = line.trim_matches(['"', '\'']);
            let is_sane =
                (1..=MAX_WORD_BYTES).contains(&value.len()) && !value.contains(|c: char| c.is_control());
            is_sane.then(|| value.to_owned())
        };
        Self { id: value("ID"), version: value("VERSION_ID"), name: value("PRETTY_NAME") }
    }

    fn id_or<'a>(&'a self, fallback: &'a str) -> &'a str {
        self.id.as_deref().unwrap_or(fallback)
    }

    /// The distribution and its version, as package URLs have them.
    fn distro(&self) -> Option<String> {
        let id = self.id.as_deref()?;
        Some(match &self.version {
            Some(version) => format!("{id}-{version}"),
            None => id.to_owned(),
        })
    }
}

/// What a file may tell of packages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Witness {
    Dpkg,
    Apk,
    Rpm,
    /// rpm's database in a format that is not read, and why.
    OtherRpm(Malformed),
    Python,
    Node,
    Program,
}

impl Witness {
    fn of(path: &[u8], mode: u32) -> Option<Self> {
        match path {
            b"var/lib/dpkg/status" => return Some(Self::Dpkg),
            b"lib/apk/db/installed" | b"usr/lib/apk/db/installed" => return Some(Self::Apk),
            _ => {}
        }
        let (directory, name) = path.rsplit_once_byte(b'/');
        if matches!(directory, b"var/lib/rpm" | b"usr/lib/sysimage/rpm" | b"usr/share/rpm") {
            match name {
                b"rpmdb.sqlite" => return Some(Self::Rpm),
                b"Packages" => return Some(Self::OtherRpm(Malformed::RPM_IN_BERKELEY_DB)),
                b"Packages.db" => return Some(Self::OtherRpm(Malformed::RPM_IN_NDB)),
                _ => {}
            }
        }
        let is_python = (name == b"METADATA" && directory.ends_with(b".dist-info"))
            || (name == b"PKG-INFO" && directory.ends_with(b".egg-info"))
            || name.ends_with(b".egg-info");
        let is_program =
            mode & 0o111 != 0 || name.ends_with(b".so") || name.windows(4).any(|part| part == b".so.");
        match () {
            () if directory == b"var/lib/dpkg/status.d" => {
                (!name.ends_with(b".md5sums")).then_some(Self::Dpkg)
            }
            () if is_python => Some(Self::Python),
            () if node::is_package(path) => Some(Self::Node),
            () if is_program => Some(Self::Program),
            () => None,
        }
    }
}

trait SplitAtLast {
    /// What is before and behind the last such byte; all of it is behind if there is none.
    fn rsplit_once_byte(&self, byte: u8) -> (&[u8], &[u8]);
}

impl SplitAtLast for [u8] {
    fn rsplit_once_byte(&self, byte: u8) -> (&[u8], &[u8]) {
        match self.iter().rposition(|b| *b == byte) {
            Some(at) => (self.get(..at).unwrap_or_default(), self.get(at + 1..).unwrap_or_default()),
            None => (&[], self),
        }
    }
}

impl Inventory {
    /// Looks through a tree. What has to be copied to be read is copied into `folder`, and gone afterwards.
    pub(crate) fn of(tree: &Tree, folder: &Path) -> Self {
        let mut inventory = Self { os: os_of(tree), ..Self::default() };
        let mut search = Search { tree, folder, programs_seen: BTreeSet::new() };
        for (path, id, inode) in tree.iter() {
            let Kind::File(content) = &inode.kind else { continue };
            let Some(witness) = Witness::of(path.as_bytes(), inode.mode) else { continue };
            if let Err(reason) = inventory.hear(&mut search, witness, path, id, content) {
                inventory.cannot_read(path, reason);
            }
        }
        inventory
    }

    /// Files and packages that are only counted, for want of room.
    pub(crate) fn beyond_limits(&self) -> u64 {
        self.more_unread + self.left_out
    }

    /// What should tell of packages and could not be read, the first of them.
    pub(crate) fn unread(&self) -> &[Unread] {
        &self.unread
    }

    fn hear(
        &mut self,
        search: &mut Search<'_>,
        witness: Witness,
        path: &EntryPath,
        id: InodeId,
        content: &Content,
    ) -> Result<(), Malformed> {
        match witness {
            Witness::Dpkg => self.hear_database(path, content, dpkg::read),
            Witness::Apk => self.hear_database(path, content, apk::read),
            Witness::Rpm => {
                let os = self.os.clone();
                let database = rpm::Database { file: content, journal: search.journal_of(path) };
                let place = path.to_string();
                rpm::read(&database, &os, search.folder, &mut |item| self.take(item, path, &place))
            }
            Witness::OtherRpm(reason) => Err(reason),
            Witness::Python => {
                let item = python::read(BufReader::new(open(content, MAX_DATABASE_BYTES)?))?;
                self.add(item, &path.to_string());
                Ok(())
            }
            Witness::Node => {
                let mut json = Vec::new();
                open(content, MAX_PACKAGE_FILE_BYTES)?
                    .read_to_end(&mut json)
                    .map_err(|_| Malformed::UNREADABLE)?;
                self.add(node::read(&json)?, &path.to_string());
                Ok(())
            }
            // Another name of the same program says nothing new.
            Witness::Program if search.programs_seen.insert(id) => self.hear_program(path, content),
            Witness::Program => Ok(()),
        }
    }

    fn hear_database(
        &mut self,
        path: &EntryPath,
        content: &Content,
        read: ReadDatabase<BufReader<Box<dyn Read>>>,
    ) -> Result<(), Malformed> {
        let reader: Box<dyn Read> = Box::new(open(content, MAX_DATABASE_BYTES)?);
        let os = self.os.clone();
        let place = path.to_string();
        read(BufReader::new(reader), &os, &mut |item| self.take(item, path, &place))
            .map_err(|_| Malformed::UNREADABLE)
    }

    /// Takes what one entry of a database says.
    fn take(&mut self, item: Result<Item, Malformed>, path: &EntryPath, place: &str) {
        match item {
            Ok(item) => drop(self.add(item, place)),
            Err(reason) => self.cannot_read(path, reason),
        }
    }

    fn hear_program(&mut self, path: &EntryPath, content: &Content) -> Result<(), Malformed> {
        let unreadable = |_: io::Error| Malformed::UNREADABLE;
        let Some(mut program) = Elf::open(content.open().map_err(unreadable)?).map_err(unreadable)? else {
            return Ok(());
        };
        let mut items = Vec::new();
        if let Some(section) = program.section(go::SECTION, go::MAX_SECTION_BYTES).map_err(unreadable)? {
            items.extend(go::read(&section, |address, bytes| program.at_address(address, bytes))?);
        }
        if let Some(section) = program.section(rust::SECTION, rust::MAX_SECTION_BYTES).map_err(unreadable)? {
            items.extend(rust::read(&section)?);
        }
        if items.is_empty() {
            return Ok(());
        }
        let place = path.to_string();
        let digest = digest_of(content).map_err(unreadable)?;
        let packages = items.into_iter().filter_map(|item| self.add(item, &place)).collect();
        self.programs.push(Program { path: place, digest, packages });
        Ok(())
    }

    /// Adds a package, and gives its package URL if there was room for it.
    fn add(&mut self, item: Item, place: &str) -> Option<String> {
        let licence_bytes = item.licence.as_ref().map_or(0, String::len);
        let bytes = 2 * item.purl.len() + item.name.len() + licence_bytes + place.len();
        if self.bytes.saturating_add(bytes) > MAX_INVENTORY_BYTES {
            self.left_out += 1;
            return None;
        }
        self.bytes += bytes;
        let purl = item.purl;
        let package = self.packages.entry(purl.clone()).or_insert(Package {
            name: item.name,
            version: item.version,
            licence: None,
            places: BTreeSet::new(),
        });
        package.licence = package.licence.take().or(item.licence);
        package.places.insert(place.to_owned());
        Some(purl)
    }

    fn cannot_read(&mut self, path: &EntryPath, reason: Malformed) {
        if self.unread.len() < MAX_UNREAD {
            self.unread.push(Unread { path: path.to_string(), reason });
        } else {
            self.more_unread += 1;
        }
    }
}

/// What is looked through, and how far that has come.
struct Search<'a> {
    tree: &'a Tree,
    folder: &'a Path,
    programs_seen: BTreeSet<InodeId>,
}

impl<'a> Search<'a> {
    /// The journal of an SQLite database.
    fn journal_of(&self, database: &EntryPath) -> Option<&'a Content> {
        match &self.tree.lookup(&[database.as_bytes(), b"-wal"].concat())?.kind {
            Kind::File(content) => Some(content),
            _ => None,
        }
    }
}

type ReadDatabase<R> = fn(R, &Os, &mut dyn FnMut(Result<Item, Malformed>)) -> io::Result<()>;

/// The distribution. `/etc/os-release` is usually a link to the other.
fn os_of(tree: &Tree) -> Os {
    let file = |path: &str| match &tree.lookup(path.as_bytes())?.kind {
        Kind::File(content) => Some(content),
        _ => None,
    };
    let Some(content) = file("etc/os-release").or_else(|| file("usr/lib/os-release")) else {
        return Os::default();
    };
    let mut text = Vec::new();
    match content.open().and_then(|reader| reader.take(MAX_PACKAGE_FILE_BYTES).read_to_end(&mut text)) {
        Ok(_) => Os::parse(&text),
        Err(_) => Os::default(),
    }
}

fn open(content: &Content, limit: u64) -> Result<impl Read + 'static, Malformed> {
    if content.len() > limit {
        return Err(Malformed::TOO_LONG);
    }
    content.open().map_err(|_| Malformed::UNREADABLE)
}

#[cfg(test)]
mod tests;
