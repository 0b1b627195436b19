//! What a developer sees of `glasshouse build`: the same bytes everywhere, and mistakes that say where they are.

#![allow(clippy::unwrap_used, reason = "a test that fails to prepare has to stop")]

use std::{fs, process::Command};

use bed::{Bed, finish, hello_manifest, text, utf8};

/// Two builds of the same inputs in unlike surroundings: folder, user, umask, locale, time zone, clock of the files, and
/// whatever the environment holds.
#[test]
fn two_builds_in_unlike_surroundings_are_byte_identical() {
    let Some(bed) = Bed::local() else { return };
    let here = bed.hello_image("hello");
    let far = bed.path("a much longer path than the other one/with spaces");
    fs::create_dir_all(&far).unwrap();
    let copy = format!(
        "umask 077 && cp -r '{}/.' '{}' && find '{1}' -exec touch -h -d 2001-02-03 {{}} +",
        utf8(&bed.path("hello")),
        utf8(&far)
    );
    assert!(finish(Command::new("sh").args(["-c", &copy])).status.success());
    let there = far.join("out.eif");
    let mut args = vec![
        utf8(bed.bin()).to_owned() + "/glasshouse",
        "build".into(),
        utf8(&far).into(),
        "-o".into(),
        utf8(&there).into(),
    ];
    if rustix::process::getuid().is_root() {
        let give = format!("chown -R 65534:65534 '{}' && chmod 755 '{}'", utf8(&far), utf8(&bed.path("")));
        assert!(finish(Command::new("sh").args(["-c", &give])).status.success());
        let user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"].map(str::to_owned);
        args = user.into_iter().chain(args).collect();
        // The commands and the kernel may lie where only root can go: hand them over by copies.
        let tools = bed.path("tools");
        fs::create_dir(&tools).unwrap();
        for name in ["glasshouse", "glasshouse-enclave"] {
            // By another process: what this one writes, a process that another test starts at that moment has open too.
            let copied = finish(Command::new("cp").arg(bed.bin().join(name)).arg(&tools));
            assert!(copied.status.success(), "{}", text(&copied));
        }
        args[4] = utf8(&tools.join("glasshouse")).to_owned();
    }
    let kernel = bed.path("bzImage");
    let pinned = finish(Command::new("sh").args([
        "-c",
        "cat \"${GLASSHOUSE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/glasshouse}/kernel/current/bzImage\"",
    ]));
    fs::write(&kernel, &pinned.stdout).unwrap();
    let mut command = Command::new(&args[0]);
    command.args(&args[1..]).env_clear().env("PATH", "/usr/bin:/bin").env("GLASSHOUSE_KERNEL", &kernel).envs(
        [
            ("TZ", "Pacific/Kiritimati"),
            ("LC_ALL", "tr_TR.UTF-8"),
            ("USER", "somebody"),
            ("HOSTNAME", "elsewhere"),
        ],
    );
    let output = finish(&mut command);
    assert!(output.status.success(), "{}", text(&output));
    assert!(fs::read(&here).unwrap() == fs::read(&there).unwrap(), "the images differ");
    let reference = |path: &std::path::Path| fs::read(path.with_added_extension("json")).unwrap();
    assert_eq!(reference(&here), reference(&there));
}

#[test]
fn a_broken_manifest_names_file_line_key_and_what_is_allowed() {
    let Some(bed) = Bed::local() else { return };
    let broken = hello_manifest("hello").replace("ready = \"tcp:8080\"", "raedy = \"tcp:8080\"");
    let dir = bed.manifest("broken", &broken);
    let output = bed.run(&["build", utf8(&dir)]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    let shown = text(&output);
    for word in ["glasshouse.toml", "line 7", "raedy", "ready", "restart"] {
        assert!(shown.contains(word), "{word}: {shown}");
    }
    assert_eq!(bed.run(&["build", "nowhere"]).status.code(), Some(2));
}

/// A disk that fills up while an image is written leaves neither half an image nor a temporary file.
#[test]
fn a_full_disk_is_said_and_leaves_nothing() {
    let Some(bed) = Bed::local() else { return };
    let dir = bed.manifest("hello", &hello_manifest("hello"));
    let small = bed.path("small");
    fs::create_dir(&small).unwrap();
    let script = format!(
        "mount -t tmpfs -o size=1m none '{0}' && '{1}/glasshouse' build '{2}' -o '{0}/x.eif'; echo status $?; ls -A '{0}'",
        utf8(&small),
        utf8(bed.bin()),
        utf8(&dir)
    );
    let output = finish(Command::new("unshare").args(["-rm", "sh", "-c", &script]));
    let shown = String::from_utf8_lossy(&output.stdout);
    assert_eq!(shown, "status 3\n", "{}", text(&output));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("x.eif") && said.contains("No space left"), "{said}");
}

#[test]
fn the_version_and_the_help_are_there() {
    let Some(bed) = Bed::local() else { return };
    assert!(bed.ok(&["--version"]).starts_with("glasshouse "));
    for command in ["build", "run", "ps", "logs", "stop", "verify", "doctor"] {
        assert!(bed.ok(&[command, "--help"]).contains("Usage"), "{command}");
    }
    assert!(bed.ok(&["--help"]).contains("Exit codes"));
    assert_eq!(bed.run(&["verify"]).status.code(), Some(2));
}

#[test]
fn doctor_says_what_works_and_how_to_get_the_rest() {
    let Some(bed) = Bed::local() else { return };
    let output = bed.run(&["doctor", "--json"]);
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = found["findings"].as_array().unwrap();
    for subject in ["backend nitro", "backend qemu", "backend local", "kernel", "enclave program"] {
        let finding = findings.iter().find(|f| f["subject"] == subject).expect(subject);
        assert!(finding["state"] == "ok" || finding["fix"].is_string(), "{finding}");
    }
    assert!(findings.iter().any(|f| f["subject"] == "vsock large writes"));
}

#[test]
fn too_little_memory_is_refused_with_the_figure_that_is_enough() {
    let Some(bed) = Bed::local() else { return };
    let image = bed.hello_image("hello");
    let output = bed.run(&["run", utf8(&image), "--backend", "local", "--memory", "1"]);
    assert_eq!(output.status.code(), Some(125));
    assert!(text(&output).contains("--memory"), "{}", text(&output));
    let output = bed.run(&["run", utf8(&image), "--backend", "local", "--publish", "81"]);
    assert!(text(&output).contains("8443, 8080"), "{}", text(&output));
}

/// What boots a kernel is refused with less memory than the kernel takes for the files, by the figure that the build said.
#[test]
fn an_enclave_is_refused_less_memory_than_its_image_boots_with() {
    let Some(bed) = Bed::qemu() else { return };
    let manifest = hello_manifest("small").replace("memory_mib = 256", "memory_mib = 64");
    let plain = "image = { rootfs = \"rootfs\", format = \"cpio\" }";
    let dir = bed.manifest("small", &manifest.replace("image.rootfs = \"rootfs\"", plain));
    let image = bed.path("small.eif");
    let built = bed.run(&["build", utf8(&dir), "-o", utf8(&image)]);
    let reference = fs::read(image.with_added_extension("json")).unwrap();
    let reference: serde_json::Value = serde_json::from_slice(&reference).unwrap();
    let needed = reference["memory_mib"].as_u64().unwrap();
    assert!(text(&built).contains(&format!("warning: the image needs {needed} MiB")), "{}", text(&built));
    // The host has the image alone.
    fs::remove_file(image.with_added_extension("json")).unwrap();
    for args in [&[][..], &["--memory", &(needed - 1).to_string()]] {
        let output = bed.run(&[&["run", utf8(&image), "--backend", "qemu"], args].concat());
        assert_eq!(output.status.code(), Some(125), "{}", text(&output));
        assert!(text(&output).contains(&format!("--memory {needed}")), "{}", text(&output));
    }
}

#[test]
fn a_file_that_is_no_image_is_refused() {
    let Some(bed) = Bed::local() else { return };
    let image = bed.hello_image("hello");
    let mut bytes = fs::read(&image).unwrap();
    let junk = bed.path("junk.eif");
    fs::write(&junk, b"junk").unwrap();
    assert!(text(&bed.run(&["run", utf8(&junk)])).contains("junk.eif"));
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let damaged = bed.path("damaged.eif");
    fs::write(&damaged, &bytes).unwrap();
    let output = bed.run(&["verify", "https://127.0.0.1:1", "--image", utf8(&damaged)]);
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output).contains("damaged.eif") && text(&output).contains("checksum"), "{}", text(&output));
}

#[test]
fn a_kernel_that_is_none_and_an_init_that_is_no_program_are_refused() {
    let Some(bed) = Bed::local() else { return };
    let dir = bed.manifest("hello", &hello_manifest("hello"));
    for (option, word) in [("--kernel", "bzImage"), ("--enclave", "ELF")] {
        let output = bed.run(&["build", utf8(&dir), option, "/etc/passwd"]);
        assert_eq!(output.status.code(), Some(2), "{}", text(&output));
        assert!(text(&output).contains("/etc/passwd") && text(&output).contains(word), "{}", text(&output));
    }
}

/// A Dockerfile goes to a builder of container images, and what it made is kept: with that, anyone gets the same image.
#[test]
fn a_dockerfile_becomes_an_image_that_others_can_build_again() {
    let Some(bed) = Bed::local() else { return };
    if !Command::new("buildah").arg("--version").output().is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: Dockerfiles (buildah is not installed)");
        return;
    }
    let dir = bed.manifest("boxed", "name = \"boxed\"\n[image]\ndockerfile = \"Dockerfile\"\n");
    let dockerfile = "FROM scratch\nCOPY rootfs /\nENV GREETING=hi\nEXPOSE 53/udp\nHEALTHCHECK CMD [\"/bin/true\"]\nCMD [\"/bin/sh\", \"-c\", \"echo $GREETING\"]\n";
    fs::write(dir.join("Dockerfile"), dockerfile).unwrap();
    // The builder's store is the test's own.
    let storage = bed.path("storage.conf");
    let (graph, run) = (bed.path("graph"), bed.path("runroot"));
    let settings =
        format!("[storage]\ndriver = \"vfs\"\ngraphroot = {:?}\nrunroot = {:?}\n", utf8(&graph), utf8(&run));
    fs::write(&storage, settings).unwrap();
    let image = bed.path("boxed.eif");
    let mut build = bed.command(&["build", utf8(&dir), "-o", utf8(&image), "--builder", "buildah"]);
    build.env("CONTAINERS_STORAGE_CONF", &storage).env("BUILDAH_ISOLATION", "chroot");
    let output = finish(&mut build);
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("(1: 53/udp)"), "{}", text(&output));

    let measured = String::from_utf8_lossy(&fs::read(&image).unwrap())
        .contains(r#""healthcheck":{"command":["/bin/true"]"#);
    assert!(measured, "what the Dockerfile says of health is not in the image");

    let archive = bed.path("boxed.image.tar");
    let mut verify = Command::new(bed.bin().join("rbuilds"));
    verify.args(["verify", utf8(&image), utf8(&dir), "--archive", utf8(&archive)]);
    let verdict = finish(&mut verify);
    assert!(verdict.status.success() && text(&verdict).contains("Reproduced"), "{}", text(&verdict));

    let started = bed.run(&bed.run_args(&image));
    assert!(started.status.success() && text(&started).contains("hi"), "{}", text(&started));
}
