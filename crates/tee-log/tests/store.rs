//! A log over its starts, its queries, and what a host does to its file.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;

use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use tee_log::{
    Broken, CLOSED, OPENED, Position, Row, SignedEntry, Verifier,
    store::{Deed, Error, Key, MAX_PAGE_SIZE, Query, TeeLog},
};

const NOW: u64 = 1_735_000_000_000;
const ENTRIES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("entries");

fn deed(room: &str, user: &str, kind: &str, content: &str) -> Deed {
    Deed {
        agent_id: "agent".to_owned(),
        room_id: room.to_owned(),
        user_id: user.to_owned(),
        kind: kind.to_owned(),
        content: content.to_owned(),
    }
}

fn key() -> Key {
    Key::new([5; 32])
}

fn rows(log: &TeeLog, query: &Query) -> Vec<Row> {
    log.query(query, 1, MAX_PAGE_SIZE).unwrap().data
}

fn verify(rows: &[Row]) -> Result<Verifier, Broken> {
    let mut verifier = Verifier::default();
    rows.iter().try_for_each(|row| verifier.push(&SignedEntry::try_from(row).unwrap()))?;
    Ok(verifier)
}

/// A log with one start that ended well and one that did not end yet.
fn two_lives(path: &Path) -> TeeLog {
    let log = TeeLog::open(path, &key()).unwrap();
    log.register("agent", "Agent", "document".to_owned(), NOW).unwrap();
    log.append(vec![deed("r", "u", "Action:CONTINUE", "one")], NOW + 1).unwrap();
    log.close(NOW + 2).unwrap();
    drop(log);
    let log = TeeLog::open(path, &key()).unwrap();
    log.register("agent", "Agent", "another".to_owned(), NOW + 3).unwrap();
    log.append(vec![deed("r", "u", "Action:CONTINUE", "two"), deed("s", "u", "x", "three")], NOW + 4)
        .unwrap();
    log
}

#[test]
fn a_start_takes_over_where_the_one_before_ended() {
    let dir = tempfile::tempdir().unwrap();
    let log = two_lives(&dir.path().join("log"));
    let rows = rows(&log, &Query::default());
    let kinds: Vec<_> = rows.iter().map(|row| &*row.r#type).collect();
    assert_eq!(kinds, [OPENED, "Action:CONTINUE", CLOSED, OPENED, "Action:CONTINUE", "x"]);
    let verifier = verify(&rows).unwrap();
    assert_eq!(verifier.ends_at(&log.position()), Ok(()));
    let lives = verifier.lives();
    assert_eq!((lives.len(), lives[0].closed, lives[1].closed), (2, true, false));
    assert_ne!(lives[0].key, lives[1].key);
    assert_eq!(lives[1].key, log.public_key());

    // What each start had attested names the key and the place.
    let agents = log.agents();
    assert_eq!(agents.iter().map(|agent| agent.sequence).collect::<Vec<_>>(), [0, 3]);
    for (agent, life) in agents.iter().zip(lives) {
        assert_eq!((agent.sequence, &agent.previous), (life.opened.sequence, &hex::encode(life.opened.head)));
        assert_eq!(agent.public_key, life.key.to_string());
    }
    assert_eq!(log.key_statement(), tee_log::key_statement(&lives[1].opened));
    assert_eq!(log.agent("agent").unwrap().attestation, "another");
    assert_eq!(log.agent("nobody"), None);
}

#[test]
fn queries_find_what_all_of_them_say() {
    let log = TeeLog::in_memory().unwrap();
    log.register("agent", "", String::new(), NOW).unwrap();
    let deeds = (0..20).map(|i| deed(&format!("r{}", i % 2), &format!("u{}", i % 5), "x", &format!("c%{i}")));
    for (at, deed) in deeds.enumerate() {
        log.append(vec![deed], NOW + at as u64).unwrap();
    }
    let found = |query: Query| rows(&log, &query).iter().map(|row| row.content.clone()).collect::<Vec<_>>();
    let by = |room: &str, user: &str| Query {
        room_id: room.to_owned(),
        user_id: user.to_owned(),
        ..Query::default()
    };
    assert_eq!(found(by("r1", "u3")), ["c%3", "c%13"]);
    assert_eq!(found(by("r1", "nobody")).len(), 0);
    assert_eq!(found(Query { kind: OPENED.to_owned(), ..Query::default() }), [""]);
    assert_eq!(found(Query { agent_id: "other".to_owned(), ..Query::default() }).len(), 0);
    let times = Query { start_timestamp: Some(NOW + 3), end_timestamp: Some(NOW + 5), ..Query::default() };
    assert_eq!(found(times), ["c%3", "c%4", "c%5"]);
    let never = Query { start_timestamp: Some(NOW + 5), end_timestamp: Some(NOW + 3), ..Query::default() };
    assert_eq!(found(never).len(), 0);
    let content = Query { contains_content: "%1".to_owned(), room_id: "r0".to_owned(), ..Query::default() };
    assert_eq!(found(content.clone()), ["c%10", "c%12", "c%14", "c%16", "c%18"]);

    let page = log.query(&content, 2, 2).unwrap();
    assert_eq!((page.page, page.page_size, page.total), (2, 2, 5));
    assert_eq!(page.data.iter().map(|row| &*row.content).collect::<Vec<_>>(), ["c%14", "c%16"]);
    let page = log.query(&Query::default(), 0, 8).unwrap();
    assert_eq!((page.page, page.total, page.data.len()), (1, 21, 8));
    let page = log.query(&Query::default(), 3, 8).unwrap();
    assert_eq!(page.data.iter().map(|row| row.sequence).collect::<Vec<_>>(), [16, 17, 18, 19, 20]);
    assert_eq!(log.query(&Query::default(), u64::MAX, u64::MAX).unwrap().data.len(), 0);
}

#[test]
fn times_do_not_go_back_and_the_logs_own_types_are_its_own() {
    let log = TeeLog::in_memory().unwrap();
    assert!(matches!(log.append(vec![deed("r", "u", "x", "")], NOW), Err(Error::NotOpen)));
    log.register("agent", "", String::new(), NOW).unwrap();
    log.append(vec![deed("r", "u", "x", "")], NOW - 5).unwrap();
    assert_eq!(rows(&log, &Query::default())[1].timestamp, NOW);
    assert!(matches!(log.append(vec![deed("r", "u", CLOSED, "")], NOW), Err(Error::Reserved)));
    let long = deed(&"r".repeat(257), "u", "x", "");
    // All or none.
    assert!(matches!(log.append(vec![deed("r", "u", "x", ""), long], NOW), Err(Error::Entry(_))));
    assert_eq!(log.position().sequence, 2);
    log.close(NOW).unwrap();
    assert!(matches!(log.append(vec![deed("r", "u", "x", "")], NOW), Err(Error::NotOpen)));
    assert!(matches!(log.register("agent", "", String::new(), NOW), Err(Error::NotOpen)));
    assert!(verify(&rows(&log, &Query::default())).unwrap().lives()[0].closed);
}

#[test]
fn legacy_signatures_are_beside_the_sound_ones_and_called_weak() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    drop(two_lives(&path));
    let log = TeeLog::open(&path, &key()).unwrap().with_legacy_signatures();
    log.register("agent", "", String::new(), NOW + 5).unwrap();
    log.append(vec![deed("r", "u", "x", "legacy")], NOW + 6).unwrap();
    drop(log);
    let log = TeeLog::open(&path, &key()).unwrap();
    let rows = rows(&log, &Query::default());
    verify(&rows).unwrap();
    // Those of before have none.
    assert!(rows[..6].iter().all(|row| row.entry_signature.is_none() && row.signature_form.is_none()));
    for row in &rows[6..] {
        assert_eq!(row.signature_form.as_deref(), Some(tee_log::legacy::LEGACY));
        let signed = SignedEntry::try_from(row).unwrap();
        let legacy = hex::decode(&row.signature[2..]).unwrap();
        assert!(tee_log::legacy::verifies(&signed.entry, &signed.entry.key, &legacy));
        assert_ne!(row.entry_signature.as_ref(), Some(&row.signature));
        // Nobody passes the weak one off as the sound one.
        let weak = Row { entry_signature: None, signature_form: None, ..row.clone() };
        assert!(!SignedEntry::try_from(&weak).unwrap().is_signed());
    }
}

/// The table of entries, open for writing.
type Entries<'t> = redb::Table<'t, u64, &'static [u8]>;

/// Opens the file of a log as the host could, and does something to its entries.
fn tamper(path: &Path, change: impl FnOnce(&mut Entries<'_>)) {
    let database = Database::create(path).unwrap();
    let write = database.begin_write().unwrap();
    change(&mut write.open_table(ENTRIES).unwrap());
    write.commit().unwrap();
}

#[test]
fn the_file_tells_nothing_and_every_change_of_it_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let log = two_lives(&path);
    let position = log.position();
    drop(log);
    let bytes = std::fs::read(&path).unwrap();
    for secret in ["Action:CONTINUE", "document", "three"] {
        assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()), "{secret}");
    }
    assert!(matches!(
        TeeLog::open(&path, &Key::new([6; 32])),
        Err(Error::Sealed { what: "entry", number: 0 })
    ));

    let opened = |change: &dyn Fn(&mut Entries<'_>)| {
        let copy = dir.path().join("copy");
        std::fs::copy(&path, &copy).unwrap();
        tamper(&copy, change);
        TeeLog::open(&copy, &key())
    };
    let value = |table: &Entries<'_>, number| table.get(number).unwrap().unwrap().value().to_vec();
    let altered = opened(&|table| {
        let mut bytes = value(table, 1);
        bytes[20] ^= 1;
        table.insert(1, &*bytes).unwrap();
    });
    assert!(matches!(altered, Err(Error::Sealed { number: 1, .. })));
    let dropped = opened(&|table| drop(table.remove(1).unwrap()));
    assert!(matches!(dropped, Err(Error::Broken(Broken::Sequence { expected: 1, found: 2 }))));
    let reordered = opened(&|table| {
        let (one, four) = (value(table, 1), value(table, 4));
        table.insert(1, &*four).unwrap();
        table.insert(4, &*one).unwrap();
    });
    assert!(matches!(reordered, Err(Error::Sealed { number: 1, .. })));
    // An end that was cut off is a log too. Who remembers where it ended finds it out.
    let shorter = opened(&|table| drop(table.remove(5).unwrap())).unwrap();
    let verifier = verify(&rows(&shorter, &Query::default())).unwrap();
    assert_eq!(verifier.ends_at(&position), Err(Broken::End { expected: 6 }));
    assert_ne!(position, Position::default());
}

#[test]
fn what_was_appended_is_there_after_a_start() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let log = two_lives(&path);
    let before = (log.position(), rows(&log, &Query::default()), log.agents());
    drop(log);
    let log = TeeLog::open(&path, &key()).unwrap();
    assert_eq!((log.position(), rows(&log, &Query::default()), log.agents()), before);
    let read = Database::open(&path);
    assert!(read.is_err(), "a log is opened once");
    drop(log);
    let database = Database::open(&path).unwrap();
    assert_eq!(database.begin_read().unwrap().open_table(ENTRIES).unwrap().iter().unwrap().count(), 6);
}
