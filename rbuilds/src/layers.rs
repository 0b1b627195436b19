//! The layers of an image, unpacked and checked, as many at a time as there are processors.

use std::{
    sync::{
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{Sender, channel},
    },
    thread,
};

use crate::{
    Digest, Error, Progress, Step,
    content::Content,
    error::{LayerError, OciError},
    intake::Intake,
    oci::{Files, Image, StoredLayer},
    unpacked::{UnpackFailure, Unpacked, unpack},
};

/// Most layers unpacked at a time: each takes a few megabytes of memory.
const MAX_AT_ONCE: usize = 4;

/// What an image says of one of its layers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected {
    /// Of the layer as it is stored, if the image says so.
    pub(crate) blob: Option<Digest>,
    /// Of the unpacked layer.
    pub(crate) diff_id: Digest,
}

impl Expected {
    /// What the layer is known by.
    pub(crate) fn name(&self) -> Digest {
        self.blob.unwrap_or(self.diff_id)
    }

    fn check(&self, unpacked: Result<Unpacked, UnpackFailure>) -> Result<Unpacked, LayerError> {
        let blob = match &unpacked {
            Ok(unpacked) => Some(unpacked.blob_digest),
            Err(failure) => failure.blob_digest,
        };
        // First of all, since a wrong digest explains whatever else is wrong.
        if let (Some(expected), Some(found)) = (self.blob, blob)
            && expected != found
        {
            return Err(OciError::BlobDigest { expected, found }.into());
        }
        let unpacked = unpacked.map_err(|failure| failure.error)?;
        match unpacked.archive_digest {
            found if found == self.diff_id => Ok(unpacked),
            found => Err(LayerError::DiffId { expected: self.diff_id, found }),
        }
    }
}

/// What becomes of a layer.
enum Event {
    Begun,
    Ended(Result<Content, LayerError>),
}

/// The archives of the layers, the lowest first. Of several errors that of the lowest layer is reported, whoever was first;
/// only the limit on all of them together is reached by whichever layer comes to it.
pub(crate) fn unpack_layers(
    image: &Image,
    files: &Files,
    intake: &Intake,
    progress: Progress<'_>,
) -> Result<Vec<Content>, Error> {
    let layers = &image.layers;
    let at_once = thread::available_parallelism().map_or(1, usize::from).min(MAX_AT_ONCE).min(layers.len());
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let mut results: Vec<Option<Result<Content, LayerError>>> = Vec::new();
    results.resize_with(layers.len(), || None);
    let (tell, told) = channel();
    thread::scope(|scope| {
        for _ in 0..at_once {
            let tell = tell.clone();
            scope.spawn(|| work(layers, files, intake, &next, &failed, tell));
        }
        drop(tell);
        for (index, event) in told {
            match event {
                Event::Begun => {
                    progress(Step::Layer { number: index + 1, of: layers.len(), bytes: layers[index].bytes });
                }
                Event::Ended(result) => results[index] = Some(result),
            }
        }
    });
    // Layers are begun in their order, so those that were not begun stand behind the one that failed.
    let of = layers.len();
    let name = |number: usize, source| {
        let digest = layers[number - 1].expected.name();
        Error::Layer { number, of, digest, source }
    };
    (1..).zip(results.into_iter().flatten()).map(|(number, r)| r.map_err(|e| name(number, e))).collect()
}

/// Unpacks the next layer, and the next, until there is none or one failed.
fn work(
    layers: &[StoredLayer],
    files: &Files,
    intake: &Intake,
    next: &AtomicUsize,
    failed: &AtomicBool,
    tell: Sender<(usize, Event)>,
) {
    while !failed.load(Ordering::Relaxed) {
        let index = next.fetch_add(1, Ordering::Relaxed);
        let Some(layer) = layers.get(index) else { return };
        // Whoever listens does so until all are done.
        let _ = tell.send((index, Event::Begun));
        let result = unpack_layer(layer, files, intake);
        failed.fetch_or(result.is_err(), Ordering::Relaxed);
        let _ = tell.send((index, Event::Ended(result)));
    }
}

/// From the cache, or from the layer as it is stored.
fn unpack_layer(layer: &StoredLayer, files: &Files, intake: &Intake) -> Result<Content, LayerError> {
    let (expected, room) = (&layer.expected, &intake.room);
    let blob = layer.open(files)?;
    if let Some(cache) = &intake.layer_cache {
        if let Some(archive) = cache.find(&expected.name(), &expected.diff_id) {
            return if room.take(archive.len()) { Ok(archive) } else { Err(intake.too_large()) };
        }
        if let Ok(mut output) = cache.begin(&expected.name()) {
            match expected.check(unpack(&blob, room, || output.file().try_clone())) {
                // It may be full, which is no reason to fail.
                Err(LayerError::Spool(_)) => {}
                Ok(unpacked) if unpacked.is_copy => {
                    let _ = output.publish();
                    return Ok(unpacked.archive);
                }
                other => return other.map(|unpacked| unpacked.archive),
            }
        }
    }
    let unpacked = unpack(&blob, room, || tempfile::tempfile_in(&intake.folder));
    expected.check(unpacked).map(|unpacked| unpacked.archive)
}
