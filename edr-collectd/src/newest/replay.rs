//! Filling memory from the archive: the hosts as they were saved, then what came since.

use super::Newest;
use crate::archive::{ArchiveError, HostsTable, Reader};

/// How much of `frames` is read at once, by time of receipt: an hour of 1,000 hosts is 360,000 rows.
const WINDOW_NS: i64 = 3_600_000_000_000;
/// How much is read again of what a save covers: a record can be committed this long after its receipt, by another
/// collector than the one that saved. Reading a record twice changes nothing.
const MARGIN_NS: i64 = 600_000_000_000;

/// Brings memory to where the archive is, by the columns of the records alone. What is in memory stays, unless the
/// archive has something newer.
///
/// # Errors
/// When the archive cannot be read.
pub async fn catch_up(newest: &Newest, reader: &Reader, hosts: Option<&mut HostsTable>) -> Result<(), ArchiveError> {
    let saved = match hosts {
        Some(hosts) => hosts.load().await?,
        None => Default::default(),
    };
    newest.restore(saved.hosts);
    let Some((first, last)) = reader.received().await? else { return Ok(()) };
    let end = last.saturating_add(1);
    let mut from = saved.complete_until_ns.map_or(first, |until| until.saturating_sub(MARGIN_NS)).max(first);
    while from < end {
        let until = from.saturating_add(WINDOW_NS).min(end);
        let mut headers = Vec::new();
        reader.headers(from..until, |header| headers.push(header)).await?;
        headers.sort_unstable_by_key(|header| header.place);
        headers.into_iter().for_each(|header| newest.note(header));
        from = until;
    }
    Ok(())
}
