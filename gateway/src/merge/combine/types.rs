//! How a column's values travel in an array parameter.

/// An element of a partial's array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ElementType {
    /// The array has this element type.
    Direct(String),
    /// The array is `text[]` and every element is cast: arrays (which an array would absorb as a further dimension), types
    /// whose arrays have another delimiter, and types that are not PostgreSQL's own (`unnest` would split a composite).
    Cast(String),
}

/// OID, OID of its array, name; of `src/include/catalog/pg_type.dat`.
const BUILTIN: &[(u32, u32, &str)] = &[
    (16, 1000, "bool"),
    (17, 1001, "bytea"),
    (18, 1002, "char"),
    (19, 1003, "name"),
    (20, 1016, "int8"),
    (21, 1005, "int2"),
    (23, 1007, "int4"),
    (24, 1008, "regproc"),
    (25, 1009, "text"),
    (26, 1028, "oid"),
    (27, 1010, "tid"),
    (28, 1011, "xid"),
    (29, 1012, "cid"),
    (114, 199, "json"),
    (142, 143, "xml"),
    (600, 1017, "point"),
    (601, 1018, "lseg"),
    (602, 1019, "path"),
    (603, 1020, "box"),
    (604, 1027, "polygon"),
    (628, 629, "line"),
    (650, 651, "cidr"),
    (700, 1021, "float4"),
    (701, 1022, "float8"),
    (718, 719, "circle"),
    (774, 775, "macaddr8"),
    (790, 791, "money"),
    (829, 1040, "macaddr"),
    (869, 1041, "inet"),
    (1042, 1014, "bpchar"),
    (1043, 1015, "varchar"),
    (1082, 1182, "date"),
    (1083, 1183, "time"),
    (1114, 1115, "timestamp"),
    (1184, 1185, "timestamptz"),
    (1186, 1187, "interval"),
    (1266, 1270, "timetz"),
    (1560, 1561, "bit"),
    (1562, 1563, "varbit"),
    (1700, 1231, "numeric"),
    (2202, 2207, "regprocedure"),
    (2205, 2210, "regclass"),
    (2206, 2211, "regtype"),
    (2950, 2951, "uuid"),
    (3220, 3221, "pg_lsn"),
    (3614, 3643, "tsvector"),
    (3615, 3645, "tsquery"),
    (3734, 3735, "regconfig"),
    (3802, 3807, "jsonb"),
    (3904, 3905, "int4range"),
    (3906, 3907, "numrange"),
    (3908, 3909, "tsrange"),
    (3910, 3911, "tstzrange"),
    (3912, 3913, "daterange"),
    (3926, 3927, "int8range"),
    (4072, 4073, "jsonpath"),
    (4089, 4090, "regnamespace"),
    (4096, 4097, "regrole"),
    (4451, 6150, "int4multirange"),
    (4532, 6151, "nummultirange"),
    (4533, 6152, "tsmultirange"),
    (4534, 6153, "tstzmultirange"),
    (4535, 6155, "datemultirange"),
    (4536, 6157, "int8multirange"),
    (5069, 271, "xid8"),
];

const BOX: u32 = 603;
/// Types from here on are not PostgreSQL's own (`FirstNormalObjectId`, `src/include/access/transam.h`).
const FIRST_USER_OID: u32 = 16_384;
const TEXT: &str = "pg_catalog.\"text\"";

impl ElementType {
    /// None: there is no way to send values of this type.
    pub(super) fn of(oid: u32, type_name: &impl Fn(u32) -> Option<String>) -> Option<ElementType> {
        let builtin = BUILTIN.iter().find(|(element, array, _)| *element == oid || *array == oid);
        if let Some((element, _, name)) = builtin {
            let name = format!("pg_catalog.\"{name}\"");
            return Some(match *element == oid {
                true if oid == BOX => ElementType::Cast(name),
                true => ElementType::Direct(name),
                false => ElementType::Cast(format!("{name}[]")),
            });
        }
        (oid >= FIRST_USER_OID).then(|| type_name(oid)).flatten().map(ElementType::Cast)
    }

    /// The element type of the array parameter.
    pub(super) fn array_element_sql(&self) -> &str {
        match self {
            ElementType::Direct(name) => name,
            ElementType::Cast(_) => TEXT,
        }
    }

    pub(super) fn is_direct(&self) -> bool {
        matches!(self, ElementType::Direct(_))
    }

    /// The SQL that makes the column's value of an element.
    pub(super) fn value_sql(&self, element: &str) -> String {
        match self {
            ElementType::Direct(_) => element.to_owned(),
            ElementType::Cast(name) => format!("{element}::{name}"),
        }
    }
}

/// How an error calls a type that cannot be sent.
pub(super) fn pseudo_name(oid: u32) -> String {
    match oid {
        705 => "unknown".to_owned(),
        2249 => "record".to_owned(),
        2275 => "cstring".to_owned(),
        2278 => "void".to_owned(),
        2287 => "record[]".to_owned(),
        _ => format!("with OID {oid}"),
    }
}
