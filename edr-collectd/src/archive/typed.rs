//! The Arrow form of the catalogue's tables, and so the Delta form: a column of Arrow for each column of a table.

use std::sync::Arc;

use deltalake::arrow::array::{
    ArrayRef, BooleanBuilder, Float64Builder, Int64Builder, ListBuilder, StringBuilder, TimestampMicrosecondBuilder,
};
use deltalake::arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use deltalake::arrow::error::ArrowError;
use deltalake::arrow::record_batch::RecordBatch;
use edr_model::{Cell, Column, Kind};
use edr_wire::escaped;

/// Zone of times.
const UTC: &str = "UTC";
/// Name of the elements of lists in Delta.
const ELEMENT: &str = "element";

/// The rows of a table in Arrow.
#[derive(Debug)]
pub struct TypedRows {
    /// The rows.
    pub batch: RecordBatch,
    /// Values that the column's type cannot hold, stored as null: numbers of 64 bits without a sign, beyond 2^63.
    pub left_out: usize,
}

/// Returns the Arrow schema of these columns. Every column is nullable.
pub fn schema(columns: &[Column]) -> Schema {
    Schema::new(columns.iter().map(|column| Field::new(column.name, data_type(column.kind), true)).collect::<Vec<_>>())
}

/// Converts rows with a cell for each column.
///
/// Bytes of a host become the reversible text of [`edr_wire::escaped`], as in JSON. Times have microseconds, the
/// precision of Delta.
///
/// # Errors
/// When Arrow refuses the columns.
pub fn typed_rows(columns: &[Column], rows: &[Vec<Cell>]) -> Result<TypedRows, ArrowError> {
    let mut left_out = 0;
    let arrays = columns.iter().enumerate().map(|(at, column)| {
        let cells = rows.iter().map(|row| row.get(at).unwrap_or(&Cell::Empty));
        array(column.kind, cells, &mut left_out)
    });
    let arrays: Vec<ArrayRef> = arrays.collect();
    Ok(TypedRows { batch: RecordBatch::try_new(Arc::new(schema(columns)), arrays)?, left_out })
}

fn data_type(kind: Kind) -> DataType {
    let list = |of| DataType::List(Arc::new(Field::new(ELEMENT, of, true)));
    match kind {
        Kind::Text | Kind::Bytes | Kind::NumberOrWord => DataType::Utf8,
        Kind::List => list(DataType::Utf8),
        Kind::Number | Kind::DangerLevel | Kind::Size => DataType::Int64,
        Kind::Numbers => list(DataType::Int64),
        Kind::Percent | Kind::Duration => DataType::Float64,
        Kind::Time => DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into())),
        Kind::Flag => DataType::Boolean,
    }
}

fn array<'a>(kind: Kind, cells: impl Iterator<Item = &'a Cell>, left_out: &mut usize) -> ArrayRef {
    match kind {
        Kind::Text | Kind::Bytes | Kind::NumberOrWord => {
            let mut texts = StringBuilder::new();
            cells.for_each(|cell| texts.append_option(text(cell)));
            Arc::new(texts.finish())
        }
        Kind::List => {
            let element = Field::new(ELEMENT, DataType::Utf8, true);
            let mut lists = ListBuilder::new(StringBuilder::new()).with_field(element);
            cells.for_each(|cell| match cell {
                Cell::List(list) => lists.append_value(list.iter().map(|bytes| Some(escaped(&bytes.0)))),
                _ => lists.append_null(),
            });
            Arc::new(lists.finish())
        }
        Kind::Number | Kind::DangerLevel | Kind::Size => {
            let mut numbers = Int64Builder::new();
            cells.for_each(|cell| numbers.append_option(whole(cell, left_out)));
            Arc::new(numbers.finish())
        }
        Kind::Numbers => {
            let element = Field::new(ELEMENT, DataType::Int64, true);
            let mut lists = ListBuilder::new(Int64Builder::new()).with_field(element);
            cells.for_each(|cell| match cell {
                Cell::Numbers(list) => lists.append_value(list.iter().map(|&number| signed(number, left_out))),
                _ => lists.append_null(),
            });
            Arc::new(lists.finish())
        }
        Kind::Percent | Kind::Duration => {
            let mut numbers = Float64Builder::new();
            cells.for_each(|cell| numbers.append_option(cell.json().as_f64()));
            Arc::new(numbers.finish())
        }
        Kind::Time => {
            let mut times = TimestampMicrosecondBuilder::new().with_timezone(UTC);
            cells.for_each(|cell| match cell {
                Cell::Time(ns) => times.append_value(ns.div_euclid(1_000)),
                _ => times.append_null(),
            });
            Arc::new(times.finish())
        }
        Kind::Flag => {
            let mut flags = BooleanBuilder::new();
            cells.for_each(|cell| flags.append_option(cell.json().as_bool()));
            Arc::new(flags.finish())
        }
    }
}

/// Returns the text of JSON, with numbers in place of words.
fn text(cell: &Cell) -> Option<String> {
    match cell {
        Cell::Text(text) => Some(text.clone()),
        Cell::Bytes(bytes) => Some(escaped(&bytes.0)),
        Cell::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn whole(cell: &Cell, left_out: &mut usize) -> Option<i64> {
    match cell {
        Cell::Number(number) => signed(*number, left_out),
        Cell::Size(bytes) => signed(*bytes, left_out),
        _ => None,
    }
}

fn signed(number: impl TryInto<i64>, left_out: &mut usize) -> Option<i64> {
    let signed = number.try_into().ok();
    *left_out += usize::from(signed.is_none());
    signed
}

#[cfg(test)]
mod tests {
    use edr_model::Select;
    use edr_model::tables::TABLES;
    use edr_model::testing::{host_snapshot, sample};

    use super::*;

    #[test]
    fn every_table_of_the_catalogue_has_an_arrow_form() {
        let snapshot = host_snapshot(&sample());
        for table in &TABLES {
            let all = table.select(&snapshot, &Select::default()).unwrap();
            let typed = typed_rows(&all.columns, &all.rows).unwrap();
            assert_eq!((typed.batch.num_rows(), typed.left_out), (all.rows.len(), 0), "{table:?}");
            assert_eq!(*typed.batch.schema(), schema(&all.columns), "{table:?}");
            // A value that is not null in Arrow is the value of the cell.
            for (at, column) in all.columns.iter().enumerate() {
                let nulls = all.rows.iter().filter(|row| row[at] == Cell::Empty).count();
                assert_eq!(typed.batch.column(at).null_count(), nulls, "{column:?} of {table:?}");
            }
        }
    }

    #[test]
    fn a_number_beyond_the_type_is_null_and_counted() {
        let columns = [Column::new(Kind::Number, "a", "A"), Column::new(Kind::Size, "b", "B")];
        let rows = [vec![Cell::number(u64::MAX), Cell::Size(1)], vec![Cell::number(-1), Cell::Size(u64::MAX)]];
        let typed = typed_rows(&columns, &rows).unwrap();
        assert_eq!(typed.left_out, 2);
        assert_eq!(typed.batch.columns().iter().map(|column| column.null_count()).sum::<usize>(), 2);
    }
}
