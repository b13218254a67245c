//! The query engine, with a memory budget. A data file that cannot be read is left out of a result and noted
//! ([`Damage`]); all other files are read.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;

use deltalake::arrow::record_batch::RecordBatch;
use deltalake::datafusion::datasource::physical_plan::{FileGroup, FileScanConfig};
use deltalake::datafusion::datasource::source::DataSourceExec;
use deltalake::datafusion::error::DataFusionError;
use deltalake::datafusion::execution::SendableRecordBatchStream;
use deltalake::datafusion::execution::context::SessionContext;
use deltalake::datafusion::execution::memory_pool::{GreedyMemoryPool, MemoryPool};
use deltalake::datafusion::execution::object_store::ObjectStoreUrl;
use deltalake::datafusion::execution::runtime_env::RuntimeEnvBuilder;
use deltalake::datafusion::logical_expr::Expr;
use deltalake::datafusion::physical_plan::{ExecutionPlan, execute_stream};
use deltalake::datafusion::prelude::SessionConfig;
use deltalake::delta_datafusion::FileSelection;
use deltalake::kernel::{LogicalFileView, Snapshot};
use deltalake::{DeltaTable, DeltaTableError};
use futures::{FutureExt as _, TryStreamExt as _};

use super::contained::is_plain;
use super::damage::{Damage, ScannedFile, examine};

/// Memory, in bytes, for all queries of a reader together; the returned batches are not counted.
const QUERY_BYTES_MAX: usize = 256 << 20;
/// Rows per batch: DataFusion's own default.
const BATCH_ROWS: usize = 8_192;
/// Plans of one scan: with all files, without files outside of the table's folder, and without files found damaged.
const PLANS_MAX: usize = 64;
/// Why a path in a table's log is refused.
const REFUSED: &str = "its path in the table's log is none of a file in the table's folder and is not opened";

/// Why a file is damaged at which the Parquet reader panics.
pub(super) const PANIC: &str = "the content makes the Parquet reader fail";

/// A query engine. All queries share a single memory budget.
#[derive(Debug, Clone)]
pub(crate) struct Engine {
    memory: Arc<dyn MemoryPool>,
    damage: Arc<Damage>,
    /// Rows per batch.
    batch_rows: usize,
}

impl Engine {
    /// Makes an engine that notes damaged files in `damage`.
    pub(crate) fn new(damage: Arc<Damage>) -> Self {
        Self { memory: Arc::new(GreedyMemoryPool::new(QUERY_BYTES_MAX)), damage, batch_rows: BATCH_ROWS }
    }

    /// Returns the same engine with fewer rows per batch, for tables with large rows.
    pub(crate) fn by(&self, batch_rows: usize) -> Self {
        Self { batch_rows, ..self.clone() }
    }

    /// Returns the damaged files found so far.
    pub(crate) fn damage(&self) -> &Arc<Damage> {
        &self.damage
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

    /// Returns the matching rows of a table, with these columns. The rows of damaged files are left out. When a file is
    /// found damaged after the first rows were returned, the result begins again: rows may come twice.
    pub(crate) async fn scan(
        &self,
        table: &DeltaTable,
        filter: Option<Expr>,
        columns: &[&str],
    ) -> Result<RecordBatches, DeltaTableError> {
        self.start(table, None, filter, columns).await
    }

    /// Returns the matching rows of these files of a table, with these columns; otherwise as [`scan`](Self::scan).
    pub(crate) async fn scan_files(
        &self,
        table: &DeltaTable,
        files: &[String],
        filter: Option<Expr>,
        columns: &[&str],
    ) -> Result<RecordBatches, DeltaTableError> {
        self.start(table, Some(files.to_vec()), filter, columns).await
    }

    async fn start(
        &self,
        table: &DeltaTable,
        selected: Option<Vec<String>>,
        filter: Option<Expr>,
        columns: &[&str],
    ) -> Result<RecordBatches, DeltaTableError> {
        let columns = columns.iter().map(|column| (*column).to_owned()).collect();
        let (engine, folder, table) = (self.clone(), folder_of(table)?, table.clone());
        let mut scan = Scan { engine, table, folder, filter, columns, selected, files: Vec::new(), plans: 0 };
        let stream = Some(scan.open().await?);
        Ok(RecordBatches { scan, stream })
    }
}

/// Batches of a result, one at a time.
pub(crate) struct RecordBatches {
    scan: Scan,
    stream: Option<SendableRecordBatchStream>,
}

impl RecordBatches {
    pub(crate) async fn next(&mut self) -> Result<Option<RecordBatch>, DeltaTableError> {
        loop {
            let Some(stream) = &mut self.stream else { return Ok(None) };
            // A damaged file can make the Parquet reader panic.
            let error = match AssertUnwindSafe(stream.try_next()).catch_unwind().await {
                Ok(Ok(batch)) => return Ok(batch),
                Ok(Err(error)) => error,
                Err(_) => DataFusionError::Execution(PANIC.to_owned()),
            };
            self.stream = None;
            let is_full = matches!(error.find_root(), DataFusionError::ResourcesExhausted(_));
            if is_full || !self.scan.leave_out_damaged().await? {
                return Err(generic(error));
            }
            self.stream = Some(self.scan.open().await?);
        }
    }
}

/// A query of a table, and the files of the current plan.
struct Scan {
    engine: Engine,
    table: DeltaTable,
    folder: PathBuf,
    filter: Option<Expr>,
    columns: Vec<String>,
    /// The files to read; all files of the table for `None`.
    selected: Option<Vec<String>>,
    /// The files of the current plan.
    files: Vec<ScannedFile>,
    plans: usize,
}

impl Scan {
    /// Plans the scan and begins it. Files that must not be opened, or are known as damaged, are left out.
    async fn open(&mut self) -> Result<SendableRecordBatchStream, DeltaTableError> {
        loop {
            self.plans += 1;
            let (session, plan) = match self.plan().await {
                Ok(planned) => planned,
                // A path in the log can be so wrong that no plan can be made.
                Err(error) if self.selected.is_none() => match self.plain_files().await? {
                    (_, false) => return Err(error),
                    (plain, true) => {
                        self.selected = Some(plain);
                        continue;
                    }
                },
                Err(error) => return Err(self.unplanned(error)),
            };
            self.files = scanned_files(&plan, &self.folder);
            let mut left_out = self.engine.damage.known(&self.folder, &self.files);
            let is_refused = |file: &&ScannedFile| !is_plain(&file.path);
            let refused: BTreeSet<String> =
                self.files.iter().filter(is_refused).map(|file| file.path.clone()).collect();
            if !refused.is_empty() {
                // Names the refused files.
                self.plain_files().await?;
                left_out.extend(refused);
            }
            if left_out.is_empty() {
                return execute_stream(plan, session.task_ctx()).map_err(generic);
            }
            if self.plans >= PLANS_MAX {
                return Err(DeltaTableError::generic("damaged files are found again and again"));
            }
            self.leave_out(&left_out);
        }
    }

    /// Names the paths in the table's log for which no plan can be made.
    fn unplanned(&self, error: DeltaTableError) -> DeltaTableError {
        let refused: Vec<String> = self
            .engine
            .damage
            .files()
            .iter()
            .filter(|file| file.reason == REFUSED)
            .map(|file| file.path.clone())
            .collect();
        match refused.is_empty() {
            true => error,
            false => DeltaTableError::generic(format!(
                "{error}; entries in _delta_log name no files of the table: remove the lines with {}",
                refused.join(", ")
            )),
        }
    }

    fn leave_out(&mut self, left_out: &BTreeSet<String>) {
        let rest = self.files.iter().map(|file| file.path.clone()).filter(|path| !left_out.contains(path));
        self.selected = Some(rest.collect());
    }

    async fn plan(&self) -> Result<(SessionContext, Arc<dyn ExecutionPlan>), DeltaTableError> {
        let session = self.engine.session().map_err(generic)?;
        // DataFusion's own store of this name would open every file of the machine.
        let local = ObjectStoreUrl::local_filesystem();
        session.runtime_env().register_object_store(local.as_ref(), self.table.log_store().root_object_store(None));
        let mut provider = self.table.table_provider();
        if let Some(files) = &self.selected {
            provider = provider.with_file_selection(FileSelection::from_file_paths(files));
        }
        let mut frame = session.read_table(provider.await.map_err(generic)?).map_err(generic)?;
        if let Some(filter) = &self.filter {
            frame = frame.filter(filter.clone()).map_err(generic)?;
        }
        let columns: Vec<&str> = self.columns.iter().map(String::as_str).collect();
        let frame = frame.select_columns(&columns).map_err(generic)?;
        Ok((session, frame.create_physical_plan().await.map_err(generic)?))
    }

    /// Finds the damaged files of the failed scan, notes them and leaves them out. Returns false when no file is
    /// damaged.
    async fn leave_out_damaged(&mut self) -> Result<bool, DeltaTableError> {
        let mut columns: BTreeSet<String> = self.columns.iter().cloned().collect();
        columns
            .extend(self.filter.iter().flat_map(|filter| filter.column_refs().into_iter().map(|it| it.name.clone())));
        let columns: Vec<String> = columns.into_iter().collect();
        let mut damaged = examine(&self.folder, &self.files, &columns).await;
        if damaged.is_empty() {
            damaged = self.bisect().await?;
        }
        if damaged.is_empty() {
            return Ok(false);
        }
        self.note(&damaged).await?;
        self.leave_out(&damaged.into_keys().collect());
        Ok(true)
    }

    /// Repeats the failed scan with ever fewer of its files, until only the file that makes the scan fail is left: a
    /// scan skips pages, and then fails by damage that reading the whole file does not meet.
    async fn bisect(&self) -> Result<BTreeMap<String, String>, DeltaTableError> {
        let mut damaged = BTreeMap::new();
        let mut groups = vec![self.files.clone()];
        while let Some(mut group) = groups.pop() {
            let selected = Some(group.iter().map(|file| file.path.clone()).collect());
            let (filter, columns) = (self.filter.clone(), self.columns.clone());
            let (engine, table, folder) = (self.engine.clone(), self.table.clone(), self.folder.clone());
            let probe = Self { engine, table, folder, filter, columns, selected, files: Vec::new(), plans: 0 };
            let Err(error) = probe.run().await? else { continue };
            if group.len() > 1 {
                groups.push(group.split_off(group.len() / 2));
                groups.push(group);
            } else if let Some(file) = group.pop() {
                damaged.insert(file.path, error);
            }
        }
        Ok(damaged)
    }

    /// Runs the scan to the end without its rows. Returns the failure of a file, if any.
    ///
    /// # Errors
    /// When the scan fails for another reason.
    async fn run(&self) -> Result<Result<(), String>, DeltaTableError> {
        let (session, plan) = self.plan().await?;
        let mut stream = execute_stream(plan, session.task_ctx()).map_err(generic)?;
        let all = async {
            while stream.try_next().await?.is_some() {}
            Ok::<_, DataFusionError>(())
        };
        match AssertUnwindSafe(all).catch_unwind().await {
            Ok(Ok(())) => Ok(Ok(())),
            Ok(Err(error)) if matches!(error.find_root(), DataFusionError::ResourcesExhausted(_)) => {
                Err(generic(error))
            }
            Ok(Err(error)) => Ok(Err(error.to_string())),
            Err(_) => Ok(Err(PANIC.to_owned())),
        }
    }

    /// Notes damaged files with the rows that the table's log has of them.
    async fn note(&self, damaged: &BTreeMap<String, String>) -> Result<(), DeltaTableError> {
        let note = |view: &LogicalFileView| {
            if let Some(reason) = damaged.get(view.path().as_ref()) {
                self.engine.damage.note(&self.folder, view, reason);
            }
        };
        each_file(&self.table, note).await
    }

    /// Returns the files of the table that may be opened, and notes all others; true when there are others.
    async fn plain_files(&self) -> Result<(Vec<String>, bool), DeltaTableError> {
        let (mut plain, mut has_others) = (Vec::new(), false);
        let judge = |view: &LogicalFileView| match view.path() {
            path if is_plain(&path) => plain.push(path.into_owned()),
            _ => {
                has_others = true;
                self.engine.damage.note(&self.folder, view, REFUSED);
            }
        };
        each_file(&self.table, judge).await?;
        Ok((plain, has_others))
    }
}

fn generic(error: DataFusionError) -> DeltaTableError {
    DeltaTableError::generic(error.to_string())
}

/// Returns a table's folder.
pub(crate) fn folder_of(table: &DeltaTable) -> Result<PathBuf, DeltaTableError> {
    let url = table.table_url();
    url.to_file_path().map_err(|()| DeltaTableError::generic(format!("{url} is no folder")))
}

/// Passes each file of the table's newest version to `take`, from the table's log alone.
pub(crate) async fn each_file(
    table: &DeltaTable,
    mut take: impl FnMut(&LogicalFileView),
) -> Result<(), DeltaTableError> {
    let store = table.log_store();
    let snapshot = Snapshot::try_new(&store, None).await?;
    let mut files = snapshot.file_views(&store, None);
    while let Some(file) = files.try_next().await? {
        take(&file);
    }
    Ok(())
}

/// Returns the data files that a plan reads, by their path in the table's folder.
fn scanned_files(plan: &Arc<dyn ExecutionPlan>, folder: &std::path::Path) -> Vec<ScannedFile> {
    let mut files = Vec::new();
    let source = plan.downcast_ref::<DataSourceExec>().and_then(|exec| exec.data_source().downcast_ref());
    if let Some(FileScanConfig { file_groups, object_store_url, .. }) = source {
        let is_local = object_store_url.as_str().starts_with("file:");
        for file in file_groups.iter().flat_map(FileGroup::iter) {
            let absolute = format!("/{}", file.object_meta.location);
            let inside = std::path::Path::new(&absolute).strip_prefix(folder).ok().and_then(|path| path.to_str());
            let path = inside.filter(|_| is_local).map_or(absolute.clone(), ToOwned::to_owned);
            files.push(ScannedFile { path, bytes: file.object_meta.size });
        }
    }
    files.extend(plan.children().into_iter().flat_map(|child| scanned_files(child, folder)));
    files
}

#[cfg(test)]
mod tests {
    use deltalake::datafusion::execution::memory_pool::MemoryConsumer;

    use super::*;

    #[test]
    fn searches_at_a_time_share_one_budget() {
        let engine = Engine::new(Arc::default());
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
