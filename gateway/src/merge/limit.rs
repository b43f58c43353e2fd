//! LIMIT and OFFSET over the rows of all shards together.

use crate::plan::types::{CountExpression, LimitOffset};

use super::MergeError;

/// A statement's LIMIT and OFFSET with their values: a countdown that tells of each row whether the client gets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Window {
    /// Rows that are still to be dropped.
    offset: u64,
    /// Rows that may still be forwarded. `None`: all.
    limit: Option<u64>,
}

impl Window {
    /// Every row.
    pub const ALL: Window = Window { offset: 0, limit: None };

    pub fn new(offset: u64, limit: Option<u64>) -> Window {
        Window { offset, limit }
    }

    /// Looks up the parameters: `parameter(index)` is the value of `$index` (from 0) as an int8, or None for NULL.
    pub fn resolve<E: From<MergeError>>(
        counts: &LimitOffset,
        mut parameter: impl FnMut(usize) -> Result<Option<i64>, E>,
    ) -> Result<Window, E> {
        let mut value = |count: &Option<CountExpression>, negative: MergeError| match count {
            None => Ok(None),
            Some(CountExpression::Constant(value)) => Ok(Some(*value)),
            Some(CountExpression::Parameter { index }) => match parameter(*index)? {
                None => Ok(None),
                Some(value) => u64::try_from(value).map(Some).map_err(|_| E::from(negative)),
            },
        };
        // PostgreSQL looks at OFFSET first (recompute_limits, src/backend/executor/nodeLimit.c).
        let offset = value(&counts.offset, MergeError::NegativeOffset)?.unwrap_or(0);
        let limit = value(&counts.limit, MergeError::NegativeLimit)?;
        Ok(Window { offset, limit })
    }

    /// Rows that are still to be dropped.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Rows that may still be forwarded. `None`: all.
    pub fn limit(&self) -> Option<u64> {
        self.limit
    }

    /// Counts one row. True: it belongs to the answer.
    pub fn admit(&mut self) -> bool {
        if self.offset > 0 {
            self.offset -= 1;
            return false;
        }
        match &mut self.limit {
            None => true,
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
        }
    }

    /// No further row belongs to the answer: the shards need not be read any more.
    pub fn is_exhausted(&self) -> bool {
        self.limit == Some(0)
    }

    /// Every further row belongs to the answer: they need not be counted.
    pub fn admits_all(&self) -> bool {
        self.offset == 0 && self.limit.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_between_offset_and_limit_are_admitted() {
        let mut window = Window::new(2, Some(3));
        let admitted: Vec<bool> = (0..7).map(|_| window.admit()).collect();
        assert_eq!(admitted, [false, false, true, true, true, false, false]);
        assert!(window.is_exhausted());
        assert!(Window::new(5, Some(0)).is_exhausted(), "an OFFSET need not be skipped for LIMIT 0");
        assert!(Window::ALL.admits_all() && !Window::new(1, None).admits_all());
    }

    #[test]
    fn parameters_are_looked_up() {
        let counts = LimitOffset {
            limit: Some(CountExpression::Parameter { index: 1 }),
            offset: Some(CountExpression::Parameter { index: 0 }),
        };
        let resolve = |values: [Option<i64>; 2]| Window::resolve(&counts, |index| Ok::<_, MergeError>(values[index]));
        assert_eq!(resolve([Some(4), Some(9)]), Ok(Window::new(4, Some(9))));
        assert_eq!(resolve([None, None]), Ok(Window::ALL));
        assert_eq!(resolve([Some(0), Some(-1)]), Err(MergeError::NegativeLimit));
        assert_eq!(resolve([Some(-1), Some(-1)]), Err(MergeError::NegativeOffset));
    }
}
