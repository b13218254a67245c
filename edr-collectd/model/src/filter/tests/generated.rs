//! Filters generated from the catalogue: every table, column, name, operator and type. No wrong filter is answered with
//! an empty table, and no right one is refused.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::super::names::resolve;
use super::super::{Filter, Operator};
use super::fixture::{NOW_NS, hosts, snapshot};
use crate::catalogue::Table;
use crate::cell::{Cell, grouped, size};
use crate::column::{Column, Kind, Mark, Values};
use crate::select::Select;
use crate::tables::{HOSTS, TABLES};

/// The rows of a table.
struct Rows {
    table: &'static str,
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

impl Rows {
    fn of<I: ?Sized>(table: &Table<I>, input: &I) -> Self {
        let all = table.select(input, &Select::default()).unwrap();
        Self { table: table.about.name, columns: all.columns, rows: all.rows }
    }

    fn all() -> &'static [Self] {
        &ROWS
    }

    fn make() -> Vec<Self> {
        let snapshot = snapshot();
        let tables = TABLES.iter().map(|table| Self::of(table, &snapshot));
        tables.chain([Self::of(&HOSTS, hosts().as_slice())]).collect()
    }

    fn filter(&self, text: &str) -> Filter {
        Filter::parse(text, &self.columns, NOW_NS).unwrap_or_else(|error| panic!("{}: {error}", self.table))
    }

    /// Returns the byte range of the fault.
    fn fault(&self, text: &str) -> (usize, usize) {
        match Filter::parse(text, &self.columns, NOW_NS) {
            Ok(filter) => panic!("{}: {text} is taken for {filter}", self.table),
            Err(error) => {
                assert!(!error.message.is_empty() && !error.possible.is_empty(), "{text}: {error:?}");
                (error.at.start, error.at.end)
            }
        }
    }
}

static ROWS: LazyLock<Vec<Rows>> = LazyLock::new(Rows::make);

/// Returns all names of a column, also as people vary them.
fn names(column: &Column) -> Vec<String> {
    let mut names = vec![column.name.to_owned(), column.name.to_uppercase(), column.name.replace('_', "-")];
    names.extend([column.title.to_owned(), column.title.to_lowercase(), format!("\"{}\"", column.title)]);
    names.extend(column.also.iter().map(|&alias| alias.to_owned()));
    names.extend(Some(column.ecs.to_owned()).filter(|ecs| !ecs.is_empty()));
    names
}

fn quoted(text: &str) -> String {
    let parts: Vec<String> = text.split('"').map(|part| format!("\"{part}\"")).collect();
    parts.join("'\"'")
}

/// Returns conditions, without the name of the column, that are true for the cell; "" stands for the column.
fn true_conditions(column: &Column, cell: &Cell) -> Vec<String> {
    let text = cell.text();
    let mut values = vec![quoted(&text)];
    let mut conditions = vec![":*".to_owned(), "=*".to_owned()];
    match cell {
        Cell::Empty => return vec![":\"\"".into(), "=''".into()],
        Cell::Flag(true) => return [":yes", "=true", ":1", ":Y", "!=no", ": (yes)"].map(String::from).to_vec(),
        Cell::Flag(false) => return [":no", "=false", ":0", "!=yes"].map(String::from).to_vec(),
        Cell::Number(number) => {
            values.push(number.to_string());
            values.push(format!("{number}..{number}"));
            values.push(format!("..{number}"));
            conditions.extend([format!(">={number}"), format!(" <= {number}")]);
            if column.kind != Kind::DangerLevel {
                conditions.push(format!("<{}", number + 1));
                values.push(grouped(number));
            }
            if *number > 0 {
                conditions.push(format!("> {}", number - 1));
            }
        }
        Cell::Numbers(numbers) => {
            values.clear();
            for number in numbers {
                values.push(number.to_string());
                conditions.extend([format!(">={number}"), format!(":({number} or 99999999)")]);
            }
        }
        Cell::Hundredths(_) => values.extend([text.clone(), format!("{text}%"), format!("0..{text}")]),
        Cell::Size(bytes) => {
            values.extend([bytes.to_string(), grouped(bytes), size(*bytes), format!("\"{}\"", size(*bytes))]);
            conditions.extend([format!(">={bytes}"), format!("<={bytes}B"), "<1000P".into()]);
        }
        Cell::Time(ns) => {
            let iso = cell.json().as_str().unwrap().to_owned();
            let (day, minute) = (&text[..10], &text[..16]);
            values.extend([text.clone(), iso, day.to_owned(), minute.to_owned(), format!("{day}..{text}")]);
            conditions.extend([format!(">={minute}"), format!("<= {day}"), format!(">{}", "2020-01-01")]);
            if *ns <= NOW_NS {
                conditions.push("<=now".into());
            }
        }
        Cell::Duration(_) => {
            values.extend([text.clone(), cell.json().to_string()]);
            conditions.extend(["<1000d".into(), format!(">={}", cell.json())]);
        }
        Cell::Text(_) | Cell::Bytes(_) if column.kind == Kind::Address => {
            values.push(text.clone());
            if let Some(v4) = text.strip_prefix("::ffff:") {
                values.extend([v4.to_owned(), format!("{v4}/8")]);
                conditions.extend([":203.*".into(), ":203.0.".into()]);
            }
            if text.contains(['.', ':']) && !text.contains('/') {
                let bits = if text.starts_with("::ffff:") { 112 } else { 16 };
                values.extend([format!("{text}/{bits}"), format!("{text}..{text}")]);
                conditions.extend([format!(">={text}"), format!("<={text}")]);
            }
        }
        Cell::Text(_) | Cell::Bytes(_) | Cell::List(_) => {
            values.push(format!("*{}", quoted(&text)));
            values.push(quoted(&text.to_uppercase()));
            if let Cell::List(list) = cell {
                values.extend(list.iter().map(|bytes| quoted(&edr_wire::visible(&bytes.0))));
                values.retain(|value| value != "\"\"");
            }
            if column.kind != Kind::NumberOrWord {
                let middle: String = text.chars().skip(1).take(3).collect();
                conditions.extend(Some(format!(":{}", quoted(&middle))).filter(|_| !middle.is_empty()));
            }
            if matches!(column.values, Values::Words(_)) {
                values.push(text.clone());
            }
        }
    }
    for value in values {
        conditions.extend([format!(":{value}"), format!("={value}"), format!(": ({value})")]);
    }
    conditions
}

/// Returns values of another type.
fn wrong_values(column: &Column) -> Vec<&'static str> {
    const NO_NUMBERS: [&str; 8] = ["abc", "-1", "1e3", "0x10", "12,34", "9..3", "..", "\"\"..\"\""];
    match column.kind {
        Kind::Number | Kind::Numbers => [&NO_NUMBERS[..], &["1.5", "10:00", "yes"]].concat(),
        Kind::DangerLevel => [&NO_NUMBERS[..], &["6", "high", "3..9"]].concat(),
        Kind::NumberOrWord => ["abc", "-1", "1.5", "9..3", "3..x", "kwd"].to_vec(),
        Kind::Percent => [&NO_NUMBERS[..], &["1.234", "high", "5%..x"]].concat(),
        Kind::Size => [&NO_NUMBERS[..], &["big", "1.5", "10X", "10Mi", "1G..1M"]].concat(),
        Kind::Duration => [&NO_NUMBERS[..], &["long", "5y", "1:99", "5m..1m"]].concat(),
        Kind::Time => ["soon", "2026-13-01", "5m", "25:00", "2026-03-11..2026-03-10", "..", "tomorrow"].to_vec(),
        Kind::Address => {
            let mut wrong =
                vec!["localhost", "10.0.0.256", "10.0.0.0/33", "::/129", "10.0.0.1:22", "1.2.3.4.5", "a b*"];
            wrong.extend(["10.0.0.9..10.0.0.1", "10.0.0.1..::1", "10.0.0.1..", "web-*"]);
            wrong.extend(Some("22").filter(|_| !column.has_context_ids));
            wrong
        }
        Kind::Flag => ["deleted", "2", "*", "\"\"", "maybe", "y*"].to_vec(),
        Kind::Text | Kind::Bytes | Kind::List => match column.values {
            Values::Any => Vec::new(),
            Values::Words(_) | Values::Letters(_) => vec!["-nonsense-", "\"no such\"", "q%*", "running!"],
        },
    }
}

#[test]
fn every_column_of_the_fixture_has_a_value() {
    for rows in Rows::all() {
        for (place, column) in rows.columns.iter().enumerate() {
            let has_value = |cell: &Cell| !matches!(cell, Cell::Empty | Cell::Flag(false));
            assert!(rows.rows.iter().any(|row| has_value(&row[place])), "{}: no {}", rows.table, column.name);
        }
    }
}

#[test]
fn a_right_filter_finds_its_row_under_every_name_and_its_negation_does_not() {
    let mut count = 0;
    for rows in Rows::all() {
        for (place, column) in rows.columns.iter().enumerate() {
            for row in &rows.rows {
                let cells = |at: usize| row[at].clone();
                for (number, condition) in true_conditions(column, &row[place]).into_iter().enumerate() {
                    // The other names differ in the name alone, so a few conditions are enough.
                    let names = if number % 4 == 0 { names(column) } else { vec![column.name.to_owned()] };
                    for name in names {
                        // A name of several columns has no value only when no column has a value.
                        if row[place] == Cell::Empty && resolve(&rows.columns, name.trim_matches('"')).len() > 1 {
                            continue;
                        }
                        let text = format!("{name}{condition}");
                        assert!(rows.filter(&text).matches(&cells), "{}: {text} in {row:?}", rows.table);
                        let not = rows.filter(&format!("not ({text})"));
                        assert!(!not.matches(&cells), "{}: {not}", rows.table);
                        if let Some(value) = condition.strip_prefix('=') {
                            let differs = rows.filter(&format!("{name} != {value}"));
                            assert!(!differs.matches(&cells), "{}: {differs}", rows.table);
                        }
                        count += 1;
                    }
                }
            }
        }
    }
    assert!(count > 5_000, "{count}");
}

#[test]
fn everything_that_a_page_shows_is_found_by_a_search() {
    for rows in Rows::all() {
        for row in &rows.rows {
            let cells = |at: usize| row[at].clone();
            for (column, cell) in rows.columns.iter().zip(row) {
                let mut shown = vec![cell.text()];
                match cell {
                    Cell::Size(bytes) => shown.push(size(*bytes)),
                    Cell::Number(0) if column.kind == Kind::DangerLevel => shown.push("none".into()),
                    Cell::Number(amount) if !column.unit.is_empty() => shown.push(grouped(amount)),
                    Cell::Flag(true) => shown.extend([column.title.to_owned(), column.name.to_owned()]),
                    _ => {}
                }
                let mark = column.mark.map(|mark| {
                    let place = rows.columns.iter().position(|column| column.name == mark.field()).unwrap();
                    (mark, &row[place])
                });
                if let Some((Mark::True { text, .. }, Cell::Flag(true)) | (Mark::Empty { text, .. }, Cell::Empty)) =
                    mark
                {
                    shown.push(text.to_owned());
                    assert!(rows.filter(text).matches(&cells), "{}: {text} without quotes", rows.table);
                }
                for text in shown.iter().filter(|text| !text.is_empty()) {
                    let filter = rows.filter(&quoted(text));
                    assert!(filter.matches(&cells), "{}: {filter} in {row:?}", rows.table);
                }
            }
        }
    }
}

#[test]
fn a_value_of_the_wrong_type_is_refused_at_its_place() {
    let mut count = 0;
    for rows in Rows::all() {
        for name in rows.columns.iter().flat_map(names) {
            let places = resolve(&rows.columns, name.trim_matches('"'));
            assert!(!places.is_empty(), "{name}");
            let columns: Vec<&Column> = places.iter().map(|&place| &rows.columns[place]).collect();
            for wrong in wrong_values(columns[0]) {
                if !columns.iter().all(|column| wrong_values(column).contains(&wrong)) {
                    continue;
                }
                for operator in [":", "!="] {
                    let text = format!("{name}{operator}{wrong} and x");
                    let start = name.len() + operator.len();
                    let (from, to) = rows.fault(&text);
                    assert!(from == start && to > start && to <= start + wrong.len(), "{}: {text}", rows.table);
                    count += 1;
                }
            }
        }
    }
    assert!(count > 2_000, "{count}");
}

#[test]
fn an_operator_that_is_unknown_or_does_not_fit_and_a_missing_value_are_refused() {
    for rows in Rows::all() {
        for name in rows.columns.iter().flat_map(names) {
            for unknown in ["==", "=~", "~", "!~", "<>", "=>", "=<", "!", ">>", "!==", "~="] {
                assert_eq!(rows.fault(&format!("{name}{unknown}5")), (name.len(), name.len() + unknown.len()));
            }
            for operator in Operator::ALL {
                let symbol = operator.symbol();
                for end in ["", " ", ")", " and x", " or x"] {
                    let text = format!("{name}{symbol}{end}");
                    assert_eq!(rows.fault(&text), (name.len(), name.len() + symbol.len()), "{}: {text}", rows.table);
                }
            }
            let places = resolve(&rows.columns, name.trim_matches('"'));
            let has_order = |kind| !matches!(kind, Kind::Text | Kind::Bytes | Kind::List | Kind::Flag);
            if !places.iter().any(|&place| has_order(rows.columns[place].kind)) {
                for order in ["<", "<=", ">", ">="] {
                    for value in ["5", "m", "\"\"", "*", "yes"] {
                        let text = format!("{name}{order}{value}");
                        assert_eq!(rows.fault(&text), (name.len(), name.len() + order.len()), "{}: {text}", rows.table);
                    }
                }
            }
        }
    }
}

#[test]
fn a_name_of_no_column_is_refused_with_the_names_of_all_columns() {
    for rows in Rows::all() {
        let known: Vec<String> = rows.columns.iter().flat_map(names).collect();
        let mut unknown: Vec<String> = known.iter().map(|name| format!("{}zz", name.trim_matches('"'))).collect();
        unknown.extend(["foo", "pidd", "nmae", "x.y", "été"].map(String::from));
        unknown.retain(|name| !name.contains(' ') && resolve(&rows.columns, name).is_empty());
        for name in unknown {
            for rest in [":5", "=x", "!=5", " > 5", "<=2026-03-10", ":\"a b\""] {
                let text = format!("{name}{rest}");
                let error = Filter::parse(&text, &rows.columns, NOW_NS).unwrap_err();
                assert_eq!(error.at, 0..name.len(), "{}: {text}", rows.table);
                for column in &rows.columns {
                    assert!(error.possible.contains(column.name), "{error}");
                }
            }
        }
    }
}

#[test]
fn an_alias_is_never_hidden_by_a_column() {
    for rows in Rows::all() {
        for column in &rows.columns {
            for alias in column.also {
                let places = resolve(&rows.columns, alias);
                let found = places.iter().any(|&place| rows.columns[place].name == column.name);
                assert!(found, "{}: {alias} never means {}", rows.table, column.name);
            }
        }
    }
}

#[test]
fn and_or_and_not_are_those_of_logic() {
    for rows in Rows::all() {
        let row = &rows.rows[0];
        let conditions: Vec<String> = rows
            .columns
            .iter()
            .zip(row)
            .flat_map(|(column, cell)| {
                true_conditions(column, cell).into_iter().take(1).map(|condition| format!("{}{condition}", column.name))
            })
            .collect();
        for row in &rows.rows {
            let cells = |at: usize| row[at].clone();
            let is = |text: &str| rows.filter(text).matches(&cells);
            for pair in conditions.windows(3) {
                let [a, b, c] = pair else { unreachable!() };
                assert_eq!(is(&format!("{a} {b}")), is(a) && is(b));
                assert_eq!(is(&format!("{a} AND {b}")), is(a) && is(b));
                assert_eq!(is(&format!("{a} or {b} and {c}")), is(a) || (is(b) && is(c)));
                assert_eq!(is(&format!("({a} or {b}) {c}")), (is(a) || is(b)) && is(c));
                assert_eq!(is(&format!("not {a} or !{b}")), !is(a) || !is(b));
                let both = Filter::parse_all(&[format!("{a} or {b}"), c.clone()], &rows.columns, NOW_NS).unwrap();
                assert_eq!(both.matches(&cells), (is(a) || is(b)) && is(c));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Any text is a filter or an error that points into the text.
    #[test]
    fn any_text_is_answered(parts in prop::collection::vec(
        prop_oneof![
            "[a-z :=<>!~()\"'*?.0-9é\\\\\u{202e}-]{1,6}",
            prop::sample::select(vec![
                "pid", "name:", "started>", "or", " and ", "not", "(", ")", "\"", "::1", "..", "5m ago", "10.0.0.0/8",
                "Command line", "!=", ":*", "size:", "deleted", "kernel thread",
            ]).prop_map(String::from),
        ],
        0..12,
    )) {
        let text = parts.concat();
        for rows in Rows::all().iter().take(3) {
            match Filter::parse(&text, &rows.columns, NOW_NS) {
                Ok(filter) => {
                    prop_assert_eq!(filter.is_empty(), text.trim().is_empty());
                    for row in &rows.rows {
                        filter.matches(&|at: usize| row[at].clone());
                    }
                }
                Err(error) => {
                    prop_assert!(text.get(error.at.clone()).is_some(), "{:?}", error);
                    let [line, mark] = error.lines();
                    let is_visible = !line.contains(['\n', '\u{202e}']) && mark.ends_with('^');
                    prop_assert!(is_visible, "{:?}", line);
                }
            }
        }
    }
}
