//! Connects the page, the crate `edr-web`, to the answers of the collector.

use std::sync::Arc;

use edr_model::{HostRow, HostSnapshot, OmittedFrames, QueryError};
use edr_web::Answers;
use edr_wire::HostId;
use futures::future::BoxFuture;
use tokio::sync::broadcast;

use crate::query::HostAnswers;

impl Answers for HostAnswers {
    fn hosts(&self) -> Vec<HostRow> {
        self.hosts()
    }

    fn host_id(&self, host: &str) -> Result<HostId, QueryError> {
        self.host_id(host)
    }

    fn host(&self, host_id: HostId) -> Option<HostRow> {
        self.host(host_id)
    }

    fn snapshot<'a>(
        &'a self,
        host: &'a str,
        at_ns: Option<i64>,
    ) -> BoxFuture<'a, Result<Arc<HostSnapshot>, QueryError>> {
        Box::pin(self.snapshot(host, at_ns))
    }

    fn trouble(&self) -> Option<String> {
        self.trouble()
    }

    fn omitted(&self) -> OmittedFrames {
        self.omitted()
    }

    fn changes(&self) -> broadcast::Receiver<HostId> {
        self.changes()
    }
}
