//! WebSocket frames (RFC 6455), read where they lie and written into one buffer. No IO.
//!
//! The handshake is a library's. Frames are ours, because they are half of what a message costs: no buffer is cleared
//! before a read, no message is moved to memory of its own, and what is sent in one go is written in one go.

/// Which end of the handshake we were. A client masks what it sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The end that asked.
    Client,
    /// The end that answered.
    Server,
}

/// What the other end sent. Text borrows from the reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message<'a> {
    /// A text message.
    Text(&'a str),
    /// A binary message of this many bytes, which neither of our peers has a use for.
    Binary(usize),
    /// To be answered with [`Writer::pong`].
    Ping(&'a [u8]),
    /// An answer to a ping.
    Pong,
    /// The other end has said its last; to be answered with [`Writer::close`] if we have not said ours.
    Close {
        /// Status code; 1005 when there was none.
        code: u16,
        /// In the other end's words.
        reason: String,
    },
}

/// A frame that breaks the protocol. The connection is of no more use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A message larger than is let in.
    #[error("a message of more than {limit} bytes")]
    TooLarge {
        /// The most that is let in.
        limit: usize,
    },
    /// Text that is not UTF-8.
    #[error("a text message that is not UTF-8")]
    NotUtf8,
    /// A client must mask its frames and a server must not.
    #[error("a frame with the wrong masking")]
    Masking,
    /// Extensions were not agreed on, and there are only six kinds of frames.
    #[error("a frame of an unknown kind")]
    Unknown,
    /// Control frames are short and come in one piece; parts of messages come one after the other.
    #[error("a frame out of order, or a control frame that is too long")]
    Order,
}

const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;

const FINAL: u8 = 0x80;
const MASKED: u8 = 0x80;
const MAX_CONTROL_BYTES: usize = 125;
/// Buffers that a large message has made grow are given back above this.
const KEPT_BYTES: usize = 4 * 1024;

/// Finds messages in the bytes that came.
#[derive(Debug)]
pub struct Reader {
    role: Role,
    limit: usize,
    /// What came; before `read` it has been looked at.
    buffer: Vec<u8>,
    read: usize,
    /// The parts of a message that is not complete, and whether it is text.
    parts: Vec<u8>,
    begun: Option<bool>,
}

/// Where a message lies.
#[derive(Debug, Clone, Copy)]
pub struct Found {
    opcode: u8,
    start: usize,
    end: usize,
    in_parts: bool,
}

impl Found {
    /// A frame about the connection, not a message of the conversation.
    #[must_use]
    pub const fn is_control(self) -> bool {
        self.opcode >= CLOSE
    }
}

/// A frame's header.
#[derive(Debug, Clone, Copy)]
struct Header {
    opcode: u8,
    last: bool,
    mask: Option<[u8; 4]>,
    /// Bytes of the header itself.
    bytes: usize,
    payload: usize,
}

impl Reader {
    /// A reader for messages of up to `limit` bytes.
    #[must_use]
    pub const fn new(role: Role, limit: usize) -> Self {
        Self { role, limit, buffer: Vec::new(), read: 0, parts: Vec::new(), begun: None }
    }

    /// Where the next bytes are to be appended: room for about `bytes`, and for more while a large message is coming.
    pub fn room(&mut self, bytes: usize) -> &mut Vec<u8> {
        if self.read == self.buffer.len() {
            self.buffer.clear();
            if self.buffer.capacity() > KEPT_BYTES.max(bytes) {
                self.buffer = Vec::new();
            }
        } else {
            self.buffer.drain(..self.read);
        }
        self.read = 0;
        if self.buffer.is_empty() {
            // Exactly, because every call has two of these.
            self.buffer.reserve_exact(bytes);
        } else if self.buffer.capacity() - self.buffer.len() < bytes / 4 {
            // Twice as much each time, so that a message of any size is moved only a few times.
            self.buffer.reserve(bytes);
        }
        &mut self.buffer
    }

    /// Looks for the next message of those that have come in full. [`Reader::message`] gives it out.
    pub fn find(&mut self) -> Result<Option<Found>, ProtocolError> {
        if self.begun.is_none() && self.parts.capacity() > 0 {
            self.parts = Vec::new();
        }
        loop {
            let Some(header) = self.header()? else { return Ok(None) };
            let start = self.read + header.bytes;
            let end = start + header.payload;
            if end > self.buffer.len() {
                return Ok(None);
            }
            self.read = end;
            if let Some(mask) = header.mask {
                apply_mask(&mut self.buffer[start..end], mask);
            }
            let found = Found { opcode: header.opcode, start, end, in_parts: false };
            match (header.opcode, header.last) {
                (TEXT | BINARY, false) => {
                    self.begun = Some(header.opcode == TEXT);
                    self.parts.extend_from_slice(&self.buffer[start..end]);
                }
                (CONTINUATION, last) => {
                    self.parts.extend_from_slice(&self.buffer[start..end]);
                    if last {
                        let opcode = if self.begun.take() == Some(true) { TEXT } else { BINARY };
                        return Ok(Some(Found { opcode, start: 0, end: self.parts.len(), in_parts: true }));
                    }
                }
                _ => return Ok(Some(found)),
            }
        }
    }

    /// The message that [`Reader::find`] found last.
    pub fn message(&self, found: Found) -> Result<Message<'_>, ProtocolError> {
        let payload = if found.in_parts { &self.parts } else { &self.buffer };
        let payload = &payload[found.start..found.end];
        Ok(match found.opcode {
            TEXT => Message::Text(std::str::from_utf8(payload).map_err(|_| ProtocolError::NotUtf8)?),
            BINARY => Message::Binary(payload.len()),
            PING => Message::Ping(payload),
            PONG => Message::Pong,
            _ => close(payload),
        })
    }

    /// The header that stands next; `None` when it has not come in full.
    fn header(&self) -> Result<Option<Header>, ProtocolError> {
        let bytes = &self.buffer[self.read..];
        let [first, second, rest @ ..] = bytes else { return Ok(None) };
        let (length, rest, mut header) = match second & !MASKED {
            126 => match rest {
                [a, b, rest @ ..] => (u64::from(u16::from_be_bytes([*a, *b])), rest, 4),
                _ => return Ok(None),
            },
            127 => match rest.split_first_chunk() {
                Some((length, rest)) => (u64::from_be_bytes(*length), rest, 10),
                None => return Ok(None),
            },
            short => (short.into(), rest, 2),
        };
        let mask = if second & MASKED == 0 {
            None
        } else {
            let Some((mask, _)) = rest.split_first_chunk() else { return Ok(None) };
            header += 4;
            Some(*mask)
        };
        let (opcode, last) = (first & 0x0F, first & FINAL != 0);
        self.check(first & 0x70 != 0, opcode, last, mask.is_some(), length)?;
        Ok(Some(Header { opcode, last, mask, bytes: header, payload: length as usize }))
    }

    fn check(
        &self,
        reserved: bool,
        opcode: u8,
        last: bool,
        masked: bool,
        length: u64,
    ) -> Result<(), ProtocolError> {
        if masked != (self.role == Role::Server) {
            return Err(ProtocolError::Masking);
        }
        let in_order = match opcode {
            TEXT | BINARY => self.begun.is_none(),
            CONTINUATION => self.begun.is_some(),
            CLOSE | PING | PONG => last && length <= MAX_CONTROL_BYTES as u64,
            _ => return Err(ProtocolError::Unknown),
        };
        if reserved {
            return Err(ProtocolError::Unknown);
        }
        if !in_order {
            return Err(ProtocolError::Order);
        }
        let parts = if opcode == CONTINUATION { self.parts.len() as u64 } else { 0 };
        if length.saturating_add(parts) > self.limit as u64 {
            return Err(ProtocolError::TooLarge { limit: self.limit });
        }
        Ok(())
    }
}

fn close(payload: &[u8]) -> Message<'static> {
    match payload.split_first_chunk() {
        Some((code, reason)) => Message::Close {
            code: u16::from_be_bytes(*code),
            reason: String::from_utf8_lossy(reason).into_owned(),
        },
        // RFC 6455, section 7.1.5.
        None => Message::Close { code: 1005, reason: String::new() },
    }
}

/// Collects frames until they can be written.
#[derive(Debug)]
pub struct Writer {
    role: Role,
    /// To be written from `written` on.
    buffer: Vec<u8>,
    written: usize,
}

impl Writer {
    /// Nothing to write.
    #[must_use]
    pub const fn new(role: Role) -> Self {
        Self { role, buffer: Vec::new(), written: 0 }
    }

    /// Appends a text message.
    pub fn text(&mut self, text: &str) {
        self.frame(TEXT, text.as_bytes());
    }

    /// Appends a ping, which asks the other end for a sign of life.
    pub fn ping(&mut self) {
        self.frame(PING, &[]);
    }

    /// Appends the answer to a ping.
    pub fn pong(&mut self, payload: &[u8]) {
        self.frame(PONG, &payload[..payload.len().min(MAX_CONTROL_BYTES)]);
    }

    /// Appends the last frame: nothing may follow it.
    pub fn close(&mut self, code: u16) {
        self.frame(CLOSE, &code.to_be_bytes());
    }

    /// What is to be written.
    #[must_use]
    pub fn unwritten(&self) -> &[u8] {
        &self.buffer[self.written..]
    }

    /// So much of [`Writer::unwritten`] has been written.
    pub fn wrote(&mut self, bytes: usize) {
        self.written += bytes;
        if self.written >= self.buffer.len() {
            self.buffer.clear();
            self.written = 0;
            if self.buffer.capacity() > KEPT_BYTES {
                self.buffer = Vec::new();
            }
        } else if self.written > self.buffer.len() / 2 {
            // A peer that is always a little behind never empties the buffer. Less is moved than is dropped.
            self.buffer.drain(..std::mem::take(&mut self.written));
        }
    }

    fn frame(&mut self, opcode: u8, payload: &[u8]) {
        let masked = if self.role == Role::Client { MASKED } else { 0 };
        self.buffer.reserve(14 + payload.len());
        self.buffer.push(FINAL | opcode);
        match payload.len() {
            length @ 0..126 => self.buffer.push(masked + length as u8),
            length @ 126..0x1_0000 => {
                self.buffer.push(masked + 126);
                self.buffer.extend_from_slice(&(length as u16).to_be_bytes());
            }
            length => {
                self.buffer.push(masked + 127);
                self.buffer.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        if self.role == Role::Server {
            self.buffer.extend_from_slice(payload);
            return;
        }
        // Not to be guessed, so that nobody can make us write bytes of his choice (RFC 6455, section 10.3).
        let mask: [u8; 4] = rand::random();
        self.buffer.extend_from_slice(&mask);
        let start = self.buffer.len();
        self.buffer.extend_from_slice(payload);
        apply_mask(&mut self.buffer[start..], mask);
    }
}

fn apply_mask(bytes: &mut [u8], mask: [u8; 4]) {
    let wide = u64::from_ne_bytes([mask[0], mask[1], mask[2], mask[3], mask[0], mask[1], mask[2], mask[3]]);
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Everything that can be read from these bytes, handed over in pieces of this size.
    fn read(role: Role, bytes: &[u8], piece: usize) -> Result<Vec<String>, ProtocolError> {
        let (mut reader, mut found) = (Reader::new(role, 100_000), Vec::new());
        for piece in bytes.chunks(piece) {
            reader.room(piece.len()).extend_from_slice(piece);
            while let Some(message) = reader.find()? {
                found.push(match reader.message(message)? {
                    Message::Text(text) => text.to_owned(),
                    other => format!("{other:?}"),
                });
            }
        }
        Ok(found)
    }

    // RFC 6455, section 5.7.
    #[test]
    fn the_examples_of_the_standard_are_read() {
        let hello = |bytes: &[u8], role| assert_eq!(read(role, bytes, 1).unwrap(), ["Hello"]);
        hello(b"\x81\x05Hello", Role::Client);
        hello(b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", Role::Server);
        hello(b"\x01\x03Hel\x80\x02lo", Role::Client);
        assert_eq!(read(Role::Client, b"\x89\x05Hello", 3).unwrap(), [r"Ping([72, 101, 108, 108, 111])"]);
        assert_eq!(read(Role::Server, b"\x8a\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", 4).unwrap(), ["Pong"]);
        let long =
            [&b"\x82\x7e\x01\x00"[..], &[0; 256], b"\x82\x7f\0\0\0\0\0\x01\0\0", &vec![0; 65_536]].concat();
        assert_eq!(read(Role::Client, &long, 1_000).unwrap(), ["Binary(256)", "Binary(65536)"]);
    }

    #[test]
    fn control_frames_may_stand_between_the_parts_of_a_message() {
        let bytes = b"\x01\x03one\x89\x00\x00\x03two\x8a\x00\x80\x05three\x88\x05\x03\xe8bye\x88\x00";
        for piece in [1, 2, 5, 100] {
            assert_eq!(
                read(Role::Client, bytes, piece).unwrap(),
                [
                    "Ping([])",
                    "Pong",
                    "onetwothree",
                    r#"Close { code: 1000, reason: "bye" }"#,
                    r#"Close { code: 1005, reason: "" }"#
                ]
            );
        }
    }

    #[test]
    fn what_breaks_the_protocol_is_refused() {
        use ProtocolError::{Masking, NotUtf8, Order, TooLarge, Unknown};
        for (bytes, error) in [
            (&b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58"[..], Masking),
            (b"\xC1\x00", Unknown),
            (b"\x83\x00", Unknown),
            (b"\x8B\x00", Unknown),
            (b"\x80\x00", Order),
            (b"\x01\x01a\x81\x01b", Order),
            (b"\x09\x00", Order),
            (b"\x89\x7e\x00\x7e", Order),
            (b"\x81\x02\xC3\x28", NotUtf8),
            (b"\x81\x7f\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF", TooLarge { limit: 100_000 }),
            (b"\x81\x7f\0\0\0\0\0\x01\x86\xA1", TooLarge { limit: 100_000 }),
        ] {
            assert_eq!(read(Role::Client, bytes, 1_000), Err(error), "{bytes:?}");
        }
        assert_eq!(read(Role::Server, b"\x81\x05Hello", 1_000), Err(Masking));
        let parts =
            [&b"\x01\x7f\0\0\0\0\0\x01\x86\x9f"[..], &vec![b'a'; 99_999], b"\x00\x01a\x80\x01a"].concat();
        assert_eq!(read(Role::Client, &parts, 1_000), Err(TooLarge { limit: 100_000 }));
    }

    #[test]
    fn a_message_as_large_as_is_let_in_is_read_and_its_memory_given_back() {
        let mut writer = Writer::new(Role::Server);
        writer.text(&"x".repeat(100_000));
        writer.text("after it");
        assert_eq!(read(Role::Client, writer.unwritten(), 4_096).unwrap()[1], "after it");
        let mut reader = Reader::new(Role::Client, 100_000);
        reader.room(200_000).extend_from_slice(writer.unwritten());
        while reader.find().unwrap().is_some() {}
        assert!(reader.room(1_000).capacity() < 2_000);
        let bytes = writer.unwritten().len();
        writer.wrote(bytes);
        assert_eq!((writer.unwritten().len(), writer.buffer.capacity()), (0, 0));
    }

    #[test]
    fn a_peer_that_is_always_a_little_behind_costs_no_more_than_it_is_behind() {
        let mut writer = Writer::new(Role::Server);
        writer.text("the one it is behind");
        let mut all = Vec::new();
        for number in 0..10_000 {
            let left = writer.unwritten().len();
            writer.text(&format!("message {number}"));
            all.extend_from_slice(&writer.unwritten()[..left]);
            writer.wrote(left);
            assert!(writer.buffer.capacity() < 256, "{} bytes after {number}", writer.buffer.capacity());
        }
        let texts = read(Role::Client, &all, 1_000).unwrap();
        assert_eq!((texts.len(), texts[9_999].as_str()), (10_000, "message 9998"));
    }

    #[test]
    fn a_client_s_frames_are_masked_each_with_a_key_of_its_own() {
        let mut writer = Writer::new(Role::Client);
        writer.text("the same text");
        writer.text("the same text");
        let (one, two) = writer.unwritten().split_at(writer.unwritten().len() / 2);
        assert_ne!(one, two);
        assert!(!one.windows(4).any(|part| part == b"same"));
        assert_eq!(read(Role::Server, writer.unwritten(), 7).unwrap(), ["the same text"; 2]);
    }

    proptest! {
        #[test]
        fn what_one_end_writes_the_other_reads(texts in prop::collection::vec(".{0,400}", 0..20), piece in 1_usize..500) {
            for (near, far) in [(Role::Client, Role::Server), (Role::Server, Role::Client)] {
                let mut writer = Writer::new(near);
                for text in &texts {
                    writer.text(text);
                }
                prop_assert_eq!(&read(far, writer.unwritten(), piece).unwrap(), &texts);
            }
        }

        #[test]
        fn no_bytes_whatever_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), piece in 1_usize..50) {
            let _ = read(Role::Server, &bytes, piece);
            let _ = read(Role::Client, &bytes, piece);
        }
    }
}
