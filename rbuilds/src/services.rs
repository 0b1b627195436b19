//! What a build can tell of an image's services before anybody starts them: programs, interpreters and users that the image lacks.
//!
//! These are notes and no errors, since an earlier service may make what is not there yet.

use manifest::{Measured, Service};

use crate::{
    content::Content,
    notes::{NoteKind, Notes},
    sbom::elf::u64_at,
    tree::{Inode, Kind, Tree},
};

/// Links that are followed on the way to a file (path_resolution(7)).
const MAX_LINKS: usize = 40;
/// As much of a script's first line as the kernel reads (`BINPRM_BUF_SIZE`), and more than any interpreter's path takes.
const MAX_LINE_BYTES: u64 = 256;
/// Longest list of users or groups that is read, in bytes.
const MAX_ACCOUNTS_BYTES: u64 = 1 << 20;
/// Entries of a program's header table that are looked at.
const MAX_SEGMENTS: u64 = 64;
/// The segment that names the interpreter (System V ABI, `PT_INTERP`).
const INTERPRETER_SEGMENT: &[u8] = &3_u32.to_le_bytes();

/// Notes what each service lacks.
pub(crate) fn note(measured: &Measured, tree: &Tree, notes: &mut Notes) {
    for service in &measured.services {
        note_program(service, tree, notes);
        note_user(&service.user, tree, notes);
    }
}

fn note_program(service: &Service, tree: &Tree, notes: &mut Notes) {
    let Some(name) = service.command.first() else { return };
    let Some((inode, content)) = program(service, tree) else {
        return notes.add_text(NoteKind::ProgramNotThere, name);
    };
    if inode.mode & 0o111 == 0 {
        notes.add_text(NoteKind::ProgramNotExecutable, name);
    }
    if let Some(interpreter) = interpreter(content)
        && file_at(tree, &interpreter).is_none()
    {
        let interpreter = String::from_utf8_lossy(&interpreter).into_owned();
        notes.add_text(NoteKind::InterpreterNotThere, &format!("{name} needs {interpreter}"));
    }
}

fn note_user(user: &str, tree: &Tree, notes: &mut Notes) {
    let (user_name, group) = user.split_once(':').map_or((user, None), |(user, group)| (user, Some(group)));
    let lacks =
        |name: &str, file: &[u8]| !name.bytes().all(|b| b.is_ascii_digit()) && !is_listed(tree, file, name);
    if lacks(user_name, b"/etc/passwd") || group.is_some_and(|group| lacks(group, b"/etc/group")) {
        notes.add_text(NoteKind::UserNotThere, user);
    }
}

/// Whether a line of the file begins with this name.
fn is_listed(tree: &Tree, file: &[u8], name: &str) -> bool {
    let Some((_, content)) = file_at(tree, file) else { return false };
    let Some(text) = beginning(content, MAX_ACCOUNTS_BYTES) else { return false };
    text.split(|b| *b == b'\n').any(|line| line.split(|b| *b == b':').next() == Some(name.as_bytes()))
}

/// The program that a service begins with, where the image has it.
pub(crate) fn program<'t>(service: &Service, tree: &'t Tree) -> Option<(&'t Inode, &'t Content)> {
    let program = service.command.first()?;
    let at = |folder: &str| file_at(tree, format!("{folder}/{program}").as_bytes());
    if program.starts_with('/') {
        at("")
    } else if program.contains('/') {
        at(&service.workdir)
    } else {
        service.env.get("PATH")?.split(':').find_map(at)
    }
}

/// The program that the kernel starts to run this one: what a script's first line names, or what loads a program's libraries.
fn interpreter(content: &Content) -> Option<Vec<u8>> {
    let beginning = beginning(content, MAX_LINE_BYTES)?;
    if let Some(line) = beginning.strip_prefix(b"#!") {
        let mut words = line.split(|b| *b == b'\n').next()?.split(|b| b" \t\r".contains(b));
        return words.find(|word| !word.is_empty()).map(<[u8]>::to_vec);
    }
    if !beginning.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let half = |at: usize| Some(u64::from(u16::from_le_bytes(*beginning.get(at..)?.first_chunk()?)));
    let (table, entry_bytes, entries) = (u64_at(&beginning, 32)?, half(54)?, half(56)?);
    for number in 0..entries.min(MAX_SEGMENTS) {
        let mut entry = [0; 56];
        content.read_exact_at(&mut entry, table.checked_add(number.checked_mul(entry_bytes)?)?).ok()?;
        if entry.starts_with(INTERPRETER_SEGMENT) {
            let (offset, bytes) = (u64_at(&entry, 8)?, u64_at(&entry, 32)?);
            let mut path = vec![0; usize::try_from(bytes.min(MAX_LINE_BYTES)).ok()?];
            content.read_exact_at(&mut path, offset).ok()?;
            return path.split(|b| *b == 0).next().map(<[u8]>::to_vec);
        }
    }
    None
}

/// The first bytes of a file.
fn beginning(content: &Content, limit: u64) -> Option<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(content.len().min(limit)).ok()?];
    content.read_exact_at(&mut bytes, 0).ok()?;
    Some(bytes)
}

/// The file that a path leads to, by whatever links, within the tree.
fn file_at<'t>(tree: &'t Tree, path: &[u8]) -> Option<(&'t Inode, &'t Content)> {
    let mut rest: Vec<Vec<u8>> = components(path).rev().map(<[u8]>::to_vec).collect();
    let mut at: Vec<Vec<u8>> = Vec::new();
    let mut links = 0;
    while let Some(name) = rest.pop() {
        if name == b".." {
            at.pop();
            continue;
        }
        at.push(name);
        let inode = tree.lookup(&at.join(&b'/'))?;
        match &inode.kind {
            Kind::Directory => {}
            Kind::File(content) => return rest.is_empty().then_some((inode, content)),
            Kind::Symlink(target) => {
                links += 1;
                if links > MAX_LINKS {
                    return None;
                }
                at.pop();
                if target.starts_with(b"/") {
                    at.clear();
                }
                rest.extend(components(target).rev().map(<[u8]>::to_vec));
            }
        }
    }
    None
}

fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".")
}
