//! OIDs of types and tables inside messages and binary values, replaced in place: every server has others for what users create.
//!
//! Two passes over the same bytes: [`Pass::Find`] says which OIDs are not known yet and changes nothing, [`Pass::Replace`] puts the
//! other side's in. All are four bytes, so that no length changes. Text has names instead of OIDs and is not looked at.
//!
//! Not here: where the other OIDs come from ([`Oids`]).
//! Sources: `array_send`, `record_send`, `range_send`, `multirange_send` of PostgreSQL.

use smallvec::SmallVec;

use crate::wire::Format;

/// The first OID that is not PostgreSQL's own.
pub const FIRST_NORMAL: u32 = 16_384;
/// Values in values (arrays of composites of ranges of ...).
const DEPTH_MAX: usize = 64;

/// Where a type's binary form has OIDs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Plain,
    /// Says its element type itself.
    Array,
    /// Composite types and `record`: says its fields' types itself.
    Record,
    /// As that of the type that it is over.
    Domain(u32),
    /// Of that subtype.
    Range(u32),
    /// Of that range.
    Multirange(u32),
    /// `regtype`: is one itself.
    Type,
    /// `regclass`.
    Relation,
    /// `regproc`, `regrole`, ...: is one of another catalog, which nobody maps.
    Other,
}

/// What is known of a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// On the other side.
    pub oid: u32,
    /// With this side's OIDs.
    pub form: Form,
}

/// What one side's OIDs are on the other side.
pub trait Oids {
    fn user_type(&self, oid: u32) -> Option<Known>;
    fn user_relation(&self, oid: u32) -> Option<u32>;
}

/// OIDs that are not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Missing {
    pub types: Vec<u32>,
    pub relations: Vec<u32>,
}

impl Missing {
    pub fn is_empty(&self) -> bool {
        self.types.is_empty() && self.relations.is_empty()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OidError {
    #[error("a message or a binary value is cut short")]
    Malformed,
    #[error("values are nested more than {DEPTH_MAX} levels deep")]
    TooDeep,
    #[error("a value is an OID of a catalog (regproc, regrole, ...) that differs between shards")]
    Untranslatable,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    Find,
    Replace,
}

/// Columns of rows in which there may be something to replace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Columns {
    /// By place; [`Form::Plain`] for those that are text.
    forms: Vec<Form>,
}

impl Columns {
    pub fn new(forms: &[Form]) -> Columns {
        let are_plain = forms.iter().all(|form| *form == Form::Plain);
        Columns { forms: if are_plain { Vec::new() } else { forms.to_vec() } }
    }

    /// Nothing to look at.
    pub fn are_plain(&self) -> bool {
        self.forms.is_empty()
    }

    pub fn len(&self) -> usize {
        self.forms.len()
    }

    pub fn is_empty(&self) -> bool {
        self.forms.is_empty()
    }
}

/// What a RowDescription says of the rows behind it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Described {
    /// Those in binary.
    pub columns: Columns,
    /// Whatever the formats: no column has OIDs in its binary form.
    pub plain: bool,
}

/// Those of PostgreSQL's own types whose binary form has OIDs. `OidIs`: `src/include/catalog/pg_type.dat`.
fn built_in(oid: u32) -> Form {
    match oid {
        2249 => Form::Record,
        // _record, anyarray, and arrays of the types below.
        2287 | 2277 | 2211 | 2210 | 1008 | 2207..=2209 | 3735 | 3770 | 4097 | 4090 | 4192 => Form::Array,
        2206 => Form::Type,
        2205 => Form::Relation,
        // regproc, regprocedure, regoper, regoperator, regconfig, regdictionary, regrole, regnamespace, regcollation.
        24 | 2202..=2204 | 3734 | 3769 | 4096 | 4089 | 4191 => Form::Other,
        _ => Form::Plain,
    }
}

/// `regclass`, `regtype` and their kin: a value is the OID of something that has another one on every server.
pub fn is_number_of_other(oid: u32) -> bool {
    matches!(built_in(oid), Form::Type | Form::Relation | Form::Other)
}

/// A type of PostgreSQL's own whose values are the same everywhere.
pub fn is_plain(oid: u32) -> bool {
    built_in(oid) == Form::Plain
}

/// One pass over messages or values of one side.
pub struct Walk<'o, O> {
    oids: &'o O,
    pass: Pass,
    pub missing: Missing,
}

impl<'o, O: Oids> Walk<'o, O> {
    pub fn new(oids: &'o O, pass: Pass) -> Walk<'o, O> {
        Walk { oids, pass, missing: Missing::default() }
    }

    fn known(&mut self, oid: u32) -> Option<Known> {
        if oid < FIRST_NORMAL {
            return Some(Known { oid, form: built_in(oid) });
        }
        let known = self.oids.user_type(oid);
        if known.is_none() && !self.missing.types.contains(&oid) {
            self.missing.types.push(oid);
        }
        known
    }

    /// Of a type of this side; None: it is among the missing now.
    pub fn form(&mut self, oid: u32) -> Option<Form> {
        let mut oid = oid;
        for _ in 0..DEPTH_MAX {
            match self.known(oid)?.form {
                Form::Domain(base) => oid = base,
                Form::Range(subtype) => {
                    return Some(if self.form_of_part(subtype)? == Form::Plain {
                        Form::Plain
                    } else {
                        Form::Range(subtype)
                    })
                }
                Form::Multirange(range) => {
                    return Some(if self.form_of_part(range)? == Form::Plain {
                        Form::Plain
                    } else {
                        Form::Multirange(range)
                    })
                }
                form => return Some(form),
            }
        }
        Some(Form::Plain)
    }

    fn form_of_part(&mut self, oid: u32) -> Option<Form> {
        match self.known(oid)?.form {
            // A type cannot be a part of itself, so this ends.
            Form::Domain(base) | Form::Range(base) | Form::Multirange(base) => self.form_of_part(base),
            form => Some(form),
        }
    }

    fn put(&self, place: &mut [u8], oid: u32) {
        if self.pass == Pass::Replace {
            place.copy_from_slice(&oid.to_be_bytes());
        }
    }

    /// The type OID in these four bytes, replaced; and its form.
    fn type_at(&mut self, place: &mut [u8]) -> Result<Option<Form>, OidError> {
        let oid = oid_at(place)?;
        let form = self.form(oid);
        if let Some(known) = self.known(oid) {
            self.put(place, known.oid);
        }
        Ok(form)
    }

    fn relation_at(&mut self, place: &mut [u8]) -> Result<(), OidError> {
        let oid = oid_at(place)?;
        if oid < FIRST_NORMAL {
            return Ok(());
        }
        match self.oids.user_relation(oid) {
            Some(other) => self.put(place, other),
            None if self.missing.relations.contains(&oid) => {}
            None => self.missing.relations.push(oid),
        }
        Ok(())
    }

    /// Body of RowDescription.
    pub fn row_description(&mut self, body: &mut [u8]) -> Result<Described, OidError> {
        let mut rest = body;
        let count = take(&mut rest, 2)?;
        let count = u16::from_be_bytes([count[0], count[1]]);
        let mut described = Described { plain: true, ..Described::default() };
        let mut forms = SmallVec::<[Form; 16]>::new();
        for _ in 0..count {
            let end = rest.iter().position(|byte| *byte == 0).ok_or(OidError::Malformed)?;
            take(&mut rest, end + 1)?;
            let fixed = take(&mut rest, 18)?;
            self.relation_at(&mut fixed[..4])?;
            let form = self.type_at(&mut fixed[6..10])?.unwrap_or(Form::Plain);
            described.plain &= form == Form::Plain;
            let is_binary = fixed[17] == Format::Binary.code() as u8;
            forms.push(if is_binary { form } else { Form::Plain });
        }
        described.columns = Columns::new(&forms);
        Ok(described)
    }

    /// Body of ParameterDescription.
    pub fn parameter_description(&mut self, body: &mut [u8]) -> Result<(), OidError> {
        let mut rest = body;
        take(&mut rest, 2)?;
        while !rest.is_empty() {
            self.type_at(take(&mut rest, 4)?)?;
        }
        Ok(())
    }

    /// Values each behind its length: the body of DataRow, a row of binary COPY. Gives what is left.
    pub fn row<'r>(&mut self, columns: &Columns, row: &'r mut [u8]) -> Result<&'r mut [u8], OidError> {
        let mut rest = row;
        let count = take(&mut rest, 2)?;
        let count = usize::from(u16::from_be_bytes([count[0], count[1]]));
        for index in 0..count {
            if let Some(value) = sized(&mut rest)? {
                let form = columns.forms.get(index).copied().unwrap_or(Form::Plain);
                self.value(form, value, 0)?;
            }
        }
        Ok(rest)
    }

    /// A binary value.
    pub fn value(&mut self, form: Form, value: &mut [u8], depth: usize) -> Result<(), OidError> {
        if depth > DEPTH_MAX {
            return Err(OidError::TooDeep);
        }
        match form {
            Form::Plain => Ok(()),
            Form::Array => self.array(value, depth + 1),
            Form::Record => self.record(value, depth + 1),
            Form::Domain(base) => match self.form(base) {
                Some(form) => self.value(form, value, depth + 1),
                None => Ok(()),
            },
            Form::Range(subtype) => match self.form(subtype) {
                Some(form) => self.range(form, value, depth + 1),
                None => Ok(()),
            },
            Form::Multirange(range) => match self.form(range) {
                Some(form) => self.multirange(form, value, depth + 1),
                None => Ok(()),
            },
            Form::Type => self.type_at(value).map(|_| ()),
            Form::Relation => self.relation_at(value),
            Form::Other if oid_at(value)? < FIRST_NORMAL => Ok(()),
            Form::Other => Err(OidError::Untranslatable),
        }
    }

    fn array(&mut self, value: &mut [u8], depth: usize) -> Result<(), OidError> {
        let mut rest = value;
        let head = take(&mut rest, 12)?;
        let dimensions = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let form = self.type_at(&mut head[8..12])?;
        let form = match form {
            // Nothing in the elements, or not to be told yet.
            None | Some(Form::Plain) => return Ok(()),
            Some(form) => form,
        };
        take(&mut rest, dimensions.checked_mul(8).ok_or(OidError::Malformed)?)?;
        while !rest.is_empty() {
            if let Some(element) = sized(&mut rest)? {
                self.value(form, element, depth)?;
            }
        }
        Ok(())
    }

    fn record(&mut self, value: &mut [u8], depth: usize) -> Result<(), OidError> {
        let mut rest = value;
        take(&mut rest, 4)?;
        while !rest.is_empty() {
            let form = self.type_at(take(&mut rest, 4)?)?;
            if let (Some(field), Some(form)) = (sized(&mut rest)?, form) {
                self.value(form, field, depth)?;
            }
        }
        Ok(())
    }

    fn range(&mut self, form: Form, value: &mut [u8], depth: usize) -> Result<(), OidError> {
        let mut rest = value;
        take(&mut rest, 1)?;
        while !rest.is_empty() {
            if let Some(bound) = sized(&mut rest)? {
                self.value(form, bound, depth)?;
            }
        }
        Ok(())
    }

    fn multirange(&mut self, form: Form, value: &mut [u8], depth: usize) -> Result<(), OidError> {
        let mut rest = value;
        take(&mut rest, 4)?;
        while !rest.is_empty() {
            if let Some(range) = sized(&mut rest)? {
                self.value(form, range, depth)?;
            }
        }
        Ok(())
    }
}

fn oid_at(place: &[u8]) -> Result<u32, OidError> {
    place.try_into().map(u32::from_be_bytes).map_err(|_| OidError::Malformed)
}

fn take<'r>(rest: &mut &'r mut [u8], bytes: usize) -> Result<&'r mut [u8], OidError> {
    let all = std::mem::take(rest);
    let (taken, left) = all.split_at_mut_checked(bytes).ok_or(OidError::Malformed)?;
    *rest = left;
    Ok(taken)
}

/// A length and as many bytes; None: NULL.
fn sized<'r>(rest: &mut &'r mut [u8]) -> Result<Option<&'r mut [u8]>, OidError> {
    let length = take(rest, 4)?;
    match i32::from_be_bytes([length[0], length[1], length[2], length[3]]) {
        -1 => Ok(None),
        length => take(rest, usize::try_from(length).map_err(|_| OidError::Malformed)?).map(Some),
    }
}

#[cfg(test)]
mod tests;
