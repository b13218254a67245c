//! The columns `lost` and `missed` of `frames`: lists of structs, as DuckDB, Polars and Spark read them.
//!
//! Delta has no unsigned numbers: a number of a host above 2^63 - 1 becomes 2^63 - 1.

use std::sync::Arc;

use deltalake::DeltaTableError;
use deltalake::arrow::array::{
    Array, ArrayRef, AsArray as _, Int64Builder, ListArray, ListBuilder, StringBuilder, StructBuilder,
};
use deltalake::arrow::compute::cast;
use deltalake::arrow::datatypes::{DataType, Field, FieldRef, Fields, Int64Type};
use deltalake::arrow::record_batch::RecordBatch;
use deltalake::kernel::{ArrayType, DataType as DeltaType, PrimitiveType, StructField, StructType};
use edr_model::accounting::Declarations;
use edr_wire::frame::{FrameHeader, LostRange, MissedTicks, PreviousEpoch};

use super::record::ReceivedRecord;
use crate::delta::ArchiveColumn;
use crate::delta::values::{Columns, long, text};

/// Name of the elements of lists in Delta.
const ELEMENT: &str = "element";
/// Fields of an element of `lost`: texts, then numbers.
const LOST: ([&str; 2], [&str; 2]) = (["epoch", "reason"], ["first_seq", "last_seq"]);
/// Fields of an element of `missed`.
const MISSED: ([&str; 1], [&str; 3]) = (["reason"], ["from_boottime_ns", "to_boottime_ns", "ticks"]);

/// Returns the columns with the declarations of a frame, for `frames`; null for a record that is no frame.
pub(super) fn columns() -> Vec<ArchiveColumn<ReceivedRecord>> {
    fn declared(row: &ReceivedRecord) -> Option<&FrameHeader> {
        row.content.as_ref().ok().map(|record| &record.header)
    }
    vec![
        ArchiveColumn::text("boot_id", |row| Some(declared(row)?.boot_id.clone())),
        ArchiveColumn::long("previous_last_seq", |row| Some(signed(declared(row)?.previous_epoch?.last_seq))),
        ArchiveColumn::new("lost", list_type(&LOST.0, &LOST.1), |rows, _| {
            lists(rows, &LOST.0, &LOST.1, |row| {
                let entries = declared(row)?.lost.iter();
                let entry =
                    |lost: &LostRange| ([lost.epoch.to_string(), lost.reason.clone()], [lost.first_seq, lost.last_seq]);
                Some(entries.map(entry))
            })
        }),
        ArchiveColumn::new("missed", list_type(&MISSED.0, &MISSED.1), |rows, _| {
            lists(rows, &MISSED.0, &MISSED.1, |row| {
                let entries = declared(row)?.missed.iter();
                let entry = |missed: &MissedTicks| {
                    ([missed.reason.clone()], [missed.from_boottime_ns, missed.to_boottime_ns, missed.ticks])
                };
                Some(entries.map(entry))
            })
        }),
    ]
}

/// Returns the type of a list of structs with these fields. The names differ, as the type requires.
fn list_type(texts: &[&str], numbers: &[&str]) -> DeltaType {
    let field = |name: &&str, of| StructField::new(*name, DeltaType::Primitive(of), true);
    let texts = texts.iter().map(|name| field(name, PrimitiveType::String));
    let fields = texts.chain(numbers.iter().map(|name| field(name, PrimitiveType::Long)));
    ArrayType::new(StructType::new_unchecked(fields), true).into()
}

/// Returns a number in the signed form of Delta.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Reads the declarations of each row; rows that are no frames have none.
pub(crate) fn declarations_of(batch: &RecordBatch) -> Result<Vec<Declarations>, DeltaTableError> {
    let columns = Columns(batch);
    let (boots, epochs) = (columns.texts("boot_id")?, columns.texts("previous_epoch")?);
    let seqs = columns.longs("previous_last_seq")?;
    let lost = List::of(batch, "lost", &LOST.0, &LOST.1)?;
    let missed = List::of(batch, "missed", &MISSED.0, &MISSED.1)?;
    let unsigned = |number: i64| u64::try_from(number).unwrap_or(0);
    let declarations = |at: usize| Declarations {
        boot_id: text(&boots, at).unwrap_or_default().to_owned(),
        previous_epoch: previous(text(&epochs, at), long(&seqs, at)),
        lost: lost.entries(at, |[epoch, reason], [first_seq, last_seq]| {
            let (first_seq, last_seq) = (unsigned(first_seq), unsigned(last_seq));
            Some(LostRange { epoch: epoch.parse().ok()?, first_seq, last_seq, reason: reason.to_owned() })
        }),
        missed: missed.entries(at, |[reason], [from, to, ticks]| {
            let (from_boottime_ns, to_boottime_ns) = (unsigned(from), unsigned(to));
            Some(MissedTicks { from_boottime_ns, to_boottime_ns, ticks: unsigned(ticks), reason: reason.to_owned() })
        }),
    };
    Ok((0..batch.num_rows()).map(declarations).collect())
}

fn previous(epoch: Option<&str>, last_seq: Option<i64>) -> Option<PreviousEpoch> {
    Some(PreviousEpoch { id: epoch?.parse().ok()?, last_seq: last_seq?.try_into().ok()? })
}

fn fields(texts: &[&str], numbers: &[&str]) -> Fields {
    let texts = texts.iter().map(|name| Field::new(*name, DataType::Utf8, true));
    texts.chain(numbers.iter().map(|name| Field::new(*name, DataType::Int64, true))).collect()
}

fn element(fields: Fields) -> FieldRef {
    Arc::new(Field::new(ELEMENT, DataType::Struct(fields), true))
}

/// Builds a column of lists of structs with these fields; `entries` returns the list of a row.
fn lists<'a, T, const TEXTS: usize, const NUMBERS: usize, E>(
    rows: &'a [T],
    texts: &[&str; TEXTS],
    numbers: &[&str; NUMBERS],
    entries: impl Fn(&'a T) -> Option<E>,
) -> ArrayRef
where
    E: Iterator<Item = ([String; TEXTS], [u64; NUMBERS])>,
{
    let fields = fields(texts, numbers);
    let mut lists = ListBuilder::new(StructBuilder::from_fields(fields.clone(), 0)).with_field(element(fields));
    for row in rows {
        let Some(entries) = entries(row) else {
            lists.append_null();
            continue;
        };
        for (texts, numbers) in entries {
            let entry = lists.values();
            for (at, text) in texts.into_iter().enumerate() {
                if let Some(column) = entry.field_builder::<StringBuilder>(at) {
                    column.append_value(text);
                }
            }
            for (at, number) in numbers.into_iter().enumerate() {
                if let Some(column) = entry.field_builder::<Int64Builder>(TEXTS + at) {
                    column.append_value(signed(number));
                }
            }
            entry.append(true);
        }
        lists.append(true);
    }
    Arc::new(lists.finish())
}

/// A column of lists of structs.
struct List<const TEXTS: usize, const NUMBERS: usize>(ListArray);

impl<const TEXTS: usize, const NUMBERS: usize> List<TEXTS, NUMBERS> {
    fn of(
        batch: &RecordBatch,
        name: &str,
        texts: &[&str; TEXTS],
        numbers: &[&str; NUMBERS],
    ) -> Result<Self, DeltaTableError> {
        let column = batch.column_by_name(name).ok_or_else(|| DeltaTableError::generic(format!("no column {name}")))?;
        let lists = cast(column, &DataType::List(element(fields(texts, numbers))))?;
        Ok(Self(lists.as_list::<i32>().clone()))
    }

    /// Returns the elements of a row's list. Elements with a null are skipped.
    fn entries<R>(&self, at: usize, make: impl Fn([&str; TEXTS], [i64; NUMBERS]) -> Option<R>) -> Vec<R> {
        if self.0.is_null(at) {
            return Vec::new();
        }
        let elements = self.0.value(at);
        let elements = elements.as_struct();
        let entry = |at: usize| {
            let mut texts = [""; TEXTS];
            for (text, column) in texts.iter_mut().zip(elements.columns()) {
                *text = column.as_string::<i32>().is_valid(at).then(|| column.as_string::<i32>().value(at))?;
            }
            let mut numbers = [0; NUMBERS];
            for (number, column) in numbers.iter_mut().zip(elements.columns().iter().skip(TEXTS)) {
                *number = long(column.as_primitive::<Int64Type>(), at)?;
            }
            make(texts, numbers)
        };
        (0..elements.len()).filter_map(entry).collect()
    }
}
