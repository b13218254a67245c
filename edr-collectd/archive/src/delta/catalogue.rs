//! Columns of Delta tables for the tables of the catalogue.

use std::sync::Arc;

use deltalake::arrow::array::{
    ArrayRef, BooleanBuilder, Float64Builder, Int64Builder, ListBuilder, StringBuilder, TimestampMicrosecondBuilder,
};
use deltalake::arrow::datatypes::{DataType as ArrowType, Field};
use deltalake::kernel::{ArrayType, DataType};
use edr_model::{Cell, Kind};
use edr_wire::escaped;

use super::ArchiveColumn;

/// Zone of times.
const UTC: &str = "UTC";
/// Name of the elements of lists in Delta.
const ELEMENT: &str = "element";

/// Returns the columns for a table of the catalogue, in a Delta table with rows of type `R`. `cells` returns the cells
/// of a row, one for each column. Every column may be null.
///
/// Bytes of a host become the reversible text of [`edr_wire::escaped`], as in JSON. Times have microseconds, the
/// precision of Delta. Numbers beyond 2^63 become null and are counted.
pub fn columns<R: 'static>(columns: &[edr_model::Column], cells: fn(&R) -> &[Cell]) -> Vec<ArchiveColumn<R>> {
    let column = |(at, column): (usize, &edr_model::Column)| {
        let kind = column.kind;
        ArchiveColumn::new(column.name, data_type(kind), move |rows: &[R], left_out| {
            array(kind, rows.iter().map(|row| cells(row).get(at).unwrap_or(&Cell::Empty)), left_out)
        })
    };
    columns.iter().enumerate().map(column).collect()
}

fn data_type(kind: Kind) -> DataType {
    match kind {
        Kind::Text | Kind::Bytes | Kind::Address | Kind::NumberOrWord => DataType::STRING,
        Kind::List => ArrayType::new(DataType::STRING, true).into(),
        Kind::Number | Kind::DangerLevel | Kind::Size => DataType::LONG,
        Kind::Numbers => ArrayType::new(DataType::LONG, true).into(),
        Kind::Percent | Kind::Duration => DataType::DOUBLE,
        Kind::Time => DataType::TIMESTAMP,
        Kind::Flag => DataType::BOOLEAN,
    }
}

fn array<'a>(kind: Kind, cells: impl Iterator<Item = &'a Cell>, left_out: &mut usize) -> ArrayRef {
    match kind {
        Kind::Text | Kind::Bytes | Kind::Address | Kind::NumberOrWord => {
            let mut texts = StringBuilder::new();
            cells.for_each(|cell| texts.append_option(text(cell)));
            Arc::new(texts.finish())
        }
        Kind::List => {
            let element = Field::new(ELEMENT, ArrowType::Utf8, true);
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
            let element = Field::new(ELEMENT, ArrowType::Int64, true);
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
    use std::collections::BTreeMap;
    use std::time::Duration;

    use deltalake::arrow::array::Array as _;
    use edr_model::Select;
    use edr_model::tables::TABLES;
    use edr_model::testing::{host_snapshot, sample};

    use super::*;
    use crate::delta::engine::Engine;
    use crate::delta::{TableDeclaration, TableStorage};
    use crate::testing::partition;

    /// A row of a table of the catalogue, with the host.
    struct HostCells {
        host_id: &'static str,
        cells: Vec<Cell>,
    }

    fn declaration(of: &[edr_model::Column]) -> TableDeclaration<HostCells> {
        let storage = TableStorage {
            folder: "table",
            partition_column: "of_host",
            checkpoint_commits: 100,
            vacuum_interval: Duration::from_secs(3_600),
        };
        let mut all = vec![ArchiveColumn::text("of_host", |row: &HostCells| Some(row.host_id.to_owned())).required()];
        all.extend(columns(of, |row: &HostCells| &row.cells));
        TableDeclaration { storage, columns: all }
    }

    #[tokio::test]
    async fn every_table_of_the_catalogue_can_be_a_delta_table() {
        let snapshot = host_snapshot(&sample());
        for declared in &TABLES {
            let dir = tempfile::tempdir().unwrap();
            let all = declared.select(&snapshot, &Select::default()).unwrap();
            let rows: Vec<HostCells> =
                all.rows.iter().cloned().map(|cells| HostCells { host_id: "a", cells }).collect();
            let mut table = declaration(&all.columns).open(dir.path()).await.unwrap();
            table.position(&partition(0)).await.unwrap();
            let appended = table.append(&rows, &BTreeMap::from([(partition(0), 1)])).await.unwrap();
            assert_eq!(appended.left_out, 0, "{declared:?}");

            let names: Vec<&str> = all.columns.iter().map(|column| column.name).collect();
            let mut found = Engine::new(Arc::default()).scan(&table.newest_version(), None, &names).await.unwrap();
            let (mut count, mut nulls) = (0, vec![0; names.len()]);
            while let Some(batch) = found.next().await.unwrap() {
                count += batch.num_rows();
                for (column, nulls) in batch.columns().iter().zip(&mut nulls) {
                    *nulls += column.null_count();
                }
            }
            assert_eq!(count, rows.len(), "{declared:?}");
            // Each value that is not empty is in the table.
            for (at, column) in all.columns.iter().enumerate() {
                let empty = all.rows.iter().filter(|row| row[at] == Cell::Empty).count();
                assert_eq!(nulls[at], empty, "{column:?} of {declared:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_number_beyond_the_type_is_null_and_counted() {
        let dir = tempfile::tempdir().unwrap();
        let of = [edr_model::Column::new(Kind::Number, "a", "A"), edr_model::Column::new(Kind::Size, "b", "B")];
        let rows = [vec![Cell::number(u64::MAX), Cell::Size(1)], vec![Cell::number(-1), Cell::Size(u64::MAX)]];
        let rows = rows.map(|cells| HostCells { host_id: "a", cells });
        let mut table = declaration(&of).open(dir.path()).await.unwrap();
        assert_eq!(table.append(&rows, &BTreeMap::new()).await.unwrap().left_out, 2);
    }
}
