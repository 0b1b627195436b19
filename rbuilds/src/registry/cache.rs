//! Blobs kept between builds: `blobs/sha256/HEX`, like those of an image layout, so that one is read as the other.
//!
//! A blob lies in `partial/HEX` until it is whole and checked. Builds share the folder by a lock on its file `lock`;
//! blobs are removed only by a build that is alone.

use std::{
    collections::BTreeSet,
    fs::{self, File, FileTimes, OpenOptions, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    time::SystemTime,
};

use aws_lc_rs::digest;

use super::error::RegistryError;
use crate::Digest;

/// Bytes read at once while a part of a blob is hashed again.
const BUFFER_BYTES: usize = 1 << 18;

/// The folder, in use by this build.
#[derive(Debug)]
pub(super) struct Cache {
    root: PathBuf,
    lock: File,
}

/// A blob that is not whole yet, for this build alone.
pub(super) struct Partial {
    path: PathBuf,
    target: PathBuf,
    file: File,
    hash: digest::Context,
    len: u64,
}

impl Cache {
    pub(super) fn open(root: PathBuf) -> Result<Self, RegistryError> {
        for folder in ["blobs/sha256", "partial"] {
            let path = root.join(folder);
            fs::create_dir_all(&path).map_err(|e| failed("create", &path, e))?;
        }
        let path = root.join("lock");
        let open = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let lock = open.and_then(|file| file.lock_shared().map(|()| file));
        Ok(Self { lock: lock.map_err(|e| failed("lock", &path, e))?, root })
    }

    /// The folder, in which blobs lie as in an image layout.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// The length of a blob if it is here. It counts as used.
    pub(super) fn len_of(&self, blob: &Digest) -> Option<u64> {
        let file = File::open(self.blob_path(blob)).ok()?;
        // A cache on a read-only file system works; it just cannot tell what was used.
        let _ = file.set_times(FileTimes::new().set_modified(SystemTime::now()));
        file.metadata().ok().map(|metadata| metadata.len())
    }

    /// The bytes of a small blob if they are here and right.
    pub(super) fn read(&self, blob: &Digest, most_bytes: u64) -> Option<Vec<u8>> {
        self.len_of(blob).filter(|len| *len <= most_bytes)?;
        let bytes = fs::read(self.blob_path(blob)).ok()?;
        (Digest::of(&bytes) == *blob).then_some(bytes)
    }

    /// Keeps a small blob.
    pub(super) fn write(&self, bytes: &[u8]) -> Result<Digest, RegistryError> {
        let blob = Digest::of(bytes);
        let path = self.blob_path(&blob);
        let keep = || -> io::Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(self.root.join("partial"))?;
            file.write_all(bytes)?;
            file.persist(&path)?;
            Ok(())
        };
        keep().map(|()| blob).map_err(|e| failed("write", &path, e))
    }

    /// Removes a blob. One that cannot be removed stays as wrong as it is, and is refused again.
    pub(super) fn remove(&self, blob: &Digest) {
        let _ = fs::remove_file(self.blob_path(blob));
    }

    /// Begins a blob or goes on with what an earlier build has of it. Waits for another build that fetches it.
    pub(super) fn begin(&self, blob: &Digest) -> Result<Partial, RegistryError> {
        let path = self.root.join("partial").join(blob.to_hex());
        let open = || -> io::Result<Partial> {
            let mut file =
                OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path)?;
            file.lock()?;
            let mut hash = digest::Context::new(&digest::SHA256);
            let mut buffer = vec![0; BUFFER_BYTES];
            let mut len = 0;
            loop {
                let n = file.read(&mut buffer)?;
                if n == 0 {
                    break;
                }
                hash.update(&buffer[..n]);
                len += n as u64;
            }
            Ok(Partial { target: self.blob_path(blob), path: path.clone(), file, hash, len })
        };
        open().map_err(|e| failed("open", &path, e))
    }

    /// Removes the blobs that were not used for longest until all together have at most `limit` bytes. What `keep` names
    /// stays, and everything stays while another build is at work.
    pub(super) fn evict(&self, limit: u64, keep: &BTreeSet<Digest>) -> Result<(), RegistryError> {
        let at_root = |e| failed("clean", &self.root, e);
        match self.lock.try_lock() {
            Ok(()) => {}
            // Linux gives the shared lock up when it cannot make it exclusive.
            Err(TryLockError::WouldBlock) => return self.lock.lock_shared().map_err(at_root),
            Err(TryLockError::Error(e)) => return Err(at_root(e)),
        }
        let kept: BTreeSet<PathBuf> = keep.iter().map(|blob| self.blob_path(blob)).collect();
        let removed = remove_oldest(&self.root, limit, &kept);
        removed.and_then(|()| self.lock.lock_shared()).map_err(at_root)
    }

    fn blob_path(&self, blob: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(blob.to_hex())
    }
}

fn remove_oldest(root: &Path, limit: u64, kept: &BTreeSet<PathBuf>) -> io::Result<()> {
    let mut files = Vec::new();
    for folder in ["blobs/sha256", "partial"] {
        for entry in fs::read_dir(root.join(folder))? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            files.push((metadata.modified()?, metadata.len(), entry.path()));
        }
    }
    files.sort();
    let mut total: u64 = files.iter().map(|(_, len, _)| len).sum();
    for (_, len, path) in files {
        if total <= limit {
            break;
        }
        if !kept.contains(&path) {
            fs::remove_file(&path)?;
            total -= len;
        }
    }
    Ok(())
}

impl Partial {
    /// Bytes that are there.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Whether another build finished the blob while this one waited for it.
    pub(super) fn is_done(&self) -> bool {
        self.target.exists()
    }

    /// Throws away what is there.
    pub(super) fn restart(&mut self) -> Result<(), RegistryError> {
        let emptied = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        emptied.map_err(|e| failed("write", &self.path, e))?;
        self.hash = digest::Context::new(&digest::SHA256);
        self.len = 0;
        Ok(())
    }

    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<(), RegistryError> {
        self.file.write_all(bytes).map_err(|e| failed("write", &self.path, e))?;
        self.hash.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// The digest of what is there.
    pub(super) fn digest(&self) -> Digest {
        Digest::from_output(&self.hash.clone().finish())
    }

    /// Gives the whole blob its name.
    pub(super) fn finish(self) -> Result<(), RegistryError> {
        let named = self.file.sync_data().and_then(|()| fs::rename(&self.path, &self.target));
        named.map_err(|e| failed("write", &self.target, e))
    }
}

fn failed(doing: &'static str, path: &Path, source: io::Error) -> RegistryError {
    RegistryError::File { doing, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn removes_what_was_not_used_for_longest_and_keeps_what_is_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path().to_owned()).unwrap();
        let blobs: Vec<Digest> = (0..4_u8).map(|i| cache.write(&[i; 100]).unwrap()).collect();
        for (age, blob) in (1..).zip(&blobs) {
            let time = SystemTime::now() - Duration::from_secs(1000 * age);
            File::open(cache.blob_path(blob))
                .unwrap()
                .set_times(FileTimes::new().set_modified(time))
                .unwrap();
        }
        // The oldest is used now, the second oldest is kept, so the third has to go.
        assert_eq!(cache.len_of(&blobs[3]), Some(100));
        cache.evict(300, &BTreeSet::from([blobs[2]])).unwrap();
        let left: Vec<bool> = blobs.iter().map(|blob| cache.len_of(blob).is_some()).collect();
        assert_eq!(left, [true, false, true, true]);
        // Another build is at work.
        let other = Cache::open(dir.path().to_owned()).unwrap();
        cache.evict(0, &BTreeSet::new()).unwrap();
        assert_eq!(cache.len_of(&blobs[0]), Some(100));
        drop(other);
        cache.evict(0, &BTreeSet::new()).unwrap();
        assert_eq!(cache.len_of(&blobs[0]), None);
    }

    #[test]
    fn goes_on_with_what_an_earlier_build_has() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path().to_owned()).unwrap();
        let blob = Digest::of(b"one two");
        cache.begin(&blob).unwrap().append(b"one ").unwrap();
        let mut again = cache.begin(&blob).unwrap();
        assert_eq!(again.len(), 4);
        again.append(b"two").unwrap();
        assert_eq!(again.digest(), blob);
        again.finish().unwrap();
        assert_eq!(cache.read(&blob, 100).unwrap(), b"one two");
        assert_eq!(cache.read(&blob, 6), None);
    }
}
