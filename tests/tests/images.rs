//! Container images as Debian's tools make them, from what is installed here: each is built, boots and serves.

#![allow(clippy::unwrap_used, reason = "a test that fails to prepare has to stop")]
#![allow(clippy::print_stdout, reason = "what is skipped is said")]

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use bed::{Bed, finish, http_get, text, utf8};

/// Whether these programs are installed, having said so if not.
fn has(programs: &[&str]) -> bool {
    let missing = programs.iter().find(|program| {
        !Command::new("sh")
            .args(["-c", "command -v \"$0\"", program])
            .stdout(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    });
    if let Some(program) = missing {
        println!("skipped: an image ({program} is not installed)");
    }
    missing.is_none()
}

/// Runs a script in the bed's folder with these arguments. Its first error ends it.
fn sh(bed: &Bed, script: &str, arguments: &[&str]) -> String {
    let mut command = Command::new("sh");
    command.args(["-euc", script, "sh"]).args(arguments).current_dir(bed.path(""));
    // As root in a container, buildah wants no more isolation than it has, and no overlays.
    command.env("BUILDAH_ISOLATION", "chroot").env("STORAGE_DRIVER", "vfs");
    let output = finish(&mut command);
    assert!(output.status.success(), "{script}\n{}", text(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// Puts a program into a root file system, with the libraries it is linked with.
fn install(bed: &Bed, root: &Path, program: &str) {
    let script = r#"mkdir -p "$1"
        for file in "$2" $(ldd "$2" | grep -o '/[^ ]*'); do
            mkdir -p "$1$(dirname "$file")"
            cp -L "$file" "$1$file"
        done"#;
    sh(bed, script, &[utf8(root), program]);
}

fn write(root: &Path, name: &str, content: impl AsRef<[u8]>) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// An OCI layout with the files of a folder as its one layer, by umoci.
fn umoci_image(bed: &Bed, layout: &Path, files: &Path, config: &[&str]) {
    let script = r#"layout=$1 files=$2; shift 2
        umoci init --layout "$layout" && umoci new --image "$layout:latest"
        umoci insert --rootless --image "$layout:latest" "$files" /
        umoci config --image "$layout:latest" --architecture amd64 --os linux "$@""#;
    let arguments: Vec<&str> =
        [utf8(layout), utf8(files)].into_iter().chain(config.iter().copied()).collect();
    sh(bed, script, &arguments);
}

/// Builds the image that `image`, the content of a manifest's table of that name, describes, boots it, and hands the address of
/// its port 8080 to `check`.
fn serving(bed: &Bed, name: &str, image: &str, check: impl Fn(&str)) {
    let dir = bed.path(&format!("{name}-project"));
    let manifest = format!(
        "name = \"{name}\"\nimage = {{ {image} }}\nresources.memory_mib = 512\npublish = [{{ port = 8080 }}]\n\
         app.ready = \"tcp:8080\"\n"
    );
    write(&dir, "glasshouse.toml", manifest);
    let output = bed.path(&format!("{name}.eif"));
    bed.ok(&["build", utf8(&dir), "-o", utf8(&output)]);
    let running = bed.start(&output, name, &[8080]);
    check(&running.address(8080));
}

/// On each backend there is.
fn on_each_bed(test: impl Fn(&Bed)) {
    [Bed::local(), Bed::qemu()].iter().flatten().for_each(test);
}

/// Status and body of an answer, from servers that speak HTTP/1.0 as well.
fn get(address: &str, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    (head.split(' ').nth(1).unwrap_or_default().to_owned(), body.to_owned())
}

#[test]
fn an_nginx_of_buildahs_serves() {
    if !has(&["buildah", "/usr/sbin/nginx"]) {
        return;
    }
    on_each_bed(|bed| {
        let root = bed.path("root");
        install(bed, &root, "/usr/sbin/nginx");
        write(&root, "etc/passwd", "root:x:0:0::/:/bin/false\nwww-data:x:33:33::/:/bin/false\n");
        write(&root, "etc/group", "root:x:0:\nwww-data:x:33:\n");
        write(&root, "srv/index.html", "nginx in an enclave");
        let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path /tmp/{kind};"))
            .concat();
        let config = format!(
            "daemon off; user www-data; pid /tmp/nginx.pid; error_log stderr; events {{}}\n\
             http {{ access_log off; {paths} server {{ listen 8080; root /srv; }} }}\n"
        );
        write(&root, "etc/nginx/nginx.conf", config);
        fs::create_dir_all(root.join("var/log/nginx")).unwrap();
        fs::create_dir_all(root.join("tmp")).unwrap();
        let script = r#"set -- --root "$PWD/storage" --runroot "$PWD/run"
            container=$(buildah "$@" from scratch)
            buildah "$@" add -q "$container" root /
            buildah "$@" config --entrypoint '["/usr/sbin/nginx"]' --stop-signal SIGQUIT --port 8080 "$container"
            buildah "$@" commit -q "$container" docker-archive:nginx.tar:web:1
            buildah "$@" rm "$container""#;
        sh(bed, script, &[]);
        let archive = format!("archive = {:?}", utf8(&bed.path("nginx.tar")));
        serving(bed, "nginx", &archive, |address| {
            assert_eq!(http_get(address, "/"), "nginx in an enclave");
        });
        let _ = fs::remove_dir_all(bed.path("storage"));
    });
}

#[test]
fn a_debian_python_of_umocis_serves() {
    if !has(&["umoci", "python3", "dpkg"]) {
        return;
    }
    on_each_bed(|bed| {
        let root = bed.path("root");
        let version = sh(bed, "python3 -c 'import sys; print(\"%d.%d\" % sys.version_info[:2])'", &[]);
        let version = version.trim();
        let program = format!("/usr/bin/python{version}");
        install(bed, &root, &program);
        let script = r#"dpkg -L "libpython$2-minimal" "libpython$2-stdlib" | grep "^/usr/lib/python$2/" |
            grep -v '\.so$' | tar -cf - --no-recursion -T - | tar -xf - -C "$1""#;
        sh(bed, script, &[utf8(&root), version]);
        write(&root, "srv/hello", "python in an enclave");
        let layout = bed.path("layout");
        let module = ["-m", "http.server", "8080", "--directory", "/srv"];
        let command: Vec<String> = [&[program.as_str()], &module[..]]
            .concat()
            .iter()
            .map(|word| format!("--config.cmd={word}"))
            .collect();
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        umoci_image(bed, &layout, &root, &command);
        serving(bed, "python", &format!("oci = {:?}", utf8(&layout)), |address| {
            assert_eq!(get(address, "/hello"), ("200".to_owned(), "python in an enclave".to_owned()));
        });
    });
}

#[test]
fn a_static_program_in_an_archive_of_skopeos_serves() {
    if !has(&["umoci", "skopeo"]) {
        return;
    }
    on_each_bed(|bed| {
        let root = bed.path("root");
        fs::create_dir_all(&root).unwrap();
        fs::copy(bed.bin().join("hello_agent"), root.join("hello_agent")).unwrap();
        let layout = bed.path("layout");
        umoci_image(bed, &layout, &root, &["--config.entrypoint", "/hello_agent"]);
        let script = r#"echo '{"default": [{"type": "insecureAcceptAnything"}]}' >policy.json
            skopeo --policy policy.json copy -q oci:layout:latest docker-archive:agent.tar:agent:1"#;
        sh(bed, script, &[]);
        let archive = format!("archive = {:?}, tag = \"agent:1\"", utf8(&bed.path("agent.tar")));
        serving(bed, "agent", &archive, |address| {
            assert!(!http_get(address, "/").is_empty());
        });
    });
}

#[test]
fn thirty_layers_that_take_back_what_others_gave_serve_what_is_left() {
    if !has(&["umoci", "/bin/busybox"]) {
        return;
    }
    on_each_bed(|bed| {
        let root = bed.path("root");
        fs::create_dir_all(root.join("bin")).unwrap();
        fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        let layout = bed.path("layout");
        let words = ["/bin/busybox", "httpd", "-f", "-p", "8080", "-h", "/srv"];
        let command = words.map(|word| format!("--config.cmd={word}"));
        umoci_image(bed, &layout, &root, &command.each_ref().map(String::as_str));
        // Every third layer hides what the one before it brought; layer 20 empties a directory that 19 and earlier filled.
        let script = r#"for i in $(seq 30); do
                mkdir -p "part/srv/all"; echo "$i" >"part/srv/$i"; echo "$i" >"part/srv/all/$i"
                if [ $((i % 3)) = 0 ]; then
                    umoci insert --rootless --image layout:latest --whiteout "/srv/$((i - 1))"
                elif [ "$i" = 20 ]; then
                    umoci insert --rootless --image layout:latest --opaque part/srv/all /srv/all
                else
                    umoci insert --rootless --image layout:latest part /
                fi
                rm -r part
            done"#;
        sh(bed, script, &[]);
        serving(bed, "layers", &format!("oci = {:?}", utf8(&layout)), |address| {
            for i in 1..=30_usize {
                let is_there = |hidden: bool| if hidden { "404" } else { "200" };
                // Hidden: brought by no layer, or taken back by the next one.
                let hidden = i % 3 == 0 || i % 3 == 2 || i == 20;
                assert_eq!(get(address, &format!("/{i}")).0, is_there(hidden), "/{i}");
                let hidden = i % 3 == 0 || i < 20;
                assert_eq!(get(address, &format!("/all/{i}")).0, is_there(hidden), "/all/{i}");
            }
        });
    });
}
