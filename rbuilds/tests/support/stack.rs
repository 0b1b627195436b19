//! Stacks of layers, and a plain model of what they amount to: nested maps, as a file system is, where the builder has
//! one flat map.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::Tar;

/// One entry of a layer. Paths are of one to three components.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    File { path: String, content: u8, mode: u32 },
    Directory { path: String, mode: u32 },
    Symlink { path: String, target: String },
    Link { path: String, target: String },
    Whiteout { path: String },
    Opaque { directory: String },
}

/// What an image holds: path to kind, mode and content. Hard links share a number.
pub(crate) type Listing = BTreeMap<String, Seen>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Directory { mode: u32 },
    File { mode: u32, content: Vec<u8>, first_name: String },
    Symlink { target: String },
}

fn path() -> impl Strategy<Value = String> {
    proptest::collection::vec(prop::sample::select(vec!["a", "b", "a-", "c"]), 1..4)
        .prop_map(|parts| parts.join("/"))
}

fn op() -> impl Strategy<Value = Op> {
    let mode = || prop::sample::select(vec![0o755, 0o700, 0o1777, 0o4711, 0o644]);
    prop_oneof![
        5 => (path(), any::<u8>(), mode()).prop_map(|(path, content, mode)| Op::File { path, content, mode }),
        4 => (path(), mode()).prop_map(|(path, mode)| Op::Directory { path, mode }),
        1 => (path(), path()).prop_map(|(path, target)| Op::Symlink { path, target }),
        2 => (path(), path()).prop_map(|(path, target)| Op::Link { path, target }),
        2 => path().prop_map(|path| Op::Whiteout { path }),
        1 => path().prop_map(|directory| Op::Opaque { directory }),
    ]
}

/// One to four layers of up to eight entries.
pub(crate) fn stacks() -> impl Strategy<Value = Vec<Vec<Op>>> {
    proptest::collection::vec(proptest::collection::vec(op(), 0..9), 1..5)
}

/// The archive of a layer.
pub(crate) fn archive(ops: &[Op]) -> Vec<u8> {
    let put = |tar: Tar, op: &Op| match op {
        Op::File { path, content, mode } => tar.put(b'0', path.as_bytes(), b"", &[*content; 5], *mode),
        Op::Directory { path, mode } => tar.put(b'5', path.as_bytes(), b"", b"", *mode),
        Op::Symlink { path, target } => tar.symlink(path, target),
        Op::Link { path, target } => tar.link(path, target),
        Op::Whiteout { path } => match path.rsplit_once('/') {
            Some((parent, name)) => tar.file(&format!("{parent}/.wh.{name}"), b""),
            None => tar.file(&format!(".wh.{path}"), b""),
        },
        Op::Opaque { directory } => tar.file(&format!("{directory}/.wh..wh..opq"), b""),
    };
    ops.iter().fold(Tar::default(), put).end()
}

#[derive(Clone, Debug)]
enum Node {
    Directory { mode: u32, children: BTreeMap<String, Node> },
    File { id: usize },
    Symlink { target: String },
}

#[derive(Debug)]
struct Model {
    root: Node,
    files: Vec<(u32, u8)>,
}

/// What a stack amounts to, or `None` if an entry of it is impossible.
pub(crate) fn model(stack: &[Vec<Op>]) -> Option<Listing> {
    let root = Node::Directory { mode: 0o755, children: BTreeMap::new() };
    let mut model = Model { root, files: Vec::new() };
    for layer in stack {
        layer.iter().for_each(|op| model.hide(op));
        layer.iter().try_for_each(|op| model.add(op))?;
    }
    let mut listing = Listing::new();
    let mut names = BTreeMap::new();
    model.list(&model.root, "", &mut names, &mut listing);
    name_links(&mut listing);
    Some(listing)
}

impl Model {
    fn hide(&mut self, op: &Op) {
        match op {
            Op::Whiteout { path } => {
                let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
                if let Some(Node::Directory { children, .. }) = self.find(parent) {
                    children.remove(name);
                }
            }
            Op::Opaque { directory } => {
                if let Some(Node::Directory { children, .. }) = self.find(directory) {
                    children.clear();
                }
            }
            _ => {}
        }
    }

    fn add(&mut self, op: &Op) -> Option<()> {
        match op {
            Op::File { path, content, mode } => {
                self.files.push((*mode, *content));
                let id = self.files.len() - 1;
                self.put(path, Node::File { id })
            }
            Op::Directory { path, mode } => {
                let children = match self.find(path) {
                    Some(Node::Directory { children, .. }) => std::mem::take(children),
                    _ => BTreeMap::new(),
                };
                self.put(path, Node::Directory { mode: *mode, children })
            }
            Op::Symlink { path, target } => self.put(path, Node::Symlink { target: target.clone() }),
            Op::Link { path, target } => {
                // The builder makes the directories on the way before it looks for the target.
                self.parent(path)?;
                let target = self.find(target).cloned()?;
                if matches!(target, Node::Directory { .. }) {
                    return None;
                }
                self.put(path, target)
            }
            Op::Whiteout { .. } | Op::Opaque { .. } => Some(()),
        }
    }

    fn put(&mut self, path: &str, node: Node) -> Option<()> {
        let name = path.rsplit('/').next()?.to_owned();
        self.parent(path)?.insert(name, node);
        Some(())
    }

    /// The directory that `path` is in, made if need be; `None` if something else is in the way.
    fn parent(&mut self, path: &str) -> Option<&mut BTreeMap<String, Node>> {
        let mut at = &mut self.root;
        let (parents, _) = path.rsplit_once('/').unwrap_or(("", path));
        for component in parents.split('/').filter(|c| !c.is_empty()) {
            let Node::Directory { children, .. } = at else { return None };
            let new = Node::Directory { mode: 0o755, children: BTreeMap::new() };
            at = children.entry(component.to_owned()).or_insert(new);
        }
        match at {
            Node::Directory { children, .. } => Some(children),
            _ => None,
        }
    }

    fn find(&mut self, path: &str) -> Option<&mut Node> {
        let mut at = &mut self.root;
        for component in path.split('/').filter(|c| !c.is_empty()) {
            let Node::Directory { children, .. } = at else { return None };
            at = children.get_mut(component)?;
        }
        Some(at)
    }

    fn list(&self, node: &Node, path: &str, names: &mut BTreeMap<usize, String>, listing: &mut Listing) {
        let seen = match node {
            Node::Directory { mode, children } => {
                for (name, child) in children {
                    let path = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
                    self.list(child, &path, names, listing);
                }
                Seen::Directory { mode: *mode }
            }
            Node::File { id } => {
                let (mode, content) = self.files[*id];
                let first_name = names.entry(*id).or_insert_with(|| path.to_owned()).clone();
                Seen::File { mode, content: vec![content; 5], first_name }
            }
            Node::Symlink { target } => Seen::Symlink { target: target.clone() },
        };
        listing.insert(path.to_owned(), seen);
    }
}

/// Gives each file the first of its names in order of the listing, so that two listings can be compared.
pub(crate) fn name_links(listing: &mut Listing) {
    let mut first: BTreeMap<String, String> = BTreeMap::new();
    for (path, seen) in listing.iter_mut() {
        if let Seen::File { first_name, .. } = seen {
            *first_name = first.entry(first_name.clone()).or_insert_with(|| path.clone()).clone();
        }
    }
}

/// Whether a whiteout stands behind a symbolic link. Extractors that follow the link hide something else than the
/// builder, which takes names as they are.
pub(crate) fn hides_behind_a_link(stack: &[Vec<Op>]) -> bool {
    let ops = || stack.iter().flatten();
    let links = || ops().filter_map(|op| if let Op::Symlink { path, .. } = op { Some(path) } else { None });
    ops().any(|op| match op {
        Op::Whiteout { path } => links().any(|link| path.starts_with(&format!("{link}/"))),
        Op::Opaque { directory } => {
            links().any(|link| format!("{directory}/").starts_with(&format!("{link}/")))
        }
        _ => false,
    })
}

/// The same layers with whiteouts before the rest, as writers put them: extractors that go through a layer once depend
/// on the order, the builder does not.
pub(crate) fn whiteouts_first(mut stack: Vec<Vec<Op>>) -> Vec<Vec<Op>> {
    for layer in &mut stack {
        layer.sort_by_key(|op| !matches!(op, Op::Whiteout { .. } | Op::Opaque { .. }));
    }
    stack
}
