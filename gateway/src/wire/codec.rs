//! Reading fields in place and writing messages with their length filled in afterwards.

use bytes::{BufMut, BytesMut};

use super::WireError;

/// A cursor over one message's body. Every method names the field for the error text; none allocates.
pub(super) struct Reader<'a> {
    message: &'static str,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(message: &'static str, body: &'a [u8]) -> Self {
        Reader { message, rest: body }
    }

    fn truncated(&self, field: &'static str) -> WireError {
        WireError::Truncated { message: self.message, field }
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], WireError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or_else(|| self.truncated(field))?;
        self.rest = rest;
        Ok(*head)
    }

    pub(super) fn u8(&mut self, field: &'static str) -> Result<u8, WireError> {
        self.array::<1>(field).map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self, field: &'static str) -> Result<u16, WireError> {
        self.array(field).map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self, field: &'static str) -> Result<u32, WireError> {
        self.array(field).map(u32::from_be_bytes)
    }

    pub(super) fn i16(&mut self, field: &'static str) -> Result<i16, WireError> {
        self.array(field).map(i16::from_be_bytes)
    }

    pub(super) fn i32(&mut self, field: &'static str) -> Result<i32, WireError> {
        self.array(field).map(i32::from_be_bytes)
    }

    pub(super) fn bytes(&mut self, field: &'static str, len: usize) -> Result<&'a [u8], WireError> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or_else(|| self.truncated(field))?;
        self.rest = rest;
        Ok(head)
    }

    /// `count` items of at least `item_bytes` each must fit: call before allocating for a count that a peer sent.
    pub(super) fn expect_items(&self, field: &'static str, count: usize, item_bytes: usize) -> Result<(), WireError> {
        match count.checked_mul(item_bytes) {
            Some(need) if need <= self.rest.len() => Ok(()),
            _ => Err(self.truncated(field)),
        }
    }

    /// A NUL-terminated string without its NUL, of any bytes.
    pub(super) fn cstr_bytes(&mut self, field: &'static str) -> Result<&'a [u8], WireError> {
        let end = self
            .rest
            .iter()
            .position(|byte| *byte == 0)
            .ok_or(WireError::Unterminated { message: self.message, field })?;
        let (text, rest) = self.rest.split_at(end);
        self.rest = &rest[1..];
        Ok(text)
    }

    /// A NUL-terminated string, which must be UTF-8.
    pub(super) fn cstr(&mut self, field: &'static str) -> Result<&'a str, WireError> {
        // Unnamed statements and portals.
        if let [0, rest @ ..] = self.rest {
            self.rest = rest;
            return Ok("");
        }
        let text = self.cstr_bytes(field)?;
        std::str::from_utf8(text).map_err(|_| WireError::NotUtf8 { message: self.message, field })
    }

    /// A value with its Int32 length in front; -1 is NULL.
    pub(super) fn value(&mut self, field: &'static str) -> Result<Option<&'a [u8]>, WireError> {
        match self.i32(field)? {
            -1 => Ok(None),
            len => match usize::try_from(len) {
                Ok(len) => self.bytes(field, len).map(Some),
                Err(_) => Err(WireError::ValueLength { message: self.message, field, len }),
            },
        }
    }

    /// An Int16 count and so many nullable values, all checked.
    pub(super) fn values(&mut self, field: &'static str) -> Result<Values<'a>, WireError> {
        let count = self.u16(field)?;
        self.expect_items(field, usize::from(count), 4)?;
        let start = self.rest;
        for _ in 0..count {
            self.value(field)?;
        }
        Ok(Values { count, raw: &start[..start.len() - self.rest.len()] })
    }

    /// Everything that is left.
    pub(super) fn remainder(self) -> &'a [u8] {
        self.rest
    }

    pub(super) fn invalid(&self, field: &'static str, value: impl Into<i64>) -> WireError {
        WireError::InvalidValue { message: self.message, field, value: value.into() }
    }

    /// The body must end here.
    pub(super) fn finish(self) -> Result<(), WireError> {
        match self.rest.len() {
            0 => Ok(()),
            extra => Err(WireError::TrailingBytes { message: self.message, extra }),
        }
    }
}

/// A row's columns or a Bind's parameters: nullable byte strings in place, checked when the message was read.
#[derive(Debug, Clone, Copy, Default)]
pub struct Values<'a> {
    count: u16,
    raw: &'a [u8],
}

impl<'a> Values<'a> {
    /// How many values there are.
    pub fn len(&self) -> usize {
        usize::from(self.count)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The values in order, `None` for NULL; nothing is allocated.
    pub fn iter(&self) -> ValueIter<'a> {
        ValueIter { left: self.count, raw: self.raw }
    }

    /// The value at `index` (from 0): outer `None` if there is no such value, inner `None` for NULL. Linear in `index`.
    pub fn get(&self, index: usize) -> Option<Option<&'a [u8]>> {
        self.iter().nth(index)
    }
}

impl<'a> IntoIterator for Values<'a> {
    type Item = Option<&'a [u8]>;
    type IntoIter = ValueIter<'a>;

    fn into_iter(self) -> ValueIter<'a> {
        self.iter()
    }
}

/// Iterator of [`Values`].
#[derive(Debug, Clone)]
pub struct ValueIter<'a> {
    left: u16,
    raw: &'a [u8],
}

impl<'a> Iterator for ValueIter<'a> {
    type Item = Option<&'a [u8]>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let (len, rest) = self.raw.split_first_chunk::<4>()?;
        match usize::try_from(i32::from_be_bytes(*len)) {
            Ok(len) => {
                let (value, rest) = rest.split_at_checked(len)?;
                self.raw = rest;
                Some(Some(value))
            }
            Err(_) => {
                self.raw = rest;
                Some(None)
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::from(self.left), Some(usize::from(self.left)))
    }
}

impl ExactSizeIterator for ValueIter<'_> {}

/// Appends a message: tag, length (filled in afterwards), and what `body` appends.
pub(super) fn put_message(dst: &mut BytesMut, tag: u8, body: impl FnOnce(&mut BytesMut)) {
    dst.put_u8(tag);
    put_sized(dst, body);
}

/// Appends a length word that counts itself and what `body` appends. Callers build from frames and configuration that
/// are bounded far below 2 GiB.
pub(super) fn put_sized(dst: &mut BytesMut, body: impl FnOnce(&mut BytesMut)) {
    let start = dst.len();
    dst.put_u32(0);
    body(dst);
    let len = dst.len() - start;
    debug_assert!(i32::try_from(len).is_ok(), "message of {len} bytes");
    dst[start..start + 4].copy_from_slice(&(len as u32).to_be_bytes());
}

/// Appends a NUL-terminated string. The wire cannot carry a NUL within one: the text is cut there.
pub(super) fn put_cstr(dst: &mut BytesMut, text: impl AsRef<[u8]>) {
    let text = text.as_ref();
    let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
    dst.put_slice(&text[..end]);
    dst.put_u8(0);
}

/// Appends an Int16 count (filled in afterwards) and the values, each with its Int32 length, -1 for NULL.
pub(super) fn put_values<V: AsRef<[u8]>>(dst: &mut BytesMut, values: impl IntoIterator<Item = Option<V>>) {
    put_counted(dst, values, |dst, value| match value {
        Some(value) => {
            let value = value.as_ref();
            dst.put_u32(value.len() as u32);
            dst.put_slice(value);
        }
        None => dst.put_i32(-1),
    });
}

/// Appends an Int16 count (filled in afterwards) and the items.
pub(super) fn put_counted<T>(
    dst: &mut BytesMut,
    items: impl IntoIterator<Item = T>,
    mut put: impl FnMut(&mut BytesMut, T),
) {
    let start = dst.len();
    dst.put_u16(0);
    let mut count = 0usize;
    for item in items {
        put(dst, item);
        count += 1;
    }
    debug_assert!(u16::try_from(count).is_ok(), "{count} items under an Int16 count");
    dst[start..start + 2].copy_from_slice(&(count as u16).to_be_bytes());
}
