//! Memory over many snapshots.

use anyhow::{Context as _, Result};

use crate::Bench;
use crate::collect::cost;
use crate::table::{FigureTable, FigureTarget, mib};

/// A third of the snapshots: `edr-agentd cost` makes this number for each of three kinds.
const ROUNDS: &str = "334";
/// Allowed growth between the second and the last snapshot, MiB: rounding by the allocator.
const GROWTH_MIB_MAX: f64 = 1.0;

/// Takes a thousand snapshots of this host in sequence: read, encoded and compressed.
pub(crate) fn measure(bench: &Bench, table: &mut FigureTable, name: &str) -> Result<()> {
    let config = bench.config(&format!("{name}-memory"))?;
    let measured = cost(bench, &config, &["--rounds", ROUNDS, "--every", "0"])?;
    let kib = |figure: &str| measured[figure].as_u64().with_context(|| format!("no {figure}"));
    let [first, settled, last] = [kib("first_rss_kib")?, kib("settled_rss_kib")?, kib("last_rss_kib")?];
    // The first frame is a key, so the memory of a delta is first used by the second frame.
    let growth = (last as f64 - settled as f64) / 1024.0;
    let steps = format!("{} / {} / {}", mib(first), mib(settled), mib(last));
    table.set("1,002 snapshots: resident memory after one / two / all", steps);
    table.asked(
        "… growth after the second, MiB",
        growth,
        format!("{growth:.1}"),
        FigureTarget::AtMost(GROWTH_MIB_MAX),
        0,
    );
    Ok(())
}
