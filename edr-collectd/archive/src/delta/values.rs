//! Reads values from the columns of a batch.

use deltalake::DeltaTableError;
use deltalake::arrow::array::{Array as _, ArrayRef, AsArray as _, BinaryArray, Int32Array, Int64Array, StringArray};
use deltalake::arrow::compute::cast;
use deltalake::arrow::datatypes::{DataType, Int32Type, Int64Type};
use deltalake::arrow::record_batch::RecordBatch;

/// A batch with columns by name. Columns are cast to one type first: the query engine may return views or dictionaries
/// for columns of plain strings.
pub(crate) struct Columns<'a>(pub(crate) &'a RecordBatch);

impl Columns<'_> {
    fn cast(&self, name: &str, to: &DataType) -> Result<ArrayRef, DeltaTableError> {
        let column =
            self.0.column_by_name(name).ok_or_else(|| DeltaTableError::generic(format!("no column {name}")))?;
        Ok(cast(column, to)?)
    }

    pub(crate) fn longs(&self, name: &str) -> Result<Int64Array, DeltaTableError> {
        Ok(self.cast(name, &DataType::Int64)?.as_primitive::<Int64Type>().clone())
    }

    pub(crate) fn integers(&self, name: &str) -> Result<Int32Array, DeltaTableError> {
        Ok(self.cast(name, &DataType::Int32)?.as_primitive::<Int32Type>().clone())
    }

    pub(crate) fn texts(&self, name: &str) -> Result<StringArray, DeltaTableError> {
        Ok(self.cast(name, &DataType::Utf8)?.as_string::<i32>().clone())
    }

    pub(crate) fn binaries(&self, name: &str) -> Result<BinaryArray, DeltaTableError> {
        Ok(self.cast(name, &DataType::Binary)?.as_binary::<i32>().clone())
    }
}

/// Returns the value at an index; `None` for a null.
pub(crate) fn long(column: &Int64Array, at: usize) -> Option<i64> {
    column.is_valid(at).then(|| column.value(at))
}

/// Returns the value at an index; `None` for a null.
pub(crate) fn integer(column: &Int32Array, at: usize) -> Option<i32> {
    column.is_valid(at).then(|| column.value(at))
}

/// Returns the value at an index; `None` for a null.
pub(crate) fn text(column: &StringArray, at: usize) -> Option<&str> {
    column.is_valid(at).then(|| column.value(at))
}

/// Returns the value at an index; `None` for a null.
pub(crate) fn binary(column: &BinaryArray, at: usize) -> Option<&[u8]> {
    column.is_valid(at).then(|| column.value(at))
}
