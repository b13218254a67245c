//! Columns of a table, each with the function that gets the column's value from a row.

use std::sync::Arc;

use deltalake::DeltaTableError;
use deltalake::arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Int32Array, Int64Array, StringArray, new_null_array,
};
use deltalake::arrow::datatypes::Schema;
use deltalake::arrow::record_batch::RecordBatch;
use deltalake::kernel::{DataType, PrimitiveType, StructField};

/// Converts rows to an array, and counts values that the column's type cannot hold.
type ToArray<R> = Box<dyn Fn(&[R], &mut usize) -> ArrayRef + Send + Sync>;

/// A column of a table with rows of type `R`.
pub struct ArchiveColumn<R> {
    pub(super) field: StructField,
    /// True when the table's log keeps minimum and maximum of each file, so that a search can skip files.
    pub(super) has_statistics: bool,
    /// True when a dictionary of the values would only cost.
    pub(super) is_incompressible: bool,
    /// True when rows without a value would be lost to readers.
    pub(super) is_essential: bool,
    to_array: ToArray<R>,
}

impl<R> std::fmt::Debug for ArchiveColumn<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.field.fmt(f)
    }
}

impl<R> ArchiveColumn<R> {
    /// Makes a column of any type; null is allowed. `to_array` also counts the values left out as null.
    pub(crate) fn new(
        name: &str,
        of: impl Into<DataType>,
        to_array: impl Fn(&[R], &mut usize) -> ArrayRef + Send + Sync + 'static,
    ) -> Self {
        let field = StructField::new(name, of, true);
        Self {
            field,
            has_statistics: false,
            is_incompressible: false,
            is_essential: false,
            to_array: Box::new(to_array),
        }
    }

    fn primitive(name: &str, of: PrimitiveType, to_array: impl Fn(&[R]) -> ArrayRef + Send + Sync + 'static) -> Self {
        Self::new(name, DataType::Primitive(of), move |rows, _| to_array(rows))
    }

    /// Makes a column of days since 1970-01-01.
    pub fn date(name: &str, value: impl Fn(&R) -> Option<i32> + Send + Sync + 'static) -> Self {
        let array = move |rows: &[R]| Arc::new(rows.iter().map(&value).collect::<Date32Array>()) as ArrayRef;
        Self::primitive(name, PrimitiveType::Date, array)
    }

    /// Makes a column of numbers of 64 bits.
    pub fn long(name: &str, value: impl Fn(&R) -> Option<i64> + Send + Sync + 'static) -> Self {
        let array = move |rows: &[R]| Arc::new(rows.iter().map(&value).collect::<Int64Array>()) as ArrayRef;
        Self::primitive(name, PrimitiveType::Long, array)
    }

    /// Makes a column of numbers of 32 bits.
    pub fn integer(name: &str, value: impl Fn(&R) -> Option<i32> + Send + Sync + 'static) -> Self {
        let array = move |rows: &[R]| Arc::new(rows.iter().map(&value).collect::<Int32Array>()) as ArrayRef;
        Self::primitive(name, PrimitiveType::Integer, array)
    }

    /// Makes a column of yes and no.
    pub fn flag(name: &str, value: impl Fn(&R) -> Option<bool> + Send + Sync + 'static) -> Self {
        let array = move |rows: &[R]| Arc::new(rows.iter().map(&value).collect::<BooleanArray>()) as ArrayRef;
        Self::primitive(name, PrimitiveType::Boolean, array)
    }

    /// Makes a column of text.
    pub fn text(name: &str, value: impl Fn(&R) -> Option<String> + Send + Sync + 'static) -> Self {
        let array = move |rows: &[R]| Arc::new(rows.iter().map(&value).collect::<StringArray>()) as ArrayRef;
        Self::primitive(name, PrimitiveType::String, array)
    }

    /// Makes a column of bytes.
    pub fn bytes(name: &str, value: impl Fn(&R) -> Option<&[u8]> + Send + Sync + 'static) -> Self {
        let array = move |rows: &[R]| Arc::new(rows.iter().map(&value).collect::<BinaryArray>()) as ArrayRef;
        Self::primitive(name, PrimitiveType::Binary, array)
    }

    /// Forbids null.
    #[must_use]
    pub fn required(mut self) -> Self {
        self.field.nullable = false;
        self
    }

    /// Keeps minimum and maximum of each file in the table's log, so that a search can skip files.
    #[must_use]
    pub fn statistics(mut self) -> Self {
        self.has_statistics = true;
        self
    }

    /// Writes the values without a dictionary: hashes, and bytes that are compressed already.
    #[must_use]
    pub fn incompressible(mut self) -> Self {
        self.is_incompressible = true;
        self
    }

    /// Refuses a table of an older version without the column: readers would not find the older rows.
    #[must_use]
    pub fn essential(mut self) -> Self {
        self.is_essential = true;
        self
    }

    pub(super) fn is_bytes(&self) -> bool {
        self.field.data_type == DataType::Primitive(PrimitiveType::Binary)
    }

    /// Returns the column's name.
    pub fn name(&self) -> &str {
        &self.field.name
    }
}

/// Converts rows to a batch of this schema, and returns the number of values that the types cannot hold.
pub(super) fn batch<R>(
    columns: &[ArchiveColumn<R>],
    rows: &[R],
    schema: Arc<Schema>,
) -> Result<(RecordBatch, usize), DeltaTableError> {
    let mut left_out = 0;
    let arrays = schema.fields().iter().map(|field| {
        let column = columns.iter().find(|column| column.name() == field.name());
        // A column added to the table by a later version of the program is null.
        column.map_or_else(
            || new_null_array(field.data_type(), rows.len()),
            |column| (column.to_array)(rows, &mut left_out),
        )
    });
    let arrays = arrays.collect();
    Ok((RecordBatch::try_new(schema, arrays)?, left_out))
}
