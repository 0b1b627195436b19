//! The header that opens every vsock packet: 44 bytes, little-endian, in the order of the fields of [`Header`].
//!
//! Source: Virtual I/O Device (VIRTIO) 1.3, section 5.10.6 (Device Operation). Decoding cannot fail: every bit
//! pattern is a header, and [`crate::mux`] decides what an odd one means.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

/// Length of an encoded [`Header`].
pub(crate) const HEADER_BYTES: usize = 44;

/// `VIRTIO_VSOCK_TYPE_STREAM`, the one socket type carried here.
pub(crate) const TYPE_STREAM: u16 = 1;

/// `VIRTIO_VSOCK_SHUTDOWN_F_RECEIVE`: the sender of the packet will receive no more.
pub(crate) const SHUTDOWN_RECEIVE: u32 = 1;

/// `VIRTIO_VSOCK_SHUTDOWN_F_SEND`: the sender of the packet will send no more.
pub(crate) const SHUTDOWN_SEND: u32 = 2;

/// Both shutdown flags.
pub(crate) const SHUTDOWN_BOTH: u32 = SHUTDOWN_RECEIVE | SHUTDOWN_SEND;

/// What a packet asks for or says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// Open a connection.
    Request,
    /// The connection is accepted.
    Response,
    /// The connection is refused, or over.
    Reset,
    /// One direction, or both, will carry no more data; see the flags.
    Shutdown,
    /// Data.
    ReadWrite,
    /// The sender's `buf_alloc` and `fwd_cnt`, for their own sake.
    CreditUpdate,
    /// The sender asks for a [`Op::CreditUpdate`].
    CreditRequest,
}

impl Op {
    /// The operation with this number, if there is one.
    pub(crate) const fn from_number(number: u16) -> Option<Self> {
        Some(match number {
            1 => Self::Request,
            2 => Self::Response,
            3 => Self::Reset,
            4 => Self::Shutdown,
            5 => Self::ReadWrite,
            6 => Self::CreditUpdate,
            7 => Self::CreditRequest,
            _ => return None,
        })
    }

    /// The number that stands for the operation in a header.
    pub(crate) const fn number(self) -> u16 {
        match self {
            Self::Request => 1,
            Self::Response => 2,
            Self::Reset => 3,
            Self::Shutdown => 4,
            Self::ReadWrite => 5,
            Self::CreditUpdate => 6,
            Self::CreditRequest => 7,
        }
    }
}

/// A packet's header, as it came or as it will go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) src_cid: u64,
    pub(crate) dst_cid: u64,
    pub(crate) src_port: u32,
    pub(crate) dst_port: u32,
    /// Bytes of payload after the header.
    pub(crate) len: u32,
    /// Socket type, [`TYPE_STREAM`] or something we refuse.
    pub(crate) socket_type: u16,
    /// Number of an [`Op`], or something we refuse.
    pub(crate) op: u16,
    /// Meaning depends on the operation; only [`Op::Shutdown`] uses it for streams.
    pub(crate) flags: u32,
    /// Size of the sender's receive buffer for this connection, in bytes.
    pub(crate) buf_alloc: u32,
    /// Bytes the sender has taken out of that buffer so far, modulo 2^32.
    pub(crate) fwd_cnt: u32,
}

impl Header {
    /// Reads a header.
    pub(crate) fn decode(bytes: &[u8; HEADER_BYTES]) -> Self {
        let mut fields = Fields(bytes);
        Self {
            src_cid: u64::from_le_bytes(fields.take()),
            dst_cid: u64::from_le_bytes(fields.take()),
            src_port: u32::from_le_bytes(fields.take()),
            dst_port: u32::from_le_bytes(fields.take()),
            len: u32::from_le_bytes(fields.take()),
            socket_type: u16::from_le_bytes(fields.take()),
            op: u16::from_le_bytes(fields.take()),
            flags: u32::from_le_bytes(fields.take()),
            buf_alloc: u32::from_le_bytes(fields.take()),
            fwd_cnt: u32::from_le_bytes(fields.take()),
        }
    }

    /// Writes the header; the inverse of [`Header::decode`].
    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let fields: [&[u8]; 10] = [
            &self.src_cid.to_le_bytes(),
            &self.dst_cid.to_le_bytes(),
            &self.src_port.to_le_bytes(),
            &self.dst_port.to_le_bytes(),
            &self.len.to_le_bytes(),
            &self.socket_type.to_le_bytes(),
            &self.op.to_le_bytes(),
            &self.flags.to_le_bytes(),
            &self.buf_alloc.to_le_bytes(),
            &self.fwd_cnt.to_le_bytes(),
        ];
        for (to, from) in bytes.iter_mut().zip(fields.into_iter().flatten()) {
            *to = *from;
        }
        bytes
    }
}

/// The part of a header not read yet.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (field, rest) = self.0.split_first_chunk().expect("the fields of a header are 44 bytes together");
        self.0 = rest;
        *field
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fields_lie_where_the_standard_puts_them() {
        let header = Header {
            src_cid: 0x0102_0304_0506_0708,
            dst_cid: 3,
            src_port: 0x1112_1314,
            dst_port: 9000,
            len: 0x2122,
            socket_type: TYPE_STREAM,
            op: Op::ReadWrite.number(),
            flags: 0x3132_3334,
            buf_alloc: 0x4_0000,
            fwd_cnt: 0x5152_5354,
        };
        let bytes = header.encode();
        assert_eq!(bytes[..8], [8, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(bytes[8], 3);
        assert_eq!(bytes[16..20], [0x14, 0x13, 0x12, 0x11]);
        assert_eq!(bytes[20..24], [0x28, 0x23, 0, 0]);
        assert_eq!(bytes[24..28], [0x22, 0x21, 0, 0]);
        assert_eq!(bytes[28..32], [1, 0, 5, 0]);
        assert_eq!(bytes[32..36], [0x34, 0x33, 0x32, 0x31]);
        assert_eq!(bytes[36..40], [0, 0, 4, 0]);
        assert_eq!(bytes[40..], [0x54, 0x53, 0x52, 0x51]);
    }

    #[test]
    fn operation_numbers_round_trip() {
        for number in 0..=u16::MAX {
            if let Some(op) = Op::from_number(number) {
                assert_eq!(op.number(), number);
            }
        }
        assert_eq!(Op::from_number(0), None);
        assert_eq!(Op::from_number(8), None);
    }

    proptest! {
        #[test]
        fn any_bytes_decode_and_encode_back(bytes in proptest::array::uniform32(any::<u8>()), tail in proptest::array::uniform12(any::<u8>())) {
            let mut whole = [0; HEADER_BYTES];
            whole[..32].copy_from_slice(&bytes);
            whole[32..].copy_from_slice(&tail);
            prop_assert_eq!(Header::decode(&whole).encode(), whole);
        }
    }
}
