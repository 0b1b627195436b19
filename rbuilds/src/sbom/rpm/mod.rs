//! Packages of Fedora and its descendants: `rpmdb.sqlite`, where rpm keeps each package's header as a row of a table.
//!
//! SQLite itself reads the file, as a copy that only this build sees, and is allowed one thing: to read that table. How long
//! it may work and what it may hold are bounded, since the file is whoever made the image's.

mod header;

use std::{
    fs::{self, File},
    io::{self, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use rusqlite::{
    Connection, OpenFlags,
    config::DbConfig,
    hooks::{AuthAction, AuthContext, Authorization},
    limits::Limit,
    types::ValueRef,
};
use tempfile::TempDir;

use super::{
    Item, Malformed, Os,
    purl::{Distribution, Purl},
};
use crate::content::Content;

/// Longest database, and longest journal of one, in bytes.
const MAX_DATABASE_BYTES: u64 = 512 << 20;
/// Longest header of a package, in bytes.
const MAX_HEADER_BYTES: i32 = 32 << 20;
/// Most steps of SQLite's machine. A row takes a handful.
const MAX_STEPS: i32 = 20_000_000;
/// Where a database's head says how it is written and read, and what stands there if that is without a journal of changes.
const MODE_OFFSET: u64 = 18;
const MODE_PLAIN: [u8; 2] = [1, 1];
/// Names that belong to keys, not to packages.
const KEYS: &str = "gpg-pubkey";

/// What a database consists of.
#[derive(Debug)]
pub(crate) struct Database<'a> {
    pub(crate) file: &'a Content,
    /// Changes that are not in the file yet: what ends with `-wal` beside it.
    pub(crate) journal: Option<&'a Content>,
}

/// Reads a database, giving each installed package to `each`. A copy lies in `folder` meanwhile.
///
/// # Errors
/// When the database is too long, cannot be copied or is damaged. What was given to `each` before that is right.
pub(crate) fn read(
    database: &Database<'_>,
    os: &Os,
    folder: &Path,
    each: &mut dyn FnMut(Result<Item, Malformed>),
) -> Result<(), Malformed> {
    let journal_bytes = database.journal.map_or(0, Content::len);
    if database.file.len().max(journal_bytes) > MAX_DATABASE_BYTES {
        return Err(Malformed::TOO_LONG);
    }
    let copy = Copy::of(database, folder).map_err(|_| Malformed("it could not be copied to be read"))?;
    let damaged = |_: rusqlite::Error| Malformed("a damaged rpm database, or one of another form");
    let connection = open(&copy.path).map_err(damaged)?;
    let mut statement = connection.prepare("SELECT blob FROM Packages").map_err(damaged)?;
    let mut rows = statement.query(()).map_err(damaged)?;
    // Rows of a damaged file may share what they hold, and then there is no end of it.
    let mut left = database.file.len().saturating_add(journal_bytes);
    while let Some(row) = rows.next().map_err(damaged)? {
        let Ok(ValueRef::Blob(bytes)) = row.get_ref(0) else {
            return Err(Malformed("an rpm database with something else in place of a package"));
        };
        left = left
            .checked_sub(bytes.len() as u64)
            .ok_or(Malformed("an rpm database whose packages are longer than it is"))?;
        match header::read(bytes) {
            Some(header) if header.name == Some(KEYS) => {}
            Some(header) => each(item(&header, os)),
            None => each(Err(Malformed("a damaged header of an rpm package"))),
        }
    }
    Ok(())
}

/// A database in a folder of its own, which is gone with this.
struct Copy {
    path: PathBuf,
    _folder: TempDir,
}

impl Copy {
    fn of(database: &Database<'_>, folder: &Path) -> io::Result<Self> {
        let folder = tempfile::tempdir_in(folder)?;
        let path = folder.path().join("rpmdb.sqlite");
        let mut file = copy(database.file, &path)?;
        match database.journal.filter(|journal| journal.len() > 0) {
            Some(journal) => drop(copy(journal, &folder.path().join("rpmdb.sqlite-wal"))?),
            None => {
                // Nothing is to be taken from a journal, so none has to be made either.
                file.seek(SeekFrom::Start(MODE_OFFSET))?;
                file.write_all(&MODE_PLAIN)?;
            }
        }
        Ok(Self { path, _folder: folder })
    }
}

fn copy(content: &Content, path: &Path) -> io::Result<File> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).open(path)?;
    io::copy(&mut content.open()?, &mut file)?;
    Ok(file)
}

/// Opens a database that is nobody else's and not to be believed (SQLite, "Defense Against The Dark Arts").
fn open(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, MAX_HEADER_BYTES)?;
    connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "mmap_size", 0)?;
    // The index of a journal is then kept in memory.
    connection.pragma_update_and_check(None, "locking_mode", "EXCLUSIVE", |_| Ok(()))?;
    connection.progress_handler(MAX_STEPS, Some(|| true))?;
    connection.authorizer(Some(authorize))?;
    Ok(connection)
}

/// Allows to read the one table, which then is no view that reads others and no table that a program makes up.
fn authorize(context: AuthContext<'_>) -> Authorization {
    match context.action {
        AuthAction::Select => Authorization::Allow,
        AuthAction::Read { table_name: "Packages" | "sqlite_master" | "sqlite_schema", .. } => {
            Authorization::Allow
        }
        _ => Authorization::Deny,
    }
}

/// Whether the bytes are a package's header.
pub(crate) fn is_header(bytes: &[u8]) -> bool {
    header::read(bytes).is_some()
}

fn item(header: &header::Header<'_>, os: &Os) -> Result<Item, Malformed> {
    let (Some(name), Some(version), Some(release)) = (header.name, header.version, header.release) else {
        return Err(Malformed("a package without name, version or release"));
    };
    let distro = os.distro();
    let qualifiers = Distribution { arch: header.arch, distro: distro.as_deref(), upstream: header.source };
    let version = format!("{version}-{release}");
    let purl = Purl::rpm(vendor(os), name, &version, header.epoch, qualifiers);
    let version = match header.epoch {
        Some(epoch) => format!("{epoch}:{version}"),
        None => version,
    };
    Item::new(name, Some(&version), &purl, header.licence)
}

/// The name that advisories have for the distribution.
fn vendor(os: &Os) -> &str {
    match os.id_or("rpm") {
        "rhel" => "redhat",
        id => id,
    }
}

#[cfg(test)]
mod tests;
