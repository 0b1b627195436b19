//! Unpacked layers kept between builds: decompressing is the longest part of taking an image in, and from one build to the
//! next most layers stay the same.
//!
//! `layers/HEX` in the cache folder holds the archive that the layer of this digest unpacks to. It is only a
//! guess: a build hashes it from its beginning to its end and takes it if it has the digest that the image's configuration
//! demands, else removes it and unpacks the layer. So what lies there can change no image. Files appear under their names when
//! they are whole, and stay as they are; who removes one takes nothing away from a build that has it open. No lock is needed.

use std::{
    fs::{self, DirBuilder, File, FileTimes},
    io,
    os::unix::fs::DirBuilderExt,
    path::PathBuf,
    time::SystemTime,
};

use crate::{Digest, RegistryOptions, content::Content, output::Output, runs::KeptRun, unpacked::digest_of};

/// The folder, and how much may lie in it after a build.
#[derive(Clone, Debug)]
pub(crate) struct LayerCache {
    folder: PathBuf,
    limit_bytes: u64,
}

impl LayerCache {
    /// The cache that these options name, if there can be one. Blobs and unpacked layers may each take half of the limit.
    pub(crate) fn open(options: &RegistryOptions) -> Option<Self> {
        let limit_bytes = Some(options.cache_limit_bytes / 2).filter(|limit| *limit > 0)?;
        let root = options.cache.clone().or_else(|| crate::cache_folder().ok())?;
        let folder = root.join("layers");
        // Images may be private, whoever else uses this machine.
        DirBuilder::new().recursive(true).mode(0o700).create(&folder).ok()?;
        Some(Self { folder, limit_bytes })
    }

    /// What this layer unpacks to, if it is here and right. It counts as used.
    pub(crate) fn find(&self, layer: &Digest, archive: &Digest) -> Option<Content> {
        let path = self.path(layer);
        let content = Content::open_file(&path).ok()?;
        if digest_of(&content).is_ok_and(|found| found == *archive) {
            // A cache on a read-only file system works; it just cannot tell what was used.
            let _ = File::open(&path).and_then(|file| file.set_times(now()));
            return Some(content);
        }
        // One that cannot be removed stays as wrong as it is, and is refused again.
        let _ = fs::remove_file(&path);
        None
    }

    /// Begins the file of this layer. It is to be committed once it is known to be right.
    pub(crate) fn begin(&self, layer: &Digest) -> io::Result<Output> {
        Output::create(&self.path(layer))
    }

    /// The compressed files of this name, if `read` finds them as they were written. They count as used.
    pub(crate) fn find_run(
        &self,
        name: &Digest,
        read: impl FnOnce(&Content) -> Option<KeptRun>,
    ) -> Option<KeptRun> {
        let path = self.run_path(name);
        let run = read(&Content::open_file(&path).ok()?);
        match run {
            Some(_) => drop(File::open(&path).and_then(|file| file.set_times(now()))),
            None => drop(fs::remove_file(&path)),
        }
        run
    }

    /// Begins the file of compressed files.
    pub(crate) fn begin_run(&self, name: &Digest) -> io::Result<Output> {
        Output::create(&self.run_path(name))
    }

    fn run_path(&self, name: &Digest) -> PathBuf {
        self.folder.join(format!("{}.run", name.to_hex()))
    }

    /// Removes what was not used for longest, until the rest is within the limit.
    pub(crate) fn evict(&self) -> io::Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            // Another build may have removed it just now.
            if let Ok(metadata) = entry.metadata() {
                files.push((metadata.modified()?, metadata.len(), entry.path()));
            }
        }
        files.sort();
        let mut total: u64 = files.iter().map(|(_, len, _)| len).sum();
        for (_, len, path) in files {
            if total <= self.limit_bytes {
                break;
            }
            let _ = fs::remove_file(path);
            total -= len;
        }
        Ok(())
    }

    fn path(&self, layer: &Digest) -> PathBuf {
        self.folder.join(layer.to_hex())
    }
}

fn now() -> FileTimes {
    FileTimes::new().set_modified(SystemTime::now())
}

#[cfg(test)]
mod tests {
    use std::{io::Write, path::Path, time::Duration};

    use super::*;

    fn cache(dir: &Path, limit_bytes: u64) -> LayerCache {
        let options = RegistryOptions {
            cache: Some(dir.to_owned()),
            cache_limit_bytes: 2 * limit_bytes,
            ..RegistryOptions::default()
        };
        LayerCache::open(&options).unwrap()
    }

    fn put(cache: &LayerCache, layer: &Digest, bytes: &[u8]) {
        let mut output = cache.begin(layer).unwrap();
        output.file().write_all(bytes).unwrap();
        output.publish().unwrap();
    }

    #[test]
    fn a_damaged_layer_is_not_there_and_gone() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path(), 1000);
        let (layer, archive) = (Digest::of(b"compressed"), Digest::of(b"archive"));
        assert!(cache.find(&layer, &archive).is_none());
        put(&cache, &layer, b"archive");
        assert_eq!(cache.find(&layer, &archive).unwrap().len(), 7);
        fs::write(cache.path(&layer), b"archivf").unwrap();
        assert!(cache.find(&layer, &archive).is_none());
        assert!(!cache.path(&layer).exists());
    }

    #[test]
    fn removes_what_was_not_used_for_longest() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path(), 200);
        let contents: Vec<Vec<u8>> = (0..3_u8).map(|i| vec![i; 100]).collect();
        let layers: Vec<Digest> = (0..3_u8).map(|i| Digest::of(&[i])).collect();
        for ((age, layer), content) in (1..).zip(&layers).zip(&contents) {
            put(&cache, layer, content);
            let time = SystemTime::now() - Duration::from_secs(1000 * age);
            let file = File::open(cache.path(layer)).unwrap();
            file.set_times(FileTimes::new().set_modified(time)).unwrap();
        }
        // The oldest is used now, so the one before it has to go.
        assert!(cache.find(&layers[2], &Digest::of(&contents[2])).is_some());
        cache.evict().unwrap();
        let left: Vec<bool> = layers.iter().map(|layer| cache.path(layer).exists()).collect();
        assert_eq!(left, [true, false, true]);
    }

    #[test]
    fn there_is_none_where_none_is_wanted_or_possible() {
        let dir = tempfile::tempdir().unwrap();
        let mut options =
            RegistryOptions { cache: Some(dir.path().to_owned()), ..RegistryOptions::default() };
        options.cache_limit_bytes = 0;
        assert!(LayerCache::open(&options).is_none());
        fs::write(dir.path().join("file"), "").unwrap();
        let options = RegistryOptions { cache: Some(dir.path().join("file")), ..RegistryOptions::default() };
        assert!(LayerCache::open(&options).is_none());
    }
}
