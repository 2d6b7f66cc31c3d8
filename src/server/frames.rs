//! A limit on HTTP/2 frames that cost their sender next to nothing (RFC 9113 §10.5).
//!
//! In: the bytes of a connection, before the framework reads them. Out: whether the peer may go on. A peer has credit:
//! requests earn some, time earns a little, and frames that cause work without being a request, or that reset one, use it
//! up: `PING`, `SETTINGS`, `PRIORITY`, `WINDOW_UPDATE`, `CONTINUATION`, small `DATA`, `RST_STREAM`, and unknown types.

use std::time::Duration;

use tokio::time::Instant;

/// Streams that a peer may have open at one time; it is announced in `SETTINGS`.
pub(super) const MAX_STREAMS: u32 = 100;

/// Bytes of the connection preface (RFC 9113 §3.4).
const PREFACE: usize = 24;
/// Bytes before a frame's payload: length, type, flags, stream (RFC 9113 §4.1).
const HEAD: usize = 9;
/// The credit of a peer at the beginning, and at most.
const FULL: u32 = 256;
const EARNED_BY_SECOND: u32 = 10;
const EARNED_BY_REQUEST: u32 = 16;
/// More than a request earns: a peer that resets each of its requests runs out.
const COST_OF_RESET: u32 = 20;
const COST: u32 = 1;
/// `DATA` with at least this many bytes is free.
const FULL_DATA: usize = 256;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;

/// The credit of one peer, and where its current frame ends.
#[derive(Debug)]
pub(super) struct FrameLimiter {
    /// Bytes still to come of the preface or of a payload.
    skip: usize,
    head: [u8; HEAD],
    /// Bytes of the head that have been received.
    received: usize,
    credit: u32,
    /// Up to when time has been credited.
    credited: Instant,
}

impl FrameLimiter {
    pub(super) fn new(now: Instant) -> Self {
        Self { skip: PREFACE, head: [0; HEAD], received: 0, credit: FULL, credited: now }
    }

    /// Counts the frames in `bytes`; false once they are too many.
    pub(super) fn admit(&mut self, mut bytes: &[u8], now: Instant) -> bool {
        self.credit_time(now);
        while let [first, rest @ ..] = bytes {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            self.head[self.received] = *first;
            self.received += 1;
            bytes = rest;
            if self.received == HEAD {
                self.received = 0;
                let [high, middle, low, kind, ..] = self.head;
                self.skip = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
                if !self.charge(kind) {
                    return false;
                }
            }
        }
        true
    }

    fn charge(&mut self, kind: u8) -> bool {
        let cost = match kind {
            HEADERS => {
                self.earn(EARNED_BY_REQUEST);
                0
            }
            DATA if self.skip >= FULL_DATA => 0,
            RST_STREAM => COST_OF_RESET,
            _ => COST,
        };
        match self.credit.checked_sub(cost) {
            Some(left) => {
                self.credit = left;
                true
            }
            None => false,
        }
    }

    fn credit_time(&mut self, now: Instant) {
        let seconds = now.saturating_duration_since(self.credited).as_secs();
        if seconds > 0 {
            self.credited += Duration::from_secs(seconds);
            self.earn(EARNED_BY_SECOND.saturating_mul(u32::try_from(seconds).unwrap_or(u32::MAX)));
        }
    }

    fn earn(&mut self, credit: u32) {
        self.credit = self.credit.saturating_add(credit).min(FULL);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SETTINGS: u8 = 4;
    const PING: u8 = 6;

    fn frame(kind: u8, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap().to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, 0, 0, 0, 0, 1];
        frame.resize(HEAD + payload, 0xff);
        frame
    }

    fn after_preface() -> (FrameLimiter, Instant) {
        let now = Instant::now();
        let mut frames = FrameLimiter::new(now);
        assert!(frames.admit(&[b'P'; PREFACE], now));
        (frames, now)
    }

    /// How many of these frames are admitted, one after the other at one instant; 10 000 is no limit.
    fn admitted(frame: &[u8]) -> usize {
        let (mut frames, now) = after_preface();
        (0..10_000).take_while(|_| frames.admit(frame, now)).count()
    }

    ///
    #[test]
    fn frames_that_cost_their_sender_nothing_are_limited() {
        for kind in [SETTINGS, PING, 2, 7, 8, 9, 10, 200] {
            assert_eq!(admitted(&frame(kind, 8)), 256, "{kind}");
        }
        assert_eq!(admitted(&frame(DATA, 0)), 256, "empty");
        assert_eq!(admitted(&frame(DATA, 1)), 256, "small");
        assert_eq!(admitted(&[frame(HEADERS, 40), frame(RST_STREAM, 4)].concat()), 60, "requests that are reset");
    }

    #[test]
    fn requests_with_what_belongs_to_them_are_not_limited() {
        let body = [frame(DATA, 16_384), frame(DATA, 700), frame(DATA, 0)].concat();
        let around = [frame(SETTINGS, 0), frame(PING, 8), frame(8, 4), frame(8, 4)].concat();
        assert_eq!(admitted(&[frame(HEADERS, 40), body, around].concat()), 10_000);
        let (mut frames, now) = after_preface();
        for second in 0..1000 {
            for _ in 0..10 {
                assert!(frames.admit(&frame(PING, 8), now + Duration::from_secs(second)), "an idle peer that pings");
            }
        }
    }

    proptest! {
        /// However the bytes are cut, the same frames are seen, and none within a payload.
        #[test]
        fn frames_are_found_wherever_they_are_cut(
            sent in prop::collection::vec((0..12_u8, 0..600_usize), 0..60), size in 1..700_usize,
        ) {
            let bytes: Vec<u8> = sent.iter().flat_map(|(kind, payload)| frame(*kind, *payload)).collect();
            let (mut whole, now) = after_preface();
            let (mut parts, _) = after_preface();
            let verdict = whole.admit(&bytes, now);
            prop_assert_eq!(bytes.chunks(size).all(|part| parts.admit(part, now)), verdict);
            prop_assert_eq!((parts.credit, parts.skip, parts.received), (whole.credit, whole.skip, whole.received));
            if verdict {
                prop_assert_eq!((whole.skip, whole.received), (0, 0));
            }
        }
    }
}
