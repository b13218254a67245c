use std::sync::Arc;

use edr_wire::Bytes;
use edr_wire::snapshot::{Reread, SnapshotView};

use super::*;
use crate::catalogue::find;
use crate::cell::{JOINED_BYTES_MAX, time_text};
use crate::filter::Filter;
use crate::select::{Select, Selection, place_of};
use crate::snapshot::HostSnapshot;
use crate::testing::{host_snapshot, sample};

fn named(slug: &str) -> &'static SnapshotTable {
    find(&TABLES, slug).unwrap()
}

fn table(slug: &str, select: &Select) -> Selection {
    named(slug).select(&host_snapshot(&sample()), select).unwrap()
}

fn column(selection: &Selection, name: &str) -> Vec<String> {
    let place = place_of(&selection.columns, name).unwrap();
    selection.rows.iter().map(|row| row[place].text()).collect()
}

fn filtered(slug: &str, filter: &str, name: &str) -> Vec<String> {
    let filter = Filter::parse(filter, &named(slug).columns(), 0).unwrap();
    column(&table(slug, &Select { filter, ..Select::default() }), name)
}

#[test]
fn every_cell_has_the_type_of_its_column() {
    let snapshot = host_snapshot(&sample());
    for table in &TABLES {
        let all = table.select(&snapshot, &Select::default()).unwrap();
        for row in &all.rows {
            assert_eq!(row.len(), all.columns.len(), "{table:?}");
            for (cell, column) in row.iter().zip(&all.columns) {
                assert!(column.kind.holds(cell), "{}: {cell:?} in {column:?}", table.about.name);
            }
        }
    }
}

/// Checks the rules of a declaration: names are distinct, and links and marks name existing fields.
fn check<I: ?Sized>(table: &Table<I>) {
    let (about, columns) = (&table.about, table.columns());
    assert!(!about.name.is_empty() && !about.slug.is_empty() && !about.title.is_empty(), "{about:?}");
    assert!(!about.noun.is_empty() && !about.summary.is_empty() && !about.hint.is_empty(), "{about:?}");
    let mut names: Vec<&str> = columns.iter().map(|column| column.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), columns.len(), "{about:?}");
    for column in &columns {
        if let Some(link) = column.link {
            let target = find(&TABLES, link.slug).unwrap_or_else(|| panic!("{column:?} links to no table"));
            assert!(place_of(&target.columns(), link.field).is_ok(), "{column:?} links to no field");
        }
        if let Some(mark) = column.mark {
            assert!(place_of(&columns, mark.field()).is_ok(), "the mark of {column:?} names no field");
        }
        assert!(column.kind.unit().is_empty() || column.unit.is_empty(), "{column:?} has two units");
    }
}

#[test]
fn declarations_keep_their_rules() {
    TABLES.iter().for_each(check);
    check(&HOSTS);
    let about = || TABLES.iter().map(|table| table.about);
    for names in [about().map(|about| about.name).collect::<Vec<_>>(), about().map(|about| about.slug).collect()] {
        let mut distinct = names.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), names.len(), "{names:?}");
    }
}

#[test]
fn a_process_shows_what_ps_shows() {
    let all = table("processes", &Select::default());
    assert_eq!(all.total, 3);
    let last = |name| column(&all, name).pop().unwrap();
    assert_eq!(last("name"), "<b>)\\x0a\\xff");
    assert_eq!(last("cmdline"), "/tmp/<script> 'a b' ''");
    assert_eq!(last("cpu_percent"), "50.00");
    assert_eq!(last("memory_percent"), "0.99");
    assert_eq!(last("cpu_time"), "0:25");
    assert_eq!(last("user"), "1000");
    assert_eq!(last("state"), "Rs");
    assert_eq!(last("exe_state"), "deleted");
}

#[test]
fn rows_of_processes_and_files_say_when_they_were_read() {
    let mut snapshot = sample();
    snapshot.agent.interval_ns = 10_000_000_000;
    snapshot.reread = Reread { slice: 1, slices: 6, out_of_turn: vec![9] };
    let host = host_snapshot(&snapshot);
    for slug in ["processes", "files"] {
        let all = named(slug).select(&host, &Select::default()).unwrap();
        let (pids, as_of) = (column(&all, "pid"), column(&all, "as_of"));
        let newest = time_text(host.captured_ns);
        for (pid, as_of) in pids.iter().zip(&as_of) {
            let process = snapshot.processes.iter().find(|process| process.pid.to_string() == *pid).unwrap();
            let ticks = snapshot
                .reread
                .age_ticks_max(edr_wire::ProcessKey { pid: process.pid, start_ticks: process.start_ticks });
            assert_eq!(*as_of, time_text(host.captured_ns - i64::from(ticks) * 10_000_000_000));
        }
        let of_nine: Vec<&String> =
            pids.iter().zip(&as_of).filter(|(pid, _)| *pid == "9").map(|(_, as_of)| as_of).collect();
        assert!(!of_nine.is_empty() && of_nine.iter().all(|as_of| **as_of == newest));
        assert!(as_of.iter().any(|as_of| *as_of != newest), "{as_of:?}");
    }
}

#[test]
fn files_name_their_process_and_sockets_their_endpoints() {
    let all = table("files", &Select::default());
    assert_eq!(all.total, 6);
    assert_eq!(column(&all, "path")[0], "tcp [::]:80 (listen)");
    assert_eq!(column(&all, "fd"), ["3", "4", "3", "4", "cwd", "1"]);
    assert_eq!(filtered("files", "deleted:yes", "path"), ["/tmp/\\xffx"]);
}

#[test]
fn a_socket_names_all_its_owners_and_may_have_none() {
    let all = table("sockets", &Select::default());
    assert_eq!(column(&all, "pids"), ["", "9 10"]);
    assert_eq!(column(&all, "comm"), ["", "nginx"]);
    assert_eq!(filtered("sockets", "pids:10", "local_port"), ["80"]);
    assert!(filtered("sockets", "pids:1", "local_port").is_empty());
}

#[test]
fn sources_are_flattened_and_one_without_targets_is_not_lost() {
    let all = table("sources", &Select::default());
    assert_eq!(column(&all, "kind"), ["source", "ports", "signature"]);
    assert_eq!(column(&all, "port_high"), ["", "99", ""]);
    assert_eq!(column(&all, "start_time")[1], "2026-03-08 20:00:00");
}

#[test]
fn a_filter_looks_everywhere_or_in_one_column() {
    assert_eq!(filtered("processes", "NGINX", "pid"), ["9", "10"]);
    assert_eq!(filtered("processes", "pid:9", "pid"), ["9"]);
    assert_eq!(filtered("processes", "name:\"b>)\\x0a\"", "pid"), ["31"]);
    // `[` is no name of a column, so the whole text is searched for.
    assert_eq!(filtered("files", "[::]:80", "pid"), ["9", "9", "10", "10"]);
}

#[test]
fn numbers_are_sorted_by_size_addresses_by_their_numbers_and_pages_fit_together() {
    let by = |slug, name: &str, descending| {
        let select = Select { sort: Some(name.into()), descending, ..Select::default() };
        column(&table(slug, &select), name)
    };
    assert_eq!(by("processes", "pid", true), ["31", "10", "9"]);
    assert_eq!(by("attackers", "ip", false), ["10.0.0.9", "10.0.0.10"]);
    assert_eq!(by("sockets", "local_port", false), ["80", ""]);
    assert_eq!(by("sockets", "local_port", true), ["80", ""]);

    for sort in [None, Some("pid".to_owned())] {
        let page = |page| Select { sort: sort.clone(), page, page_rows: 4, ..Select::default() };
        let pages: Vec<String> = (0..3).flat_map(|number| column(&table("files", &page(number)), "fd")).collect();
        assert_eq!(pages, ["3", "4", "3", "4", "cwd", "1"]);
        assert_eq!(table("files", &page(usize::MAX)).rows.len(), 0);
    }
    let select = Select { sort: Some("x".into()), ..Select::default() };
    let unknown = named("processes").select(&host_snapshot(&sample()), &select);
    assert!(unknown.unwrap_err().to_string().starts_with("no column \"x\"; there are: pid, parent, user"));
}

#[test]
fn what_a_join_repeats_is_cut() {
    let mut snapshot = sample();
    snapshot.processes[0].comm = Bytes(vec![b'a'; 1 << 20]);
    let all = named("files").select(&host_snapshot(&snapshot), &Select::default()).unwrap();
    let Cell::Bytes(comm) = &all.rows[0][0] else { panic!("{:?}", all.rows[0][0]) };
    assert!(comm.0.len() < JOINED_BYTES_MAX + 8);
}

#[test]
fn a_row_that_is_no_process_is_counted_and_the_others_are_shown() {
    let raw = rmp_serde::to_vec_named(&sample()).unwrap();
    // The second process begins with its pid, 10; with nil in place of the pid the process is undecodable.
    let name = b"\xa3pid\x0a";
    let at = raw.windows(name.len()).position(|window| window == name).unwrap() + 4;
    let mut hostile = raw;
    hostile[at] = 0xc0;
    let snapshot = HostSnapshot { view: Arc::new(SnapshotView::parse(hostile).unwrap()), ..host_snapshot(&sample()) };
    let all = named("processes").select(&snapshot, &Select::default()).unwrap();
    assert_eq!((all.rows.len(), all.undecodable), (2, 1));
}

#[test]
fn json_is_exact_and_typed() {
    let all = table("processes", &Select::default());
    let row = &all.rows[2];
    let value = |name| row[all.columns.iter().position(|column| column.name == name).unwrap()].json();
    assert_eq!(value("pid"), serde_json::json!(31));
    assert_eq!(value("name"), serde_json::json!("<b>)\n\\xff"));
    assert_eq!(value("cmdline"), serde_json::json!(["/tmp/<script>", "a b", ""]));
    assert_eq!(value("cpu_percent"), serde_json::json!(50.0));
}

#[test]
fn device_numbers_are_those_of_ls() {
    assert_eq!(device(0x0801), "8:1");
    assert_eq!(device(0x10_3003), "48:259");
}
