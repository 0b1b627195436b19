//! Published ports: several applications on one of them, and what they are told of their clients.
//!
//! Clients, with addresses of their own, are in a network namespace of the test's, where the whole command runs. Needs root for
//! it, and says so without.

#![allow(clippy::unwrap_used, reason = "a test that fails to prepare has to stop")]

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use bed::{Bed, finish, programs::add_python, text, utf8};

/// With a way out as well: its routes and those of clients must not get in each other's way.
const MANIFEST: &str = r#"
name = "published"
image.rootfs = "rootfs"
resources.memory_mib = 768
attestation.enabled = false
egress.allow = ["192.0.2.10:8000"]
app.command = ["/usr/bin/python3.11", "/server.py"]
app.ready = "tcp:8080"
[[publish]]
port = 8080
client_address = "source"
[[publish]]
port = 81
target = 8081
client_address = "proxy_protocol"
[[publish]]
port = 82
target = 8082
client_address = "source"
max_per_source = 1
[[publish]]
port = 443
protocol = "udp"
target = 4433
[[publish]]
port = 443
sni = "shop.test"
target = 8443
[[publish]]
port = 443
sni = "*.shop.test"
target = 9443
"#;

/// Sends datagrams to 4433 back, turned around; says on 8080 whom it sees, on 8081 what comes first, lets who is in on 8082 stay, and says on 8443 and 9443 which of them it is.
const SERVER: &str = r#"
import socket, ssl, threading
def serve(address, port, answer):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.create_server((address, port), family=family, dualstack_ipv6=":" in address)
    def one(client, peer):
        with client:
            try:
                answer(client, peer)
            except OSError:
                pass
    def loop():
        while True:
            threading.Thread(target=one, args=listener.accept()).start()
    threading.Thread(target=loop).start()
def header(client, _):
    seen = b""
    while len(seen) < 28 and (more := client.recv(28 - len(seen))):
        seen += more
    client.sendall(seen.hex().encode())
def tls(name):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain("/cert.pem", "/key.pem")
    def answer(client, _):
        with context.wrap_socket(client, server_side=True) as session:
            session.sendall(name)
    return answer
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind(("127.0.0.1", 4433))
def turn_around():
    while True:
        data, client = datagrams.recvfrom(65536)
        datagrams.sendto(data[::-1], client)
threading.Thread(target=turn_around).start()
serve("127.0.0.1", 8081, header)
serve("127.0.0.1", 8443, tls(b"the shop"))
serve("127.0.0.1", 9443, tls(b"below the shop"))
def stay(client, _):
    client.sendall(b"in")
    client.recv(1)
serve("::", 8082, stay)
serve("::", 8080, lambda client, peer: client.sendall(f"{peer[0]} {peer[1]}".encode()))
"#;

const CLIENTS: &str = r#"
import socket, ssl
def ask(source, to, port, name=None):
    with socket.create_connection((to, port), timeout=60, source_address=(source, 0)) as client:
        own = client.getsockname()[1]
        if name:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            client = context.wrap_socket(client, server_hostname=name)
        seen = b""
        while more := client.recv(4096):
            seen += more
        client.close()
        return seen.decode(), own
seen, port = ask("192.0.2.77", "192.0.2.10", 8080)
print("IPv4:", seen.replace(f" {port}", " and port"))
seen, port = ask("2001:db8::77", "2001:db8::10", 8080)
print("IPv6:", seen.replace(f" {port}", " and port"))
print("from here:", ask("127.0.0.1", "127.0.0.1", 8080)[0].split()[0])
seen, port = ask("192.0.2.77", "192.0.2.10", 81)
print("header:", seen.replace(f"{port:04x}0051", " ports"))
def enter(source):
    client = socket.create_connection(("192.0.2.10", 82), timeout=60, source_address=(source, 0))
    try:
        return client, client.recv(2).decode()
    except ConnectionResetError:
        return client, ""
def echo(source, to, data):
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.bind((source, 0))
    client.connect((to, 443))
    client.settimeout(1)
    # UDP may lose; what is asked for is the answer to one of sixty.
    for _ in range(60):
        client.send(data)
        try:
            return client.recv(65536) == data[::-1]
        except TimeoutError:
            pass
print("datagrams:", [echo(source, "192.0.2.10", data) for source in ("192.0.2.77", "192.0.2.10")
                     for data in (b"ab", bytes(range(251)) * 260)])
first, second, other = enter("192.0.2.77"), enter("192.0.2.77"), enter("192.0.2.10")
print("one of each:", [seen for _, seen in (first, second, other)])
for name in ["shop.test", "SHOP.test", "a.b.shop.test"]:
    print(f"{name}:", ask("192.0.2.77", "192.0.2.10", 443, name)[0])
try:
    print("other.test:", ask("192.0.2.77", "192.0.2.10", 443, "other.test")[0])
except OSError:
    print("other.test is closed")
"#;

const SCRIPT: &str = r#"
ip link set lo up
for address in 192.0.2.10/32 192.0.2.77/32; do ip addr add $address dev lo; done
for address in 2001:db8::10/128 2001:db8::77/128; do ip addr add $address dev lo nodad; done
"$@" --detach --publish 192.0.2.10:8080:8080 --publish "[2001:db8::10]:8080:8080" --publish 127.0.0.1:8080:8080 \
    --publish 192.0.2.10:81:81 --publish 192.0.2.10:82:82 --publish 192.0.2.10:443:443 \
    --publish 192.0.2.10:443:443/udp
python3 clients.py
"$1" stop published
"#;

fn run_beside_clients(bed: &Bed, image: &Path) -> Output {
    fs::write(bed.path("clients.py"), CLIENTS).unwrap();
    let args = [&bed.run_args(image)[..], &["--name", "published"]].concat();
    finish(&mut bed.beside(SCRIPT, &args))
}

#[expect(clippy::print_stdout, reason = "the line tells who runs the tests what was not tested")]
fn applications_share_a_port_and_know_their_clients(bed: &Bed) {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: clients of published ports (not root)");
        return;
    }
    let dir = bed.manifest("published", MANIFEST);
    let root = dir.join("rootfs");
    add_python(&root);
    fs::write(root.join("server.py"), SERVER).unwrap();
    let certificate = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
        .args(["-subj", "/CN=shop.test", "-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(&root)
        .output()
        .unwrap();
    assert!(certificate.status.success(), "{}", text(&certificate));
    let image = bed.path("published.eif");
    bed.ok(&["build", utf8(&dir), "-o", utf8(&image)]);
    let output = run_beside_clients(bed, &image);
    let said = String::from_utf8_lossy(&output.stdout);
    let header = format!("header: 0d0a0d0a000d0a515549540a2111000c{}{} ports", "c000024d", "c000020a");
    for line in [
        "IPv4: ::ffff:192.0.2.77 and port",
        "IPv6: 2001:db8::77 and port",
        "from here: ::ffff:192.0.0.8",
        &header,
        "one of each: ['in', '', 'in']",
        "datagrams: [True, True, True, True]",
        "shop.test: the shop",
        "SHOP.test: the shop",
        "a.b.shop.test: below the shop",
        "other.test is closed",
    ] {
        assert!(said.lines().any(|said| said == line), "{line}\n{}", text(&output));
    }
}

#[test]
fn applications_share_a_port_and_know_their_clients_on_local() {
    if let Some(bed) = Bed::local() {
        applications_share_a_port_and_know_their_clients(&bed);
    }
}

#[test]
fn applications_share_a_port_and_know_their_clients_on_qemu() {
    if let Some(bed) = Bed::qemu() {
        applications_share_a_port_and_know_their_clients(&bed);
    }
}
