//! A table whose places are used again, with tokens that know when theirs was.

/// Names one value in a [`Slots`]; worthless once that is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Token {
    index: u32,
    generation: u32,
}

/// Generations have 31 bits in an epoll key.
const GENERATION_MASK: u32 = u32::MAX >> 1;

/// Indices from here on are not links.
pub(crate) const INDEX_LIMIT: u32 = u32::MAX - 1;

impl Token {
    /// For epoll: the token and one bit.
    pub(crate) fn key(self, bit: bool) -> u64 {
        u64::from(self.index) << 32 | u64::from(self.generation) << 1 | u64::from(bit)
    }

    /// Takes a key apart again.
    pub(crate) fn from_key(key: u64) -> (Self, bool) {
        let low = u32::try_from(key & u64::from(u32::MAX)).expect("32 bits were kept");
        let index = u32::try_from(key >> 32).expect("32 bits are left");
        (Self { index, generation: low >> 1 }, low & 1 == 1)
    }
}

#[derive(Debug)]
pub(crate) struct Slots<T> {
    entries: Vec<Entry<T>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Entry<T> {
    generation: u32,
    value: Option<T>,
}

impl<T> Slots<T> {
    pub(crate) fn new() -> Self {
        Self { entries: Vec::new(), free: Vec::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// A place for a value that is to have this token: fill it or give it back. `None` when the table is full.
    pub(crate) fn reserve(&mut self) -> Option<Token> {
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                let index = u32::try_from(self.entries.len()).ok().filter(|index| *index < INDEX_LIMIT)?;
                self.entries.push(Entry { generation: 0, value: None });
                index
            }
        };
        Some(Token { index, generation: self.entries[index as usize].generation })
    }

    pub(crate) fn fill(&mut self, reserved: Token, value: T) {
        self.entries[reserved.index as usize].value = Some(value);
    }

    pub(crate) fn give_back(&mut self, reserved: Token) {
        self.free.push(reserved.index);
    }

    pub(crate) fn find(&mut self, token: Token) -> Option<&mut T> {
        let entry = self.entries.get_mut(token.index as usize)?;
        if entry.generation == token.generation { entry.value.as_mut() } else { None }
    }

    pub(crate) fn contains(&self, token: Token) -> bool {
        let entry = self.entries.get(token.index as usize);
        entry.is_some_and(|entry| entry.generation == token.generation && entry.value.is_some())
    }

    pub(crate) fn remove(&mut self, token: Token) -> Option<T> {
        let entry = self.entries.get_mut(token.index as usize)?;
        if entry.generation != token.generation {
            return None;
        }
        let value = entry.value.take()?;
        entry.generation = entry.generation.wrapping_add(1) & GENERATION_MASK;
        self.free.push(token.index);
        Some(value)
    }

    /// The tokens of everything for which `wanted` holds.
    pub(crate) fn tokens(&self, wanted: impl Fn(&T) -> bool) -> Vec<Token> {
        let live = self.entries.iter().enumerate().filter_map(|(index, entry)| {
            let index = u32::try_from(index).ok()?;
            let value = entry.value.as_ref()?;
            wanted(value).then_some(Token { index, generation: entry.generation })
        });
        live.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn token_of_a_removed_value_finds_nothing_after_its_place_is_used_again() {
        let mut slots = Slots::new();
        let old = slots.reserve().unwrap();
        assert!(!slots.contains(old));
        slots.fill(old, 'a');
        assert_eq!(slots.remove(old), Some('a'));
        let new = slots.reserve().unwrap();
        slots.fill(new, 'b');
        assert_eq!(new.index, old.index);
        assert_eq!((slots.find(old).copied(), slots.remove(old), slots.contains(old)), (None, None, false));
        assert_eq!((slots.find(new).copied(), slots.len()), (Some('b'), 1));
    }

    proptest! {
        #[test]
        fn key_gives_the_token_back(index: u32, generation in 0..=GENERATION_MASK, bit: bool) {
            let token = Token { index, generation };
            prop_assert_eq!(Token::from_key(token.key(bit)), (token, bit));
        }
    }
}
