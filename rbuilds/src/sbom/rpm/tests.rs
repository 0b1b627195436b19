#![allow(clippy::unwrap_used, reason = "a test that fails to prepare has to stop")]

use std::sync::Arc;

use proptest::prelude::*;
use tempfile::TempDir;

use super::{super::tests::debian, header::tests::header, *};

const TABLE: &str = "CREATE TABLE 'Packages' (hnum INTEGER PRIMARY KEY AUTOINCREMENT, blob BLOB NOT NULL)";

fn package(name: &str, epoch: Option<u32>) -> Vec<u8> {
    let source = format!("{name}-src-1.0-2.src.rpm");
    let strings = [
        (1000, name),
        (1001, "1.0"),
        (1002, "2.fc40"),
        (1014, "MIT AND BSD"),
        (1022, "x86_64"),
        (1044, source.as_str()),
    ];
    header(&strings, epoch)
}

/// A database that SQL makes and these headers fill.
fn database(dir: &TempDir, sql: &str, headers: &[Vec<u8>]) -> Connection {
    let connection = Connection::open(dir.path().join("db")).unwrap();
    connection.execute_batch(sql).unwrap();
    for header in headers {
        connection.execute("INSERT INTO Packages (blob) VALUES (?1)", [header]).unwrap();
    }
    connection
}

fn content(bytes: &[u8]) -> Content {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    Content::slice(Arc::new(file), 0, bytes.len() as u64)
}

/// What is found, what is refused, and how reading ended. Nothing is left in the folder of copies.
fn read_bytes(
    bytes: &[u8],
    journal: Option<&[u8]>,
    os: &Os,
) -> (Vec<String>, Vec<Malformed>, Result<(), Malformed>) {
    let (file, journal) = (content(bytes), journal.map(content));
    let database = Database { file: &file, journal: journal.as_ref() };
    let copies = tempfile::tempdir().unwrap();
    let (mut found, mut malformed) = (Vec::new(), Vec::new());
    let ended = read(&database, os, copies.path(), &mut |item| match item {
        Ok(item) => found.push(item.purl),
        Err(reason) => malformed.push(reason),
    });
    assert_eq!(copies.path().read_dir().unwrap().count(), 0);
    (found, malformed, ended)
}

fn read_sql(sql: &str, headers: &[Vec<u8>]) -> (Vec<String>, Vec<Malformed>, Result<(), Malformed>) {
    let dir = tempfile::tempdir().unwrap();
    drop(database(&dir, sql, headers));
    read_bytes(&fs::read(dir.path().join("db")).unwrap(), None, &debian())
}

#[test]
fn lists_packages_with_epoch_and_source_and_no_keys() {
    let dir = tempfile::tempdir().unwrap();
    let headers = [package("bash", None), package("gpg-pubkey", None), package("Perl", Some(4))];
    drop(database(&dir, TABLE, &headers));
    let bytes = fs::read(dir.path().join("db")).unwrap();
    let rhel = Os::parse(b"ID=\"rhel\"\nVERSION_ID=\"9.4\"\n");
    let expected = [
        "pkg:rpm/redhat/bash@1.0-2.fc40?arch=x86_64&distro=rhel-9.4&upstream=bash-src-1.0-2.src.rpm",
        "pkg:rpm/redhat/Perl@1.0-2.fc40?arch=x86_64&distro=rhel-9.4&epoch=4&upstream=Perl-src-1.0-2.src.rpm",
    ];
    assert_eq!(read_bytes(&bytes, None, &rhel), (expected.map(String::from).to_vec(), vec![], Ok(())));
    let perl = package("Perl", Some(4));
    let item = item(&header::read(&perl).unwrap(), &rhel).unwrap();
    assert_eq!(
        (item.version.as_deref(), item.licence.as_deref()),
        (Some("4:1.0-2.fc40"), Some("MIT AND BSD"))
    );
}

/// rpm leaves a journal beside its database when it was ended in the middle of a transaction's end.
#[test]
fn what_is_only_in_the_journal_is_read_too() {
    let dir = tempfile::tempdir().unwrap();
    let connection = database(&dir, &format!("PRAGMA journal_mode = WAL; {TABLE}"), &[]);
    connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    connection.execute("INSERT INTO Packages (blob) VALUES (?1)", [package("late", None)]).unwrap();
    // While it is open, its last change is in the journal alone.
    let file = |name: &str| fs::read(dir.path().join(name)).unwrap();
    let (database, journal) = (file("db"), file("db-wal"));
    let found = |journal| read_bytes(&database, journal, &debian());
    assert_eq!(found(None), (vec![], vec![], Ok(())));
    assert_eq!(found(Some(b"")), (vec![], vec![], Ok(())));
    let (packages, malformed, ended) = found(Some(&journal));
    assert!(packages.len() == 1 && packages[0].contains("/late@"), "{packages:?}");
    assert_eq!((malformed, ended), (vec![], Ok(())));
}

#[test]
fn a_damaged_header_is_said_and_the_next_one_read() {
    let nameless = header(&[(1001, "1"), (1002, "1")], None);
    let (found, malformed, ended) = read_sql(TABLE, &[b"short".to_vec(), nameless, package("a", None)]);
    assert_eq!((found.len(), malformed.len(), ended), (1, 2, Ok(())));
}

#[test]
fn only_a_table_is_read_and_nothing_is_computed() {
    let endless = "CREATE VIEW Packages AS WITH RECURSIVE n(blob) AS \
        (SELECT x'00' UNION ALL SELECT blob FROM n) SELECT blob FROM n";
    let made_up = "CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, blob AS (zeroblob(hnum * 30000000))); \
        INSERT INTO Packages (hnum) VALUES (1)";
    let other = "CREATE TABLE Secrets (blob); CREATE VIEW Packages AS SELECT blob FROM Secrets";
    for sql in [endless, made_up, other, "CREATE TABLE Name (blob)"] {
        let (found, _, ended) = read_sql(sql, &[]);
        assert_eq!(found, [""; 0], "{sql}");
        assert!(ended.is_err(), "{sql}");
    }
    let (_, _, ended) = read_sql("CREATE TABLE Packages (blob); INSERT INTO Packages VALUES ('text')", &[]);
    assert!(ended.unwrap_err().0.contains("in place of a package"));
}

#[test]
fn more_than_the_file_can_hold_is_not_believed() {
    // Zeros that are not stored: a row says it has more than the file.
    let sql = "CREATE TABLE Packages (blob); INSERT INTO Packages VALUES (zeroblob(100000))";
    let dir = tempfile::tempdir().unwrap();
    drop(database(&dir, sql, &[]));
    let bytes = fs::read(dir.path().join("db")).unwrap();
    let (_, malformed, ended) = read_bytes(&bytes, None, &debian());
    assert_eq!((malformed.len(), ended), (1, Ok(())));
    let (_, _, ended) = read_bytes(&bytes[..bytes.len() / 2], None, &debian());
    assert!(ended.is_err());
}

#[test]
fn a_database_too_long_is_not_copied() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(MAX_DATABASE_BYTES + 1).unwrap();
    let long = Content::slice(Arc::new(file), 0, MAX_DATABASE_BYTES + 1);
    let short = content(b"");
    for database in [Database { file: &long, journal: None }, Database { file: &short, journal: Some(&long) }]
    {
        let nowhere = Path::new("/nonexistent");
        let ended = read(&database, &debian(), nowhere, &mut |_| unreachable!("nothing is read"));
        assert_eq!(ended, Err(Malformed::TOO_LONG));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_damaged_database_ends(
        flips in proptest::collection::vec((0usize..3 * 4096, any::<u8>()), 1..20),
        cut in 0usize..3 * 4096,
        journal in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..100)),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let headers: Vec<_> = (0..8).map(|i| package(&"x".repeat(i * 200), None)).collect();
        drop(database(&dir, TABLE, &headers));
        let mut bytes = fs::read(dir.path().join("db")).unwrap();
        for (at, byte) in flips {
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
        }
        let _ = read_bytes(&bytes, journal.as_deref(), &debian());
        bytes.truncate(cut);
        let _ = read_bytes(&bytes, None, &debian());
    }
}
