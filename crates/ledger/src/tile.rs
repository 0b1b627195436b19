//! The log as files that never change (C2SP `tlog-tiles`): 256 hashes a tile, 256 entries a bundle.
//!
//! Names and contents only; whoever serves them asks the store.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::fmt;
use std::str::FromStr;

use crate::Hash;

/// Hashes or entries of a full tile.
pub const TILE_WIDTH: u64 = 256;
/// Levels of the tree between one level of tiles and the next.
pub const TILE_HEIGHT: u8 = 8;
/// The highest level of tiles that a log of 2^64 entries has.
pub const MAX_TILE_LEVEL: u8 = 7;
/// Longest name: the prefix and seven groups of digits.
const MAX_NAME_BYTES: usize = 64;

/// Which tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TileKind {
    /// Hashes of the tree's level `8 * level`.
    Hashes {
        /// 0 to [`MAX_TILE_LEVEL`].
        level: u8,
    },
    /// A bundle of entries.
    Entries,
}

/// A tile's name: `tile/<level>/<index>` or `tile/entries/<index>`, followed by `.p/<width>` if it is not full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TileName {
    /// Hashes or entries.
    pub kind: TileKind,
    /// Which of its kind.
    pub index: u64,
    /// Hashes or entries in it, 1 to [`TILE_WIDTH`].
    pub width: u16,
}

impl TileName {
    /// The range of nodes (of level `8 * level`) or entries in it; `None` beyond what numbers can say.
    pub fn range(&self) -> Option<std::ops::Range<u64>> {
        let start = self.index.checked_mul(TILE_WIDTH)?;
        Some(start..start.checked_add(u64::from(self.width))?)
    }

    /// The tree's level that its hashes are of, and 0 for entries.
    pub fn tree_level(&self) -> u8 {
        match self.kind {
            TileKind::Hashes { level } => level.saturating_mul(TILE_HEIGHT),
            TileKind::Entries => 0,
        }
    }

    /// Whether a log of `size` entries has it.
    pub fn exists_in(&self, size: u64) -> bool {
        let nodes = size.checked_shr(u32::from(self.tree_level())).unwrap_or(0);
        self.range().is_some_and(|range| range.end <= nodes)
    }
}

impl fmt::Display for TileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            TileKind::Hashes { level } => write!(f, "tile/{level}/")?,
            TileKind::Entries => f.write_str("tile/entries/")?,
        }
        let digits = self.index.to_string();
        let groups = digits.len().div_ceil(3);
        let padded = format!("{:0>width$}", digits, width = groups.saturating_mul(3));
        for group in 0..groups {
            let start = group.saturating_mul(3);
            let last = group.saturating_add(1) == groups;
            let digits = padded.get(start..start.saturating_add(3)).unwrap_or_default();
            if last { f.write_str(digits)? } else { write!(f, "x{digits}/")? }
        }
        if u64::from(self.width) < TILE_WIDTH { write!(f, ".p/{}", self.width) } else { Ok(()) }
    }
}

/// A text that names no tile, or names it in another way than the one it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the name of a tile")]
pub struct InvalidTileName;

impl FromStr for TileName {
    type Err = InvalidTileName;

    fn from_str(text: &str) -> Result<Self, InvalidTileName> {
        parse(text).filter(|name| name.to_string() == text).ok_or(InvalidTileName)
    }
}

/// Takes more than names; what is left over shows when the name is written again.
fn parse(text: &str) -> Option<TileName> {
    if text.len() > MAX_NAME_BYTES {
        return None;
    }
    let (kind, rest) = text.strip_prefix("tile/")?.split_once('/')?;
    let kind = match kind {
        "entries" => TileKind::Entries,
        level => TileKind::Hashes { level: level.parse().ok().filter(|level| *level <= MAX_TILE_LEVEL)? },
    };
    let (index, width) = match rest.split_once(".p/") {
        Some((index, width)) => (index, width.parse().ok().filter(|width| (1..256).contains(width))?),
        None => (rest, 256),
    };
    let digits: String = index.split('/').map(|group| group.strip_prefix('x').unwrap_or(group)).collect();
    Some(TileName { kind, index: digits.parse().ok()?, width })
}

/// The content of a tile of hashes.
pub fn encode_hashes(hashes: &[Hash]) -> Vec<u8> {
    hashes.iter().flat_map(|hash| hash.0).collect()
}

/// The content of a bundle of entries: each with its length before it, 2 bytes, big-endian.
///
/// # Panics
/// If an entry is longer than 65,535 bytes, which none of this ledger is.
pub fn encode_entries<E: AsRef<[u8]>>(entries: &[E]) -> Vec<u8> {
    let mut bundle = Vec::new();
    for entry in entries {
        let entry = entry.as_ref();
        let length = u16::try_from(entry.len()).expect("an entry of at most 65535 bytes");
        bundle.extend_from_slice(&length.to_be_bytes());
        bundle.extend_from_slice(entry);
    }
    bundle
}
