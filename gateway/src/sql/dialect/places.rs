//! Which clause each token stands in: what the rewriting needs to tell `ROWS FROM (...)` from a column called rows.

use crate::sql::lexer::Kind;
use crate::sql::parse::Text;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Other,
    With,
    /// A select list or RETURNING.
    Items,
    /// FROM, USING, and the target of UPDATE and DELETE.
    From,
    /// Behind INTO.
    Into,
    /// The columns of INSERT, and a list of them in SET.
    Targets,
    Set,
}

/// The place of every token.
pub fn places(text: &Text<'_>) -> Vec<Place> {
    let mut out = Vec::with_capacity(text.lexemes.len());
    let mut around = Vec::new();
    let mut here = Place::Other;
    for (index, lexeme) in text.lexemes.iter().enumerate() {
        out.push(here);
        match lexeme.kind {
            Kind::Punctuation(b'(' | b'[') => {
                around.push(here);
                here = if lexeme.is(b'(') { within(text, index, here) } else { Place::Other };
            }
            Kind::Punctuation(b')' | b']') => here = around.pop().unwrap_or(Place::Other),
            Kind::Word => {
                if let Some(next) = behind(text, index, here) {
                    here = next;
                }
            }
            _ => {}
        }
    }
    out
}

fn previous(text: &Text<'_>, index: usize, words: &[&str]) -> bool {
    index > 0 && words.iter().any(|word| text.word(index - 1, word))
}

fn after_comma(text: &Text<'_>, index: usize) -> bool {
    index > 0 && text.punctuation(index - 1, b',')
}

/// What a parenthesis has in it, if it does not say so itself (SELECT).
fn within(text: &Text<'_>, open: usize, here: Place) -> Place {
    match here {
        Place::From if after_comma(text, open) || previous(text, open, &["from", "join", "lateral", "using"]) => {
            Place::From
        }
        Place::From if open > 0 && text.punctuation(open - 1, b'(') => Place::From,
        Place::Set if after_comma(text, open) || previous(text, open, &["set"]) => Place::Targets,
        Place::Into => Place::Targets,
        _ if previous(text, open, &["insert"]) => Place::Targets,
        _ => Place::Other,
    }
}

/// The place behind a key word.
fn behind(text: &Text<'_>, index: usize, here: Place) -> Option<Place> {
    let labelled = here == Place::Items && previous(text, index, &["as"]);
    if labelled || index > 0 && text.punctuation(index - 1, b'.') {
        return None;
    }
    let mut lower = [0; 9];
    let word = text.lexemes[index].text(text.sql).as_bytes();
    let lower = lower.get_mut(..word.len())?;
    lower.copy_from_slice(word);
    lower.make_ascii_lowercase();
    match &*lower {
        b"select" | b"returning" => Some(Place::Items),
        b"from" => {
            let distinct = previous(text, index, &["distinct"]);
            let begins = matches!(here, Place::Items | Place::Set) && !distinct || previous(text, index, &["delete"]);
            begins.then_some(Place::From)
        }
        b"update" => {
            let other = text.word(index + 1, "set") || previous(text, index, &["for", "key"]);
            (!other && here != Place::Items).then_some(Place::From)
        }
        b"set" => (here == Place::From || previous(text, index, &["update"])).then_some(Place::Set),
        b"into" => Some(Place::Into),
        b"using" => (here == Place::Into).then_some(Place::From),
        b"with" => {
            let begins = index == 0 || text.punctuation(index - 1, b'(') || text.word(index + 1, "recursive");
            (begins || here == Place::Into).then_some(Place::With)
        }
        b"values" | b"default" => (here == Place::Into).then_some(Place::Other),
        b"where" | b"group" | b"having" | b"window" | b"order" | b"limit" | b"offset" | b"fetch" | b"for"
        | b"union" | b"intersect" | b"except" | b"when" => Some(Place::Other),
        _ => None,
    }
}
