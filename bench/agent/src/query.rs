//! Queries over a million rows: by each filter, a page of ten, the slowest of many; SQLite with an index on every column beside it.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use rusqlite::{Connection, params};
use tee_log::store::{Deed, Key, Query, TeeLog};

use crate::{Result, deed, folder, number};

/// The most that a query may take.
const GOAL: Duration = Duration::from_millis(10);
const ROUNDS: usize = 50;

pub(crate) fn create(database: &Connection) -> Result {
    database.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
         CREATE TABLE tee_logs (id INTEGER PRIMARY KEY, agentId TEXT, roomId TEXT, userId TEXT, type TEXT, content TEXT, timestamp INTEGER);
         CREATE INDEX rooms ON tee_logs (roomId, timestamp); CREATE INDEX users ON tee_logs (userId, timestamp);
         CREATE INDEX types ON tee_logs (type, timestamp); CREATE INDEX times ON tee_logs (timestamp);",
    )?;
    Ok(())
}

pub(crate) fn insert(database: &mut Connection, rows: Range<u64>) -> Result {
    let transaction = database.transaction()?;
    {
        let mut insert = transaction.prepare_cached("INSERT INTO tee_logs VALUES (?, ?, ?, ?, ?, ?, ?)")?;
        for number in rows {
            let place = i64::try_from(number)?;
            let Deed { agent_id, room_id, user_id, kind, content } = deed(number);
            insert.execute(params![place, agent_id, room_id, user_id, kind, content, place])?;
        }
    }
    transaction.commit()?;
    Ok(())
}

pub(crate) fn run() -> Result {
    let rows = number("ROWS", 1_000_000);
    let folder = folder()?;
    let log = TeeLog::open(&folder.path().join("log"), &Key::new([1; 32]))?;
    log.register("agent", "", String::new(), 0)?;
    let mut database = Connection::open(folder.path().join("sqlite"))?;
    create(&database)?;
    let begun = Instant::now();
    for first in (0..rows).step_by(10_000) {
        let range = first..rows.min(first + 10_000);
        // One batch has one time.
        log.append(range.clone().map(deed).collect(), first)?;
        insert(&mut database, range)?;
    }
    println!("{rows} rows in either after {:.0} s", begun.elapsed().as_secs_f64());
    for (name, query, page, sql) in queries(rows) {
        let ours = slowest(|| {
            let found = log.query(&query, page, 10)?;
            Ok(found.total)
        })?;
        let theirs = slowest(|| count_and_page(&database, &sql, page))?;
        println!(
            "{name:<30} ours {:>7.2} ms (median {:>6.2}, {} rows)   SQLite {:>7.2} ms (median {:>6.2}, {} rows){}",
            ms(ours.0),
            ms(ours.1),
            ours.2,
            ms(theirs.0),
            ms(theirs.1),
            theirs.2,
            if ours.0 > GOAL { "   MISSED: goal 10 ms" } else { "" },
        );
    }
    Ok(())
}

fn queries(rows: u64) -> Vec<(&'static str, Query, u64, String)> {
    let room = || Query { room_id: "room-7".to_owned(), ..Query::default() };
    let kind = || Query { kind: "Action:PROMPT".to_owned(), ..Query::default() };
    let (from, to) = (rows / 2, rows / 2 + rows / 4);
    vec![
        ("all, first page", Query::default(), 1, "1".to_owned()),
        ("all, last page", Query::default(), rows / 10, "1".to_owned()),
        ("room", room(), 1, "roomId = 'room-7'".to_owned()),
        ("type: a third", kind(), 1, "type = 'Action:PROMPT'".to_owned()),
        ("type, page 10,000", kind(), 10_000, "type = 'Action:PROMPT'".to_owned()),
        (
            "room, user and type",
            Query { user_id: "user-7".to_owned(), kind: "Action:SIGN_TRANSACTION".to_owned(), ..room() },
            1,
            "roomId = 'room-7' AND userId = 'user-7' AND type = 'Action:SIGN_TRANSACTION'".to_owned(),
        ),
        (
            "times: a quarter",
            Query { start_timestamp: Some(from), end_timestamp: Some(to), ..Query::default() },
            1,
            format!("timestamp BETWEEN {from} AND {to}"),
        ),
        (
            "room, and a part of content",
            Query { contains_content: "00f4007".to_owned(), ..room() },
            1,
            "roomId = 'room-7' AND content LIKE '%00f4007%'".to_owned(),
        ),
        (
            "nobody's",
            Query { agent_id: "nobody".to_owned(), ..Query::default() },
            1,
            "agentId = 'nobody'".to_owned(),
        ),
    ]
}

/// As the first logs of this kind ask SQLite: how many, and a page.
fn count_and_page(database: &Connection, condition: &str, page: u64) -> Result<u64> {
    let total = database
        .prepare_cached(&format!("SELECT COUNT(*) FROM tee_logs WHERE {condition}"))?
        .query_row([], |row| row.get::<_, i64>(0))?;
    let sql = format!(
        "SELECT * FROM tee_logs WHERE {condition} ORDER BY timestamp LIMIT 10 OFFSET {}",
        (page - 1) * 10
    );
    let mut statement = database.prepare_cached(&sql)?;
    let contents = statement
        .query_map([], |row| row.get::<_, String>(5))?
        .collect::<std::result::Result<Vec<_>, _>>()?;
    std::hint::black_box(contents);
    Ok(u64::try_from(total)?)
}

/// The slowest, the median, and what it found.
fn slowest(mut query: impl FnMut() -> Result<u64>) -> Result<(Duration, Duration, u64)> {
    let mut found = query()?;
    let mut times = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        found = query()?;
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    Ok((times[ROUNDS - 1], times[ROUNDS / 2], found))
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
