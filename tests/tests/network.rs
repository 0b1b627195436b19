//! Unmodified programs in an enclave, and servers in a network namespace of the test's own.
//!
//! The whole command runs in that namespace: what the enclave reaches is what the test put there, and nothing else. Needs
//! root for it, and says so without.

#![allow(clippy::unwrap_used, reason = "a test that fails to prepare has to stop")]

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use bed::{
    Bed, finish,
    programs::{add_libraries, add_program, add_python},
    text, utf8,
};

/// What may be reached.
const EGRESS: &str = "[egress]\nallow = [\"web.test:80\", \"*.files.test:8080\", \"db.test:5432\", \"nobody.test:80\", \
                      \"192.0.2.0/28:80\", \"udp:echo.test:443\", \"udp:echo.test:4433\"]\n";

/// The servers: pages at 192.0.2.10 and 2001:db8::10, a file of 20 MB and a repository of Debian packages at port 8080, datagrams sent
/// back at 443.
const SERVERS: &str = r#"
import hashlib, http.server, socket, threading
PAGE = b"page\n"
BIG = bytes(i * 7 % 251 for i in range(1000000)) * 20
DEB = b"a package" * 100000
INDEX = f"Package: page\nVersion: 1\nArchitecture: amd64\nMaintainer: nobody <nobody@example.org>\nDescription: a page\n" \
        f"Filename: ./page.deb\nSize: {len(DEB)}\nSHA256: {hashlib.sha256(DEB).hexdigest()}\n\n"
REPOSITORY = {"Packages": INDEX.encode(), "page.deb": DEB}
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        name = self.path.rsplit("/", 1)[1]
        body = REPOSITORY.get(name, b"") if self.path.startswith("/debian/") else BIG if name == "big" else PAGE
        self.send_response(200 if body else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
class Six(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
def datagrams():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind(("192.0.2.10", 443))
    while True:
        data, who = s.recvfrom(65536)
        s.sendto(data[::-1], who)
threading.Thread(target=datagrams).start()
for server in [http.server.ThreadingHTTPServer(("192.0.2.10", 80), Handler),
               http.server.ThreadingHTTPServer(("192.0.2.10", 8080), Handler), Six(("2001:db8::10", 80), Handler)]:
    threading.Thread(target=server.serve_forever).start()
open("ready", "w").close()
"#;

const HOSTS: &str = "127.0.0.1 localhost\n192.0.2.10 web.test a.files.test db.test echo.test rebound.test\n\
                     2001:db8::10 web.test\n";

/// Makes the namespace, starts the servers, and then the command.
const SCRIPT: &str = r#"
ip link set lo up
ip addr add 192.0.2.10/32 dev lo
ip addr add 2001:db8::10/128 dev lo nodad
mount --bind hosts /etc/hosts
python3 servers.py &
if [ -n "$POSTGRES" ]; then
    setpriv --reuid postgres --regid postgres --clear-groups \
        "$POSTGRES/postgres" -D "$DATA" -c listen_addresses=192.0.2.10 -c unix_socket_directories= >postgres.log 2>&1 &
    for _ in $(seq 300); do "$POSTGRES/pg_isready" -q -h 192.0.2.10 && break; sleep 0.1; done
fi
for _ in $(seq 300); do [ -e ready ] && break; sleep 0.1; done
if [ -e quic_server.py ]; then
    PYTHONPATH=packages /usr/bin/python3.11 quic_server.py &
    for _ in $(seq 300); do [ -e quic-ready ] && break; sleep 0.1; done
fi
"$@"
"#;

/// Runs `glasshouse` with these arguments where the servers are.
fn run_beside_servers(bed: &Bed, args: &[&str], postgres: Option<(&Path, &Path)>) -> Output {
    fs::write(bed.path("servers.py"), SERVERS).unwrap();
    fs::write(bed.path("hosts"), HOSTS).unwrap();
    let mut command = bed.beside(SCRIPT, args);
    command
        .env("POSTGRES", postgres.map_or(Path::new(""), |(programs, _)| programs))
        .env("DATA", postgres.map_or(Path::new(""), |(_, data)| data));
    finish(&mut command)
}

#[expect(clippy::print_stdout, reason = "the line tells who runs the tests what was not tested")]
fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: programs on the network of an enclave (not root)");
    }
    root
}

/// Builds an image whose application runs `script`.
fn image(
    bed: &Bed,
    name: &str,
    script: &str,
    memory_mib: u32,
    prepare: impl Fn(&Path),
) -> std::path::PathBuf {
    let command = serde_json::to_string(&["/bin/sh", "-c", script]).unwrap();
    let manifest = format!(
        "name = \"{name}\"\nimage.rootfs = \"rootfs\"\nresources.memory_mib = {memory_mib}\nattestation.enabled = false\n\
         {EGRESS}[app]\ncommand = {command}\n"
    );
    let dir = bed.manifest(name, &manifest);
    let root = dir.join("rootfs");
    for applet in ["wget", "nslookup", "sha256sum", "nc"] {
        let link = root.join("bin").join(applet);
        if !link.exists() {
            std::os::unix::fs::symlink("busybox", link).unwrap();
        }
    }
    fs::write(root.join("etc/resolv.conf"), "nameserver 192.0.2.250\n").unwrap();
    prepare(&root);
    let image = bed.path(&format!("{name}.eif"));
    bed.ok(&["build", utf8(&dir), "-o", utf8(&image)]);
    image
}

/// The lines that the application printed.
fn said(output: &Output) -> Vec<String> {
    let shown = String::from_utf8_lossy(&output.stdout);
    shown.lines().filter_map(|line| line.strip_prefix("app | ")).map(str::to_owned).collect()
}

/// SHA-256 of the 20 MB that the server has.
fn digest_of_big() -> String {
    let script =
        "import hashlib; print(hashlib.sha256(bytes(i*7%251 for i in range(1000000))*20).hexdigest())";
    let output = Command::new("python3").args(["-c", script]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// What every image can do: the programs of busybox, static.
fn a_static_program_fetches_what_it_may(bed: &Bed) {
    if !is_root() {
        return;
    }
    let script = "wget -q -O - http://web.test/; wget -q -O - http://192.0.2.10/; \
                  wget -q -O - http://a.files.test:8080/big | sha256sum; \
                  wget -q -O - http://evil.test/ 2>&1; wget -q -O - http://web.test:81/ 2>&1; \
                  wget -q -O - http://nobody.test/ 2>&1; wget -q -O - http://169.254.169.254/ 2>&1; \
                  cat /etc/resolv.conf.image; echo done";
    let image = image(bed, "static", script, 256, |_| {});
    let output = run_beside_servers(bed, &bed.run_args(&image), None);
    let said = said(&output);
    let all = text(&output);
    assert_eq!(said.first().map(String::as_str), Some("page"), "{all}");
    assert_eq!(said.get(1).map(String::as_str), Some("page"), "{all}");
    assert_eq!(said.get(2).map(String::as_str), Some(format!("{}  -", digest_of_big()).as_str()), "{all}");
    let rest = said.get(3..).unwrap_or_default();
    assert!(rest.iter().any(|line| line.contains("bad address 'evil.test'")), "{all}");
    // A port that is not allowed, tried by IPv6; a name without an address; an address that is not allowed.
    let told = ["Permission denied", "No route to host", "No route to host"];
    let errors: Vec<_> = rest.iter().filter(|line| line.contains("can't connect")).collect();
    assert_eq!(errors.len(), told.len(), "{all}");
    assert!(errors.iter().zip(told).all(|(line, error)| line.ends_with(error)), "{all}");
    assert!(rest.ends_with(&["nameserver 192.0.2.250".to_owned(), "done".to_owned()]), "{all}");
    // Denied ones leave a record, each with its name or address; the first was not even resolved.
    for denied in ["tcp evil.test:0: denied", "tcp 169.254.169.254:80: denied", "tcp web.test:81: denied"] {
        assert!(all.contains(&format!("egress | {denied}")), "{denied}\n{all}");
    }
    assert!(all.contains("resolv.conf.image"), "{all}");
}

#[test]
fn a_static_program_fetches_what_it_may_on_local() {
    if let Some(bed) = Bed::local() {
        a_static_program_fetches_what_it_may(&bed);
    }
}

#[test]
fn a_static_program_fetches_what_it_may_on_qemu() {
    if let Some(bed) = Bed::qemu() {
        a_static_program_fetches_what_it_may(&bed);
    }
}

/// apt, told what dpkg would tell it, and without the user that an image of Debian has for it.
const APT: &str =
    "apt-get -q -o APT::Sandbox::User=root -o APT::Architecture=amd64 -o APT::Architectures::=amd64";

/// Debian's apt, with its way of getting files by HTTP and a source of packages.
fn add_apt(root: &Path) {
    add_program(root, "/usr/bin/apt-get");
    for method in ["http", "store", "copy"] {
        add_program(root, &format!("/usr/lib/apt/methods/{method}"));
    }
    for table in ["cputable", "tupletable", "ostable", "abitable"] {
        add_program(root, &format!("/usr/share/dpkg/{table}"));
    }
    let folders =
        ["etc/apt/apt.conf.d", "etc/apt/preferences.d", "var/lib/apt/lists/partial", "var/lib/dpkg"];
    for folder in [&folders[..], &["var/cache/apt/archives/partial", "tmp"]].concat() {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::write(root.join("var/lib/dpkg/status"), "").unwrap();
    let source = "deb [trusted=yes arch=amd64] http://a.files.test:8080/debian ./\n";
    fs::write(root.join("etc/apt/sources.list"), source).unwrap();
}

/// Programs off the shelf, as Debian and PyPI ship them.
fn programs_off_the_shelf_work_unmodified(bed: &Bed) {
    if !is_root() {
        return;
    }
    let has_requests = fetch_packages(&bed.path("packages"), "requests");
    let requests =
        "import requests; print('requests', requests.get('http://web.test/', timeout=60).text.strip())";
    let python = "import urllib.request as r, socket\n\
                  print('python', r.urlopen('http://web.test/').read())\n\
                  s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(20)\n\
                  s.connect(('echo.test', 443)); s.send(b'abc' * 400); print('udp', s.recv(2000) == b'cba' * 400)\n\
                  try: socket.create_connection(('192.0.2.100', 80))\n\
                  except OSError as e: print('denied', e.errno)\n";
    let node = "fetch('http://web.test/').then(r => r.text()).then(t => console.log('node', t.trim()))";
    let script = format!(
        "for v in 4 6; do curl -sS -$v http://web.test/; done; curl -sS http://evil.test/; echo curl $?; \
         curl -sS http://198.51.100.1/; echo curl $?; python3.11 -c \"{python}\"; node -e \"{node}\"; \
         psql -h db.test -U postgres -Atc \"select 'psql ' || 6 * 7\"; \
         PYTHONPATH=/packages python3.11 -c \"{requests}\"; \
         {APT} update; cd /tmp; {APT} download page; sha256sum page_1_amd64.deb; echo done"
    );
    let programs = Path::new("/usr/lib/postgresql/15/bin");
    let data = bed.path("pgdata");
    fs::create_dir(&data).unwrap();
    make_cluster(programs, &data);
    let image = image(bed, "shelf", &script, 1536, |root| {
        add_apt(root);
        if has_requests {
            add_packages(bed, root);
        }
        add_program(root, "/usr/bin/curl");
        add_program(root, "/usr/bin/node");
        add_program(root, "/usr/lib/postgresql/15/bin/psql");
        fs::rename(root.join("usr/lib/postgresql/15/bin/psql"), root.join("usr/bin/psql")).unwrap();
        add_python(root);
    });
    let output = run_beside_servers(bed, &bed.run_args(&image), Some((programs, &data)));
    let (said, all) = (said(&output), text(&output));
    for line in [
        "page",
        "curl 6",
        "curl 7",
        "python b'page\\n'",
        "udp True",
        "denied 113",
        "node page",
        "psql 42",
        if has_requests { "requests page" } else { "done" },
        "ada944f944d5f6c031aa9961f8060e1070309a56f176fef8bf9cc46f8cacae40  page_1_amd64.deb",
        "done",
    ] {
        assert!(said.iter().any(|said| said == line), "{line}\n{all}");
    }
    assert_eq!(said.iter().filter(|line| *line == "page").count(), 2, "{all}");
}

#[test]
fn programs_off_the_shelf_work_unmodified_on_local() {
    if let Some(bed) = Bed::local() {
        programs_off_the_shelf_work_unmodified(&bed);
    }
}

#[test]
fn programs_off_the_shelf_work_unmodified_on_qemu() {
    if let Some(bed) = Bed::qemu() {
        programs_off_the_shelf_work_unmodified(&bed);
    }
}

/// Sends back what a stream brought.
const QUIC_SERVER: &str = r#"
import asyncio
from aioquic.asyncio import serve
from aioquic.quic.configuration import QuicConfiguration
def handle(reader, writer):
    async def answer():
        writer.write(await reader.read())
        writer.write_eof()
    asyncio.ensure_future(answer())
async def main():
    configuration = QuicConfiguration(is_client=False, alpn_protocols=["echo"])
    configuration.load_cert_chain("cert.pem", "key.pem")
    await serve("192.0.2.10", 4433, configuration=configuration, stream_handler=handle)
    open("quic-ready", "w").close()
    await asyncio.Future()
asyncio.run(main())
"#;

const QUIC_CLIENT: &str = r#"
import asyncio, ssl
from aioquic.asyncio import connect
from aioquic.quic.configuration import QuicConfiguration
async def main():
    configuration = QuicConfiguration(is_client=True, alpn_protocols=["echo"])
    configuration.verify_mode = ssl.CERT_NONE
    async with connect("echo.test", 4433, configuration=configuration) as connection:
        reader, writer = await connection.create_stream()
        data = bytes(i * 7 % 251 for i in range(300000))
        writer.write(data)
        writer.write_eof()
        print("quic", await reader.read() == data)
asyncio.run(main())
"#;

/// Puts a Python package into `packages`; false, with a line that says so, if it cannot be had.
#[expect(clippy::print_stdout, reason = "the line tells who runs the tests what was not tested")]
fn fetch_packages(packages: &Path, name: &str) -> bool {
    let fetched = finish(
        Command::new("python3")
            .args(["-m", "pip", "install", "--quiet", "--only-binary", ":all:", "--python-version", "3.11"])
            .args([name, "--target"])
            .arg(packages),
    );
    if !fetched.status.success() {
        println!("skipped: {name} in an enclave (the Python package cannot be fetched)");
    }
    fetched.status.success()
}

/// Copies what [`fetch_packages`] has fetched, with the libraries that it needs.
fn add_packages(bed: &Bed, root: &Path) {
    let find = Command::new("find").arg(bed.path("packages")).args(["-name", "*.so"]).output().unwrap();
    let modules = String::from_utf8(find.stdout).unwrap();
    modules.lines().for_each(|module| add_libraries(root, Path::new(module)));
    let copied = Command::new("cp").arg("-r").arg(bed.path("packages")).arg(root).status().unwrap();
    assert!(copied.success());
}

#[test]
fn quic_works_unmodified_on_local() {
    if let Some(bed) = Bed::local() {
        quic_works_unmodified(&bed);
    }
}

#[test]
fn quic_works_unmodified_on_qemu() {
    if let Some(bed) = Bed::qemu() {
        quic_works_unmodified(&bed);
    }
}

fn quic_works_unmodified(bed: &Bed) {
    if !is_root() || !fetch_packages(&bed.path("packages"), "aioquic") {
        return;
    }
    fs::write(bed.path("quic_server.py"), QUIC_SERVER).unwrap();
    let certificate = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
        ])
        .args(["-subj", "/CN=echo.test", "-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(bed.path(""))
        .output()
        .unwrap();
    assert!(certificate.status.success(), "{}", text(&certificate));
    let image = image(bed, "quic", "PYTHONPATH=/packages python3.11 /client.py; echo done", 1024, |root| {
        add_python(root);
        add_packages(bed, root);
        fs::write(root.join("client.py"), QUIC_CLIENT).unwrap();
    });
    let output = run_beside_servers(bed, &bed.run_args(&image), None);
    assert_eq!(said(&output), ["quic True", "done"], "{}", text(&output));
}

/// A cluster that trusts everybody, in a folder that its user can reach.
fn make_cluster(programs: &Path, data: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let folder = data.parent().unwrap();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    let status = Command::new("chown").arg("postgres").arg(data).status().unwrap();
    assert!(status.success());
    let output = Command::new("setpriv")
        .args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups"])
        .arg(programs.join("initdb"))
        .args(["-A", "trust", "-N", "-D"])
        .arg(data)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let rules = data.join("pg_hba.conf");
    let trusting = format!("{}\nhost all all 0.0.0.0/0 trust\n", fs::read_to_string(&rules).unwrap());
    fs::write(rules, trusting).unwrap();
}
