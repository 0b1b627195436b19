//! Setting the bridge up, running it for one virtual machine, and taking it down.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;
use thiserror::Error;
use tracing::{debug, info};
use vhost::vhost_user::{Error as VhostUserError, Listener};
use vhost_user_backend::{Error as DaemonError, ShutdownHandle, VhostUserDaemon};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::epoll::EventSet;

use crate::device::{Device, Memory, STREAMS_EVENT};
use crate::mux::Cids;
use crate::streams::Streams;

/// The CID by which the guest knows its parent; see the AWS Nitro Enclaves user guide.
const PARENT_CID: u64 = 3;

/// `VMADDR_CID_HOST`, the same by the name other hypervisors use.
const HOST_CID: u64 = 2;

/// Lowest CID for a guest: those below have meanings of their own.
const MIN_GUEST_CID: u32 = 4;

/// Longest path of the host's socket: `sun_path` has 108 bytes, less the end and `_4294967295`.
const MAX_UDS_PATH_BYTES: usize = 96;

/// Where a bridge listens and for whom.
#[derive(Clone, Debug)]
pub struct Config {
    /// The socket that QEMU connects to, `-chardev socket,path=...`.
    pub vhost_socket: PathBuf,
    /// The socket that host clients connect to. A service for the guest's connections to port P listens at the same
    /// path with `_P` added. At most 96 bytes.
    pub uds: PathBuf,
    /// The guest's CID, at least 4.
    pub guest_cid: u32,
}

/// Why a bridge could not be set up or did not end well.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The guest's CID has a meaning of its own.
    #[error("guest CID {cid} is reserved: the lowest is {MIN_GUEST_CID}")]
    ReservedCid {
        /// The CID that was asked for.
        cid: u32,
    },
    /// The path leaves no room for a port.
    #[error("socket path {path} is {length} bytes long: at most {MAX_UDS_PATH_BYTES} leave room for a port")]
    PathTooLong {
        /// The path that was asked for.
        path: PathBuf,
        /// Its length in bytes.
        length: usize,
    },
    /// Somebody answers at the socket already.
    #[error("socket {path} is in use")]
    InUse {
        /// The socket's path.
        path: PathBuf,
    },
    /// A socket could not be made.
    #[error("cannot listen at {path}")]
    Bind {
        /// The socket's path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A thread, or what it needs of the system, could not be had.
    #[error("cannot start the bridge")]
    Start(#[source] io::Error),
    /// QEMU and the bridge no longer understand each other.
    #[error("the vhost-user connection failed: {0}")]
    VhostUser(DaemonError),
    /// A thread of the bridge panicked.
    #[error("a thread of the bridge panicked")]
    Panicked,
}

/// A bridge whose sockets exist, so that QEMU and clients can connect, but which does not answer them yet.
#[derive(Debug)]
pub struct Bridge {
    guest_cid: u32,
    vhost: Socket,
    uds: Socket,
    stop: Arc<Stop>,
}

impl Bridge {
    /// Makes the two sockets. Socket files left behind by somebody who is gone are replaced.
    ///
    /// # Errors
    ///
    /// [`Error::ReservedCid`], [`Error::PathTooLong`], [`Error::InUse`] or [`Error::Bind`] if the configuration cannot be
    /// had, [`Error::Start`] if the system refuses a descriptor.
    pub fn bind(config: Config) -> Result<Self, Error> {
        let Config { vhost_socket, uds, guest_cid: cid } = config;
        // The highest is VMADDR_CID_ANY.
        if !(MIN_GUEST_CID..u32::MAX).contains(&cid) {
            return Err(Error::ReservedCid { cid });
        }
        let length = uds.as_os_str().len();
        if length > MAX_UDS_PATH_BYTES {
            return Err(Error::PathTooLong { path: uds, length });
        }
        // This one first: asking whether it is in use does no harm to a bridge that uses both, whereas a connection to
        // the other counts as a QEMU.
        let uds = Socket::bind(uds)?;
        let vhost = Socket::bind(vhost_socket)?;
        let stop = Arc::new(Stop::new().map_err(Error::Start)?);
        Ok(Self { guest_cid: cid, vhost, uds, stop })
    }

    /// Starts serving, in threads of its own: the first QEMU that connects, until it disconnects.
    ///
    /// # Errors
    ///
    /// [`Error::Start`] if the system refuses a thread.
    pub fn spawn(self) -> Result<Handle, Error> {
        let stop = Arc::clone(&self.stop);
        let thread = thread::Builder::new()
            .name("vsock-bridge".to_owned())
            .spawn(move || self.serve())
            .map_err(Error::Start)?;
        Ok(Handle { stop, thread: Some(thread) })
    }

    fn serve(self) -> Result<(), Error> {
        if !self.stop.wait_for(&self.vhost.listener).map_err(Error::Start)? {
            return Ok(());
        }
        let mut daemon = self.start_daemon()?;
        info!(guest_cid = self.guest_cid, "virtual machine connected");
        self.stop.serving(daemon.shutdown_handle());
        let outcome = daemon.wait();
        // Joins the worker, which closes all streams; only then do the socket files go.
        drop(daemon);
        info!(guest_cid = self.guest_cid, "virtual machine disconnected");
        match outcome {
            Ok(()) => Ok(()),
            Err(error) if is_disconnect(&error) => Ok(()),
            Err(DaemonError::WaitDaemon(_)) => Err(Error::Panicked),
            Err(error) => Err(Error::VhostUser(error)),
        }
    }

    fn start_daemon(&self) -> Result<VhostUserDaemon<Arc<Mutex<Device>>>, Error> {
        let memory = Memory::new(GuestMemoryMmap::new());
        let cids = Cids { guest: u64::from(self.guest_cid), host: [PARENT_CID, HOST_CID] };
        let clients = self.uds.listener.try_clone().map_err(Error::Start)?;
        let streams = Streams::new(clients, self.uds.path.clone()).map_err(Error::Start)?;
        let device = Device::new(self.guest_cid, cids, streams, memory.clone()).map_err(Error::Start)?;
        let news = device.streams_fd().as_raw_fd();
        let mut daemon = VhostUserDaemon::new("vhost-user".to_owned(), Arc::new(Mutex::new(device)), memory)
            .map_err(Error::VhostUser)?;
        for worker in daemon.get_epoll_handlers() {
            worker.register_listener(news, EventSet::IN, STREAMS_EVENT).map_err(Error::Start)?;
        }
        let listener = self.vhost.listener.try_clone().map_err(Error::Start)?;
        daemon.start(&mut Listener::from(listener)).map_err(Error::VhostUser)?;
        Ok(daemon)
    }
}

/// Whether this is how the end of a virtual machine looks from here.
fn is_disconnect(error: &DaemonError) -> bool {
    matches!(
        error,
        DaemonError::HandleRequest(
            VhostUserError::Disconnected | VhostUserError::PartialMessage | VhostUserError::SocketBroken(_)
        )
    )
}

/// A bridge at work. Dropping it stops it and waits for the end.
#[derive(Debug)]
pub struct Handle {
    stop: Arc<Stop>,
    thread: Option<JoinHandle<Result<(), Error>>>,
}

impl Handle {
    /// Ends the bridge, whether or not a QEMU is connected. Returns at once.
    pub fn stop(&self) {
        self.stop.stop();
    }

    /// Whether the bridge has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits until QEMU has disconnected or the bridge was stopped. The socket files are gone then.
    ///
    /// # Errors
    ///
    /// [`Error::VhostUser`] if the connection to QEMU ended in disagreement, [`Error::Start`] if it could not be served,
    /// [`Error::Panicked`] if a thread did.
    pub fn wait(mut self) -> Result<(), Error> {
        self.join()
    }

    fn join(&mut self) -> Result<(), Error> {
        match self.thread.take() {
            Some(thread) => thread.join().unwrap_or(Err(Error::Panicked)),
            None => Ok(()),
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.stop.stop();
            if let Err(error) = self.join() {
                debug!(%error, "the bridge did not end well");
            }
        }
    }
}

/// How the serving thread is told to end.
struct Stop {
    bell: OwnedFd,
    stage: Mutex<Stage>,
}

enum Stage {
    Waiting,
    Serving(ShutdownHandle),
    Stopped,
}

impl Stop {
    fn new() -> io::Result<Self> {
        let bell = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Self { bell, stage: Mutex::new(Stage::Waiting) })
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self) {
        let mut stage = self.stage();
        if let Stage::Serving(connection) = &*stage {
            connection.shutdown();
        }
        *stage = Stage::Stopped;
        // Fails only if the count is full, that is, if the bell was rung already.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }

    /// Waits until somebody connects. Says whether that came before being stopped.
    fn wait_for(&self, listener: &UnixListener) -> io::Result<bool> {
        loop {
            let mut events = [PollFd::new(&self.bell, PollFlags::IN), PollFd::new(listener, PollFlags::IN)];
            match poll(&mut events, None) {
                Ok(_) if !events[0].revents().is_empty() => return Ok(false),
                Ok(_) => return Ok(true),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// From now on, stopping means to shut this connection.
    fn serving(&self, connection: Option<ShutdownHandle>) {
        let mut stage = self.stage();
        if let Some(connection) = connection {
            match *stage {
                Stage::Stopped => connection.shutdown(),
                Stage::Waiting | Stage::Serving(_) => *stage = Stage::Serving(connection),
            }
        }
    }
}

impl std::fmt::Debug for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stop").finish_non_exhaustive()
    }
}

/// A listener and the socket file it made, which goes with it.
#[derive(Debug)]
struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    fn bind(path: PathBuf) -> Result<Self, Error> {
        match listen(&path) {
            Ok(listener) => Ok(Self { listener, path }),
            Err(source) if source.kind() == io::ErrorKind::AddrInUse => Err(Error::InUse { path }),
            Err(source) => Err(Error::Bind { path, source }),
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            debug!(%error, path = %self.path.display(), "cannot remove a socket file");
        }
    }
}

/// Binds, after removing a socket file that nobody answers at.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let busy = match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => error,
        outcome => return outcome,
    };
    let is_socket = std::fs::symlink_metadata(path)?.file_type().is_socket();
    let is_stale = is_socket
        && UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    if !is_stale {
        return Err(busy);
    }
    std::fs::remove_file(path)?;
    UnixListener::bind(path)
}
