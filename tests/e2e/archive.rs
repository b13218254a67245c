//! The archive as seen by a foreign program: a Delta table read with SQL, without code of the collector.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use deltalake::arrow::array::{Array as _, BinaryArray, Int32Array, Int64Array, RecordBatch, StringArray};
use deltalake::arrow::compute::cast;
use deltalake::arrow::datatypes::DataType;
use deltalake::datafusion::prelude::SessionContext;
use edr_tests::wait;

/// A row of `frames`.
#[derive(Debug)]
pub(crate) struct ArchivedRecord {
    /// Kafka partition.
    pub(crate) partition: i32,
    /// Kafka offset.
    pub(crate) offset: i64,
    /// The fault of a record without a frame.
    pub(crate) fault: Option<String>,
    /// The record, verbatim.
    pub(crate) record: Vec<u8>,
}

/// Waits until the archive in `dir` has at least `count` rows, and returns all rows by partition and offset.
pub(crate) fn holds(dir: &Path, count: usize, limit: Duration) -> Result<Vec<ArchivedRecord>> {
    wait::until_ok(&format!("{count} rows in the archive"), limit, || {
        let found = rows(dir)?;
        ensure!(found.len() >= count, "{} rows", found.len());
        Ok(found)
    })
}

fn rows(dir: &Path) -> Result<Vec<ArchivedRecord>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start tokio")?;
    runtime.block_on(async {
        let url = deltalake::ensure_table_uri(dir.join("frames").to_string_lossy())?;
        let table = deltalake::open_table(url).await?;
        let context = SessionContext::new();
        context.register_table("frames", table.table_provider().await?)?;
        let query = "SELECT partition, \"offset\", fault, record FROM frames ORDER BY partition, \"offset\"";
        let batches = context.sql(query).await?.collect().await?;
        let mut found = Vec::new();
        for batch in &batches {
            read(batch, &mut found)?;
        }
        Ok(found)
    })
}

fn read(batch: &RecordBatch, found: &mut Vec<ArchivedRecord>) -> Result<()> {
    let column = |at: usize, kind: &DataType| cast(batch.column(at), kind);
    let (partition, offset) = (column(0, &DataType::Int32)?, column(1, &DataType::Int64)?);
    let (fault, record) = (column(2, &DataType::Utf8)?, column(3, &DataType::Binary)?);
    let partition = partition.as_any().downcast_ref::<Int32Array>().context("partition")?;
    let offset = offset.as_any().downcast_ref::<Int64Array>().context("offset")?;
    let fault = fault.as_any().downcast_ref::<StringArray>().context("fault")?;
    let record = record.as_any().downcast_ref::<BinaryArray>().context("record")?;
    for row in 0..batch.num_rows() {
        found.push(ArchivedRecord {
            partition: partition.value(row),
            offset: offset.value(row),
            fault: fault.is_valid(row).then(|| fault.value(row).to_owned()),
            record: record.value(row).to_vec(),
        });
    }
    Ok(())
}
