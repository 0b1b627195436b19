//! Where init runs: in a virtual machine with vsock, or in namespaces with Unix sockets in its stead.

use std::{ffi::OsString, path::PathBuf};

use transport::{Addr, Cid, Port};

/// Where init runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A virtual machine of its own.
    Machine,
    /// Linux namespaces; the directory holds the sockets.
    Local(PathBuf),
}

impl Place {
    pub(crate) fn from_args(args: impl IntoIterator<Item = OsString>) -> Self {
        let mut args = args.into_iter();
        while let Some(word) = args.next() {
            if word == "--local"
                && let Some(directory) = args.next()
            {
                return Self::Local(directory.into());
            }
        }
        Self::Machine
    }

    /// Where the host listens on `port`.
    pub(crate) fn host(&self, port: u32) -> Addr {
        match self {
            Self::Machine => Addr::Vsock { cid: Cid::PARENT, port: Port(port) },
            Self::Local(directory) => Addr::Unix(directory.join(format!("vsock_{port}"))),
        }
    }

    /// Where something of the enclave listens so that the host reaches it as `port`.
    pub(crate) fn guest(&self, port: u32) -> Addr {
        match self {
            Self::Machine => Addr::Vsock { cid: Cid::ANY, port: Port(port) },
            Self::Local(directory) => Addr::Unix(directory.join(format!("guest_{port}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(words: &[&str]) -> Place {
        Place::from_args(words.iter().map(OsString::from))
    }

    #[test]
    fn passes_over_what_the_kernel_did_not_know() {
        assert_eq!(place(&["nomodules", "foo=bar", "--", "--local"]), Place::Machine);
        assert_eq!(place(&["x", "--local", "/host"]), Place::Local("/host".into()));
    }

    #[test]
    fn addresses_follow_the_place() {
        assert_eq!(place(&[]).host(9000).to_string(), "vsock://3:9000");
        assert_eq!(place(&[]).guest(9001).to_string(), "vsock://any:9001");
        assert_eq!(place(&["--local", "/d"]).host(9000).to_string(), "unix:/d/vsock_9000");
        assert_eq!(place(&["--local", "/d"]).guest(80).to_string(), "unix:/d/guest_80");
    }
}
