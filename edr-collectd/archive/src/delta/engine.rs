//! The query engine, with a memory budget.

use std::sync::Arc;

use deltalake::arrow::record_batch::RecordBatch;
use deltalake::datafusion::error::DataFusionError;
use deltalake::datafusion::execution::SendableRecordBatchStream;
use deltalake::datafusion::execution::context::SessionContext;
use deltalake::datafusion::execution::memory_pool::{GreedyMemoryPool, MemoryPool};
use deltalake::datafusion::execution::runtime_env::RuntimeEnvBuilder;
use deltalake::datafusion::logical_expr::Expr;
use deltalake::datafusion::prelude::SessionConfig;
use deltalake::delta_datafusion::TableProviderBuilder;
use deltalake::{DeltaTable, DeltaTableError};
use futures::TryStreamExt as _;

/// Memory, in bytes, for all queries of a reader together; the returned batches are not counted.
const QUERY_BYTES_MAX: usize = 256 << 20;
/// Rows per batch: DataFusion's own default.
const BATCH_ROWS: usize = 8_192;

/// A query engine. All queries share a single memory budget.
#[derive(Debug, Clone)]
pub(crate) struct Engine {
    memory: Arc<dyn MemoryPool>,
    /// Rows per batch.
    batch_rows: usize,
}

impl Engine {
    pub(crate) fn new() -> Self {
        Self { memory: Arc::new(GreedyMemoryPool::new(QUERY_BYTES_MAX)), batch_rows: BATCH_ROWS }
    }

    /// Returns the same engine with fewer rows per batch, for tables with large rows.
    pub(crate) fn by(&self, batch_rows: usize) -> Self {
        Self { memory: Arc::clone(&self.memory), batch_rows }
    }

    fn session(&self) -> Result<SessionContext, DataFusionError> {
        let config = SessionConfig::new()
            .with_target_partitions(2)
            .with_batch_size(self.batch_rows)
            .set_bool("datafusion.execution.parquet.pushdown_filters", true)
            .set_bool("datafusion.execution.parquet.reorder_filters", true);
        let runtime = RuntimeEnvBuilder::new().with_memory_pool(Arc::clone(&self.memory)).build_arc()?;
        Ok(SessionContext::new_with_config_rt(config, runtime))
    }

    /// Returns the matching rows of a table, with these columns.
    pub(crate) async fn scan(
        &self,
        table: &DeltaTable,
        filter: Option<Expr>,
        columns: &[&str],
    ) -> Result<RecordBatches, DeltaTableError> {
        self.run(table, table.table_provider(), filter, columns).await
    }

    /// Returns the matching rows of these files of a table, with these columns.
    pub(crate) async fn scan_files(
        &self,
        table: &DeltaTable,
        files: &[String],
        filter: Option<Expr>,
        columns: &[&str],
    ) -> Result<RecordBatches, DeltaTableError> {
        self.run(table, table.table_provider().with_file_paths(files), filter, columns).await
    }

    async fn run(
        &self,
        table: &DeltaTable,
        provider: TableProviderBuilder,
        filter: Option<Expr>,
        columns: &[&str],
    ) -> Result<RecordBatches, DeltaTableError> {
        let generic = |error: DataFusionError| DeltaTableError::generic(error.to_string());
        let session = self.session().map_err(generic)?;
        let provider = provider.await.map_err(generic)?;
        table.update_datafusion_session(&session.state())?;
        let mut frame = session.read_table(provider).map_err(generic)?;
        if let Some(filter) = filter {
            frame = frame.filter(filter).map_err(generic)?;
        }
        let frame = frame.select_columns(columns).map_err(generic)?;
        Ok(RecordBatches(frame.execute_stream().await.map_err(generic)?))
    }
}

/// Batches of a result, one at a time.
pub(crate) struct RecordBatches(SendableRecordBatchStream);

impl RecordBatches {
    pub(crate) async fn next(&mut self) -> Result<Option<RecordBatch>, DeltaTableError> {
        self.0.try_next().await.map_err(|error| DeltaTableError::generic(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use deltalake::datafusion::execution::memory_pool::MemoryConsumer;

    use super::*;

    #[test]
    fn searches_at_a_time_share_one_budget() {
        let engine = Engine::new();
        let reserve = |engine: &Engine| {
            let memory = Arc::clone(&engine.session().unwrap().runtime_env().memory_pool);
            MemoryConsumer::new("a search").register(&memory)
        };
        let first = reserve(&engine);
        first.try_grow(QUERY_BYTES_MAX - 1).unwrap();
        let second = reserve(&engine.by(8));
        assert!(second.try_grow(2).is_err());
        drop(first);
        second.try_grow(2).unwrap();
    }
}
