//! What only a PID 1 does: starting services confined, crediting entropy, raising the loopback interface.
//!
//! `enclave-init` calls it. What to start, when and as whom is decided there. Reaping, mounting and rebooting need no
//! unsafe code and are not here.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, Read},
    os::{
        fd::{BorrowedFd, OwnedFd, RawFd},
        unix::process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use rustix::{
    io::{Errno, FdFlags},
    ioctl::{self, Setter},
    net::{AddressFamily, SocketFlags, SocketType},
    process::{Gid, Pid, Signal, Uid},
    thread::CapabilitySet,
};

/// Bytes that one call of [`add_entropy`] takes.
pub const SEED_BYTES: usize = 256;

/// What a process is to be when its program starts.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The program. Without a `/` it is looked up in the `PATH` of [`Self::env`], below [`Confinement::root`].
    pub program: OsString,
    /// Arguments after the program's name.
    pub args: Vec<OsString>,
    /// The whole environment.
    pub env: Vec<(OsString, OsString)>,
    /// Confinement; `None` starts the process with all that the caller has.
    pub confinement: Option<Confinement>,
}

/// Where a process is confined and as whom it runs.
#[derive(Clone, Debug)]
pub struct Confinement {
    /// The directory that becomes `/`.
    pub root: PathBuf,
    /// The working directory, seen from the new root.
    pub workdir: PathBuf,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups; `None` leaves them as they are, for user namespaces that forbid to change them.
    pub groups: Option<Vec<u32>>,
}

/// A process just started, and the reading ends of what it writes.
#[derive(Debug)]
pub struct Spawned {
    /// Its id, which is also the id of its session and process group.
    pub pid: Pid,
    /// Its standard output.
    pub stdout: OwnedFd,
    /// Its standard error.
    pub stderr: OwnedFd,
}

/// What the new process was about to do when starting it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[non_exhaustive]
pub enum Step {
    /// Making the process and its pipes.
    Fork,
    /// Becoming leader of a session.
    Session,
    /// Making a terminal, or taking it as the session's.
    Terminal,
    /// Entering the root directory.
    Root,
    /// Entering the working directory.
    Workdir,
    /// Giving up capabilities.
    Capabilities,
    /// Setting the supplementary groups.
    Groups,
    /// Setting the group.
    Group,
    /// Setting the user.
    User,
    /// Executing the program.
    Exec,
}

/// Why a process could not be started.
#[derive(Debug)]
pub struct SpawnError {
    /// What was being done.
    pub step: Step,
    /// What the kernel said.
    pub source: io::Error,
}

/// Sends the signal `number`, 1 to 31 or a real-time signal from 34 to 64, to every process of `group`.
///
/// # Errors
/// `EINVAL` for another number, else what `kill(2)` says.
pub fn signal_group(group: Pid, number: u8) -> io::Result<()> {
    if !matches!(number, 1..=31 | 34..=64) {
        return Err(Errno::INVAL.into());
    }
    // SAFETY: the number is a valid one, and none of the two (32 and 33) that C libraries keep for themselves.
    let signal = unsafe { Signal::from_raw_unchecked(i32::from(number)) };
    Ok(rustix::process::kill_process_group(group, signal)?)
}

/// Starts a process in a session of its own, with an empty signal mask and every signal's default action, `/dev/null` as
/// input and pipes as outputs.
///
/// A confined process keeps, whatever its user, no more capabilities than container runtimes give, without those that
/// make device nodes or change the root: a confined root user can neither leave its root directory nor make itself
/// the node of a device that is not already there.
///
/// # Errors
/// [`SpawnError`] says which step failed; no process is left behind then.
pub fn spawn(launch: &Launch) -> Result<Spawned, SpawnError> {
    start(launch, [Stdio::null(), Stdio::piped(), Stdio::piped()], Console::None).map(spawned)
}

/// Whether a process's standard input becomes the terminal that controls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Console {
    None,
    Stdin,
}

/// As [`spawn`], with `stdio` as input, output and error.
pub(crate) fn start(launch: &Launch, stdio: [Stdio; 3], console: Console) -> Result<Child, SpawnError> {
    let (mut failed_step, report) = io::pipe().map_err(|source| SpawnError { step: Step::Fork, source })?;
    let mut command = Command::new(&launch.program);
    command.args(&launch.args).env_clear().envs(launch.env.iter().map(|(k, v)| (k, v)));
    let [stdin, stdout, stderr] = stdio;
    command.stdin(stdin).stdout(stdout).stderr(stderr);
    let confinement = launch.confinement.as_ref().map(Prepared::new).transpose()?;
    let prepare = move || {
        let mut step = Step::Session;
        enter(confinement.as_ref(), console, &mut step).map_err(|errno| {
            // Whether the byte arrives only decides how well the failure is described.
            let _ = rustix::io::write(&report, &[step as u8]);
            io::Error::from(errno)
        })
    };
    // SAFETY: between fork and exec only async-signal-safe work may be done. `enter` makes system calls on data that
    // was prepared before the fork; it neither allocates nor takes locks, and converting an errno does not either.
    unsafe { command.pre_exec(prepare) };
    let outcome = command.spawn();
    // Closes this process's copy of the reporting end, so that the read below ends.
    drop(command);
    outcome.map_err(|source| SpawnError { step: reported_step(&mut failed_step), source })
}

/// The confinement in the form system calls take, so that nothing is allocated after the fork.
struct Prepared {
    root: std::ffi::CString,
    workdir: std::ffi::CString,
    uid: Uid,
    gid: Gid,
    groups: Option<Vec<Gid>>,
}

impl Prepared {
    fn new(confinement: &Confinement) -> Result<Self, SpawnError> {
        Ok(Self {
            root: c_path(&confinement.root, Step::Root)?,
            workdir: c_path(&confinement.workdir, Step::Workdir)?,
            uid: Uid::from_raw(valid_id(confinement.uid, Step::User)?),
            gid: Gid::from_raw(valid_id(confinement.gid, Step::Group)?),
            groups: match &confinement.groups {
                None => None,
                Some(ids) => Some(
                    ids.iter()
                        .map(|id| valid_id(*id, Step::Groups).map(Gid::from_raw))
                        .collect::<Result<_, _>>()?,
                ),
            },
        })
    }
}

fn c_path(path: &Path, step: Step) -> Result<std::ffi::CString, SpawnError> {
    let bytes = <OsStr as std::os::unix::ffi::OsStrExt>::as_bytes(path.as_os_str());
    std::ffi::CString::new(bytes).map_err(|e| SpawnError { step, source: e.into() })
}

/// The id -1 tells the kernel "leave as it is": a service meant to lose root would keep it.
fn valid_id(id: u32, step: Step) -> Result<u32, SpawnError> {
    if id == u32::MAX {
        return Err(SpawnError { step, source: Errno::INVAL.into() });
    }
    Ok(id)
}

/// Runs in the new process, after the fork and before the program; see the safety comment in [`spawn`].
fn enter(confinement: Option<&Prepared>, console: Console, step: &mut Step) -> Result<(), Errno> {
    rustix::process::setsid()?;
    default_signals();
    if console == Console::Stdin {
        *step = Step::Terminal;
        rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
    }
    if let Some(to) = confinement {
        *step = Step::Root;
        rustix::process::chroot(to.root.as_c_str())?;
        *step = Step::Workdir;
        rustix::process::chdir(to.workdir.as_c_str())?;
        *step = Step::Capabilities;
        give_up_capabilities()?;
        if let Some(groups) = &to.groups {
            *step = Step::Groups;
            rustix::thread::set_thread_groups(groups)?;
        }
        *step = Step::Group;
        rustix::thread::set_thread_res_gid(to.gid, to.gid, to.gid)?;
        *step = Step::User;
        rustix::thread::set_thread_res_uid(to.uid, to.uid, to.uid)?;
    }
    *step = Step::Exec;
    Ok(())
}

/// Gives every signal its default action again. A program keeps ignoring what the one before it ignored, and a shell then
/// cannot even trap it: whatever was started with `&` in a script would hand SIGINT and SIGQUIT on ignored.
fn default_signals() {
    for number in 1..=libc::SIGRTMAX() {
        // SAFETY: an action that runs no code of this program. The kernel's refusal for SIGKILL and SIGSTOP, and the C
        // library's for the signals that it keeps, leave those as they are.
        unsafe { libc::signal(number, libc::SIG_DFL) };
    }
}

/// What a confined process may still have if it runs as root.
const KEPT_CAPABILITIES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::AUDIT_WRITE);

/// Shrinks the bounding set, which limits what any later `execve` can give.
fn give_up_capabilities() -> Result<(), Errno> {
    for bit in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        if KEPT_CAPABILITIES.contains(capability) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // Capabilities are numbered without gaps: this kernel knows no higher ones.
            Err(Errno::INVAL) => break,
            other => other?,
        }
    }
    Ok(())
}

/// The id of a process just started.
pub(crate) fn pid_of(child: &Child) -> Pid {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a process id is a positive pid_t")
}

fn spawned(mut child: Child) -> Spawned {
    Spawned {
        pid: pid_of(&child),
        stdout: child.stdout.take().expect("stdout was asked to be a pipe").into(),
        stderr: child.stderr.take().expect("stderr was asked to be a pipe").into(),
    }
}

fn reported_step(from: &mut io::PipeReader) -> Step {
    let mut byte = [u8::MAX];
    let steps = [
        Step::Fork,
        Step::Session,
        Step::Terminal,
        Step::Root,
        Step::Workdir,
        Step::Capabilities,
        Step::Groups,
        Step::Group,
        Step::User,
        Step::Exec,
    ];
    match from.read(&mut byte) {
        Ok(1) => steps.into_iter().find(|step| *step as u8 == byte[0]).unwrap_or(Step::Exec),
        // Nothing was reported, so every step of ours passed and the program itself could not be executed.
        _ => Step::Exec,
    }
}

/// Marks every open descriptor above standard error to be closed when a program is executed.
///
/// Whatever started this process may have left descriptors open that services must not inherit; those opened by Rust
/// code are marked already.
///
/// # Errors
/// When `/proc/self/fd` cannot be read.
pub fn close_descriptors_on_exec() -> io::Result<()> {
    let numbers = fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<RawFd>().ok())
        .filter(|fd| *fd > 2);
    for number in numbers.collect::<Vec<_>>() {
        // SAFETY: the borrow lasts for one system call that neither closes nor keeps the descriptor. A number that was
        // closed since it was listed is harmless: the kernel answers EBADF.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        match rustix::io::fcntl_setfd(fd, FdFlags::CLOEXEC) {
            Ok(()) | Err(Errno::BADF) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// `struct rand_pool_info` of `linux/random.h` with room for one seed.
#[repr(C)]
struct RandPoolInfo {
    entropy_bits: i32,
    bytes: i32,
    seed: [u8; SEED_BYTES],
}

/// `RNDADDENTROPY`, `_IOW('R', 0x03, int [2])` in `linux/random.h`.
const RNDADDENTROPY: ioctl::Opcode = ioctl::opcode::write::<[i32; 2]>(b'R', 0x03);

/// Mixes a seed into the kernel's random number generator and credits all its bits.
///
/// `random` is `/dev/random` or `/dev/urandom`. The caller vouches for the seed: it must come from a source of full
/// entropy.
///
/// # Errors
/// What the kernel says; `EPERM` without `CAP_SYS_ADMIN`.
pub fn add_entropy(random: &File, seed: &[u8; SEED_BYTES]) -> io::Result<()> {
    const BYTES: i32 = 256;
    const { assert!(BYTES as usize == SEED_BYTES) };
    let info = RandPoolInfo { entropy_bits: BYTES * 8, bytes: BYTES, seed: *seed };
    // SAFETY: RNDADDENTROPY reads a `rand_pool_info` and then as many bytes after it as its second field says, which
    // are all inside `RandPoolInfo`; it writes nothing.
    unsafe { ioctl::ioctl(random, Setter::<RNDADDENTROPY, RandPoolInfo>::new(info)) }.map_err(Into::into)
}

/// `struct ifreq` of `linux/if.h` with the flags arm of its union.
#[repr(C)]
struct InterfaceFlags {
    name: [u8; 16],
    flags: u16,
    rest_of_union: [u8; 22],
}

/// `SIOCSIFFLAGS` of `linux/sockios.h`.
const SIOCSIFFLAGS: ioctl::Opcode = 0x8914;

/// The leader of the session that `process` belongs to; `None` when the leader is outside this PID namespace, which the
/// kernel writes as 0 (`getsid(2)`, `pid_namespaces(7)`).
///
/// # Errors
/// `ESRCH` when there is no such process.
pub fn session_leader(process: Pid) -> io::Result<Option<Pid>> {
    // SAFETY: getsid takes a number and touches no memory of the caller.
    match unsafe { libc::getsid(process.as_raw_pid()) } {
        -1 => Err(io::Error::last_os_error()),
        leader => Ok(Pid::from_raw(leader)),
    }
}

/// Brings the interface `lo` up; the kernel then gives it 127.0.0.1 and ::1.
///
/// # Errors
/// What the kernel says; `EPERM` without `CAP_NET_ADMIN`.
pub fn raise_loopback() -> io::Result<()> {
    const { assert!(size_of::<InterfaceFlags>() == 40) };
    const IFF_UP: u16 = 0x1;
    const IFF_RUNNING: u16 = 0x40;
    let socket =
        rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let mut request = InterfaceFlags { name: [0; 16], flags: IFF_UP | IFF_RUNNING, rest_of_union: [0; 22] };
    request.name[..2].copy_from_slice(b"lo");
    // SAFETY: SIOCSIFFLAGS reads one `struct ifreq`, 40 bytes on 64-bit Linux, whose layout `InterfaceFlags` has; it
    // writes nothing.
    unsafe { ioctl::ioctl(&socket, Setter::<SIOCSIFFLAGS, InterfaceFlags>::new(request)) }.map_err(Into::into)
}

impl std::fmt::Display for SpawnError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.step {
            Step::Fork => "cannot make a process",
            Step::Session => "cannot start a session",
            Step::Terminal => "cannot make a terminal",
            Step::Root => "cannot enter the root directory",
            Step::Workdir => "cannot enter the working directory",
            Step::Capabilities => "cannot give up capabilities",
            Step::Groups => "cannot set the supplementary groups",
            Step::Group => "cannot set the group",
            Step::User => "cannot set the user",
            Step::Exec => "cannot execute the program",
        })
    }
}

impl std::error::Error for SpawnError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(program: &str, args: &[&str]) -> Launch {
        Launch {
            program: program.into(),
            args: args.iter().map(Into::into).collect(),
            env: vec![("PATH".into(), "/usr/bin:/bin".into())],
            confinement: None,
        }
    }

    fn output(launch: &Launch) -> (String, String) {
        let spawned = spawn(launch).unwrap();
        let read = |fd: OwnedFd| io::read_to_string(File::from(fd)).unwrap();
        let text = (read(spawned.stdout), read(spawned.stderr));
        rustix::process::waitpid(Some(spawned.pid), rustix::process::WaitOptions::empty()).unwrap();
        text
    }

    #[test]
    fn gives_exactly_the_environment_and_separate_outputs() {
        let (stdout, stderr) = output(&plain("sh", &["-c", "env -u PWD -u SHLVL -u _ | sort; echo bad >&2"]));
        assert_eq!((stdout.as_str(), stderr.as_str()), ("PATH=/usr/bin:/bin\n", "bad\n"));
    }

    #[test]
    fn leads_its_own_session_and_process_group() {
        let (stdout, _) = output(&plain(
            "sh",
            &["-c", "read -r pid _ _ _ group session _ < /proc/$$/stat; echo $pid $group $session"],
        ));
        let ids: Vec<_> = stdout.split_whitespace().collect();
        assert_eq!(ids.len(), 3);
        assert!(ids.iter().all(|id| *id == ids[0]), "{stdout}");
    }

    /// A service's `trap ... QUIT` did nothing when the enclave had been started with `&` in a script, so it was killed ten
    /// seconds after it had been asked to end.
    #[test]
    fn ignores_nothing_that_whoever_started_it_ignored() {
        // SAFETY: an action that runs no code; nothing else in these tests sends the signal.
        unsafe { libc::signal(libc::SIGUSR2, libc::SIG_IGN) };
        let (stdout, _) = output(&plain("sh", &["-c", "trap 'echo heard' USR2; kill -USR2 $$; echo end"]));
        assert_eq!(stdout, "heard\nend\n");
    }

    #[test]
    fn names_the_step_that_failed() {
        let failure = spawn(&plain("no-such-program", &[])).unwrap_err();
        assert_eq!((failure.step, failure.source.kind()), (Step::Exec, io::ErrorKind::NotFound));
        let mut launch = plain("true", &[]);
        launch.confinement = Some(Confinement {
            root: "/no/such/root".into(),
            workdir: "/".into(),
            uid: 0,
            gid: 0,
            groups: None,
        });
        // Without privilege chroot is refused before the path is looked at; the step is the same.
        assert_eq!(spawn(&launch).unwrap_err().step, Step::Root);
    }

    /// Without privilege the kernel refuses, but only once it has recognised the request.
    #[test]
    fn entropy_is_credited_or_refused_for_lack_of_privilege() {
        let random = fs::OpenOptions::new().write(true).open("/dev/urandom").unwrap();
        let mut seed = [0; SEED_BYTES];
        File::open("/dev/urandom").unwrap().read_exact(&mut seed).unwrap();
        match add_entropy(&random, &seed) {
            Ok(()) => {}
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::PermissionDenied),
        }
    }

    #[test]
    fn refuses_the_id_that_means_no_change() {
        let mut launch = plain("true", &[]);
        launch.confinement =
            Some(Confinement { root: "/".into(), workdir: "/".into(), uid: u32::MAX, gid: 0, groups: None });
        assert_eq!(spawn(&launch).unwrap_err().step, Step::User);
    }

    /// A process put into a PID namespace from outside, a test runner's say, has a session whose leader has no number
    /// there. Taking the kernel's 0 for a process id ended the program once.
    #[test]
    fn a_session_led_from_outside_the_namespace_has_no_leader() {
        const INSIDE: &str = "SESSION_TEST_INSIDE";
        if std::env::var_os(INSIDE).is_some() {
            assert_eq!(session_leader(rustix::process::getpid()).unwrap(), None);
            return;
        }
        let mut inside = Command::new("unshare");
        inside.args(["--user", "--map-root-user", "--pid", "--fork"]).arg(std::env::current_exe().unwrap());
        inside.args(["--exact", "pid1::tests::a_session_led_from_outside_the_namespace_has_no_leader"]);
        assert!(inside.env(INSIDE, "1").status().unwrap().success());
    }
}
