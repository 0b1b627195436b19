//! CBOR as a tree, and all trees and encodings that differ from one in a single place.

/// One item. Encodes itself in the shortest form, but for what is there as bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Item {
    Unsigned(u64),
    Negative(u64),
    Bytes(Vec<u8>),
    Text(Vec<u8>),
    Array(Vec<Item>),
    Map(Vec<(Item, Item)>),
    /// An encoding.
    Raw(Vec<u8>),
}

const NULL: u8 = 0xf6;
const TRUE: u8 = 0xf5;

impl Item {
    /// Reads what this repository's own encoders made.
    pub(super) fn read(bytes: &[u8]) -> Self {
        let mut at = 0;
        let item = Self::next(bytes, &mut at);
        assert_eq!(at, bytes.len());
        item
    }

    fn next(bytes: &[u8], at: &mut usize) -> Self {
        let (major, info) = (bytes[*at] >> 5, bytes[*at] & 31);
        *at += 1;
        if major == 7 {
            return Self::Raw(vec![bytes[*at - 1]]);
        }
        let mut value = u64::from(info);
        if info >= 24 {
            let width = 1 << (info - 24);
            value = bytes[*at..*at + width].iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
            *at += width;
        }
        let count = usize::try_from(value).unwrap_or(usize::MAX);
        match major {
            0 => Self::Unsigned(value),
            1 => Self::Negative(value),
            2 | 3 => {
                let content = bytes[*at..*at + count].to_vec();
                *at += count;
                if major == 2 { Self::Bytes(content) } else { Self::Text(content) }
            }
            4 => Self::Array((0..count).map(|_| Self::next(bytes, at)).collect()),
            5 => Self::Map((0..count).map(|_| (Self::next(bytes, at), Self::next(bytes, at))).collect()),
            other => panic!("major type {other}"),
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Unsigned(value) => head(0, *value),
            Self::Negative(value) => head(1, *value),
            Self::Bytes(content) => [head(2, content.len() as u64), content.clone()].concat(),
            Self::Text(content) => [head(3, content.len() as u64), content.clone()].concat(),
            Self::Array(items) => [head(4, items.len() as u64), self.inner()].concat(),
            Self::Map(entries) => [head(5, entries.len() as u64), self.inner()].concat(),
            Self::Raw(bytes) => bytes.clone(),
        }
    }

    fn inner(&self) -> Vec<u8> {
        match self {
            Self::Array(items) => items.iter().flat_map(Self::encode).collect(),
            Self::Map(entries) => {
                entries.iter().flat_map(|(key, value)| [key.encode(), value.encode()]).flatten().collect()
            }
            _ => Vec::new(),
        }
    }

    /// All encodings that differ in one place, and a byte more and less.
    pub(super) fn mutations(&self) -> Vec<Vec<u8>> {
        let encoding = self.encode();
        let mut all: Vec<_> = self.mutants().iter().map(Self::encode).collect();
        all.push([&encoding[..], &[0]].concat());
        all.push(encoding[..encoding.len() - 1].to_vec());
        all.sort();
        all.dedup();
        all.retain(|one| *one != encoding);
        all
    }

    /// Those that differ in the last member of an array.
    pub(super) fn last_mutations(&self) -> Vec<Vec<u8>> {
        let Self::Array(items) = self else { panic!("an array") };
        let (last, before) = items.split_last().unwrap();
        let with = |other: Item| Self::Array([before, &[other]].concat()).encode();
        last.mutants().into_iter().map(with).filter(|one| *one != self.encode()).collect()
    }

    fn mutants(&self) -> Vec<Item> {
        let mut all = self.local();
        match self {
            Self::Array(items) => {
                for (place, item) in items.iter().enumerate() {
                    all.extend(item.mutants().into_iter().map(|other| {
                        let mut items = items.clone();
                        items[place] = other;
                        Self::Array(items)
                    }));
                }
            }
            Self::Map(entries) => {
                for (place, (key, value)) in entries.iter().enumerate() {
                    let other = |key: Item, value: Item| {
                        let mut entries = entries.clone();
                        entries[place] = (key, value);
                        Self::Map(entries)
                    };
                    all.extend(value.mutants().into_iter().map(|value| other(key.clone(), value)));
                    all.push(other(long(key), value.clone()));
                }
            }
            _ => {}
        }
        all
    }

    fn local(&self) -> Vec<Item> {
        let null = Self::Raw(vec![NULL]);
        match self {
            Self::Unsigned(value) => {
                let near = [value.wrapping_add(1), value.wrapping_sub(1)];
                let edges = [0, 256, 4096, 65_536, 1 << 32, 1 << 53, u64::MAX];
                let numbers = near.into_iter().chain(edges).map(Self::Unsigned);
                numbers.chain([Self::Negative(*value), Self::Text(b"1".to_vec()), long(self), null]).collect()
            }
            Self::Negative(value) => [0, value + 1, (1 << 63) - 1, 1 << 63, u64::MAX]
                .map(Self::Negative)
                .into_iter()
                .chain([long(self)])
                .collect(),
            Self::Bytes(content) => {
                let made = others(content).into_iter().map(Self::Bytes);
                made.chain([Self::Text(content.clone()), long(self), indefinite(2, &self.encode()), null])
                    .collect()
            }
            Self::Text(content) => {
                let made = others(content)
                    .into_iter()
                    .chain([[&b"\xef\xbb\xbf"[..], content].concat()])
                    .map(Self::Text);
                made.chain([Self::Bytes(content.clone()), long(self), indefinite(3, &self.encode()), null])
                    .collect()
            }
            Self::Array(items) => {
                let last = items.last().cloned().into_iter();
                let more = [&items[..], std::slice::from_ref(&null)].concat();
                let twice = items.iter().cloned().chain(last).collect();
                let fewer = items[..items.len().saturating_sub(1)].to_vec();
                let turned = items.iter().rev().cloned().collect();
                let arrays = [more, twice, fewer, turned, Vec::new()].map(Self::Array);
                arrays.into_iter().chain([long(self), indefinite(4, &self.inner()), null]).collect()
            }
            Self::Map(entries) => {
                let mut all =
                    vec![long(self), indefinite(5, &self.inner()), null.clone(), Self::Map(Vec::new())];
                for place in 0..entries.len() {
                    let mut fewer = entries.clone();
                    let one = fewer.remove(place);
                    let twice = entries.iter().chain([&one]).cloned().collect();
                    all.extend([Self::Map(fewer), Self::Map(twice)]);
                    let mut turned = entries.clone();
                    turned.swap(0, place);
                    all.push(Self::Map(turned));
                }
                let numbers = (0..=16).chain([1 << 32]).map(Self::Unsigned);
                for key in numbers.filter(|key| entries.iter().all(|(own, _)| own != key)) {
                    // One of them is what the key has elsewhere.
                    let values = [
                        Self::Unsigned(1),
                        Self::Bytes(vec![7; 32]),
                        Self::Text(b"exit".to_vec()),
                        Self::Raw(vec![TRUE]),
                    ];
                    let few = if key == Self::Unsigned(1 << 32) { 1 } else { values.len() };
                    all.extend(values.into_iter().take(few).map(|value| with(entries, key.clone(), value)));
                }
                all
            }
            Self::Raw(_) => {
                vec![Self::Unsigned(0), Self::Bytes(Vec::new()), Self::Raw(vec![0xf7]), Self::Raw(vec![0xf4])]
            }
        }
    }
}

/// The entries with one more, at its place in the order of numbers.
fn with(entries: &[(Item, Item)], key: Item, value: Item) -> Item {
    let number = |key: &Item| if let Item::Unsigned(number) = key { *number } else { u64::MAX };
    let place = entries.partition_point(|(own, _)| number(own) < number(&key));
    let mut entries = entries.to_vec();
    entries.insert(place, (key, value));
    Item::Map(entries)
}

/// Other contents of a text or byte string.
fn others(content: &[u8]) -> Vec<Vec<u8>> {
    let mut changed = content.to_vec();
    if let Some(first) = changed.first_mut() {
        *first ^= 1;
    }
    vec![
        Vec::new(),
        content[..content.len().saturating_sub(1)].to_vec(),
        [content, b"x"].concat(),
        [content, b"\xff"].concat(),
        changed,
    ]
}

fn head(major: u8, value: u64) -> Vec<u8> {
    let first = major << 5;
    match value {
        0..24 => vec![first | u8::try_from(value).unwrap()],
        24..0x100 => vec![first | 24, u8::try_from(value).unwrap()],
        0x100..0x1_0000 => [&[first | 25][..], &u16::try_from(value).unwrap().to_be_bytes()].concat(),
        0x1_0000..0x1_0000_0000 => [&[first | 26][..], &u32::try_from(value).unwrap().to_be_bytes()].concat(),
        _ => [&[first | 27][..], &value.to_be_bytes()].concat(),
    }
}

/// The same with its number or length in eight bytes.
fn long(item: &Item) -> Item {
    let encoding = item.encode();
    let (major, rest) = (encoding[0] >> 5, usize::from(encoding[0] & 31));
    let width = if !(24..=27).contains(&rest) { 0 } else { 1 << (rest - 24) };
    let value = match width {
        0 => rest as u64,
        _ => encoding[1..=width].iter().fold(0, |value, byte| value << 8 | u64::from(*byte)),
    };
    Item::Raw([&[major << 5 | 27][..], &value.to_be_bytes(), &encoding[1 + width..]].concat())
}

fn indefinite(major: u8, inner: &[u8]) -> Item {
    Item::Raw([&[major << 5 | 31][..], inner, &[0xff]].concat())
}
