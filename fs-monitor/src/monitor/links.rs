//! Files that have several names: who writes through one changes them all, and the kernel tells of that one only.

use std::collections::{BTreeSet, HashMap};

/// A file, whatever its names: its device and its number there.
pub(crate) type Inode = ((u32, u32), u64);

/// Most names that are remembered. Of more, a sweep finds what was written through others.
const MAX_NAMES: usize = 256 * 1024;

/// The known names of files that have several.
#[derive(Debug, Default)]
pub(super) struct Links {
    names: HashMap<Inode, BTreeSet<Box<[u8]>>>,
    count: usize,
}

impl Links {
    /// Remembers a name, and says which others there are, or were.
    pub(super) fn others(&mut self, inode: Inode, path: &[u8]) -> Vec<Box<[u8]>> {
        let names = self.names.entry(inode).or_default();
        if self.count < MAX_NAMES && names.insert(path.into()) {
            self.count += 1;
        }
        names.iter().filter(|name| ***name != *path).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_one_file_know_each_other() {
        let mut links = Links::default();
        assert!(links.others(((0, 1), 7), b"/a").is_empty());
        assert!(links.others(((0, 2), 7), b"/c").is_empty(), "another device");
        assert_eq!(links.others(((0, 1), 7), b"/b"), [Box::from(b"/a".as_slice())]);
        assert_eq!(links.others(((0, 1), 7), b"/a"), [Box::from(b"/b".as_slice())]);
    }
}
