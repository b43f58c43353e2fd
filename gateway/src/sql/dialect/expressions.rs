//! Expressions that the crate does not know, or reads in another way.

use sqlparser::ast::{
    BinaryOperator, DataType, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments,
    Ident, ObjectName, ObjectNamePart, TypedString, UnaryOperator,
};
use sqlparser::keywords::Keyword;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::Token;

use super::precedences::{is_operator, is_word, BETWEEN, COMPARISON, IS, OPERATOR, SIGN};
use super::reserved::is_reserved;
use super::{BETWEEN_SYMMETRIC, IS_DOCUMENT, MADE_UP, NOT_BETWEEN_SYMMETRIC};

pub(super) type Parsed = Result<Expr, ParserError>;

pub(super) fn prefix(parser: &mut Parser) -> Option<Parsed> {
    match &parser.peek_nth_token_ref(0).token {
        Token::Word(word) if word.quote_style.is_some() || !is_reserved(&word.value) => typed_string(parser),
        Token::Plus => Some(sign(parser, UnaryOperator::Plus)),
        Token::Minus => Some(sign(parser, UnaryOperator::Minus)),
        Token::LParen => set_operation(parser),
        token if is_operator(token) => Some(in_front(parser)),
        _ => None,
    }
}

fn sign(parser: &mut Parser, op: UnaryOperator) -> Parsed {
    parser.advance_token();
    Ok(Expr::UnaryOp { op, expr: Box::new(parser.parse_subexpr(SIGN)?) })
}

/// An operator before its operand: `@ a`. One that the tree has no name for stands between nothing and its operand.
fn in_front(parser: &mut Parser) -> Parsed {
    let token = parser.next_token().token;
    let right = Box::new(parser.parse_subexpr(OPERATOR)?);
    let op = match token {
        Token::Tilde => UnaryOperator::BitwiseNot,
        Token::PGSquareRoot => UnaryOperator::PGSquareRoot,
        Token::PGCubeRoot => UnaryOperator::PGCubeRoot,
        Token::AtSign => UnaryOperator::PGAbs,
        other => {
            let op = BinaryOperator::Custom(other.to_string());
            return Ok(Expr::BinaryOp { left: Box::new(Expr::Tuple(Vec::new())), op, right });
        }
    };
    Ok(Expr::UnaryOp { op, expr: right })
}

/// `type 'value'` with a type that the crate has no word for.
fn typed_string(parser: &mut Parser) -> Option<Parsed> {
    let mut ahead = 1;
    // The crate loses the precision.
    let precise = keyword(parser, 0) == Keyword::INTERVAL && parser.peek_nth_token_ref(1).token == Token::LParen;
    if precise && parser.peek_nth_token_ref(3).token == Token::RParen {
        ahead = 4;
    }
    while parser.peek_nth_token_ref(ahead).token == Token::Period {
        if !matches!(parser.peek_nth_token_ref(ahead + 1).token, Token::Word(_)) {
            return None;
        }
        ahead += 2;
    }
    let string = matches!(
        parser.peek_nth_token_ref(ahead).token,
        Token::SingleQuotedString(_) | Token::EscapedStringLiteral(_) | Token::DollarQuotedString(_)
    );
    let interval = ahead == 1 && keyword(parser, 0) == Keyword::INTERVAL;
    (string && !interval).then(|| {
        let known = parser.maybe_parse(|parser| {
            let data_type = parser.parse_data_type()?;
            Ok(TypedString { data_type, value: parser.parse_value()?, uses_odbc_syntax: false })
        })?;
        if let Some(known) = known {
            return Ok(Expr::TypedString(known));
        }
        let data_type = DataType::Custom(parser.parse_object_name(false)?, Vec::new());
        Ok(Expr::TypedString(TypedString { data_type, value: parser.parse_value()?, uses_odbc_syntax: false }))
    })
}

/// `((SELECT 1) UNION SELECT 2)`, where the crate expects an expression in the outer parentheses, and `(VALUES (1), (2) LIMIT 1)`,
/// behind whose rows it expects the end.
fn set_operation(parser: &mut Parser) -> Option<Parsed> {
    let mut opened = 1;
    while parser.peek_nth_token_ref(opened).token == Token::LParen {
        opened += 1;
    }
    let query = matches!(&parser.peek_nth_token_ref(opened).token, Token::Word(word)
        if matches!(word.keyword, Keyword::SELECT | Keyword::WITH | Keyword::VALUES));
    let known = match opened {
        1 => keyword(parser, 1) == Keyword::VALUES,
        _ => query && is_operand(parser),
    };
    if !known {
        return None;
    }
    parser.advance_token();
    let query = parser.parse_query();
    Some(query.and_then(|query| parser.expect_token(&Token::RParen).map(|_| Expr::Subquery(query))))
}

/// Whether the parentheses within these are an operand of a set operation, or a query with a clause behind it.
fn is_operand(parser: &Parser) -> bool {
    let mut depth = 0usize;
    // There are no blanks among the tokens; counted from here, each look would begin anew.
    let mut at = parser.index() + 1;
    loop {
        match &parser.token_at(at).token {
            Token::LParen => depth += 1,
            Token::RParen => depth = depth.saturating_sub(1),
            Token::EOF => return false,
            _ => {}
        }
        at += 1;
        if depth == 0 {
            break;
        }
    }
    matches!(&parser.token_at(at).token, Token::Word(word) if word.quote_style.is_none()
        && matches!(word.keyword, Keyword::UNION | Keyword::INTERSECT | Keyword::EXCEPT | Keyword::ORDER | Keyword::LIMIT | Keyword::OFFSET | Keyword::FETCH))
}

/// The level of an expression whose operator may have no other of that level beside it: `a < b < c` is an error.
fn unchained(expr: &Expr) -> u8 {
    match expr {
        Expr::BinaryOp {
            op:
                BinaryOperator::Eq
                | BinaryOperator::NotEq
                | BinaryOperator::Lt
                | BinaryOperator::Gt
                | BinaryOperator::LtEq
                | BinaryOperator::GtEq,
            ..
        } => COMPARISON,
        Expr::Between { .. } | Expr::Like { .. } | Expr::ILike { .. } | Expr::SimilarTo { .. } => BETWEEN,
        Expr::IsDistinctFrom(..) | Expr::IsNotDistinctFrom(..) => IS,
        _ => 0,
    }
}

pub(super) fn infix(parser: &mut Parser, left: &Expr, level: u8) -> Option<Parsed> {
    if level == unchained(left) {
        return Some(parser.expected_ref("an end of the comparison", parser.peek_nth_token_ref(0)));
    }
    let token = parser.peek_nth_token_ref(0).token.clone();
    match &token {
        Token::Word(word) if word.keyword == Keyword::COLLATE => {
            parser.advance_token();
            let collation = parser.parse_object_name(false);
            Some(collation.map(|collation| Expr::Collate { expr: Box::new(left.clone()), collation }))
        }
        Token::Word(word) if is_word(word, "isnull") => {
            parser.advance_token();
            Some(Ok(Expr::IsNull(Box::new(left.clone()))))
        }
        Token::Word(word) if word.keyword == Keyword::IS => is_document(parser, left),
        Token::Word(word)
            if matches!(word.keyword, Keyword::NOT | Keyword::BETWEEN | Keyword::LIKE | Keyword::ILIKE) =>
        {
            negatable(parser, left)
        }
        Token::Word(word) if word.keyword == Keyword::OPERATOR => Some(qualified_operation(parser, left, level)),
        Token::Word(_) => None,
        other => operation(parser, left, other, level),
    }
}

fn keyword(parser: &Parser, ahead: usize) -> Keyword {
    match &parser.peek_nth_token_ref(ahead).token {
        Token::Word(word) if word.quote_style.is_none() => word.keyword,
        _ => Keyword::NoKeyword,
    }
}

fn is_quantifier(keyword: Keyword) -> bool {
    matches!(keyword, Keyword::ANY | Keyword::ALL | Keyword::SOME)
}

/// `a op b`, where the crate does not know the operator, and `a op ANY (...)` with every operator.
fn operation(parser: &mut Parser, left: &Expr, token: &Token, level: u8) -> Option<Parsed> {
    let quantified = is_quantifier(keyword(parser, 1)) && parser.peek_nth_token_ref(2).token == Token::LParen;
    let unnamed =
        matches!(token, Token::PGSquareRoot | Token::PGCubeRoot | Token::AtSign | Token::CustomBinaryOperator(_));
    if !quantified && !unnamed {
        return None;
    }
    let op = binary(token)?;
    parser.advance_token();
    if quantified {
        return Some(quantified_operation(parser, left, op));
    }
    let right = parser.parse_subexpr(level);
    Some(right.map(|right| Expr::BinaryOp { left: Box::new(left.clone()), op, right: Box::new(right) }))
}

/// `a OPERATOR(schema.op) b`.
fn qualified_operation(parser: &mut Parser, left: &Expr, level: u8) -> Parsed {
    parser.advance_token();
    parser.expect_token(&Token::LParen)?;
    let mut name = Vec::new();
    loop {
        let token = parser.next_token();
        match token.token {
            Token::RParen => break,
            Token::Period => {}
            Token::EOF => return parser.expected("an operator", token),
            other => name.push(other.to_string()),
        }
    }
    let op = BinaryOperator::PGCustomBinaryOperator(name);
    if is_quantifier(keyword(parser, 0)) && parser.peek_nth_token_ref(1).token == Token::LParen {
        return quantified_operation(parser, left, op);
    }
    let right = Box::new(parser.parse_subexpr(level)?);
    Ok(Expr::BinaryOp { left: Box::new(left.clone()), op, right })
}

fn binary(token: &Token) -> Option<BinaryOperator> {
    Some(match token {
        Token::Eq => BinaryOperator::Eq,
        Token::Neq => BinaryOperator::NotEq,
        Token::Lt => BinaryOperator::Lt,
        Token::Gt => BinaryOperator::Gt,
        Token::LtEq => BinaryOperator::LtEq,
        Token::GtEq => BinaryOperator::GtEq,
        Token::LBracket | Token::DoubleColon | Token::Period => return None,
        other => BinaryOperator::Custom(other.to_string()),
    })
}

/// From ANY, ALL or SOME on.
fn quantified_operation(parser: &mut Parser, left: &Expr, compare_op: BinaryOperator) -> Parsed {
    let quantifier = keyword(parser, 0);
    parser.advance_token();
    let left = Box::new(left.clone());
    let right = match set_operation(parser) {
        Some(query) => Box::new(query?),
        None => quantified(parser)?,
    };
    Ok(match quantifier {
        Keyword::ALL => Expr::AllOp { left, compare_op, right },
        other => Expr::AnyOp { left, compare_op, right, is_some: other == Keyword::SOME },
    })
}

/// An array or a query, in parentheses.
fn quantified(parser: &mut Parser) -> Result<Box<Expr>, ParserError> {
    parser.expect_token(&Token::LParen)?;
    let right = match keyword(parser, 0) {
        Keyword::SELECT | Keyword::WITH | Keyword::VALUES => Expr::Subquery(parser.parse_query()?),
        _ => parser.parse_expr()?,
    };
    parser.expect_token(&Token::RParen)?;
    Ok(Box::new(right))
}

/// `[NOT] LIKE ANY (...)`, `[NOT] BETWEEN SYMMETRIC ...`.
fn negatable(parser: &mut Parser, left: &Expr) -> Option<Parsed> {
    let negated = keyword(parser, 0) == Keyword::NOT;
    let at = usize::from(negated);
    match keyword(parser, at) {
        like @ (Keyword::LIKE | Keyword::ILIKE) if is_quantifier(keyword(parser, at + 1)) => {
            (0..=at).for_each(|_| parser.advance_token());
            let op = match (like, negated) {
                (Keyword::LIKE, false) => BinaryOperator::PGLikeMatch,
                (Keyword::LIKE, true) => BinaryOperator::PGNotLikeMatch,
                (_, false) => BinaryOperator::PGILikeMatch,
                (_, true) => BinaryOperator::PGNotILikeMatch,
            };
            Some(quantified_operation(parser, left, op))
        }
        Keyword::BETWEEN if keyword(parser, at + 1) == Keyword::SYMMETRIC => {
            (0..at + 2).for_each(|_| parser.advance_token());
            Some(between_symmetric(parser, left, negated))
        }
        _ => None,
    }
}

fn between_symmetric(parser: &mut Parser, left: &Expr, negated: bool) -> Parsed {
    let low = parser.parse_subexpr(BETWEEN)?;
    parser.expect_keyword_is(Keyword::AND)?;
    let high = parser.parse_subexpr(BETWEEN)?;
    let name = if negated { NOT_BETWEEN_SYMMETRIC } else { BETWEEN_SYMMETRIC };
    Ok(call(name, vec![left.clone(), low, high]))
}

fn is_document(parser: &mut Parser, left: &Expr) -> Option<Parsed> {
    let negated = keyword(parser, 1) == Keyword::NOT;
    let at = 1 + usize::from(negated);
    let document = matches!(&parser.peek_nth_token_ref(at).token, Token::Word(word) if is_word(word, "document"));
    document.then(|| {
        (0..=at).for_each(|_| parser.advance_token());
        Ok(negate(call(IS_DOCUMENT, vec![left.clone()]), negated))
    })
}

fn negate(expr: Expr, negated: bool) -> Expr {
    if negated {
        Expr::Nested(Box::new(Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(expr) }))
    } else {
        expr
    }
}

fn call(name: &str, args: Vec<Expr>) -> Expr {
    let args = args.into_iter().map(|expr| FunctionArg::Unnamed(FunctionArgExpr::Expr(expr))).collect();
    Expr::Function(Function {
        name: ObjectName(vec![ObjectNamePart::Identifier(Ident::with_quote(MADE_UP, name))]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList { duplicate_treatment: None, args, clauses: Vec::new() }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}
