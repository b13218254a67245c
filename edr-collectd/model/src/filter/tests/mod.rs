mod document;
mod fixture;
mod generated;

use self::fixture::{NOW_NS, hosts, snapshot};
use super::{CHARS_MAX, CONDITIONS_MAX, DEPTH_MAX, Filter, FilterError};
use crate::catalogue::find;
use crate::select::Select;
use crate::tables::{HOSTS, TABLES};

/// Returns the number of rows that a filter finds.
fn count(slug: &str, filter: &str) -> Result<usize, FilterError> {
    if slug == "hosts" {
        let filter = Filter::parse(filter, &HOSTS.columns(), NOW_NS)?;
        return Ok(HOSTS.select(&hosts(), &Select { filter, ..Select::default() }).unwrap().matched);
    }
    let table = find(&TABLES, slug).unwrap_or_else(|| panic!("no table {slug}"));
    let filter = Filter::parse(filter, &table.columns(), NOW_NS)?;
    Ok(table.select(&snapshot(), &Select { filter, ..Select::default() }).unwrap().matched)
}

fn found(slug: &str, filter: &str) -> usize {
    count(slug, filter).unwrap_or_else(|error| panic!("{slug}: {error}"))
}

fn refused(slug: &str, filter: &str) -> String {
    match count(slug, filter) {
        Ok(rows) => panic!("{slug}: {filter} finds {rows} rows"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_deleted_file_is_found_by_every_word_for_it() {
    for filter in
        ["deleted", "deleted:true", "deleted:yes", "(deleted)", "deleted=1", "DELETED", "Deleted:yes", "unlinked:y"]
    {
        assert_eq!(found("files", filter), 3, "{filter}");
    }
    assert_eq!(found("files", "deleted pid:812"), 2);
    assert_eq!(found("files", "not deleted"), found("files", "deleted:no"));
    assert_eq!(found("processes", "deleted"), 1);
    assert_eq!(found("processes", "kernel thread"), 1);
    assert_eq!(found("processes", "exe_state=kernel thread pid:40"), 1);
    assert_eq!(found("exposed", "owner not seen"), 2);
    assert_eq!(found("sockets", "listen"), 5);
}

#[test]
fn a_misunderstood_filter_is_an_error_and_not_an_empty_table() {
    for (slug, filter) in [
        ("files", "deleted:"),
        ("files", "foo:bar"),
        ("processes", "pid:abc"),
        ("sockets", "remote_address:web"),
        ("sockets", "state:listening"),
        ("processes", "state:running"),
        ("processes", "cpu_percent>high"),
        ("processes", "1000..2000"),
        ("processes", ">5"),
        ("processes", "name=~py"),
    ] {
        refused(slug, filter);
    }
    assert_eq!(found("processes", "name:ssh"), 1);
    assert_eq!(found("files", "command:ssh"), 6);
    assert_eq!(found("sockets", "port:22"), 3);
    assert_eq!(found("sockets", "pid:812"), 2);
    assert_eq!(found("sockets", "remote:203.0.113.9"), 1);
    assert_eq!(found("sockets", "remote:50123"), 1);
    assert_eq!(found("processes", "user:root comm:sshd"), 1);
    assert_eq!(found("processes", "cpu_percent>5 or cpu_time > 1m"), 2);
}

#[test]
fn an_error_points_at_the_fault_and_lists_what_is_possible() {
    assert_eq!(
        refused("gaps", "pid:1 and reson:denied"),
        "there is no column `reson`; did you mean `reason`?\n\
         \x20 pid:1 and reson:denied\n\
         \x20           ^^^^^\n\
         columns: source, pid, field, reason, count, detail\n\
         to search for the text itself, write it in quotes"
    );
    assert_eq!(
        refused("files", "pid:812 deleted:maybe"),
        "`maybe` is no value of `deleted`\n\
         \x20 pid:812 deleted:maybe\n\
         \x20                 ^^^^^\n\
         values of `deleted`: yes, no"
    );
    assert_eq!(
        refused("gaps", "source>m"),
        "`source` has no order, so `>` cannot be used\n\
         \x20 source>m\n\
         \x20       ^\n\
         operators: `:` `=` `!=`"
    );
    // Control characters are shown, and the mark stands below the fault.
    assert!(refused("gaps", "\u{1b} x:1").contains("\n  \\x1b x:1\n       ^\n"));
    let long = format!("{} x:1 {}", "a ".repeat(200), "b".repeat(200));
    assert!(refused("gaps", &long).lines().all(|line| line.chars().count() < 120));
}

#[test]
fn quotes_parentheses_and_conditions_are_complete() {
    for (filter, message) in [
        ("\"abc", "quote is not closed"),
        ("name:'abc", "quote is not closed"),
        ("(abc", "parenthesis is not closed"),
        ("abc)", "parenthesis closes nothing"),
        ("()", "condition is missing"),
        ("and x", "condition is missing"),
        ("x or", "condition is missing"),
        ("x and or y", "condition is missing"),
        ("not", "condition is missing"),
        ("not (x or not)", "condition is missing"),
        ("!", "condition is missing"),
        ("\"\"", "text is empty"),
    ] {
        assert!(refused("processes", filter).contains(message), "{filter}: {}", refused("processes", filter));
    }
    // A keyword in quotes, or as a part of a word, is text; a quote inside of a word is text.
    for filter in ["\"and\"", "order", "nothing", "it's", "http://example.org", "[::]:80", "/a=b", "fe80::1", "a/b:c"] {
        found("processes", filter);
    }
    assert_eq!(found("processes", "args:\"it's\""), 1);
    assert_eq!(found("processes", "pid:(9 or 10)"), 2);
    assert_eq!(found("processes", "name:(nginx or ssh and not d)"), 2);
    assert_eq!(found("processes", "(sshd)"), 1);
}

#[test]
fn a_filter_has_limits() {
    assert!(refused("processes", &"x".repeat(CHARS_MAX + 1)).contains("too long"));
    assert!(refused("processes", &"(".repeat(DEPTH_MAX + 1)).contains("too deep"));
    assert!(refused("processes", &"not ".repeat(DEPTH_MAX + 1)).contains("too deep"));
    assert!(refused("processes", &"x ".repeat(CONDITIONS_MAX + 1)).contains("too many conditions"));
    assert_eq!(found("processes", &"(".repeat(DEPTH_MAX - 1).add_closed("sshd")), 1);
}

/// Puts a text between opened parentheses and their ends.
trait AddClosed {
    fn add_closed(self, text: &str) -> String;
}

impl AddClosed for String {
    fn add_closed(self, text: &str) -> String {
        let close = ")".repeat(self.len());
        self + text + &close
    }
}

#[test]
fn addresses_are_compared_as_addresses() {
    assert_eq!(found("sockets", "remote_address:203.0.113.0/24"), 1, "an IPv4 address in IPv6 form");
    assert_eq!(found("sockets", "203.0.0.0/16"), 1);
    assert_eq!(found("sockets", "remote_address:203.0."), 1);
    assert_eq!(found("sockets", "local_address:127.0.0.0/8"), 1);
    assert_eq!(found("sockets", "local_address:127.0.0.1..127.0.0.9"), 1);
    assert_eq!(found("sockets", "local_address:4294967295"), 1, "a vsock");
    assert_eq!(found("blocked", "address:198.51.100.7"), 1, "an address of a blocked network");
    assert_eq!(found("blocked", "address:198.51.100.7 or address:192.0.2.0/24"), 1);
    assert_eq!(found("packets", "src:203.0.113.9 dst:2001:db8::/32"), 2);
    assert_eq!(found("packets", "destination>2001:db8::"), 2);
}

#[test]
fn times_are_as_precise_as_written() {
    for (filter, rows) in [
        ("started>-2h", 1),
        ("started>-30m", 0),
        ("started > yesterday 03:12 sshd", 1),
        ("started:2026-03-10", 1),
        ("started:2026-03-10 02:12", 1),
        ("started=2026-03-10T02:12:40Z", 1),
        ("started>2026-03-10", 0),
        ("started>=2026-03-10", 1),
        ("started:today", 1),
        ("started<=2026-03-10 02:12", 1),
        ("started:2026-03-10 02:00..2026-03-10 03:00", 1),
        ("started:\"2026-03-10 02:00\"..", 1),
        ("started:\"\"", 5),
        ("started:*", 1),
    ] {
        assert_eq!(found("processes", filter), rows, "{filter}");
    }
}

#[test]
fn a_filter_is_put_into_words() {
    let words = |filter: &str| {
        let columns = find(&TABLES, "processes").unwrap().columns();
        Filter::parse(filter, &columns, NOW_NS).unwrap().to_string()
    };
    assert_eq!(words("sshd"), "any column contains “sshd”");
    assert_eq!(words("name:ssh pid>5"), "(name contains “ssh” and pid > “5”)");
    assert_eq!(words("command:py* or not unit:\"\""), "(name or cmdline is py* or not unit is empty)");
    assert_eq!(words("started>yesterday 03:12"), "start_time > “yesterday 03:12”");
    assert_eq!(words(" "), "");
}
