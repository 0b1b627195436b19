//! Assembles an image with a 1 GiB ramdisk, measured, against a single SHA-384 pass over the ramdisk and against
//! AWS's `eif_build`, in turn and in the same run.
//!
//! `GLASSHOUSE_EIF_BUILD` is the path of `eif_build` (left out if unset); `TMPDIR` says where the files go (about 3 GiB, in
//! memory if the disk is not to be measured). The arguments are the number of rounds (3) and MiB of ramdisk (1024).
//! Each contestant is a process of its own, so that its peak memory is its own. Goals: at most 1.4 times the pass, at
//! least 6 times as fast as `eif_build`, at most 64 MiB.

use std::error::Error;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{Context, SHA384};
use eif::{BuildMetadata, Metadata, Options, Source, Writer};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const MIB: usize = 1024 * 1024;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["--one", contestant, directory] => run_one(contestant, Path::new(directory)),
        [] => compare(3, 1024),
        [rounds] => compare(rounds.parse()?, 1024),
        [rounds, mib] => compare(rounds.parse()?, mib.parse()?),
        _ => Err("usage: eif_assemble [ROUNDS [MIB]]".into()),
    }
}

fn compare(rounds: usize, mib: usize) -> Result<()> {
    let directory = Inputs::create(mib)?;
    let oracle = std::env::var_os("GLASSHOUSE_EIF_BUILD").map(PathBuf::from);
    let mut names = vec!["pass", "one", "two"];
    match &oracle {
        Some(_) => names.push("eif_build"),
        None => println!("skipped: eif_build (set GLASSHOUSE_EIF_BUILD)"),
    }
    let mut best = vec![(Duration::MAX, 0); names.len()];
    for round in 1..=rounds {
        for (name, best) in names.iter().zip(&mut best) {
            let (time, peak_kib) = measure(name, oracle.as_deref(), &directory.0)?;
            println!(
                "round {round}  {name:<10} {:7.3} s  peak {:5} MiB",
                time.as_secs_f64(),
                peak_kib / 1024
            );
            *best = (best.0.min(time), peak_kib.max(best.1));
        }
    }
    let seconds = |index: usize| best[index].0.as_secs_f64();
    for (index, what) in [(1, "one ramdisk"), (2, "two ramdisks")] {
        println!("{what}: {:.2} of a SHA-384 pass (goal 1.40)", seconds(index) / seconds(0));
        println!("{what}: peak {} MiB (goal 64)", best[index].1 / 1024);
        if oracle.is_some() {
            println!(
                "{what}: {:.1} times as fast as eif_build with one (goal 6.0)",
                seconds(3) / seconds(index)
            );
        }
    }
    Ok(())
}

/// Input files in a directory that goes away with this.
struct Inputs(PathBuf);

impl Inputs {
    fn create(mib: usize) -> Result<Self> {
        let directory = std::env::temp_dir().join(format!("glasshouse-eif-assemble-{}", std::process::id()));
        std::fs::create_dir(&directory)?;
        let inputs = Self(directory);
        let mut state = 1_u64;
        let mut noise = vec![0; MIB];
        std::fs::write(inputs.0.join("kernel"), &noise[..MIB / 2])?;
        std::fs::write(inputs.0.join("boot"), &noise[..MIB / 2])?;
        let mut ramdisk = File::create(inputs.0.join("ramdisk"))?;
        for _ in 0..mib {
            for word in noise.chunks_exact_mut(8) {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                word.copy_from_slice(&state.to_ne_bytes());
            }
            ramdisk.write_all(&noise)?;
        }
        Ok(inputs)
    }
}

impl Drop for Inputs {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("cannot remove {}: {error}", self.0.display());
        }
    }
}

/// Runs a contestant and returns its time and peak memory in KiB.
fn measure(name: &str, oracle: Option<&Path>, directory: &Path) -> Result<(Duration, u64)> {
    let mut command = match (name, oracle) {
        ("eif_build", Some(oracle)) => {
            let mut command = Command::new(oracle);
            command.args(["--kernel", "kernel", "--cmdline", "console=ttyS0", "--ramdisk", "ramdisk"]);
            command.args(["--output", "oracle.eif"]);
            command
        }
        _ => {
            let mut command = Command::new(std::env::current_exe()?);
            command.arg("--one").arg(name).arg(directory);
            command
        }
    };
    let start = Instant::now();
    let mut child = command.current_dir(directory).stdout(Stdio::null()).spawn()?;
    let mut peak_kib = 0;
    let status = loop {
        peak_kib = peak_kib.max(peak_memory_kib(child.id()));
        match child.try_wait()? {
            Some(status) => break status,
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    let time = start.elapsed();
    if status.success() { Ok((time, peak_kib)) } else { Err(format!("{name} ended with {status}").into()) }
}

/// `VmHWM`: the kernel keeps the highest value, so looking now and then misses only what grows at the very end.
fn peak_memory_kib(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|value| value.trim().trim_end_matches("kB").trim().parse().ok()).unwrap_or(0)
}

fn run_one(contestant: &str, directory: &Path) -> Result<()> {
    match contestant {
        "pass" => sha384_pass(&directory.join("ramdisk")),
        "one" => assemble(directory, &["ramdisk"]),
        "two" => assemble(directory, &["boot", "ramdisk"]),
        _ => Err(format!("no contestant is called {contestant}").into()),
    }
}

fn sha384_pass(path: &Path) -> Result<()> {
    let mut file = File::open(path)?;
    let mut digest = Context::new(&SHA384);
    let mut buffer = vec![0; MIB / 4];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => digest.update(&buffer[..read]),
        }
    }
    println!("{:02x?}", digest.finish().as_ref());
    Ok(())
}

fn assemble(directory: &Path, ramdisks: &[&str]) -> Result<()> {
    let metadata = Metadata {
        image_name: "bench".into(),
        image_version: "1".into(),
        build: BuildMetadata {
            build_time: "1970-01-01T00:00:00+00:00".into(),
            build_tool: "bench".into(),
            build_tool_version: "1".into(),
            operating_system: "Linux".into(),
            kernel_version: "none".into(),
        },
        docker_info: Default::default(),
        custom: Default::default(),
    };
    let output = File::create(directory.join("ours.eif"))?;
    let kernel = Source::file(directory.join("kernel"));
    let mut writer = Writer::create(output, &Options::default(), kernel, "console=ttyS0", &metadata)?;
    for ramdisk in ramdisks {
        writer.ramdisk(Source::file(directory.join(ramdisk)))?;
    }
    println!("{}", writer.finish(None)?);
    Ok(())
}
