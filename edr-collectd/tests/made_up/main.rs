//! Tests that a table is declared in one place: a made-up table, declared here only, is on the page, in the terminal,
//! in CSV, in JSON and in Delta.

#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "../../web/tests/page/client.rs"]
#[expect(dead_code, reason = "the tests of the page use the rest")]
mod client;
#[path = "../../web/tests/page/fleet.rs"]
mod fleet;
#[path = "../../web/tests/page/sample.rs"]
#[expect(dead_code, reason = "the tests of the page use the rest")]
mod sample;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use deltalake::datafusion::logical_expr::col;
use edr_archive::delta::{ArchiveColumn, TableDeclaration, TableStorage, catalogue};
use edr_collectd::cli::output::{Format, Print, print};
use edr_model::catalogue::{About, Declaration, Field};
use edr_model::column::Mark;
use edr_model::tables::TABLES;
use edr_model::{Cell, HostSnapshot, Select, SnapshotTable, Table};
use edr_web::Options;

use client::Site;
use fleet::Fleet;
use sample::Sample;

fn now_ns() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as i64
}

/// The labels of the host, each with values of every type.
struct Labels;

/// A label, with the number of the row.
struct Row<'a> {
    label: &'a str,
    value: &'a str,
    number: u64,
}

type F = Field<Labels>;

impl Declaration for Labels {
    type Input = HostSnapshot;
    type Row<'a> = Row<'a>;

    const ABOUT: About = About {
        name: "host_labels",
        slug: "labels",
        title: "Made-up labels",
        noun: "labels",
        summary: "Labels of a host",
        hint: "From the agent's configuration.",
        ..About::NONE
    };

    const FIELDS: &'static [F] = &[
        F::text("label", "Label", |row| Cell::bytes(row.label)).ecs("labels").key().usual(),
        F::bytes("value", "Value", |row| Cell::bytes(row.value))
            .usual()
            .code()
            .mark(Mark::True { field: "is_first", text: "the first" }),
        F::list("words", "Words", |row| Cell::list(row.value.split(' ').map(Into::into).collect())),
        F::number("amount", "Amount", |row| Cell::number(row.number * 1_000_000)).unit("items").usual().changing(),
        F::numbers("pids", "PID", |row| Cell::numbers(vec![row.number + 1])).link("processes", "pid").usual(),
        F::number_or_word("place", "Place", |row| match row.number {
            0 => Cell::Text("none".into()),
            number => Cell::number(number),
        }),
        F::danger_level("danger_level", "Danger level", |row| Cell::number(row.number)),
        F::percent("share", "Share", |row| Cell::percent(row.number, 3)),
        F::size("room", "Room", |row| Cell::Size(row.number << 20)),
        F::time("since", "Since", |row| Cell::Time(1_773_000_000_123_456_000 + row.number as i64 * 1_000)),
        F::duration("life", "Life", |row| Cell::Duration(row.number * 1_500_000_000)),
        F::flag("is_first", "First", |row| Cell::Flag(row.number == 0)),
    ];

    fn rows(snapshot: &HostSnapshot, take: &mut dyn FnMut(&Row<'_>)) -> usize {
        let labels = snapshot.view.host().map(|host| host.labels).unwrap_or_default();
        for (number, (label, value)) in (0..).zip(&labels) {
            take(&Row { label, value, number });
        }
        0
    }
}

static LABELS: SnapshotTable = Table::of::<Labels>();

fn sample() -> Sample {
    let mut sample = Sample::server("web-01", now_ns());
    sample.host.labels.insert("note".to_owned(), "a <b>".to_owned());
    sample
}

fn printed(args: &Print) -> String {
    let mut out = Vec::new();
    let choice = args.choice(&LABELS, 0).unwrap();
    assert_eq!(print(&mut out, &LABELS, &sample().snapshot(), args, &choice).unwrap().undecodable, 0);
    String::from_utf8(out).unwrap()
}

#[tokio::test]
async fn a_made_up_table_is_on_the_page() {
    let tables = [&TABLES[..], &[LABELS]].concat().leak();
    let site = Site::open_with(&Fleet::new(&[sample()]), Options { tables, ..Options::default() }).await;
    let tab = "/labels\">Made-up labels</a>";
    assert!(site.get("/hosts/web-01/processes").await.body.contains(tab), "no tab in the navigation");
    let page = site.get("/hosts/web-01/labels").await;
    assert_eq!(page.status, 200, "{}", page.body);
    for text in [
        "<h2>Made-up labels</h2>",
        "From the agent's configuration.",
        "3 of 3 labels",
        "<tr data-key=\"role\">",
        "a &lt;b&gt;",
        "<span class=\"tag\">the first</span> a &lt;b&gt;",
        "1,000,000",
        "filter=pid%3A2\">2</a>",
        "8 more columns",
    ] {
        assert!(page.body.replace("&#39;", "'").contains(text), "{text} is not in {}", page.body);
    }
    let all = site.get("/hosts/web-01/labels?columns=all&sort=amount&desc=1&filter=label:o").await;
    for text in ["2 of 3 labels (filter matches 2)", "danger d1", "1.0 MiB", "0:01", "2026-03-08 20:00:00", "33.33"] {
        assert!(all.body.contains(text), "{text} is not in {}", all.body);
    }
    let (role, note) = (all.body.find("data-key=\"role\""), all.body.find("data-key=\"note\""));
    assert!(role < note, "the largest amount comes first");
    site.close().await;
}

#[test]
fn a_made_up_table_is_in_terminal_csv_and_json() {
    assert_eq!(
        printed(&Print::default()),
        "LABEL  VALUE   AMOUNT  PID\nnote   a <b>        0    1\nrole   web    1000000    2\nsite   fra1   2000000    \
        3\n"
    );
    let one = Print { filter: vec!["amount:1,000,000".to_owned()], ..Print::default() };
    assert_eq!(
        printed(&Print { format: Format::Csv, ..one.clone() }),
        "label,value,words,amount,pids,place,danger_level,share,room,since,life,is_first\r\n\
         role,web,\"[\"\"web\"\"]\",1000000,2,1,1,33.33,1048576,2026-03-08T20:00:00.123457Z,1.5,false\r\n"
    );
    let json: serde_json::Value = serde_json::from_str(&printed(&Print { format: Format::Json, ..one })).unwrap();
    assert_eq!(
        json,
        serde_json::json!([{
            "label": "role", "value": "web", "words": ["web"], "amount": 1_000_000, "pids": [2], "place": 1,
            "danger_level": 1, "share": 33.33, "room": 1_048_576, "since": "2026-03-08T20:00:00.123457Z", "life": 1.5,
            "is_first": false
        }])
    );
}

/// A label in a Delta table: the values of the made-up table, with the host.
struct Archived {
    hostname: &'static str,
    cells: Vec<Cell>,
}

#[tokio::test]
async fn a_made_up_table_is_written_to_delta_and_read_back() {
    use deltalake::arrow::util::pretty::pretty_format_batches;
    use deltalake::datafusion::prelude::SessionContext;

    let all = LABELS.select(&sample().snapshot(), &Select::default()).unwrap();
    let storage = TableStorage {
        folder: "host_labels",
        partition_column: "hostname",
        checkpoint_commits: 10,
        vacuum_interval: Duration::from_secs(3_600),
    };
    let mut columns = vec![ArchiveColumn::text("hostname", |row: &Archived| Some(row.hostname.to_owned()))];
    columns.extend(catalogue::columns(&all.columns, |row: &Archived| &row.cells));
    let folder = tempfile::tempdir().unwrap();
    let mut table = TableDeclaration { storage, columns }.open(folder.path()).await.unwrap();
    let rows: Vec<Archived> = all.rows.iter().map(|cells| Archived { hostname: "web", cells: cells.clone() }).collect();
    table.append(&rows, &BTreeMap::new()).await.unwrap();

    let address = deltalake::ensure_table_uri(table.path().to_str().unwrap()).unwrap();
    let table = deltalake::open_table(address).await.unwrap();
    let schema = serde_json::to_value(table.snapshot().unwrap().schema()).unwrap();
    let types: Vec<(&str, &serde_json::Value)> = schema["fields"]
        .as_array()
        .unwrap()
        .iter()
        .map(|field| (field["name"].as_str().unwrap(), &field["type"]))
        .filter(|(_, of)| of.is_string())
        .collect();
    let of = |name| types.iter().find(|(field, _)| *field == name).map(|(_, of)| of.as_str().unwrap());
    assert_eq!(
        ["hostname", "value", "amount", "share", "since", "is_first"].map(of),
        ["string", "string", "long", "double", "timestamp", "boolean"].map(Some)
    );
    let session = SessionContext::new();
    let found = session.read_table(table.table_provider().await.unwrap()).unwrap().sort_by(vec![col("label")]).unwrap();
    let found = pretty_format_batches(&found.collect().await.unwrap()).unwrap().to_string();
    let lines: Vec<Vec<&str>> = found
        .lines()
        .filter(|line| line.starts_with('|'))
        .map(|line| line.split('|').map(str::trim).filter(|cell| !cell.is_empty()).collect())
        .collect();
    assert_eq!(lines.len(), 1 + all.rows.len(), "{found}");
    assert_eq!(lines[0], {
        let names = all.columns.iter().map(|column| column.name);
        [vec!["hostname"], names.collect()].concat()
    });
    assert_eq!(
        lines[1],
        [
            "web",
            "note",
            "a <b>",
            "[a, <b>]",
            "0",
            "[1]",
            "none",
            "0",
            "0.0",
            "0",
            "2026-03-08T20:00:00.123456Z",
            "0.0",
            "true"
        ]
    );
}
