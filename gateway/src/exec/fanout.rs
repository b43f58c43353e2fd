//! fanout
use super::dispatch::{Completed, Run};
use super::executor::Executor;
use super::failure::Failure;
use super::hold::Admitted;
use crate::plan::types::*;
use crate::wire::PgError;
pub async fn concatenate(_: &mut Executor, _: &Run<'_>, _: &Admitted, _: &Query, _: &Concatenate) -> Result<Completed, Failure> { Err(PgError::refused("x","y").into()) }
pub async fn merge_sort(_: &mut Executor, _: &Run<'_>, _: &Admitted, _: &Query, _: &MergeSort) -> Result<Completed, Failure> { Err(PgError::refused("x","y").into()) }
pub async fn write(_: &mut Executor, _: &Run<'_>, _: &Admitted, _: &Query) -> Result<Completed, Failure> { Err(PgError::refused("x","y").into()) }
pub async fn write_everywhere(_: &mut Executor, _: &Run<'_>, _: &Admitted, _: &Query) -> Result<Completed, Failure> { Err(PgError::refused("x","y").into()) }
