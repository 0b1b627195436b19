//! Appends: signed, chained, sealed and durable, beside plain inserts of the same rows that are as durable.

use redb::{Database, TableDefinition};
use rusqlite::Connection;
use tee_log::{
    SigningKey,
    store::{Deed, Key, TeeLog},
};

use crate::{Result, deed, folder, line, rate};

const BATCH: u64 = 100;
const ROWS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("rows");

pub(crate) fn run() -> Result {
    let key = SigningKey::from_bytes(&[7; 32]).expect("a key");
    let signing = rate(1, || {
        std::hint::black_box(key.sign(&[3; 32]));
        Ok(())
    })?;
    line("signatures alone, one thread", signing, "a second", None);
    for (name, batch, goal) in [("singly", 1, 1_000.0), ("in batches of 100", BATCH, 10_000.0)] {
        line(&format!("TEE log, in a file, {name}"), log(batch)?, "a second", Some(goal));
        line(
            &format!("SQLite (WAL, synchronous=FULL), nothing signed, {name}"),
            sqlite(batch)?,
            "a second",
            None,
        );
        line(&format!("redb, nothing signed, {name}"), plain_redb(batch)?, "a second", None);
    }
    Ok(())
}

fn log(batch: u64) -> Result<f64> {
    let folder = folder()?;
    let log = TeeLog::open(&folder.path().join("log"), &Key::new([1; 32]))?;
    log.register("agent", "", String::new(), 1)?;
    let mut next = 0;
    rate(batch, || {
        let deeds: Vec<Deed> = (next..next + batch).map(deed).collect();
        log.append(deeds, next)?;
        next += batch;
        Ok(())
    })
}

fn sqlite(batch: u64) -> Result<f64> {
    let folder = folder()?;
    let mut database = Connection::open(folder.path().join("log"))?;
    crate::query::create(&database)?;
    let mut next = 0;
    rate(batch, || {
        crate::query::insert(&mut database, next..next + batch)?;
        next += batch;
        Ok(())
    })
}

fn plain_redb(batch: u64) -> Result<f64> {
    let folder = folder()?;
    let database = Database::create(folder.path().join("log"))?;
    let mut next = 0;
    rate(batch, || {
        let write = database.begin_write()?;
        {
            let mut table = write.open_table(ROWS)?;
            for number in next..next + batch {
                let Deed { room_id, user_id, content, .. } = deed(number);
                table.insert(number, [room_id, user_id, content].concat().as_bytes())?;
            }
        }
        write.commit()?;
        next += batch;
        Ok(())
    })
}
