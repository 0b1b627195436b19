//! Container images as they lie in an OCI image layout directory.
//!
//! Finds an image, checks every blob it reads against its descriptor, and hands the layers to the archive reader.
//! It does not talk to registries.

mod document;
mod layout;

pub(crate) use layout::Layout;
