//! FETCH, MOVE and CLOSE as they are written; DECLARE is the planner's ([`crate::plan::cursor`]).

use super::position::{Count, Direction};
use crate::plan::cursor::options;
use crate::sql::lexer::Kind;
use crate::sql::parse::Text;

/// What a statement does with a cursor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CursorCommand {
    Declare {
        name: String,
        hold: bool,
        binary: bool,
    },
    /// FETCH, and MOVE (`show` is false). `direction`: None for what PostgreSQL calls a syntax error.
    Read {
        name: String,
        direction: Option<Direction>,
        show: bool,
    },
    Close {
        name: String,
    },
    CloseAll,
}

/// `None`: nothing.
pub fn command(sql: &str) -> Option<CursorCommand> {
    // Comments may stand before the word.
    let likely = ["decl", "fetc", "move", "clos"];
    let first = sql.trim_start().get(..4)?;
    if !first.starts_with("--")
        && !first.starts_with("/*")
        && !likely.iter().any(|word| word.eq_ignore_ascii_case(first))
    {
        return None;
    }
    let text = Text::new(sql).ok()?;
    let name = |index: usize| text.lexemes.get(index)?.identifier(sql);
    let last = text.lexemes.len().checked_sub(1)?;
    Some(if text.word(0, "declare") {
        match options(&text) {
            Some(options) => CursorCommand::Declare { name: options.name, hold: options.hold, binary: options.binary },
            None => CursorCommand::Declare { name: name(1)?, hold: false, binary: false },
        }
    } else if text.word(0, "close") {
        if text.word(1, "all") && last == 1 {
            CursorCommand::CloseAll
        } else {
            CursorCommand::Close { name: name(1)? }
        }
    } else if text.word(0, "fetch") || text.word(0, "move") {
        if last == 0 {
            return None;
        }
        CursorCommand::Read { name: name(last)?, direction: direction(&text, last), show: text.word(0, "fetch") }
    } else {
        return None;
    })
}

/// The words between the verb and the name.
fn direction(text: &Text<'_>, last: usize) -> Option<Direction> {
    let mut end = last;
    let from = end > 1 && (text.word(end - 1, "from") || text.word(end - 1, "in"));
    if from {
        end -= 1;
    }
    if end == 1 {
        return Some(Direction::Forward(Count::Rows(1)));
    }
    let rows = |at: usize| Some(Count::Rows(integer(text, at, end)?));
    let forms: [(&str, Direction); 5] = [
        ("next", Direction::Forward(Count::Rows(1))),
        ("prior", Direction::Backward(Count::Rows(1))),
        ("first", Direction::Absolute(1)),
        ("last", Direction::Absolute(-1)),
        ("all", Direction::Forward(Count::All)),
    ];
    if end == 2 {
        if let Some((_, direction)) = forms.into_iter().find(|(word, _)| text.word(1, word)) {
            return Some(direction);
        }
    }
    if text.word(1, "absolute") || text.word(1, "relative") {
        let rows = integer(text, 2, end)?;
        return Some(if text.word(1, "absolute") { Direction::Absolute(rows) } else { Direction::Relative(rows) });
    }
    if text.word(1, "forward") || text.word(1, "backward") {
        let count = match end {
            2 => Count::Rows(1),
            3 if text.word(2, "all") => Count::All,
            _ => rows(2)?,
        };
        return Some(if text.word(1, "forward") { Direction::Forward(count) } else { Direction::Backward(count) });
    }
    Some(Direction::Forward(rows(1)?))
}

/// A signed integer of 32 bits that ends before `end`.
fn integer(text: &Text<'_>, at: usize, end: usize) -> Option<i64> {
    let sign = ["-", "+"].into_iter().find(|sign| text.lexemes.get(at).is_some_and(|l| l.is_operator(text.sql, sign)));
    let at = at + usize::from(sign.is_some());
    let number = text.lexemes.get(at).filter(|lexeme| lexeme.kind == Kind::Number && at + 1 == end)?;
    let value = i64::from(number.text(text.sql).parse::<i32>().ok()?);
    Some(if sign == Some("-") { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_about_cursors() {
        for (sql, expected) in [
            (
                "DECLARE a CURSOR FOR SELECT 1",
                Some(CursorCommand::Declare { name: "a".into(), hold: false, binary: false }),
            ),
            (
                "declare \"A b\" BINARY SCROLL CURSOR /* x */ WITH\nHOLD FOR SELECT 1",
                Some(CursorCommand::Declare { name: "A b".into(), hold: true, binary: true }),
            ),
            ("CLOSE a", Some(CursorCommand::Close { name: "a".into() })),
            ("CLOSE ALL", Some(CursorCommand::CloseAll)),
            ("CLOSE \"all\"", Some(CursorCommand::Close { name: "all".into() })),
            ("SELECT 1", None),
            ("FETCH", None),
            ("", None),
        ] {
            assert_eq!(command(sql), expected, "{sql}");
        }
    }

    #[test]
    fn directions() {
        use Count::{All, Rows};
        use Direction::{Absolute, Backward, Forward, Relative};
        for (words, expected) in [
            ("", Some(Forward(Rows(1)))),
            ("FROM", Some(Forward(Rows(1)))),
            ("NEXT IN", Some(Forward(Rows(1)))),
            ("PRIOR", Some(Backward(Rows(1)))),
            ("first from", Some(Absolute(1))),
            ("LAST", Some(Absolute(-1))),
            ("ABSOLUTE -3 FROM", Some(Absolute(-3))),
            ("RELATIVE +2", Some(Relative(2))),
            ("10 FROM", Some(Forward(Rows(10)))),
            ("-1", Some(Forward(Rows(-1)))),
            ("ALL", Some(Forward(All))),
            ("FORWARD FROM", Some(Forward(Rows(1)))),
            ("FORWARD 0", Some(Forward(Rows(0)))),
            ("BACKWARD ALL IN", Some(Backward(All))),
            ("BACKWARD 2147483647", Some(Backward(Rows(2_147_483_647)))),
            ("ABSOLUTE", None),
            ("ABSOLUTE 2147483648", None),
            ("1.5", None),
            ("PRIOR 1", None),
            ("sideways", None),
        ] {
            let read = CursorCommand::Read { name: "A b".into(), direction: expected, show: true };
            assert_eq!(command(&format!("FETCH {words} \"A b\"")), Some(read), "{words}");
        }
        let name = |sql| match command(sql) {
            Some(CursorCommand::Read { name, direction: Some(Forward(Rows(1))), show: false }) => name,
            other => panic!("{sql}: {other:?}"),
        };
        assert_eq!([name("MOVE Next"), name("move c"), name("MOVE from forward")], ["next", "c", "forward"]);
    }
}
