//! A WebSocket of a far end, after its handshake: polled by the one task that both speaks and listens.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::io::poll_read_buf;

use crate::wire::websocket::{self, Reader, Role, Writer};

/// What one read may bring.
const READ_BYTES: usize = 16 * 1024;
/// A message larger than this is none that a far end expects.
const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;
/// RFC 6455, section 7.4.1: a normal end.
const NORMAL: u16 = 1000;

/// What the other end sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message<'a> {
    Text(&'a str),
    Close,
}

/// One end of a connection.
#[derive(Debug)]
pub(super) struct Link<S> {
    io: S,
    reader: Reader,
    writer: Writer,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Link<S> {
    pub(super) const fn new(io: S, role: Role) -> Self {
        Self { io, reader: Reader::new(role, MAX_MESSAGE_BYTES), writer: Writer::new(role) }
    }

    /// Puts a text message into the buffer.
    pub(super) fn send(&mut self, text: &str) {
        self.writer.text(text);
    }

    /// Puts the goodbye into the buffer.
    pub(super) fn close(&mut self) {
        self.writer.close(NORMAL);
    }

    /// Bytes that the other end does not take.
    pub(super) fn unsent_bytes(&self) -> usize {
        self.writer.unwritten().len()
    }

    /// Writes what can be written; ready when nothing is left.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.writer.unwritten().is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, self.writer.unwritten()))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.writer.wrote(written);
        }
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// Reads once; ready with how many bytes came, 0 at the end.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        poll_read_buf(Pin::new(&mut self.io), cx, self.reader.room(READ_BYTES))
    }

    /// The next message of those that have been read. Answers pings itself.
    pub(super) fn next(&mut self) -> io::Result<Option<Message<'_>>> {
        let found = loop {
            let Some(found) = self.reader.find().map_err(broken)? else { return Ok(None) };
            if !found.is_control() {
                break found;
            }
            match self.reader.message(found).map_err(broken)? {
                websocket::Message::Ping(payload) => self.writer.pong(payload),
                websocket::Message::Close { .. } => return Ok(Some(Message::Close)),
                _ => {}
            }
        };
        match self.reader.message(found).map_err(broken)? {
            websocket::Message::Text(text) => Ok(Some(Message::Text(text))),
            _ => Err(broken("a binary message, which neither protocol has")),
        }
    }
}

fn broken(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{SinkExt as _, StreamExt as _};
    use std::future::poll_fn;
    use tokio_tungstenite::WebSocketStream;
    use tokio_tungstenite::tungstenite::protocol;
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
        for (ours, theirs) in [(Role::Client, protocol::Role::Server), (Role::Server, protocol::Role::Client)]
        {
            let (near, far) = tokio::io::duplex(100_000);
            let mut link = Link::new(near, ours);
            let mut far = WebSocketStream::from_raw_socket(far, theirs, None).await;
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
        let mut link = Link::new(near, Role::Client);
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
