//! The known forms of secrets, and the text that must stay.

use edr_wire::limits::{ARGV_BYTES_MAX, ARGV_MAX};
use proptest::prelude::*;

use super::text::LookAhead;
use super::value::{Place, is_harmless};
use super::word::arguments;
use super::work::SearchBudget;
use super::*;

const KEY: &[u8] = b"a key of the tests";

fn redact(argv: &[&str]) -> Vec<String> {
    let mut argv: Vec<Bytes> = argv.iter().map(|argument| Bytes::from(argument.as_bytes())).collect();
    Redactor::new(KEY).redact(&mut argv);
    argv.iter().map(ToString::to_string).collect()
}

fn token(secret: &str) -> String {
    Redactor::new(KEY).token(secret.as_bytes())
}

const CANARY: &str = "C4n4ry-5ecret.x9";

/// Command lines in which `CANARY` stands for a secret; the rest must stay unchanged.
fn forms() -> Vec<Vec<&'static str>> {
    include_str!("../../../../tests/fixtures/secrets/forms.tsv")
        .lines()
        .map(|line| line.split('\t').collect())
        .collect()
}

/// Secrets of a known form.
fn known_by_form() -> Vec<String> {
    let known = include_str!("../../../../tests/fixtures/secrets/known.txt");
    known.lines().map(|secret| secret.replace("\\n", "\n")).collect()
}

#[test]
fn every_known_form_of_a_secret_is_replaced_and_nothing_else() {
    assert!(forms().len() >= 50 && known_by_form().len() >= 10);
    for form in forms() {
        let argv: Vec<String> = form.iter().map(|argument| argument.replace("CANARY", CANARY)).collect();
        let redacted = redact(&argv.iter().map(String::as_str).collect::<Vec<_>>());
        let expected: Vec<String> = form.iter().map(|argument| argument.replace("CANARY", &token(CANARY))).collect();
        assert_eq!(redacted, expected);
    }
    for secret in known_by_form() {
        for argument in [secret.clone(), format!("see {secret} there"), format!("x={secret}")] {
            let redacted = redact(&["app", &argument]);
            assert_eq!(redacted[1], argument.replace(&secret, &token(&secret)));
        }
    }
}

#[test]
fn a_scheme_that_is_not_known_hides_no_token() {
    let argv = redact(&["curl", "-H", "Authorization: Splunk C4n4ry-5ecret.x9", "https://h/"]);
    assert_eq!(argv[2], format!("Authorization: {}", token("Splunk C4n4ry-5ecret.x9")));
    let argv = redact(&["sh", "-c", "curl -H \"Authorization: SSWS C4n4ry-5ecret.x9\" https://h/"]);
    assert_eq!(argv[2], format!("curl -H \"Authorization: {}\" https://h/", token("SSWS C4n4ry-5ecret.x9")));
}

#[test]
fn text_without_a_secret_stays_unchanged() {
    for argv in [
        &["ssh", "-p", "22", "root@host"][..],
        &["nmap", "-p", "80,443", "-Pn", "host"],
        &["nmap", "-p1-65535", "host"],
        &["mkdir", "-p", "/var/lib/x"],
        &["mysql", "-p", "shop"],
        &["mysql", "--password", "shop"],
        &["psql", "-p", "5432", "-h", "db"],
        &["grep", "-r", "password", "/etc"],
        &["man", "passwd"],
        &["app", "--password-file=/run/secret", "--token-url", "https://x/"],
        &["app", "--password-file", "/run/secret"],
        &["docker", "login", "-u", "ann", "--password-stdin", "registry"],
        &["docker", "run", "-p=80:80", "nginx:1.25@sha256:0123456789abcdef"],
        &["app", "--use-token=true", "--password="],
        &["app", "--password=$PASSWORD", "--token", "@/run/token"],
        &["curl", "https://example.org/path:8080/a?x=1"],
        &["git", "clone", "git@example.org:a/b.git"],
        &["git", "clone", "https://ann@example.org/a.git"],
        &["openssl", "rsa", "-passin", "file:/run/key"],
        &["java", "-Xmx1g", "-cp", "a:b:c", "Main"],
        &["app", "--compass=north", "--bypass", "x", "--keyboard", "de"],
        &["rsync", "-a", "host::module/a", "b"],
        &["sh", "-c", "echo 'a b' && ls -p | head -n 3"],
        &["7z", "x", "a.7z"],
        &["app", "--public-key=abc", "--key", "name"],
        &["postgres:", "checkpointer"],
        &["sshd: root@pts/0"],
        &["", "", "-", "--", "=", ":", "://", "@", "://@", "--=", "-----BEGIN "],
    ] {
        assert_eq!(redact(argv), argv);
    }
}

/// Command lines in which a word is a secret in one place and harmless in another.
#[test]
fn the_program_decides_what_an_option_takes() {
    for (argv, secret) in [
        (&["docker", "login", "-u", "ann", "-p", "CANARY", "registry"][..], true),
        (&["docker", "run", "-p", "CANARY", "nginx"], false),
        (&["sudo", "mysql", "-pCANARY"], true),
        (&["find", "/", "-name", "mysql", "-pCANARY"], false),
        (&["tool", "-u", "ann", "-p", "CANARY"], true),
        (&["tool", "-p", "CANARY"], false),
        (&["journalctl", "-u", "ann", "-p", "CANARY"], false),
        (&["kubectl", "exec", "pod", "--", "mysql", "-pCANARY"], true),
        (&["git", "log", "--", "mysql", "-pCANARY"], false),
    ] {
        let whole: Vec<String> = argv.iter().map(|argument| argument.replace("CANARY", CANARY)).collect();
        let redacted = redact(&whole.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(!redacted.join(" ").contains(CANARY), secret, "{argv:?}");
    }
}

#[test]
fn the_figures_over_the_corpus_are_zero_missed_and_zero_hidden() {
    let mut figures = edr_tests::secrets::RedactionFigures::default();
    for command in edr_tests::secrets::corpus() {
        let mut argv: Vec<Bytes> = command.argv.iter().map(|argument| Bytes::from(argument.as_bytes())).collect();
        Redactor::new(KEY).redact(&mut argv);
        let redacted: Vec<String> =
            argv.iter().map(|argument| String::from_utf8_lossy(&argument.0).into_owned()).collect();
        figures.add(&command, &redacted);
    }
    let edr_tests::secrets::RedactionFigures { commands, with_secret, missed, words, hidden } = &figures;
    eprintln!("{commands} command lines, {with_secret} with a secret: {} secrets missed", missed.len());
    eprintln!("{words} harmless words: {} hidden", hidden.len());
    assert!(*commands >= 2_000 && *with_secret >= 1_000 && *words >= 5_000, "{commands}, {with_secret}, {words}");
    let wrong = format!("missed:\n{}\nhidden:\n{}", missed.join("\n"), hidden.join("\n"));
    assert!(missed.is_empty() && hidden.is_empty(), "{wrong}");
}

#[test]
fn own_rules_add_names_options_and_forms_and_take_rules_back() {
    let own = ["name acmecode", "command acmectl --unlock[]SECRET", "form acme_ alnum 12", "not acmectl --token"];
    let own: Vec<String> = own.iter().map(ToString::to_string).collect();
    let redactor = Redactor::new(KEY).with_rules(&own).unwrap();
    let shown = |argv: &[&str]| {
        let mut argv: Vec<Bytes> = argv.iter().map(|argument| Bytes::from(argument.as_bytes())).collect();
        let findings = redactor.explain(&mut argv);
        (argv.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "), findings)
    };
    let (text, findings) =
        shown(&["acmectl", "--unlock", "alpha", "--acme-code=beta", "acme_0123456789abcdef", "--token", "t1"]);
    assert_eq!(
        text,
        format!(
            "acmectl --unlock {} --acme-code={} {} --token t1",
            token("alpha"),
            token("beta"),
            token("acme_0123456789abcdef")
        )
    );
    assert_eq!(findings.len(), 3);
    assert_eq!((findings[0].argument, findings[0].range.clone()), (2, 0..5));
    assert_eq!(findings[0].rule, "command acmectl --unlock[]SECRET");
    assert_eq!(findings[0].source, "redact.rules, number 2");
    let fault = Redactor::new(KEY).with_rules(&["nam x".to_owned()]).unwrap_err();
    assert_eq!(fault.to_string(), "\"nam x\" is no rule: the kind is unknown");
}

#[test]
fn every_built_in_rule_has_a_source() {
    let rules = Rules::built_in();
    let mut number = 0;
    while !rules.text(number).0.is_empty() {
        let (text, source) = rules.text(number);
        assert!(
            !source.is_empty() && !source.ends_with(".rules") || text.starts_with("takes") || text.starts_with("flags"),
            "{text}"
        );
        number += 1;
    }
    assert!(number >= 500, "{number} rules");
}

#[test]
fn equal_secrets_have_equal_tokens_under_the_same_key() {
    let [first, second] =
        ["--password=hunter2 x", "--password=hunter3"].map(|argument| redact(&["app", argument])[1].clone());
    assert_eq!(redact(&["other", "--token", "hunter3"])[2], second.strip_prefix("--password=").unwrap());
    assert_ne!(first, second);
    let mut other = [Bytes::from(b"app"), Bytes::from(b"--password=hunter3")];
    Redactor::new(b"another key").redact(&mut other);
    assert_ne!(other[1].to_string(), second);
    assert!(second.starts_with("--password=‹redacted:") && second.ends_with('›'));
    assert_eq!(second.len(), "--password=".len() + TOKEN_START.len() + 16 + TOKEN_END.len());
    assert!(!format!("{:?}", Redactor::new(KEY)).contains("key"));
}

#[test]
fn a_token_is_not_replaced_again() {
    let once = redact(&["curl", "-u", "ann:hunter2", "--password=hunter2", "https://a:hunter2@b/"]);
    let again = redact(&once.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(once, again);
}

/// Pieces of command lines made to be expensive.
const HOSTILE: [&str; 92] = [
    "=",
    ":",
    "-",
    "@",
    ";",
    " ",
    "'",
    "\\",
    "a",
    "a=",
    "a:",
    "a ",
    "a;",
    "'a b' ",
    "-p ",
    "://",
    "://a:b@",
    "x://a:b@h ",
    "a:b@h.d ",
    "password=",
    "password:",
    "password: ",
    "password=x ",
    "password=\"",
    "password='\"",
    "password=\\\"",
    "pw=x,",
    "pw=x;",
    "pw=\"x\" ",
    "k=v&token=x&",
    "token=token ",
    "pass=bearer ",
    "cookie=",
    "cookie:",
    "cookie: x ",
    "--password ",
    "--password x ",
    "mysql -px;",
    "curl -u a:b;",
    "htpasswd -b a;",
    "htpasswd -b a b ",
    "1.1.1.1.1.1.1.1.1.1.1.1.1.1.1.1=",
    "a1A1a1A1a1A1a1A1a1A1a1A1=",
    "-----",
    "-----BEGIN ",
    "------BEGIN ",
    "-----BEGIN PRIVATE KEY",
    "-----BEGIN PRIVATE KEY-----END",
    "sk-",
    "=sk-",
    "=AKIAIOSFODNN7EXAMPLE",
    "eyJhbGciOi",
    "=eyJhbGciOi",
    "SG.",
    "=hvs.",
    "hooks.slack.com/services/",
    "api.telegram.org/bot",
    "api.telegram.org/bot ",
    "x://a:b/c@",
    "x://a:b c@h ",
    "a:b@h:1/",
    "@a:b@",
    "<a>",
    "<password>",
    "<password>x</password>",
    "<key>password</key><a>x",
    "name=\"password\" ",
    "\"name\":\"password\",\"value\":\"x\",",
    "value=\"x\" ",
    "password={x}",
    "password={x}}",
    ";password={",
    "password=(",
    "auth=[\"a\",",
    "auth('a',",
    "identified by 'x' ",
    "identified with a by ",
    "set password ",
    "setuser >x ",
    "create password 'x' ",
    "\"--password\",\"x\",",
    "$(",
    "`",
    "$(a ",
    "(a)",
    "{ a;",
    "echo x|sudo -S;",
    "a <<b\n",
    "a <<< x;",
    "?sig=0123456789&",
    "sqlplus a/b@c;",
    "eyJhbGciOiJIUzI1NiJ9.",
];

/// Returns `bytes` of a shape as one argument, as a shell's string, and as many arguments.
fn hostile(shape: &str, bytes: usize) -> [Vec<Bytes>; 3] {
    let text: Vec<u8> = shape.bytes().cycle().take(bytes).collect();
    [
        vec![Bytes::from("x"), Bytes::from(&text)],
        vec![Bytes::from("sh"), Bytes::from("-c"), Bytes::from(&text)],
        vec![Bytes::from(shape); bytes / shape.len()],
    ]
}

fn work(argv: &[Bytes], work_max: u64) -> (usize, u64) {
    let rules = Rules::built_in();
    let mut search = SecretSearch::new(&rules, work_max);
    (search.command(&arguments(argv), 0), search.work.done())
}

#[test]
fn twice_the_arguments_are_at_most_twice_the_work() {
    const BYTES: usize = 4 << 10;
    for shape in HOSTILE {
        for (once, twice) in hostile(shape, BYTES).iter().zip(hostile(shape, 2 * BYTES)) {
            let ((_, work_once), (_, work_twice)) = (work(once, u64::MAX), work(&twice, u64::MAX));
            assert!(work_twice <= 2 * work_once + 4_096, "{shape:?}: {work_once}, then {work_twice}");
            let bytes: usize = twice.iter().map(|argument| argument.0.len() + 1).sum();
            let longest = |max: usize, now: usize| work_twice * max as u64 / now as u64;
            let all = longest(ARGV_BYTES_MAX, bytes).min(longest(ARGV_MAX, twice.len()));
            assert!(all <= WORK_MAX, "{shape:?}: {all} for the longest command line");
        }
    }
}

#[test]
fn arguments_beyond_the_budget_are_replaced_whole() {
    let argv = [b"app".as_slice(), b"--password=one", b"host", b"", b"--password=two", b"last"].map(Bytes::from);
    let mut whole = argv.clone();
    Redactor::new(KEY).redact(&mut whole);
    let (_, all) = work(&argv, u64::MAX);
    let mut reached_before = 0;
    for work_max in 0..=all {
        let mut redacted = argv.clone();
        Redactor::new(KEY).redact_within(&mut redacted, work_max);
        let (reached, _) = work(&argv, work_max);
        assert!(reached >= reached_before && (reached == argv.len()) == (work_max == all));
        reached_before = reached;
        assert_eq!(redacted[..reached], whole[..reached]);
        for (unseen, argument) in redacted[reached..].iter().zip(&argv[reached..]) {
            let expected = if argument.is_empty() { "" } else { UNSEEN };
            assert_eq!(unseen.to_string(), expected, "with {work_max}");
        }
    }
}

#[test]
fn work_ends_soon_after_its_budget() {
    for shape in HOSTILE {
        for argv in hostile(shape, 8 << 10) {
            let ((_, all), (_, done)) = (work(&argv, u64::MAX), work(&argv, 10_000));
            // One step may scan the whole argument a few times.
            assert!(done <= all && done <= 10_000 + 8 * (8 << 10), "{shape:?}: {done} of {all}");
        }
    }
}

proptest! {
    #[test]
    fn a_look_ahead_is_remembered_and_right(
        text in "[a;]{0,60}",
        starts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..9),
    ) {
        let (mut ahead, mut work) = (LookAhead::default(), SearchBudget::up_to(0));
        for start in starts.iter().map(|start| start.index(text.len() + 1)) {
            let naive = text[start..].find(';').map_or(text.len(), |length| start + length);
            let found = ahead.find(text.as_bytes(), start, &mut work, |rest| memchr::memchr(b';', rest));
            prop_assert_eq!(found, naive);
        }
    }

    #[test]
    fn any_arguments_keep_their_number_and_a_secret_of_any_bytes_goes(
        mut argv in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..8),
        secret in proptest::collection::vec(1_u8.., 8..40).prop_filter("no reference", |secret| {
            !is_harmless(secret, Place::Argument)
        }),
    ) {
        argv.push([b"--password=".as_slice(), &secret].concat());
        let mut redacted: Vec<Bytes> = argv.iter().map(Bytes::from).collect();
        Redactor::new(KEY).redact(&mut redacted);
        prop_assert_eq!(redacted.len(), argv.len());
        let last = redacted.last().unwrap();
        // The secret must be gone even when the option before takes the whole last argument.
        prop_assert!(!last.0.windows(secret.len()).any(|window| window == secret));
    }

    #[test]
    fn shells_text_never_panics(text in "[-a-z =:@/'\"\\\\;|&{}]{0,60}") {
        redact(&["sh", "-c", &text]);
        redact(&["curl", &text, &text]);
        redact(&["mysql", "-p", &text]);
    }
}
