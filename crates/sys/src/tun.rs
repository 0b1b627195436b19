//! A TUN device: making it, its addresses and the routes into it.
//!
//! `pf-proxy` calls it for transparent egress, inside the enclave only. Structures and numbers are those of the kernel's
//! `linux/if_tun.h`, `linux/if.h`, `linux/route.h` and `linux/ipv6_route.h`; the ioctls are the old ones of `netdevice(7)`,
//! which need no netlink.

use std::{
    ffi::CString,
    io,
    net::{Ipv4Addr, Ipv6Addr, UdpSocket},
    os::fd::OwnedFd,
    path::Path,
    time::{Duration, Instant},
};

use rustix::{
    fs::{Mode, OFlags},
    ioctl::{self, IntegerSetter, Setter, Updater},
    net::{AddressFamily, SocketFlags, SocketType},
};

/// What the kernel puts before each packet: `struct virtio_net_hdr`.
pub const VNET_HEADER_BYTES: usize = 10;

/// Longest name of an interface.
const MAX_NAME_BYTES: usize = 15;

const IFF_TUN: u16 = 0x0001;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;

const TUNSETIFF: ioctl::Opcode = ioctl::opcode::write::<i32>(b'T', 202);
const TUNSETOFFLOAD: ioctl::Opcode = ioctl::opcode::write::<u32>(b'T', 208);
const TUNSETVNETHDRSZ: ioctl::Opcode = ioctl::opcode::write::<i32>(b'T', 216);

/// Checksums may be left out, and TCP handed over in segments of up to 64 KiB.
const OFFLOADS: usize = 0x01 | 0x02 | 0x04 | 0x08;

const SIOCADDRT: ioctl::Opcode = 0x890b;
const SIOCSIFFLAGS: ioctl::Opcode = 0x8914;
const SIOCSIFADDR: ioctl::Opcode = 0x8916;
const SIOCSIFMTU: ioctl::Opcode = 0x8922;
const SIOCGIFINDEX: ioctl::Opcode = 0x8933;

const RTF_UP: u16 = 0x0001;

/// How long the kernel may take to give an IPv6 address free.
const USABLE_TIMEOUT: Duration = Duration::from_secs(20);

/// A TUN device that exists as long as its descriptor is open.
///
/// Reading the descriptor, which does not block, gives one packet that the kernel routed into the device, after a
/// `virtio_net_hdr` of [`VNET_HEADER_BYTES`]; writing one hands it to the kernel. TCP comes in segments of up to 64 KiB and
/// without checksums, as the header says.
#[derive(Debug)]
pub struct Tun {
    file: OwnedFd,
    name: Name,
}

impl Tun {
    /// Makes the device `name`, down and without addresses, by the control device at `path`.
    ///
    /// # Errors
    /// What the kernel says: `EPERM` without `CAP_NET_ADMIN`, `EBUSY` when somebody has a device of that name, `EINVAL` for
    /// a name that is no interface's.
    pub fn create(path: &Path, name: &str) -> io::Result<Self> {
        let name = Name::new(name)?;
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::open(path, flags, Mode::empty())?;
        let mut request = name.request([0; 24]);
        request.put(&(IFF_TUN | IFF_NO_PI | IFF_VNET_HDR).to_ne_bytes());
        // SAFETY: TUNSETIFF reads and writes back one `struct ifreq`, whose size and layout `Request` has.
        unsafe { ioctl::ioctl(&file, Updater::<TUNSETIFF, Request>::new(&mut request)) }?;
        let size = i32::try_from(VNET_HEADER_BYTES).expect("10 fits");
        // SAFETY: TUNSETVNETHDRSZ reads one int.
        unsafe { ioctl::ioctl(&file, Setter::<TUNSETVNETHDRSZ, i32>::new(size)) }?;
        // SAFETY: TUNSETOFFLOAD takes its argument by value and touches no memory.
        unsafe { ioctl::ioctl(&file, IntegerSetter::<TUNSETOFFLOAD>::new_usize(OFFLOADS)) }?;
        Ok(Self { file, name })
    }

    /// Brings the device up with this MTU, in bytes.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn raise(&self, mtu: u16) -> io::Result<()> {
        const IFF_UP: u16 = 0x1;
        const IFF_RUNNING: u16 = 0x40;
        let socket = control(AddressFamily::INET)?;
        let mut request = self.name.request([0; 24]);
        request.put(&i32::from(mtu).to_ne_bytes());
        // SAFETY: SIOCSIFMTU reads one `struct ifreq`.
        unsafe { ioctl::ioctl(&socket, Setter::<SIOCSIFMTU, Request>::new(request)) }?;
        let mut request = self.name.request([0; 24]);
        request.put(&(IFF_UP | IFF_RUNNING).to_ne_bytes());
        // SAFETY: SIOCSIFFLAGS reads one `struct ifreq`.
        unsafe { ioctl::ioctl(&socket, Setter::<SIOCSIFFLAGS, Request>::new(request)) }.map_err(Into::into)
    }

    /// Gives the device an IPv4 address of its own and makes it the way to everywhere. It must be up.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn route_ipv4(&self, own: Ipv4Addr) -> io::Result<()> {
        let socket = control(AddressFamily::INET)?;
        let mut request = self.name.request([0; 24]);
        request.put(&SocketAddress::ipv4(own).0);
        // SAFETY: SIOCSIFADDR reads one `struct ifreq`.
        unsafe { ioctl::ioctl(&socket, Setter::<SIOCSIFADDR, Request>::new(request)) }?;
        let anywhere = SocketAddress::ipv4(Ipv4Addr::UNSPECIFIED);
        let device = self.name.text();
        let route = Route {
            pad1: 0,
            destination: anywhere,
            gateway: anywhere,
            mask: anywhere,
            flags: RTF_UP,
            pad2: 0,
            pad3: 0,
            pad4: 0,
            metric: 0,
            device: device.as_ptr() as usize,
            mtu: 0,
            window: 0,
            irtt: 0,
        };
        // SAFETY: SIOCADDRT reads one `struct rtentry`, whose layout `Route` has on 64-bit Linux, and the string that its
        // `device` points to, which lives until after the call.
        let outcome = unsafe { ioctl::ioctl(&socket, Setter::<SIOCADDRT, Route>::new(route)) };
        drop(device);
        outcome.map_err(Into::into)
    }

    /// As [`Self::route_ipv4`] for IPv6. Returns when the address can be used, which the kernel does not say at once.
    ///
    /// # Errors
    /// What the kernel says: `EAFNOSUPPORT` without IPv6; `EADDRNOTAVAIL` when the address is not usable in time.
    pub fn route_ipv6(&self, own: Ipv6Addr) -> io::Result<()> {
        let socket = control(AddressFamily::INET6)?;
        let mut request = self.name.request([0; 24]);
        // SAFETY: SIOCGIFINDEX reads and writes back one `struct ifreq`.
        unsafe { ioctl::ioctl(&socket, Updater::<SIOCGIFINDEX, Request>::new(&mut request)) }?;
        let index = i32::from_ne_bytes([request.rest[0], request.rest[1], request.rest[2], request.rest[3]]);
        let address = InterfaceAddress { address: own.octets(), prefix: 128, index };
        // SAFETY: SIOCSIFADDR of an IPv6 socket reads one `struct in6_ifreq`, whose layout `InterfaceAddress` has.
        unsafe { ioctl::ioctl(&socket, Setter::<SIOCSIFADDR, InterfaceAddress>::new(address)) }?;
        let route = Ipv6Route {
            addresses: [0; 48],
            kind: 0,
            destination_bits: 0,
            source_bits: 0,
            metric: 1,
            info: 0,
            flags: RTF_UP.into(),
            index,
        };
        // SAFETY: SIOCADDRT of an IPv6 socket reads one `struct in6_rtmsg`, whose layout `Ipv6Route` has on 64-bit Linux.
        unsafe { ioctl::ioctl(&socket, Setter::<SIOCADDRT, Ipv6Route>::new(route)) }?;
        wait_until_usable(own)
    }

    /// The descriptor to read and write packets.
    pub fn into_file(self) -> OwnedFd {
        self.file
    }
}

/// The name of an interface, ended by a zero byte.
#[derive(Clone, Copy, Debug)]
struct Name([u8; MAX_NAME_BYTES + 1]);

impl Name {
    fn new(name: &str) -> io::Result<Self> {
        let legal = !name.is_empty() && name.len() <= MAX_NAME_BYTES && !name.contains(['\0', '/', '%']);
        if !legal {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut bytes = [0; MAX_NAME_BYTES + 1];
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        Ok(Self(bytes))
    }

    fn request(self, rest: [u8; 24]) -> Request {
        Request { name: self.0, rest }
    }

    fn text(self) -> CString {
        let bytes = self.0.split(|byte| *byte == 0).next().unwrap_or_default();
        CString::new(bytes).expect("what comes before the first zero has none")
    }
}

/// `struct ifreq` with any arm of its union.
#[repr(C, align(8))]
#[derive(Debug)]
struct Request {
    name: [u8; MAX_NAME_BYTES + 1],
    rest: [u8; 24],
}

const _: () = assert!(size_of::<Request>() == 40);

impl Request {
    /// Puts a value at the beginning of the union.
    fn put(&mut self, value: &[u8]) {
        self.rest[..value.len()].copy_from_slice(value);
    }
}

/// `struct sockaddr_in`, in the room of a `struct sockaddr`.
#[repr(C, align(2))]
#[derive(Clone, Copy, Debug)]
struct SocketAddress([u8; 16]);

impl SocketAddress {
    fn ipv4(address: Ipv4Addr) -> Self {
        let mut bytes = [0; 16];
        bytes[..2].copy_from_slice(&AddressFamily::INET.as_raw().to_ne_bytes());
        bytes[4..8].copy_from_slice(&address.octets());
        Self(bytes)
    }
}

/// `struct rtentry`.
#[repr(C)]
#[derive(Debug)]
struct Route {
    pad1: u64,
    destination: SocketAddress,
    gateway: SocketAddress,
    mask: SocketAddress,
    flags: u16,
    pad2: i16,
    pad3: u64,
    pad4: usize,
    metric: i16,
    device: usize,
    mtu: u64,
    window: u64,
    irtt: u16,
}

const _: () = assert!(size_of::<Route>() == 120);

/// `struct in6_ifreq`.
#[repr(C)]
#[derive(Debug)]
struct InterfaceAddress {
    address: [u8; 16],
    prefix: u32,
    index: i32,
}

const _: () = assert!(size_of::<InterfaceAddress>() == 24);

/// `struct in6_rtmsg`; its three addresses are destination, source and gateway.
#[repr(C)]
#[derive(Debug)]
struct Ipv6Route {
    addresses: [u8; 48],
    kind: u32,
    destination_bits: u16,
    source_bits: u16,
    metric: u32,
    info: u64,
    flags: u32,
    index: i32,
}

const _: () = assert!(size_of::<Ipv6Route>() == 80);

/// A new IPv6 address is tentative until a worker of the kernel has found that nobody else has it, which on a device without
/// neighbours takes only the worker's turn.
fn wait_until_usable(own: Ipv6Addr) -> io::Result<()> {
    let deadline = Instant::now() + USABLE_TIMEOUT;
    loop {
        match UdpSocket::bind((own, 0)) {
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(1));
            }
            other => return other.map(drop),
        }
    }
}

fn control(family: AddressFamily) -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn names_that_are_no_interface_s_are_refused() {
        for name in ["", "a-name-of-16-byte", "a/b", "tun%d", "a\0b"] {
            assert!(Name::new(name).is_err(), "{name:?}");
        }
        assert_eq!(Name::new("egress0").unwrap().text().to_bytes(), b"egress0");
    }

    /// In namespaces of its own: the test's program runs itself there.
    #[test]
    fn a_device_becomes_the_way_to_everywhere() {
        const INSIDE: &str = "TUN_TEST_INSIDE";
        let path = Path::new("/dev/net/tun");
        if std::env::var_os(INSIDE).is_some() {
            let tun = Tun::create(path, "egress0").unwrap();
            tun.raise(1500).unwrap();
            tun.route_ipv4(Ipv4Addr::new(198, 18, 0, 1)).unwrap();
            tun.route_ipv6("fd67:6c61:7373::1".parse().unwrap()).unwrap();
            let routed = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
            routed.connect("192.0.2.1:9").unwrap();
            assert_eq!(routed.local_addr().unwrap().ip(), Ipv4Addr::new(198, 18, 0, 1));
            let routed = std::net::UdpSocket::bind("[::]:0").unwrap();
            routed.connect("[2001:db8::1]:9").unwrap();
            assert_eq!(routed.local_addr().unwrap().ip().to_string(), "fd67:6c61:7373::1");
            return;
        }
        let may_open = std::fs::OpenOptions::new().read(true).write(true).open(path).is_ok();
        if !may_open {
            println!("skipped: TUN device (/dev/net/tun cannot be opened)");
            return;
        }
        let mut inside = Command::new("unshare");
        inside.args(["--user", "--map-root-user", "--net"]).arg(std::env::current_exe().unwrap());
        inside.args(["--exact", "tun::tests::a_device_becomes_the_way_to_everywhere"]);
        assert!(inside.env(INSIDE, "1").status().unwrap().success());
    }
}
