//! What a start takes over: the log of the starts before, followed from its first entry to its last.

use redb::{Database, ReadableDatabase as _, ReadableTable as _};

use super::{AGENTS, ENTRIES, Error, Stage, State, columns::Columns, sealer::Sealer, stored::Stored};
use crate::{Position, Verifier};

/// Reads everything, and follows the chain.
pub(super) fn load(database: &Database, sealer: &Sealer) -> Result<State, Error> {
    let read = database.begin_read().map_err(Error::storage)?;
    let mut state = State {
        position: Position::default(),
        columns: Columns::default(),
        agents: Vec::new(),
        stage: Stage::New,
    };
    let mut verifier = Verifier::default();
    for row in read.open_table(ENTRIES).map_err(Error::storage)?.iter().map_err(Error::storage)? {
        let (number, sealed) = row.map_err(Error::storage)?;
        let Stored { signed, .. } = Stored::open(sealer, number.value(), sealed.value())?;
        verifier.push(&signed)?;
        state.columns.push(&signed.entry);
    }
    state.position = verifier.position();
    for row in read.open_table(AGENTS).map_err(Error::storage)?.iter().map_err(Error::storage)? {
        let (number, sealed) = row.map_err(Error::storage)?;
        let changed = || Error::Sealed { what: "agent", number: number.value() };
        let json = sealer.open("agent", number.value(), sealed.value()).ok_or_else(changed)?;
        state.agents.push(serde_json::from_slice(&json).map_err(|_| changed())?);
    }
    Ok(state)
}
