//! The scenario's own PostgreSQL types for sqlx, which finds them by their names.

use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::{PgRecordDecoder, PgRecordEncoder};
use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo, PgValueRef};
use sqlx::{Decode, Encode, Postgres, Type};

#[derive(Debug)]
pub struct Mood(pub String);

#[derive(Debug)]
pub struct Pair {
    pub n: Option<i32>,
    pub feeling: Option<Mood>,
    pub feelings: Option<Vec<Option<Mood>>>,
}

/// The domain over `mood[]`.
#[derive(Debug)]
pub struct Moods(pub Vec<Mood>);

impl Type<Postgres> for Mood {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_name("mood")
    }
}

impl PgHasArrayType for Mood {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::array_of("mood")
    }
}

impl Encode<'_, Postgres> for Mood {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        <&str as Encode<Postgres>>::encode(&self.0, buffer)
    }
}

impl<'r> Decode<'r, Postgres> for Mood {
    fn decode(value: PgValueRef<'r>) -> Result<Mood, BoxDynError> {
        Ok(Mood(<String as Decode<Postgres>>::decode(value)?))
    }
}

impl Type<Postgres> for Pair {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_name("pair")
    }
}

impl PgHasArrayType for Pair {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::array_of("pair")
    }
}

impl Encode<'_, Postgres> for Pair {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        let mut fields = PgRecordEncoder::new(buffer);
        fields.encode(self.n)?.encode(&self.feeling)?.encode(&self.feelings)?;
        fields.finish();
        Ok(IsNull::No)
    }
}

impl<'r> Decode<'r, Postgres> for Pair {
    fn decode(value: PgValueRef<'r>) -> Result<Pair, BoxDynError> {
        let mut fields = PgRecordDecoder::new(value)?;
        Ok(Pair { n: fields.try_decode()?, feeling: fields.try_decode()?, feelings: fields.try_decode()? })
    }
}

impl Type<Postgres> for Moods {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_name("moods")
    }
}

impl Encode<'_, Postgres> for Moods {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        <Vec<Mood> as Encode<Postgres>>::encode_by_ref(&self.0, buffer)
    }
}
