//! What FETCH and MOVE do to a cursor's position, as `DoPortalRunFetch` (`src/backend/tcop/pquery.c`) has it.

use crate::wire::{PgError, SqlState};

/// How far: `All` is PostgreSQL's `FETCH_ALL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    Rows(i64),
    All,
}

/// Where to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Forward(Count),
    Backward(Count),
    Absolute(i64),
    Relative(i64),
}

/// Before the first row, on a row, after the last one; both ends at once in a result without rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    pub at_start: bool,
    pub at_end: bool,
    /// The row that the cursor is on, from 1; after the last row, how many there are.
    pub row: u64,
}

impl Default for Position {
    fn default() -> Position {
        Position { at_start: true, at_end: false, row: 0 }
    }
}

impl Position {
    fn is_on_row(&self) -> bool {
        !self.at_start && !self.at_end
    }
}

/// One movement of the executor. The last one's rows are the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Rewind,
    /// `None`: to the end, or to the start.
    Run {
        forward: bool,
        rows: Option<u64>,
        show: bool,
    },
    /// Nothing moves: MOVE's count.
    Count(u64),
}

/// The movements of a FETCH (`show`) or a MOVE.
pub fn steps(direction: Direction, position: Position, show: bool) -> Vec<Step> {
    let skip = |forward: bool, rows: u64| Step::Run { forward, rows: Some(rows), show: false };
    let one = |forward: bool| Step::Run { forward, rows: Some(1), show };
    let magnitude = |rows: i64| rows.unsigned_abs();
    let (forward, count) = match direction {
        Direction::Forward(Count::Rows(rows)) if rows < 0 => (false, Count::Rows(-rows)),
        Direction::Forward(count) => (true, count),
        Direction::Backward(Count::Rows(rows)) if rows < 0 => (true, Count::Rows(-rows)),
        Direction::Backward(count) => (false, count),
        Direction::Absolute(row) if row > 0 => {
            let before = magnitude(row) - 1;
            let mut steps = Vec::new();
            if before <= position.row / 2 {
                steps.push(Step::Rewind);
                if before > 0 {
                    steps.push(skip(true, before));
                }
            } else {
                // One movement more from beyond the end.
                let here = position.row + u64::from(position.at_end);
                if magnitude(row) <= here {
                    steps.push(skip(false, here - before));
                } else if before > here {
                    steps.push(skip(true, before - here));
                }
            }
            steps.push(one(true));
            return steps;
        }
        Direction::Absolute(row) if row < 0 => {
            let mut steps = vec![Step::Run { forward: true, rows: None, show: false }];
            if row < -1 {
                steps.push(skip(false, magnitude(row) - 1));
            }
            steps.push(one(false));
            return steps;
        }
        Direction::Absolute(_) => return vec![Step::Rewind, Step::Run { forward: true, rows: Some(0), show }],
        Direction::Relative(0) => (true, Count::Rows(0)),
        Direction::Relative(rows) => {
            let mut steps = Vec::new();
            if magnitude(rows) > 1 {
                steps.push(skip(rows > 0, magnitude(rows) - 1));
            }
            steps.push(one(rows > 0));
            return steps;
        }
    };
    match count {
        // The present row once more.
        Count::Rows(0) if !show => vec![Step::Count(u64::from(position.is_on_row()))],
        Count::Rows(0) if position.is_on_row() => vec![skip(false, 1), one(true)],
        Count::All if !forward && !show => {
            let passed = if position.at_end { position.row } else { position.row.saturating_sub(1) };
            vec![Step::Rewind, Step::Count(passed)]
        }
        Count::Rows(rows) => vec![Step::Run { forward, rows: Some(magnitude(rows)), show }],
        Count::All => vec![Step::Run { forward, rows: None, show }],
    }
}

pub fn only_forward() -> PgError {
    PgError::new(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, "cursor can only scan forward")
        .hint("Declare it with SCROLL option to enable backward scan.")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ON_THIRD: Position = Position { at_start: false, at_end: false, row: 3 };
    const AFTER_NINE: Position = Position { at_start: false, at_end: true, row: 9 };

    fn run(forward: bool, rows: u64, show: bool) -> Step {
        Step::Run { forward, rows: Some(rows), show }
    }

    #[test]
    fn rows_are_reached_the_shorter_way() {
        let at = |row| steps(Direction::Absolute(row), ON_THIRD, true);
        assert_eq!(at(2), [Step::Rewind, run(true, 1, false), run(true, 1, true)]);
        assert_eq!(at(3), [run(false, 1, false), run(true, 1, true)]);
        assert_eq!(at(4), [run(true, 1, true)]);
        assert_eq!(at(9), [run(true, 5, false), run(true, 1, true)]);
        assert_eq!(at(0), [Step::Rewind, run(true, 0, true)]);
        assert_eq!(at(-2)[1..], [run(false, 1, false), run(false, 1, true)]);
        assert_eq!(steps(Direction::Absolute(9), AFTER_NINE, true), [run(false, 2, false), run(true, 1, true)]);
    }

    #[test]
    fn the_present_row_is_read_again() {
        let here = Direction::Forward(Count::Rows(0));
        assert_eq!(steps(here, ON_THIRD, true), [run(false, 1, false), run(true, 1, true)]);
        assert_eq!(steps(here, ON_THIRD, false), [Step::Count(1)]);
        assert_eq!(steps(here, AFTER_NINE, false), [Step::Count(0)]);
        assert_eq!(steps(here, AFTER_NINE, true), [run(true, 0, true)]);
    }

    #[test]
    fn directions_turn_around() {
        assert_eq!(steps(Direction::Forward(Count::Rows(-2)), ON_THIRD, true), [run(false, 2, true)]);
        assert_eq!(steps(Direction::Backward(Count::Rows(-2)), ON_THIRD, true), [run(true, 2, true)]);
        assert_eq!(steps(Direction::Backward(Count::All), AFTER_NINE, false), [Step::Rewind, Step::Count(9)]);
        assert_eq!(steps(Direction::Relative(-2), ON_THIRD, true), [run(false, 1, false), run(false, 1, true)]);
    }
}
