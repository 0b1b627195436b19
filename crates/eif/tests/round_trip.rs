//! Images written here and read back, whatever their content and wherever it comes from.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::{self, Cursor, Read, Write};

use common::{Image, metadata, small_image};
use eif::{Architecture, Eif, MAX_RAMDISKS, Options, ReadError, Source, WriteError, Writer};
use proptest::prelude::*;
use serde_json::Value;

fn open(bytes: &[u8]) -> Result<Eif<Cursor<&[u8]>>, ReadError> {
    Eif::open(Cursor::new(bytes))
}

type MemoryWriter<'a> = Writer<&'a mut Cursor<Vec<u8>>>;

fn begin(file: &mut Cursor<Vec<u8>>) -> MemoryWriter<'_> {
    let image = small_image();
    Writer::create(file, &image.options, Source::bytes(image.kernel), image.cmdline, &image.metadata).unwrap()
}

/// Gives what it has in small pieces of changing length, interrupted now and then, as a pipe may.
struct Drip<'a>(&'a [u8], usize);

impl Read for Drip<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.1 += 1;
        if self.1.is_multiple_of(5) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let length = buffer.len().min(1 + self.1 * 97 % 4096);
        self.0.read(&mut buffer[..length])
    }
}

#[test]
fn bytes_files_readers_and_written_sections_give_the_same_image() {
    // More than one chunk, and not a whole number of them.
    let content = common::pattern(600_001, 31);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &content).unwrap();
    let write = |fill: &dyn Fn(&mut MemoryWriter<'_>)| {
        let mut output = Cursor::new(Vec::new());
        let mut writer = begin(&mut output);
        fill(&mut writer);
        fill(&mut writer);
        (writer.finish(None).unwrap(), output.into_inner())
    };
    let expected = write(&|writer| writer.ramdisk(Source::bytes(&content)).unwrap());
    assert!(expected == write(&|writer| writer.ramdisk(Source::file(file.path())).unwrap()));
    assert!(
        expected
            == write(&|writer| writer
                .ramdisk(Source::reader(Drip(&content, 0), content.len() as u64))
                .unwrap())
    );
    assert!(
        expected
            == write(&|writer| {
                let pieces = content.chunks(1000);
                writer
                    .ramdisk_with(|section| {
                        pieces
                            .into_iter()
                            .try_for_each(|piece| section.write_all(piece))
                            .map_err(WriteError::Output)
                    })
                    .unwrap()
            })
    );
    assert_eq!(expected.0, open(&expected.1).unwrap().measure().unwrap());
}

#[test]
fn a_source_that_is_not_as_long_as_it_said_is_an_error() {
    for (length, found) in [(4, 3), (2, 3), (0, 3)] {
        let mut output = Cursor::new(Vec::new());
        match begin(&mut output).ramdisk(Source::reader(&b"abc"[..], length)) {
            Err(WriteError::SourceLength { expected, found: read, .. }) => {
                assert_eq!((expected, read), (length, found))
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_missing_file_and_a_directory_are_named() {
    let dir = tempfile::tempdir().unwrap();
    for path in [dir.path().join("missing.cpio"), dir.path().to_owned()] {
        let mut output = Cursor::new(Vec::new());
        let error = begin(&mut output).ramdisk(Source::file(&path)).unwrap_err();
        assert!(matches!(error, WriteError::Source { .. }), "{error:?}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
}

#[test]
fn an_image_of_which_a_section_failed_cannot_be_finished() {
    let mut output = Cursor::new(Vec::new());
    let mut writer = begin(&mut output);
    writer.ramdisk(Source::bytes(b"good")).unwrap();
    let failed: Result<(), _> = writer.ramdisk_with(|section| {
        section.write_all(b"half")?;
        Err(WriteError::Output(io::ErrorKind::StorageFull.into()))
    });
    assert!(matches!(failed, Err(WriteError::Output(_))));
    assert!(matches!(writer.ramdisk(Source::bytes(b"another")), Err(WriteError::Unfinished)));
    assert!(matches!(writer.finish(None), Err(WriteError::Unfinished)));
}

#[test]
fn an_image_has_1_to_28_ramdisks() {
    let mut output = Cursor::new(Vec::new());
    assert!(matches!(begin(&mut output).finish(None), Err(WriteError::NoRamdisk)));

    let mut output = Cursor::new(Vec::new());
    let mut writer = begin(&mut output);
    for _ in 0..MAX_RAMDISKS {
        writer.ramdisk(Source::bytes(b"r")).unwrap();
    }
    assert!(matches!(writer.ramdisk(Source::bytes(b"r")), Err(WriteError::TooManyRamdisks)));
    writer.finish(Some(&common::signer())).unwrap();
    let mut full = open(output.get_ref()).unwrap();
    assert_eq!((full.sections().len(), full.ramdisks().count()), (32, 28));
    full.verify_signature().unwrap();
}

#[test]
fn command_lines_the_kernel_would_cut_are_refused() {
    let create = |cmdline: &str| {
        let image = small_image();
        Writer::create(Cursor::new(Vec::new()), &image.options, Source::bytes(b"k"), cmdline, &image.metadata)
            .map(drop)
    };
    assert!(matches!(create("a\0b"), Err(WriteError::CmdlineNul { at: 1 })));
    assert!(matches!(create(&"x".repeat(2048)), Err(WriteError::CmdlineTooLong { found: 2048 })));
    create(&"x".repeat(2047)).unwrap();
}

#[test]
fn metadata_too_long_to_be_read_back_is_not_written() {
    let mut image = small_image();
    image.metadata.custom = Value::from("x".repeat(1024 * 1024));
    let kernel = Source::bytes(b"k");
    let created = Writer::create(Cursor::new(Vec::new()), &image.options, kernel, "", &image.metadata);
    assert!(matches!(created, Err(WriteError::MetadataTooLong { .. })));
}

/// Sets the checksum right, so that what was changed meets the other checks.
fn with_right_checksum(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Err(ReadError::Crc { computed, .. }) = open(&bytes) {
        bytes[544..548].copy_from_slice(&computed.to_be_bytes());
    }
    bytes
}

/// Everything that can be asked of an image.
fn ask_everything(bytes: &[u8]) {
    if let Ok(mut image) = open(bytes) {
        let _ =
            (image.cmdline(), image.metadata(), image.signature(), image.measure(), image.verify_signature());
    }
}

proptest! {
    #[test]
    fn reading_what_was_written_gives_it_back(
        kernel in prop::collection::vec(any::<u8>(), 0..300),
        cmdline in "[^\0]{0,60}",
        name in ".{0,20}",
        ramdisks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..5),
        (is_arm, default_memory_bytes, default_cpus) in any::<(bool, u64, u64)>(),
    ) {
        let architecture = if is_arm { Architecture::Aarch64 } else { Architecture::X86_64 };
        let image = Image {
            options: Options { architecture, default_memory_bytes, default_cpus },
            kernel: &kernel,
            cmdline: &cmdline,
            metadata: metadata(&name, Value::Null),
            ramdisks: ramdisks.iter().map(Vec::as_slice).collect(),
        };
        let (bytes, measurements) = image.write(None);
        let mut read = open(&bytes).unwrap();
        prop_assert_eq!(read.header().architecture, architecture);
        prop_assert_eq!((read.header().default_memory_bytes, read.header().default_cpus), (default_memory_bytes, default_cpus));
        prop_assert_eq!(&read.cmdline().unwrap(), &cmdline);
        prop_assert_eq!(read.metadata().unwrap(), Some(image.metadata));
        prop_assert_eq!(read.measure().unwrap(), measurements);
        let mut contents = vec![&kernel];
        contents.extend(&ramdisks);
        let sections: Vec<_> = std::iter::once(read.kernel()).chain(read.ramdisks()).collect();
        prop_assert_eq!(sections.len(), contents.len());
        for (section, expected) in sections.iter().zip(contents) {
            let mut content = Vec::new();
            read.read(section).unwrap().read_to_end(&mut content).unwrap();
            prop_assert_eq!(&content, expected);
        }
    }

    #[test]
    fn reading_a_damaged_image_never_panics(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        length in any::<prop::sample::Index>(),
        is_cut in any::<bool>(),
    ) {
        let mut bytes = small_image().write(Some(&signer_once())).0;
        for (index, byte) in damage {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        if is_cut {
            bytes.truncate(length.index(bytes.len()));
        }
        ask_everything(&bytes);
        ask_everything(&with_right_checksum(bytes));
    }

    #[test]
    fn reading_anything_never_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..700)) {
        ask_everything(&bytes);
        if let Some(start) = bytes.get_mut(..6) {
            start.copy_from_slice(b".eif\0\x04");
            ask_everything(&with_right_checksum(bytes));
        }
    }
}

/// Key generation is slow beside the rest of a case, so a run of cases shares one.
fn signer_once() -> std::sync::MutexGuard<'static, eif::Signer> {
    static SIGNER: std::sync::LazyLock<std::sync::Mutex<eif::Signer>> =
        std::sync::LazyLock::new(|| std::sync::Mutex::new(common::signer()));
    SIGNER.lock().unwrap()
}
