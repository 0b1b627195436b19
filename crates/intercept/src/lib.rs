//! Transparent egress without IO: turns an enclave's own packets around, and answers its DNS questions.
//!
//! All that the programs of an enclave send leaves through one TUN device. This crate decides what becomes of each packet
//! read there, and the shell around it, `pf-proxy transparent`, moves the bytes:
//!
//! - [`packet`] reads headers, changes addresses and keeps checksums right; [`answer`] builds what a network would answer.
//! - [`flows`] tracks TCP connections: a first packet is held until somebody says what became of the connection outside,
//!   then turned to a listener of this very machine, so that the kernel's own TCP serves both of its ends.
//! - [`names`] lends an address to each name, so that the name is known again when somebody connects to it.
//! - [`dns`] reads questions and writes answers.
//!
//! It opens no socket, asks no clock, and knows no policy: whether a destination is allowed is for `egress` to say.
#![forbid(unsafe_code)]

pub mod answer;
pub mod dns;
pub mod flows;
pub mod names;
pub mod packet;
pub mod plan;
