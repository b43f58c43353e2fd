//! Rows of all shards in any order, under LIMIT and OFFSET.
//!
//! For example `SELECT * FROM orders WHERE status = 'open' LIMIT 10`: each shard is asked for 10 rows, and the first 10
//! that arrive are the answer.

use super::limit::Window;

/// What is to be done with a row that a shard sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Forward,
    Drop,
}

/// Counts rows; it never looks at them.
#[derive(Debug, Clone)]
pub struct Concatenate {
    window: Window,
}

impl Concatenate {
    pub fn new(window: Window) -> Concatenate {
        Concatenate { window }
    }

    /// Call it once for every row, in the order in which they are forwarded.
    pub fn row(&mut self) -> Verdict {
        if self.window.admit() {
            Verdict::Forward
        } else {
            Verdict::Drop
        }
    }

    /// Rows may be forwarded in bulk, without [`Concatenate::row`].
    pub fn forwards_all(&self) -> bool {
        self.window.admits_all()
    }

    /// The answer is complete: what shards still send is dropped.
    pub fn is_complete(&self) -> bool {
        self.window.is_exhausted()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_follow_the_window() {
        let mut rows = Concatenate::new(Window::new(1, Some(1)));
        assert!(!rows.forwards_all() && !rows.is_complete());
        assert_eq!([rows.row(), rows.row(), rows.row()], [Verdict::Drop, Verdict::Forward, Verdict::Drop]);
        assert!(rows.is_complete());
        assert!(Concatenate::new(Window::ALL).forwards_all());
    }

    #[test]
    fn after_the_offset_an_unlimited_answer_is_forwarded_in_bulk() {
        let mut rows = Concatenate::new(Window::new(1, None));
        assert!(!rows.forwards_all());
        rows.row();
        assert!(rows.forwards_all());
    }
}
