//! Code behind types: CHECK constraints and defaults of domains, and casts, with those of the types that a type is made of.

use std::collections::{BTreeSet, HashMap};

use serde::Deserialize;

/// A type of the application.
#[derive(Debug, Deserialize)]
pub struct Type {
    oid: u32,
    name: String,
    /// A table's or a view's: where the name stands, it means the table, but in casts and behind `%ROWTYPE`.
    #[serde(default)]
    is_row: bool,
    /// A domain's own constraints and default, as SQL text.
    checks: String,
    /// What a domain, an array, a composite type or a range is made of.
    #[serde(default)]
    parts: Option<Vec<u32>>,
}

/// A cast by a function of the application.
#[derive(Debug, Deserialize)]
pub struct Cast {
    /// OID and name.
    source: (u32, String),
    target: (u32, String),
    /// SQL text.
    call: String,
}

/// What is run for values of a type, as SQL text.
#[derive(Debug, Default, PartialEq)]
pub struct TypeCode {
    pub name: String,
    pub is_row: bool,
    /// When a value becomes one of the type.
    pub checks: String,
    /// When one becomes another's, or the other way.
    pub casts: String,
}

/// Of the types that have any, by OID.
pub fn type_code(types: &[Type], casts: &[Cast]) -> HashMap<u32, TypeCode> {
    let by_oid: HashMap<u32, &Type> = types.iter().map(|named| (named.oid, named)).collect();
    let owners = |cast: &'_ Cast| -> Vec<u32> {
        let both = [cast.source.0, cast.target.0];
        let own: Vec<u32> = both.into_iter().filter(|oid| by_oid.contains_key(oid)).collect();
        // Between text and a type of the application it is the latter's, or every text would be looked at.
        if own.is_empty() {
            both.to_vec()
        } else {
            own
        }
    };
    let of_server = |named: &&(u32, String)| !by_oid.contains_key(&named.0);
    let mut names: HashMap<u32, &str> = casts
        .iter()
        .filter(|cast| owners(cast).len() == 2)
        .flat_map(|cast| [&cast.source, &cast.target])
        .filter(of_server)
        .map(|(oid, name)| (*oid, &**name))
        .collect();
    names.extend(types.iter().map(|named| (named.oid, &*named.name)));
    let code = |oid: u32, name: &str| {
        let mut parts = vec![oid];
        let mut at = 0;
        while let Some(part) = parts.get(at).copied() {
            at += 1;
            let further = by_oid.get(&part).and_then(|named| named.parts.as_deref()).unwrap_or_default();
            let further: BTreeSet<u32> = further.iter().copied().filter(|part| !parts.contains(part)).collect();
            parts.extend(further);
        }
        let checks = parts.iter().filter_map(|part| by_oid.get(part)).map(|named| &*named.checks);
        let of_part = |cast: &&Cast| owners(cast).iter().any(|oid| parts.contains(oid));
        let casts = casts.iter().filter(of_part).map(|cast| &*cast.call);
        let is_row = by_oid.get(&oid).is_some_and(|named| named.is_row);
        TypeCode { name: name.to_owned(), is_row, checks: joined(checks), casts: joined(casts) }
    };
    let all = names.into_iter().map(|(oid, name)| (oid, code(oid, name)));
    all.filter(|(_, code)| !code.checks.is_empty() || !code.casts.is_empty()).collect()
}

fn joined<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    texts.filter(|text| !text.is_empty()).collect::<Vec<_>>().join(" ; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_runs_what_its_parts_run() {
        let named = |oid, checks: &str, parts: &[u32]| Type {
            oid,
            name: format!("t{oid}"),
            is_row: oid == 3,
            checks: checks.into(),
            parts: Some(parts.to_vec()),
        };
        let types = [
            named(1, "CHECK (f(VALUE))", &[25]),
            named(2, "", &[1, 5]),
            named(3, "", &[2, 3]),
            named(4, "", &[25]),
            named(5, "", &[25]),
            named(6, "", &[23]),
        ];
        let cast = |source: (u32, &str), target: (u32, &str), call: &str| Cast {
            source: (source.0, source.1.into()),
            target: (target.0, target.1.into()),
            call: call.into(),
        };
        let casts = [cast((25, "text"), (5, "t5"), "g()"), cast((23, "int4"), (16, "bool"), "h()")];
        let code = type_code(&types, &casts);
        let mut oids: Vec<u32> = code.keys().copied().collect();
        oids.sort_unstable();
        assert_eq!(oids, [1, 2, 3, 5, 6, 16, 23]);
        let expected =
            TypeCode { name: "t3".into(), is_row: true, checks: "CHECK (f(VALUE))".into(), casts: "g()".into() };
        assert_eq!(code[&3], expected);
        assert_eq!((&*code[&23].name, &*code[&23].checks, &*code[&23].casts), ("int4", "", "h()"));
        assert_eq!((&*code[&6].casts, &*code[&5].casts), ("h()", "g()"));
    }
}
