//! Cutting a stream into whole messages. Nothing is allocated for a length that a peer merely declares.

use std::fmt;

use bytes::{Buf, Bytes, BytesMut};

use super::WireError;

/// Bytes of a message before its body: the tag and the Int32 length.
pub const HEADER_BYTES: usize = 5;

/// Tag and size of a message, read from its first five bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    pub tag: u8,
    /// The whole message in bytes: tag, length word and body.
    pub len: usize,
}

impl FrameHeader {
    /// Reads the header at the start of `buf`; `None` if fewer than [`HEADER_BYTES`] are there.
    ///
    /// Errors: a declared length below 4.
    pub fn peek(buf: &[u8]) -> Result<Option<Self>, WireError> {
        let Some(&[tag, a, b, c, d]) = buf.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let len = i32::from_be_bytes([a, b, c, d]);
        match usize::try_from(len) {
            Ok(declared) if declared >= 4 => Ok(Some(FrameHeader { tag, len: declared + 1 })),
            _ => Err(WireError::FrameTooShort { tag, len }),
        }
    }

    /// Refuses a message of more than `frame_bytes_max` bytes, header included.
    pub fn check(self, frame_bytes_max: usize) -> Result<Self, WireError> {
        if self.len > frame_bytes_max {
            return Err(WireError::FrameTooLong { tag: self.tag, len: self.len, max: frame_bytes_max });
        }
        Ok(self)
    }
}

/// One whole message, header included, so that it can be forwarded as it is. Cloning shares the bytes; Debug shows tag
/// and size only, because messages hold passwords and rows.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    tag: u8,
    bytes: Bytes,
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frame({:?}, {} bytes)", char::from(self.tag), self.bytes.len())
    }
}

impl Frame {
    /// Takes bytes that must be exactly one message.
    pub fn new(bytes: Bytes) -> Result<Self, WireError> {
        let header = FrameHeader::peek(&bytes)?.ok_or(WireError::Truncated { message: "message", field: "header" })?;
        if header.len != bytes.len() {
            return Err(WireError::FrameLength { tag: header.tag, declared: header.len, actual: bytes.len() });
        }
        Ok(Frame { tag: header.tag, bytes })
    }

    /// The message's first byte.
    pub fn tag(&self) -> u8 {
        self.tag
    }

    /// The whole message.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The whole message, owned.
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// What follows tag and length.
    pub fn body(&self) -> &[u8] {
        self.bytes.get(HEADER_BYTES..).unwrap_or_default()
    }

    /// The body as shared bytes, not copied.
    pub fn body_bytes(&self) -> Bytes {
        let mut body = self.bytes.clone();
        body.advance(HEADER_BYTES.min(body.len()));
        body
    }
}

/// One whole message in place, header included.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FrameRef<'a> {
    bytes: &'a [u8],
}

impl fmt::Debug for FrameRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FrameRef({:?}, {} bytes)", char::from(self.tag()), self.bytes.len())
    }
}

impl<'a> FrameRef<'a> {
    /// The message's first byte.
    pub fn tag(self) -> u8 {
        self.bytes.first().copied().unwrap_or_default()
    }

    /// The whole message.
    pub fn bytes(self) -> &'a [u8] {
        self.bytes
    }

    /// What follows tag and length.
    pub fn body(self) -> &'a [u8] {
        self.bytes.get(HEADER_BYTES..).unwrap_or_default()
    }

    /// A copy.
    pub fn to_frame(self) -> Frame {
        Frame { tag: self.tag(), bytes: Bytes::copy_from_slice(self.bytes) }
    }
}

impl<'a> From<&'a Frame> for FrameRef<'a> {
    fn from(frame: &'a Frame) -> Self {
        FrameRef { bytes: &frame.bytes }
    }
}

/// The whole messages at the start of `buf`, in place. Ends before one that is not whole or whose length is none.
#[derive(Clone, Debug)]
pub struct Frames<'a>(pub &'a [u8]);

impl<'a> Iterator for Frames<'a> {
    type Item = FrameRef<'a>;

    fn next(&mut self) -> Option<FrameRef<'a>> {
        let header = FrameHeader::peek(self.0).ok().flatten()?;
        let (bytes, rest) = self.0.split_at_checked(header.len)?;
        self.0 = rest;
        Some(FrameRef { bytes })
    }
}

/// Splits the first whole message off `buf` without copying; `None` if more bytes have to be read first.
///
/// Errors: [`WireError::FrameTooShort`], [`WireError::FrameTooLong`]; both as soon as the header is there, and `buf` is
/// left as it was.
pub fn next_frame(buf: &mut BytesMut, frame_bytes_max: usize) -> Result<Option<Frame>, WireError> {
    let Some(header) = FrameHeader::peek(buf)? else { return Ok(None) };
    header.check(frame_bytes_max)?;
    if buf.len() < header.len {
        return Ok(None);
    }
    Ok(Some(Frame { tag: header.tag, bytes: buf.split_to(header.len).freeze() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUERY: &[u8] = b"Q\x00\x00\x00\x0dselect 1\x00";

    #[test]
    fn a_frame_comes_out_whole_or_not_at_all() {
        for cut in 0..QUERY.len() {
            let mut buf = BytesMut::from(&QUERY[..cut]);
            assert_eq!(next_frame(&mut buf, 100), Ok(None), "after {cut} bytes");
            buf.extend_from_slice(&QUERY[cut..]);
            buf.extend_from_slice(b"S\x00\x00\x00\x04");
            let frame = next_frame(&mut buf, 100).unwrap().unwrap();
            assert_eq!((frame.tag(), frame.body(), &frame.bytes()[..]), (b'Q', &b"select 1\0"[..], QUERY));
            assert_eq!(&frame.body_bytes()[..], frame.body());
            let sync = next_frame(&mut buf, 100).unwrap().unwrap();
            assert_eq!((sync.tag(), sync.body()), (b'S', &b""[..]));
            assert!(buf.is_empty());
        }
    }

    #[test]
    fn bounds_are_checked_on_the_header_alone() {
        let mut buf = BytesMut::from(&b"Q\x7f\xff\xff\xff"[..]);
        let capacity = buf.capacity();
        let error = next_frame(&mut buf, 1000).unwrap_err();
        assert_eq!(error, WireError::FrameTooLong { tag: b'Q', len: 0x8000_0000, max: 1000 });
        assert_eq!(error.to_string(), "message 'Q' of 2147483648 bytes exceeds the limit of 1000 bytes");
        assert_eq!(buf.capacity(), capacity);
        for len in [0i32, 3, -1, i32::MIN] {
            let mut buf = BytesMut::from(&b"Q"[..]);
            buf.extend_from_slice(&len.to_be_bytes());
            assert_eq!(next_frame(&mut buf, 1000), Err(WireError::FrameTooShort { tag: b'Q', len }));
        }
        assert!(next_frame(&mut BytesMut::from(QUERY), QUERY.len()).unwrap().is_some());
        assert!(next_frame(&mut BytesMut::from(QUERY), QUERY.len() - 1).is_err());
    }

    #[test]
    fn a_frame_of_given_bytes_must_be_exactly_one() {
        assert!(Frame::new(Bytes::from_static(QUERY)).is_ok());
        assert!(Frame::new(Bytes::from_static(&QUERY[..QUERY.len() - 1])).is_err());
        assert!(Frame::new(Bytes::from_static(b"Q\0\0")).is_err());
    }
}
