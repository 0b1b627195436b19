//! The two halves of a connection's flow control.
//!
//! Each side announces the size of its receive buffer (`buf_alloc`) and how many bytes it has taken out of it so far
//! (`fwd_cnt`); the other side never has more bytes under way than fit. All counters run modulo 2^32.
//!
//! Source: Virtual I/O Device (VIRTIO) 1.3, section 5.10.6.3 (Buffer Space Management).

use crate::packet::Header;

/// What we hold of a connection's data on its way to the host, at most. Announced to the guest as `buf_alloc`; the
/// size that Linux announces by default.
pub(crate) const RECEIVE_BUFFER_BYTES: u32 = 256 * 1024;

/// The guest is told of buffer space when this much of it is news.
const UPDATE_AFTER_BYTES: u32 = RECEIVE_BUFFER_BYTES / 4;

/// How much the guest can still take from us.
#[derive(Debug, Default)]
pub(crate) struct SendCredit {
    sent: u32,
    peer_buf_alloc: u32,
    peer_fwd_cnt: u32,
    asked: bool,
}

impl SendCredit {
    /// Takes note of what the guest says in any packet of the connection.
    pub(crate) fn learn(&mut self, header: &Header) {
        self.peer_buf_alloc = header.buf_alloc;
        self.peer_fwd_cnt = header.fwd_cnt;
        if self.available() > 0 {
            self.asked = false;
        }
    }

    /// Bytes that may be sent now. A guest whose counters make no sense gets none, which stalls nobody else.
    pub(crate) fn available(&self) -> u32 {
        self.peer_buf_alloc.saturating_sub(self.sent.wrapping_sub(self.peer_fwd_cnt))
    }

    /// Takes note that `count` bytes were sent.
    pub(crate) fn spend(&mut self, count: u32) {
        self.sent = self.sent.wrapping_add(count);
    }

    /// Whether the guest should be asked for news: there is none left, and we have not asked since there was.
    pub(crate) fn request_due(&self) -> bool {
        self.available() == 0 && !self.asked
    }

    /// Takes note that the guest was asked.
    pub(crate) fn requested(&mut self) {
        self.asked = true;
    }
}

/// The guest sent more than we said we could hold.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Overrun;

/// How much we can still take from the guest.
#[derive(Debug, Default)]
pub(crate) struct ReceiveCredit {
    received: u32,
    forwarded: u32,
    told: u32,
    asked: bool,
}

impl ReceiveCredit {
    /// Takes note that `count` bytes came from the guest.
    pub(crate) fn receive(&mut self, count: u32) -> Result<(), Overrun> {
        let held = self.received.wrapping_sub(self.forwarded);
        if count > RECEIVE_BUFFER_BYTES.saturating_sub(held) {
            return Err(Overrun);
        }
        self.received = self.received.wrapping_add(count);
        Ok(())
    }

    /// Takes note that `count` bytes left the buffer.
    pub(crate) fn forward(&mut self, count: u32) {
        self.forwarded = self.forwarded.wrapping_add(count);
    }

    /// Takes note that the guest asked where it stands.
    pub(crate) fn ask(&mut self) {
        self.asked = true;
    }

    /// Whether a packet should go for the sake of its credit fields alone.
    ///
    /// A guest that is out of credit has a whole buffer of bytes unreported, so it always hears of an emptied buffer.
    pub(crate) fn update_due(&self) -> bool {
        self.asked || self.forwarded.wrapping_sub(self.told) >= UPDATE_AFTER_BYTES
    }

    /// Fills in the credit fields of a packet about to go; whatever was due is thereby done.
    pub(crate) fn stamp(&mut self, header: &mut Header) {
        header.buf_alloc = RECEIVE_BUFFER_BYTES;
        header.fwd_cnt = self.forwarded;
        self.told = self.forwarded;
        self.asked = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn says(buf_alloc: u32, fwd_cnt: u32) -> Header {
        Header { buf_alloc, fwd_cnt, ..Header::default() }
    }

    #[test]
    fn nothing_may_be_sent_before_the_guest_said_what_it_can_hold() {
        assert_eq!(SendCredit::default().available(), 0);
    }

    #[test]
    fn sending_uses_credit_and_the_guest_gives_it_back_across_the_wrap() {
        let mut credit =
            SendCredit { sent: u32::MAX - 9, peer_fwd_cnt: u32::MAX - 9, ..SendCredit::default() };
        credit.learn(&says(100, u32::MAX - 9));
        credit.spend(60);
        assert_eq!(credit.available(), 40);
        credit.learn(&says(100, 50));
        assert_eq!(credit.available(), 100);
    }

    #[test]
    fn a_guest_that_claims_to_have_read_the_future_gets_nothing() {
        let mut credit = SendCredit::default();
        credit.learn(&says(u32::MAX - 1, 1));
        assert_eq!(credit.available(), 0);
    }

    #[test]
    fn the_guest_is_asked_once_per_drought() {
        let mut credit = SendCredit::default();
        credit.learn(&says(10, 0));
        credit.spend(10);
        assert!(credit.request_due());
        credit.requested();
        credit.learn(&says(10, 0));
        assert!(!credit.request_due(), "an answer without news is no reason to ask again");
        credit.learn(&says(10, 5));
        credit.spend(5);
        assert!(credit.request_due());
    }

    #[test]
    fn more_than_announced_is_an_overrun() {
        let mut credit = ReceiveCredit::default();
        assert_eq!(credit.receive(RECEIVE_BUFFER_BYTES), Ok(()));
        assert_eq!(credit.receive(1), Err(Overrun));
        credit.forward(1);
        assert_eq!(credit.receive(1), Ok(()));
    }

    proptest! {
        #[test]
        fn a_guest_that_used_up_its_credit_always_hears_of_an_emptied_buffer(sizes in proptest::collection::vec(1..=65_536_u32, 1..200)) {
            let (mut ours, mut guest) = (ReceiveCredit::default(), SendCredit::default());
            let mut header = Header::default();
            ours.stamp(&mut header);
            guest.learn(&header);
            for size in sizes {
                let count = size.min(guest.available());
                prop_assert!(count > 0);
                guest.spend(count);
                prop_assert_eq!(ours.receive(count), Ok(()));
                ours.forward(count);
                if ours.update_due() {
                    ours.stamp(&mut header);
                    guest.learn(&header);
                }
            }
        }
    }
}
