//! Types of columns and expressions, and their values. Values that are equal look alike: one scale for numeric, floats whose sums are exact.

use rand::seq::IndexedRandom as _;

use super::Maker;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    Int,
    Big,
    /// Two places after the point, always.
    Num,
    /// Quarters.
    Float,
    Text,
    /// Text under COLLATE "C".
    TextC,
    /// Text under a locale's collation.
    TextIcu,
    Bool,
    Date,
    Stamp,
    StampTz,
    Uuid,
    Ints,
    Texts,
    Json,
    Mood,
}

pub const TYPES: &[Type] = &[
    Type::Int,
    Type::Big,
    Type::Num,
    Type::Float,
    Type::Text,
    Type::TextC,
    Type::TextIcu,
    Type::Bool,
    Type::Date,
    Type::Stamp,
    Type::StampTz,
    Type::Uuid,
    Type::Ints,
    Type::Texts,
    Type::Json,
    Type::Mood,
];

const WORDS: &[&str] = &["", "a", "A", "b", "ä", "Zoo", "straße", "日本", "it''s", "x y", "10", "9", "a%"];
const ARRAYS: &[&str] = &["{}", "{1}", "{1,2}", "{NULL,3}", "{-4,2,2}"];
const TEXT_ARRAYS: &[&str] = &["{}", "{a}", "{a,\"b c\"}", "{NULL,ü}", "{\"\",a}"];
const DOCUMENTS: &[&str] =
    &["{}", "[]", "null", "{\"k\": 1}", "{\"k\": \"ü\", \"l\": [1, 2]}", "[1, \"a\", null]", "\"a\"", "3"];
const MOODS: &[&str] = &["sad", "ok", "happy"];

impl Type {
    /// As in a cast.
    pub fn sql(self) -> &'static str {
        match self {
            Type::Int => "integer",
            Type::Big => "bigint",
            Type::Num => "numeric",
            Type::Float => "double precision",
            Type::Text | Type::TextC | Type::TextIcu => "text",
            Type::Bool => "boolean",
            Type::Date => "date",
            Type::Stamp => "timestamp",
            Type::StampTz => "timestamptz",
            Type::Uuid => "uuid",
            Type::Ints => "integer[]",
            Type::Texts => "text[]",
            Type::Json => "jsonb",
            Type::Mood => "mood",
        }
    }

    /// As in CREATE TABLE.
    pub fn column(self) -> String {
        match self {
            Type::Num => "numeric(12,2)".to_owned(),
            Type::TextC | Type::TextIcu => format!("text COLLATE {}", self.collation()),
            _ => self.sql().to_owned(),
        }
    }

    pub fn collation(self) -> &'static str {
        match self {
            Type::TextC => "\"C\"",
            Type::TextIcu => "\"de-x-icu\"",
            _ => "\"default\"",
        }
    }

    pub fn is_text(self) -> bool {
        matches!(self, Type::Text | Type::TextC | Type::TextIcu)
    }

    pub fn is_number(self) -> bool {
        matches!(self, Type::Int | Type::Big | Type::Num | Type::Float)
    }

    /// Whether min and max know it.
    pub fn has_extremes(self) -> bool {
        !matches!(self, Type::Bool | Type::Uuid | Type::Json)
    }

    /// The plainest value there is, as an expression.
    pub fn plainest(self) -> String {
        format!("NULL::{}", self.sql())
    }
}

impl Maker {
    pub fn ty(&mut self) -> Type {
        // The common ones more often.
        match self.chance(0.4) {
            true => *[Type::Int, Type::Big, Type::Text, Type::Num].choose(&mut self.random).expect("types"),
            false => *TYPES.choose(&mut self.random).expect("types"),
        }
    }

    /// A value without quotes, as in a parameter or a COPY line; quotes within are doubled.
    pub fn value(&mut self, ty: Type) -> String {
        match ty {
            Type::Int => self.number(-3..13).to_string(),
            Type::Big => match self.chance(0.05) {
                true => (10_000_000_000 + self.number(0..3)).to_string(),
                false => self.number(-3..13).to_string(),
            },
            Type::Num => {
                let (whole, part) = (self.number(-5..30), self.pick(&["00", "25", "50", "99"]));
                format!("{whole}.{part}")
            }
            Type::Float => (self.number(-20..80) as f64 / 4.0).to_string(),
            Type::Text | Type::TextC | Type::TextIcu => self.pick(WORDS).to_owned(),
            Type::Bool => self.pick(&["true", "false"]).to_owned(),
            Type::Date => format!("2024-02-{:02}", self.number(20..30)),
            Type::Stamp => format!("2024-02-{:02} {:02}:00:00.5", self.number(26..30), self.number(0..3) * 9),
            Type::StampTz => format!("2024-02-{:02} {:02}:30:00+02", self.number(26..30), self.number(0..3) * 9),
            Type::Uuid => format!("0000000{}-0000-4000-8000-00000000000{0}", self.number(0..8)),
            Type::Ints => self.pick(ARRAYS).to_owned(),
            Type::Texts => self.pick(TEXT_ARRAYS).to_owned(),
            Type::Json => self.pick(DOCUMENTS).to_owned(),
            Type::Mood => self.pick(MOODS).to_owned(),
        }
    }

    /// A value as an expression whose type is known wherever it stands.
    pub fn literal(&mut self, ty: Type) -> String {
        let value = self.value(ty);
        match ty {
            Type::Int if value.starts_with('-') => format!("({value})"),
            Type::Int | Type::Bool => value,
            Type::Num if !value.starts_with('-') => value,
            Type::Date if self.chance(0.5) => format!("DATE '{value}'"),
            _ => format!("'{value}'::{}", ty.sql()),
        }
    }

    /// A value as INSERT ... VALUES and comparisons take it; its type comes from the column.
    pub fn bare_literal(&mut self, ty: Type) -> String {
        let value = self.value(ty);
        match ty {
            Type::Int | Type::Bool | Type::Num | Type::Float | Type::Big => value,
            _ => format!("'{value}'"),
        }
    }
}
