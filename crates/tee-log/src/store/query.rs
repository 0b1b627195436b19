//! What is looked for, and how it is found.

use redb::{ReadOnlyTable, ReadableDatabase as _};

use super::{ENTRIES, Error, TeeLog, stored::Stored};
use crate::Page;

/// Most entries of one page.
pub const MAX_PAGE_SIZE: u64 = 1000;
/// Most entries that are read to look for content.
pub const MAX_SEARCHED: usize = 50_000;

/// What is looked for. All that is said has to hold; what is empty or absent holds for every entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// Whose.
    pub agent_id: String,
    /// Where.
    pub room_id: String,
    /// With whom.
    pub user_id: String,
    /// What kind.
    pub kind: String,
    /// A part of the content.
    pub contains_content: String,
    /// Not before this time, in milliseconds since 1970.
    pub start_timestamp: Option<u64>,
    /// Not after this time.
    pub end_timestamp: Option<u64>,
}

type Entries = ReadOnlyTable<u64, &'static [u8]>;

impl TeeLog {
    /// A page of the entries that a query finds, oldest first.
    ///
    /// # Errors
    /// [`Error`].
    pub fn query(&self, query: &Query, page: u64, page_size: u64) -> Result<Page, Error> {
        let (page, page_size) = (page.max(1), page_size.clamp(1, MAX_PAGE_SIZE));
        let skip = (page - 1).saturating_mul(page_size);
        let looks = !query.contains_content.is_empty();
        let (first, most) = if looks { (0, MAX_SEARCHED as u64) } else { (skip, page_size) };
        let (mut total, mut found) = self.state().columns.find(query, first, most);
        // Begun after the columns were looked through: what is in them is in the table, whoever appends meanwhile.
        let read = self.database.begin_read().map_err(Error::storage)?;
        let table = read.open_table(ENTRIES).map_err(Error::storage)?;
        if looks {
            if total > found.len() as u64 {
                return Err(Error::TooBroad);
            }
            found = self.containing(&table, found, &query.contains_content)?;
            total = found.len() as u64;
            let shown = found.into_iter().skip(usize::try_from(skip).unwrap_or(usize::MAX));
            found = shown.take(usize::try_from(page_size).unwrap_or(usize::MAX)).collect();
        }
        let data = found.into_iter().map(|number| Ok(self.read(&table, number)?.row()));
        Ok(Page { page, page_size, total, data: data.collect::<Result<_, Error>>()? })
    }

    /// Looks into entries.
    fn containing(&self, table: &Entries, candidates: Vec<u64>, part: &str) -> Result<Vec<u64>, Error> {
        let mut hits = Vec::new();
        for number in candidates {
            if self.read(table, number)?.signed.entry.content.contains(part) {
                hits.push(number);
            }
        }
        Ok(hits)
    }

    fn read(&self, table: &Entries, number: u64) -> Result<Stored, Error> {
        let sealed =
            table.get(number).map_err(Error::storage)?.ok_or(Error::Sealed { what: "entry", number })?;
        Stored::open(&self.sealer, number, sealed.value())
    }
}
