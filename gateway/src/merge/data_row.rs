//! What operators do with DataRow messages.

use bytes::BytesMut;

use crate::wire::backend::{self, parse_data_row};
use crate::wire::{Frame, Values};

use super::MergeError;

pub(super) fn values(row: &Frame) -> Result<Values<'_>, MergeError> {
    parse_data_row(row.body()).map_err(|_| MergeError::MalformedRow)
}

/// The row without its last `hidden` columns.
pub(super) fn without_last(row: &Frame, hidden: usize) -> Result<Frame, MergeError> {
    let values = values(row)?;
    let kept = values.len().checked_sub(hidden).ok_or(MergeError::MalformedRow)?;
    let mut cut = BytesMut::with_capacity(row.bytes().len());
    backend::data_row(&mut cut, values.iter().take(kept));
    Frame::new(cut.freeze()).map_err(|_| MergeError::MalformedRow)
}

/// A DataRow, for tests.
#[cfg(test)]
pub(super) fn data_row<V: AsRef<[u8]>>(columns: impl IntoIterator<Item = Option<V>>) -> Frame {
    let mut bytes = BytesMut::new();
    backend::data_row(&mut bytes, columns);
    Frame::new(bytes.freeze()).expect("a DataRow is a whole frame")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_cut() {
        let row = data_row([Some("one"), None, Some(""), Some("hidden")]);
        assert_eq!(without_last(&row, 1), Ok(data_row([Some("one"), None, Some("")])));
        assert_eq!(without_last(&row, 4), Ok(data_row::<&str>([])));
        assert_eq!(without_last(&row, 0), Ok(row.clone()));
        assert_eq!(without_last(&row, 5), Err(MergeError::MalformedRow));
    }
}
