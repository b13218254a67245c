//! Reading of psad's files and packet lines, compared with `cat`, `wc -l` and psad. The example `psad_bench` of
//! edr-sources measures each baseline in the same run. The figures are CPU time, so further load on the machine hardly
//! matters.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use edr_tests::binaries::release_psad_bench;
use edr_tests::cache;

use crate::table::{FigureTable, FigureTarget, grouped, ms, say};

/// The program psad, as unpacked by `script/bootstrap`.
const PSAD: &str = "usr/sbin/psad";

pub(crate) fn measure(table: &mut FigureTable) -> Result<()> {
    let program = release_psad_bench()?;
    let psad = cache::dir().join("unpacked");
    let mut command = Command::new(program);
    if psad.join(PSAD).exists() {
        command.arg("--psad-lib").arg(&psad);
    } else {
        say(&format!("skipped: psad -A, since {} is not there; script/bootstrap unpacks it", psad.display()));
    }
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("run psad_bench")?;
    ensure!(output.status.success(), "psad_bench ended with {}", output.status);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let figures: BTreeMap<&str, f64> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            Some((words.next()?, words.next()?.parse().ok()?))
        })
        .collect();
    let figure = |name: &str| figures.get(name).copied().with_context(|| format!("psad_bench printed no {name}"));
    let whole = |value: f64| grouped(value as u64);
    table.set("packet lines parsed in a second", whole(figure("packet_lines")?));
    let wc = figure("packet_lines_vs_wc")?;
    table.asked("  against wc -l", wc, format!("{wc:.1} x"), FigureTarget::AtMost(10.0), 0);
    if let (Ok(lines), Ok(times)) = (figure("psad_analysis"), figure("packet_lines_vs_psad")) {
        table.set("  psad -A, lines in a second", whole(lines));
        table.asked("  psad -A takes longer by", times, format!("{times:.0} x"), FigureTarget::AtLeast(100.0), 0);
    }
    table.set("500 attackers and 2,000 sources of psad, files", whole(figure("state_files")?));
    table.set("  cat of them", ms(figure("state_cat")? / 1e3));
    table.set("  first reading", ms(figure("state_first")? / 1e3));
    table.set("  first reading against cat", format!("{:.2} x", figure("state_first_vs_cat")?));
    table.set("  later reading, when nothing changed", ms(figure("state_later")? / 1e3));
    let later = figure("state_later_vs_first")?;
    table.asked("  later reading against the first", later, format!("{later:.3} x"), FigureTarget::AtMost(0.1), 0);
    Ok(())
}
