//! Arcs of the token space. An arc never wraps and is never empty.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::token::Token;

/// The tokens `t` with `after < t <= through`; without `after`, from the lowest token on.
///
/// Written `LO..HI` as in `(LO, HI]`: a missing `LO` is the bottom, a missing `HI` the top, `..` everything. Ordered by
/// where arcs begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Bounds", into = "Bounds")]
pub struct TokenArc {
    /// The highest token below the arc; `None` if there is none.
    pub after: Option<i64>,
    /// The highest token of the arc, above `after`.
    pub through: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArcError {
    #[error("no token lies after {after} up to {through}")]
    Empty { after: i64, through: i64 },
    #[error("an arc is written LO..HI, not {0:?}")]
    Syntax(String),
    #[error("a bound of an arc is no token")]
    Bound(#[from] ParseIntError),
}

impl TokenArc {
    pub const ALL: TokenArc = TokenArc { after: None, through: i64::MAX };

    /// Checks that the arc is not empty; so do parsing and deserialising.
    pub fn new(after: Option<i64>, through: i64) -> Result<TokenArc, ArcError> {
        match after {
            Some(after) if after >= through => Err(ArcError::Empty { after, through }),
            _ => Ok(TokenArc { after, through }),
        }
    }

    /// The arc of a single token: what isolating a tenant moves.
    pub fn single(token: Token) -> TokenArc {
        TokenArc { after: token.0.checked_sub(1), through: token.0 }
    }

    /// For bounds that are in order by construction.
    pub(super) fn ordered(after: Option<i64>, through: i64) -> TokenArc {
        debug_assert!(after < Some(through));
        TokenArc { after, through }
    }

    /// The lowest token of the arc.
    pub fn first(&self) -> Token {
        Token(self.after.map_or(i64::MIN, |after| after + 1))
    }

    pub fn contains(&self, token: Token) -> bool {
        self.after < Some(token.0) && token.0 <= self.through
    }

    pub fn intersects(&self, other: &TokenArc) -> bool {
        self.after.max(other.after) < Some(self.through.min(other.through))
    }

    /// How many tokens it holds: 1 to 2^64.
    pub fn width(&self) -> u128 {
        u128::from(self.through.abs_diff(self.first().0)) + 1
    }

    /// Its highest `width` tokens; `width` lies between 1 and the arc's own.
    pub(super) fn highest(&self, width: u128) -> TokenArc {
        if width >= self.width() {
            return *self;
        }
        TokenArc::ordered(Some((i128::from(self.through) - width as i128) as i64), self.through)
    }

    /// A condition in parentheses on a `bigint` expression, for instance `(x > 5 AND x <= 9)`. The expression must
    /// bind more tightly than a comparison, as a function call does; it may appear twice.
    pub fn sql_condition(&self, token_expr: &str) -> String {
        let above = self.after.map(|after| format!("{token_expr} > {}", sql_bigint(after)));
        let below = (self.through < i64::MAX).then(|| format!("{token_expr} <= {}", sql_bigint(self.through)));
        match (above, below) {
            (Some(above), Some(below)) => format!("({above} AND {below})"),
            (Some(bound), None) | (None, Some(bound)) => format!("({bound})"),
            (None, None) => "(TRUE)".to_owned(),
        }
    }
}

/// `-9223372036854775808` unquoted is minus a `numeric`, which would compare as `numeric` and miss every index.
fn sql_bigint(value: i64) -> String {
    match value {
        i64::MIN => format!("'{value}'::bigint"),
        _ => value.to_string(),
    }
}

/// Invariant: no token lies in two of them.
pub fn arcs_are_disjoint(arcs: &[TokenArc]) -> bool {
    let mut sorted = arcs.to_vec();
    sorted.sort_unstable();
    sorted.windows(2).all(|pair| !pair[0].intersects(&pair[1]))
}

impl fmt::Display for TokenArc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(after) = self.after {
            write!(f, "{after}")?;
        }
        f.write_str("..")?;
        if self.through < i64::MAX {
            write!(f, "{}", self.through)?;
        }
        Ok(())
    }
}

impl FromStr for TokenArc {
    type Err = ArcError;

    fn from_str(text: &str) -> Result<TokenArc, ArcError> {
        let (low, high) = text.split_once("..").ok_or_else(|| ArcError::Syntax(text.to_owned()))?;
        let bound = |text: &str| if text.is_empty() { Ok(None) } else { text.parse().map(Some) };
        TokenArc::new(bound(low)?, bound(high)?.unwrap_or(i64::MAX))
    }
}

#[derive(Serialize, Deserialize)]
struct Bounds {
    after: Option<i64>,
    through: i64,
}

impl From<TokenArc> for Bounds {
    fn from(TokenArc { after, through }: TokenArc) -> Bounds {
        Bounds { after, through }
    }
}

impl TryFrom<Bounds> for TokenArc {
    type Error = ArcError;

    fn try_from(Bounds { after, through }: Bounds) -> Result<TokenArc, ArcError> {
        TokenArc::new(after, through)
    }
}
