//! A WebSocket of a far end, cheap enough that what is measured is the bridge.
//!
//! The library makes the handshake; frames are read where they lie and written into one buffer, because the far ends
//! of hundreds of calls share a processor with the bridge they measure.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Control, Data, OpCode};

/// Room for what one read may bring.
const READ_BYTES: usize = 16 * 1024;
/// A message larger than this is none that a far end expects.
const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;
/// A client must mask what it sends; which key is of no matter between two ends on one machine.
const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

/// What the other end sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message<'a> {
    Text(&'a str),
    Close,
}

/// One end of a connection after its handshake.
#[derive(Debug)]
pub(super) struct Link<S> {
    io: S,
    client: bool,
    /// Received, from `read` on not looked at yet.
    inbox: Vec<u8>,
    read: usize,
    /// Not written yet, from `written` on.
    outbox: Vec<u8>,
    written: usize,
    /// A message in several frames, as far as it has come.
    partial: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Link<S> {
    /// `client` says which end of the handshake we were.
    pub(super) const fn new(io: S, client: bool) -> Self {
        Self { io, client, inbox: Vec::new(), read: 0, outbox: Vec::new(), written: 0, partial: Vec::new() }
    }

    /// Puts a text message into the buffer.
    pub(super) fn send(&mut self, text: &str) {
        self.write_frame(OpCode::Data(Data::Text), text.as_bytes());
    }

    /// Puts the goodbye into the buffer.
    pub(super) fn close(&mut self) {
        self.write_frame(OpCode::Control(Control::Close), &1000_u16.to_be_bytes());
    }

    /// Bytes that the other end does not take.
    pub(super) fn unsent_bytes(&self) -> usize {
        self.outbox.len() - self.written
    }

    fn write_frame(&mut self, opcode: OpCode, payload: &[u8]) {
        let mask = self.client.then_some(MASK);
        let header = FrameHeader { is_final: true, rsv1: false, rsv2: false, rsv3: false, opcode, mask };
        header.format(payload.len() as u64, &mut self.outbox).expect("writing to a vector cannot fail");
        let start = self.outbox.len();
        self.outbox.extend_from_slice(payload);
        if self.client {
            apply_mask(&mut self.outbox[start..], MASK);
        }
    }

    /// Writes what can be written; ready when nothing is left.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.outbox.len() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, &self.outbox[self.written..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += written;
        }
        self.outbox.clear();
        self.written = 0;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// Reads once; ready with how many bytes came, 0 at the end.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.inbox.drain(..std::mem::take(&mut self.read));
        let start = self.inbox.len();
        self.inbox.resize(start + READ_BYTES, 0);
        let mut buffer = ReadBuf::new(&mut self.inbox[start..]);
        let result = Pin::new(&mut self.io).poll_read(cx, &mut buffer);
        let came = buffer.filled().len();
        self.inbox.truncate(start + came);
        result.map_ok(|()| came)
    }

    /// The next message of those that have been read. Answers pings itself.
    pub(super) fn next(&mut self) -> io::Result<Option<Message<'_>>> {
        loop {
            let mut cursor = io::Cursor::new(&self.inbox[self.read..]);
            let Some((header, length)) = FrameHeader::parse(&mut cursor).map_err(broken)? else {
                return Ok(None);
            };
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            if length > MAX_MESSAGE_BYTES || self.partial.len() > MAX_MESSAGE_BYTES {
                return Err(broken("the message is too large"));
            }
            let start = self.read + cursor.position() as usize;
            if self.inbox.len() - start < length {
                return Ok(None);
            }
            self.read = start + length;
            if let Some(mask) = header.mask {
                apply_mask(&mut self.inbox[start..start + length], mask);
            }
            match header.opcode {
                OpCode::Data(Data::Text) if header.is_final => {
                    return text(&self.inbox[start..start + length]).map(Some);
                }
                OpCode::Data(Data::Text | Data::Continue) => {
                    if header.opcode == OpCode::Data(Data::Text) {
                        self.partial.clear();
                    }
                    self.partial.extend_from_slice(&self.inbox[start..start + length]);
                    if header.is_final {
                        return text(&self.partial).map(Some);
                    }
                }
                OpCode::Control(Control::Close) => return Ok(Some(Message::Close)),
                OpCode::Control(Control::Ping) => {
                    let payload = self.inbox[start..start + length].to_vec();
                    self.write_frame(OpCode::Control(Control::Pong), &payload);
                }
                OpCode::Data(_) | OpCode::Control(_) => {}
            }
        }
    }
}

fn text(bytes: &[u8]) -> io::Result<Message<'_>> {
    std::str::from_utf8(bytes).map(Message::Text).map_err(broken)
}

fn broken(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

fn apply_mask(bytes: &mut [u8], mask: [u8; 4]) {
    let (words, rest) = bytes.as_chunks_mut::<4>();
    for word in words {
        *word = (u32::from_ne_bytes(*word) ^ u32::from_ne_bytes(mask)).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(mask) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{SinkExt as _, StreamExt as _};
    use std::future::poll_fn;
    use tokio_tungstenite::WebSocketStream;
    use tokio_tungstenite::tungstenite::protocol::Role;
    use tokio_tungstenite::tungstenite::{Bytes, Message as TheirMessage};

    async fn read(link: &mut Link<tokio::io::DuplexStream>) -> String {
        loop {
            if let Some(message) = link.next().unwrap() {
                return match message {
                    Message::Text(text) => text.to_owned(),
                    Message::Close => "closed".to_owned(),
                };
            }
            poll_fn(|cx| link.poll_flush(cx)).await.unwrap();
            assert!(poll_fn(|cx| link.poll_read(cx)).await.unwrap() > 0);
        }
    }

    #[tokio::test]
    async fn the_library_at_the_other_end_understands_both_roles_and_is_understood() {
        for (client, role) in [(true, Role::Server), (false, Role::Client)] {
            let (near, far) = tokio::io::duplex(100_000);
            let mut link = Link::new(near, client);
            let mut far = WebSocketStream::from_raw_socket(far, role, None).await;
            for length in [0, 1, 125, 126, 3_001, 70_000] {
                let text = "ä".repeat(length / 2);
                link.send(&text);
                poll_fn(|cx| link.poll_flush(cx)).await.unwrap();
                assert_eq!(far.next().await.unwrap().unwrap().to_text().unwrap(), text);
                far.send(TheirMessage::text(text.as_str())).await.unwrap();
                assert_eq!(read(&mut link).await, text);
            }
            far.send(TheirMessage::Ping(Bytes::from_static(b"there?"))).await.unwrap();
            far.send(TheirMessage::text("after the ping")).await.unwrap();
            assert_eq!(read(&mut link).await, "after the ping");
            poll_fn(|cx| link.poll_flush(cx)).await.unwrap();
            assert_eq!(far.next().await.unwrap().unwrap(), TheirMessage::Pong(Bytes::from_static(b"there?")));
            link.close();
            poll_fn(|cx| link.poll_flush(cx)).await.unwrap();
            assert!(far.next().await.unwrap().unwrap().is_close());
        }
    }

    #[tokio::test]
    async fn a_message_in_several_frames_and_pieces_is_one_message() {
        let (near, mut far) = tokio::io::duplex(1000);
        let mut link = Link::new(near, true);
        let frames =
            [&b"\x01\x03one"[..], b"\x89\x00", b"\x00\x03two", b"\x80\x05three", b"\x88\x00"].concat();
        let sent = async {
            for byte in frames {
                tokio::io::AsyncWriteExt::write_all(&mut far, &[byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
            far
        };
        let received = async {
            assert_eq!(read(&mut link).await, "onetwothree");
            assert_eq!(read(&mut link).await, "closed");
        };
        tokio::join!(sent, received);
    }
}
