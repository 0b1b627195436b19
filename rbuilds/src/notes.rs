//! What a build left out or changed, for the person who reads the report.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::path::EntryPath;

/// How many paths a note names before it only counts.
const MAX_EXAMPLES: usize = 5;

/// One kind of thing that the image does not carry as the input had it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// What happened.
    pub kind: NoteKind,
    /// To how many entries.
    pub count: u64,
    /// The first of them, at most five: paths inside the image, or ports as `53/udp`.
    pub examples: Vec<String>,
}

/// What happened to an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum NoteKind {
    /// A device or named pipe below `/dev` was left out: the enclave has its own `/dev`.
    DeviceLeftOut,
    /// A socket was left out: it means nothing without the process that listens on it.
    SocketLeftOut,
    /// A named pipe outside `/dev` was left out, as sockets are: whoever reads from it makes it.
    PipeLeftOut,
    /// File capabilities (`security.capability`) were dropped: the format `cpio` holds no extended attributes.
    CapabilitiesDropped,
    /// Other extended attributes were dropped, for the same reason.
    AttributesDropped,
    /// Extended attributes were left out that no image has: other ones than `security.capability` and `user.*`.
    AttributesLeftOut,
    /// Files of an unpacked image could not be given their extended attributes. Never in reference values.
    AttributesNotUnpacked,
    /// A setuid or setgid bit was dropped because owners of a directory input are not taken over.
    SetIdDropped,
    /// Metadata of the AUFS file system (`.wh..wh.*`) was left out.
    AufsMetadataLeftOut,
    /// A file that should tell of packages could not be read, so the SBOM lacks them. Never in reference values.
    PackagesUnread,
    /// The program that a service begins with is not in the image.
    ProgramNotThere,
    /// Nobody may execute it.
    ProgramNotExecutable,
    /// The interpreter of a script, or what loads the libraries of a program, is not in the image.
    InterpreterNotThere,
    /// The image does not know the user or group of a service.
    UserNotThere,
    /// A port that the image exposes is not published.
    PortNotPublished,
    /// A port that the image exposes is neither TCP nor UDP: an enclave carries nothing else.
    PortNotCarried,
}

impl NoteKind {
    /// One sentence for a person.
    pub const fn explanation(self) -> &'static str {
        match self {
            Self::DeviceLeftOut => {
                "devices and named pipes below /dev were left out: the enclave has its own /dev"
            }
            Self::SocketLeftOut => "sockets were left out",
            Self::PipeLeftOut => {
                "named pipes were left out: what needs one has to make it when it starts (`mkfifo`)"
            }
            Self::CapabilitiesDropped => {
                "file capabilities were dropped: the image is in the format \"cpio\", which holds no extended \
                 attributes; \"erofs\" does (image.format)"
            }
            Self::AttributesDropped => {
                "extended attributes were dropped: the image is in the format \"cpio\", which holds none; \
                 \"erofs\" does (image.format)"
            }
            Self::AttributesLeftOut => {
                "extended attributes were left out: an image has security.capability and user.* of files and \
                 directories, and no others"
            }
            Self::AttributesNotUnpacked => {
                "extended attributes could not be given to files here, so file capabilities may have no effect"
            }
            Self::SetIdDropped => {
                "setuid and setgid bits were dropped: all files of a directory belong to root in the image; \
                 use an archive or an image layout to keep owners and modes"
            }
            Self::AufsMetadataLeftOut => "metadata of the AUFS file system was left out",
            Self::ProgramNotThere => {
                "services begin with programs that are not in the image: look at `command`, or at its ENTRYPOINT and CMD"
            }
            Self::ProgramNotExecutable => {
                "programs of services may not be executed: `chmod +x` them where the image is made"
            }
            Self::InterpreterNotThere => {
                "what runs the programs of services is not in the image: add it, or link the program statically"
            }
            Self::UserNotThere => {
                "users of services are not in the image's /etc/passwd or /etc/group: give numbers, or add them there"
            }
            Self::PortNotPublished => {
                "ports that the image exposes are not published, because glasshouse.toml does not say so: \
                 add [[publish]] with the port there, and `protocol = \"udp\"` for those of UDP"
            }
            Self::PortNotCarried => {
                "ports that the image exposes are not reachable: only TCP and UDP are carried"
            }
            Self::PackagesUnread => "the SBOM lacks packages: files that tell of them were not read",
        }
    }
}

/// Gathers notes.
#[derive(Debug, Default)]
pub(crate) struct Notes(BTreeMap<NoteKind, (u64, Vec<String>)>);

impl Notes {
    pub(crate) fn add(&mut self, kind: NoteKind, path: &EntryPath) {
        self.add_text(kind, &path.to_string());
    }

    pub(crate) fn add_text(&mut self, kind: NoteKind, example: &str) {
        let (count, examples) = self.0.entry(kind).or_default();
        *count += 1;
        if examples.len() < MAX_EXAMPLES {
            examples.push(example.to_owned());
        }
    }

    pub(crate) fn into_vec(self) -> Vec<Note> {
        let note = |(kind, (count, examples))| Note { kind, count, examples };
        self.0.into_iter().map(note).collect()
    }
}
