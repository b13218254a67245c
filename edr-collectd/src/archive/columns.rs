//! Builds columns from rows, and reads values from columns.

use std::sync::Arc;

use deltalake::DeltaTableError;
use deltalake::arrow::array::{
    Array as _, ArrayRef, AsArray as _, BinaryArray, BinaryBuilder, BooleanBuilder, Date32Builder, Int32Array,
    Int32Builder, Int64Array, Int64Builder, StringArray, StringBuilder,
};
use deltalake::arrow::compute::cast;
use deltalake::arrow::datatypes::{DataType, Int32Type, Int64Type};
use deltalake::arrow::record_batch::RecordBatch;

pub(super) fn dates<T>(rows: &[T], value: impl Fn(&T) -> Option<i32>) -> ArrayRef {
    let mut column = Date32Builder::with_capacity(rows.len());
    rows.iter().for_each(|row| column.append_option(value(row)));
    Arc::new(column.finish())
}

pub(super) fn longs<T>(rows: &[T], value: impl Fn(&T) -> Option<i64>) -> ArrayRef {
    let mut column = Int64Builder::with_capacity(rows.len());
    rows.iter().for_each(|row| column.append_option(value(row)));
    Arc::new(column.finish())
}

pub(super) fn integers<T>(rows: &[T], value: impl Fn(&T) -> Option<i32>) -> ArrayRef {
    let mut column = Int32Builder::with_capacity(rows.len());
    rows.iter().for_each(|row| column.append_option(value(row)));
    Arc::new(column.finish())
}

pub(super) fn flags<T>(rows: &[T], value: impl Fn(&T) -> Option<bool>) -> ArrayRef {
    let mut column = BooleanBuilder::with_capacity(rows.len());
    rows.iter().for_each(|row| column.append_option(value(row)));
    Arc::new(column.finish())
}

pub(super) fn texts<T>(rows: &[T], value: impl Fn(&T) -> Option<String>) -> ArrayRef {
    let mut column = StringBuilder::new();
    rows.iter().for_each(|row| column.append_option(value(row)));
    Arc::new(column.finish())
}

pub(super) fn binaries<'a, T>(rows: &'a [T], value: impl Fn(&'a T) -> Option<&'a [u8]>) -> ArrayRef {
    let mut column = BinaryBuilder::new();
    rows.iter().for_each(|row| column.append_option(value(row)));
    Arc::new(column.finish())
}

/// A batch with columns by name. Columns are cast to one type first: the query engine may return views or dictionaries
/// for columns of plain strings.
pub(super) struct Columns<'a>(pub(super) &'a RecordBatch);

impl Columns<'_> {
    fn cast(&self, name: &str, to: &DataType) -> Result<ArrayRef, DeltaTableError> {
        let column =
            self.0.column_by_name(name).ok_or_else(|| DeltaTableError::generic(format!("no column {name}")))?;
        Ok(cast(column, to)?)
    }

    pub(super) fn longs(&self, name: &str) -> Result<Int64Array, DeltaTableError> {
        Ok(self.cast(name, &DataType::Int64)?.as_primitive::<Int64Type>().clone())
    }

    pub(super) fn integers(&self, name: &str) -> Result<Int32Array, DeltaTableError> {
        Ok(self.cast(name, &DataType::Int32)?.as_primitive::<Int32Type>().clone())
    }

    pub(super) fn texts(&self, name: &str) -> Result<StringArray, DeltaTableError> {
        Ok(self.cast(name, &DataType::Utf8)?.as_string::<i32>().clone())
    }

    pub(super) fn binaries(&self, name: &str) -> Result<BinaryArray, DeltaTableError> {
        Ok(self.cast(name, &DataType::Binary)?.as_binary::<i32>().clone())
    }
}

/// Returns the value at an index; `None` for a null.
pub(super) fn long(column: &Int64Array, at: usize) -> Option<i64> {
    column.is_valid(at).then(|| column.value(at))
}

/// Returns the value at an index; `None` for a null.
pub(super) fn integer(column: &Int32Array, at: usize) -> Option<i32> {
    column.is_valid(at).then(|| column.value(at))
}

/// Returns the value at an index; `None` for a null.
pub(super) fn text(column: &StringArray, at: usize) -> Option<&str> {
    column.is_valid(at).then(|| column.value(at))
}

/// Returns the value at an index; `None` for a null.
pub(super) fn binary(column: &BinaryArray, at: usize) -> Option<&[u8]> {
    column.is_valid(at).then(|| column.value(at))
}
