//! The two passes that no builder of an image can do without, each alone on one thread: `layer_pass inflate FILE...`
//! decompresses gzip layers, `layer_pass sha384 FILE` hashes a file. Prints seconds.

use std::error::Error;
use std::fs::File;
use std::io::{BufReader, Read};
use std::time::Instant;

use aws_lc_rs::digest::{Context, SHA384};
use flate2::bufread::MultiGzDecoder;

const BUFFER_BYTES: usize = 256 * 1024;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let started = Instant::now();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["inflate", files @ ..] if !files.is_empty() => {
            for file in files {
                let file = BufReader::with_capacity(BUFFER_BYTES, File::open(file)?);
                each_chunk(MultiGzDecoder::new(file), |_| {})?;
            }
        }
        ["sha384", file] => {
            let mut hash = Context::new(&SHA384);
            each_chunk(File::open(file)?, |chunk| hash.update(chunk))?;
            std::hint::black_box(hash.finish());
        }
        _ => return Err("usage: layer_pass inflate FILE... | sha384 FILE".into()),
    }
    println!("{:.3}", started.elapsed().as_secs_f64());
    Ok(())
}

fn each_chunk(mut reader: impl Read, mut take: impl FnMut(&[u8])) -> std::io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(()),
            n => take(std::hint::black_box(&buffer[..n])),
        }
    }
}
