//! The forms of secrets that are known, and what must stay.

use proptest::prelude::*;

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

/// `CANARY` stands for a secret; the rest must stay as it is.
const FORMS: &[&[&str]] = &[
    &["app", "--password=CANARY"],
    &["app", "--password", "CANARY", "run"],
    &["app", "-password", "CANARY"],
    &["app", "--db-password=CANARY", "--db-host=db"],
    &["app", "--dbPassword=CANARY"],
    &["app", "password=CANARY"],
    &["app", "/password:CANARY"],
    &["app", "--token", "CANARY"],
    &["app", "--api-key=CANARY"],
    &["app", "--client-secret", "CANARY"],
    &["app", "--passphrase", "CANARY"],
    &["env", "PGPASSWORD=CANARY", "psql", "-h", "db", "-p", "5432"],
    &["env", "AWS_SECRET_ACCESS_KEY=CANARY", "aws", "s3", "ls"],
    &["env", "MYSQL_PWD=CANARY", "mysql", "-u", "root"],
    &["aws", "configure", "set", "aws_secret_access_key", "CANARY"],
    &["java", "-Dspring.datasource.password=CANARY", "-jar", "app.jar"],
    &["java", "-Djavax.net.ssl.keyStorePassword=CANARY", "Main"],
    &["keytool", "-list", "-storepass", "CANARY", "-keystore", "k.jks"],
    &["mysql", "-u", "root", "-pCANARY", "shop"],
    &["/usr/bin/mysqldump", "--password=CANARY", "shop"],
    &["sshpass", "-p", "CANARY", "ssh", "-p", "22", "root@host"],
    &["sshpass", "-pCANARY", "scp", "-P", "2222", "a", "host:b"],
    &["curl", "-u", "ann:CANARY", "https://example.org/"],
    &["curl", "-sSu", "ann:CANARY", "https://example.org/"],
    &["curl", "--user=ann:CANARY", "https://example.org/"],
    &["curl", "--proxy-user", "ann:CANARY", "https://example.org/"],
    &["curl", "-H", "Authorization: Bearer CANARY", "https://example.org/"],
    &["curl", "-H", "authorization: Basic CANARY", "https://example.org/"],
    &["curl", "-HX-Api-Key: CANARY", "https://example.org/"],
    &["curl", "-H", "PRIVATE-TOKEN: CANARY", "https://example.org/"],
    &["curl", "-H", "Cookie: CANARY", "https://example.org/"],
    &["curl", "-d", "{\"user\": \"ann\", \"password\": \"CANARY\"}", "https://example.org/"],
    &["curl", "-d", "user=ann&password=CANARY&x=1", "https://example.org/"],
    &["curl", "https://example.org/a?page=1&access_token=CANARY&x=1"],
    &["curl", "https://hooks.slack.com/services/CANARY"],
    &["wget", "--http-password=CANARY", "https://example.org/"],
    &["git", "clone", "https://ann:CANARY@example.org/a.git"],
    &["git", "clone", "https://CANARY@example.org/a.git"],
    &["psql", "postgresql://ann:CANARY@db:5432/shop?sslmode=require"],
    &["app", "--url", "amqp://ann:CANARY@mq/"],
    &["app", "Server=db;User Id=ann;Password=CANARY;Encrypt=true"],
    &["app", "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=CANARY;"],
    &["redis-cli", "-h", "cache", "-a", "CANARY", "ping"],
    &["mongosh", "-u", "ann", "-p", "CANARY", "db"],
    &["ldapsearch", "-D", "cn=admin", "-w", "CANARY", "-b", "dc=x"],
    &["smbclient", "-U", "ann%CANARY", "//host/share"],
    &["7z", "x", "-pCANARY", "a.7z"],
    &["zip", "-P", "CANARY", "a.zip", "a"],
    &["openssl", "enc", "-k", "CANARY", "-in", "a"],
    &["openssl", "rsa", "-passin", "CANARY", "-in", "a"],
    &["docker", "login", "-u", "ann", "-p", "CANARY", "registry"],
    &["kubectl", "create", "secret", "generic", "x", "--from-literal=pw=CANARY"],
    &["helm", "install", "--set", "replicas=2,db.password=CANARY"],
    &["htpasswd", "-b", "file", "ann", "CANARY"],
    &["sqlcmd", "-S", "db", "-U", "sa", "-P", "CANARY"],
    &["xfreerdp", "/u:ann", "/p:CANARY", "/v:host"],
    &["snmpwalk", "-v2c", "-c", "CANARY", "host"],
    &["lftp", "-u", "ann,CANARY", "ftp://host"],
    &["psexec.py", "CORP/ann:CANARY@10.0.0.1"],
    &["mount", "-t", "cifs", "-o", "username=ann,password=CANARY,ro", "//host/s", "/mnt"],
    &["sh", "-c", "mysql -u root -pCANARY shop | gzip"],
    &["bash", "-c", "export TOKEN=CANARY; exec app --port 80"],
    &["ssh", "-p", "2222", "host", "curl -u 'ann:CANARY' https://example.org/"],
    &["sudo", "-u", "ann", "sh", "-c", "sshpass -p \"CANARY\" ssh -p 22 host"],
    &["app", "--credentials", "CANARY"],
    &["vault", "login", "--token=CANARY"],
    &["http", "-a", "ann:CANARY", "example.org"],
];

/// Secrets that are known by their own form.
const KNOWN_BY_FORM: &[&str] = &[
    "AKIAIOSFODNN7EXAMPLE",
    "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
    "github_pat_11ABCDEFG0abcdefghijkl_mnopqrstuvwxyz",
    "glpat-abcdefghijklmnopqrst",
    "xoxb-123456789012-abcdefghijkl",
    "AIzaSyA-abcdefghijklmnopqrstuvwxyz01234",
    "sk_live_abcdefghijklmnop1234",
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P",
    "npm_abcdefghijklmnopqrstuvwxyz0123456789",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA\n-----END RSA PRIVATE KEY-----",
];

#[test]
fn every_known_form_of_a_secret_is_replaced_and_nothing_else() {
    assert!(FORMS.len() + KNOWN_BY_FORM.len() >= 50);
    for form in FORMS {
        let argv: Vec<String> = form.iter().map(|argument| argument.replace("CANARY", CANARY)).collect();
        let redacted = redact(&argv.iter().map(String::as_str).collect::<Vec<_>>());
        let expected: Vec<String> = form.iter().map(|argument| argument.replace("CANARY", &token(CANARY))).collect();
        assert_eq!(redacted, expected);
    }
    for secret in KNOWN_BY_FORM {
        for argument in [(*secret).to_owned(), format!("see {secret} there"), format!("x={secret}")] {
            let redacted = redact(&["app", &argument]);
            assert_eq!(redacted[1], argument.replace(secret, &token(secret)));
        }
    }
}

#[test]
fn what_is_no_secret_stays_as_it_is() {
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

#[test]
fn one_secret_has_one_token_under_one_key() {
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

proptest! {
    #[test]
    fn any_arguments_keep_their_number_and_a_secret_of_any_bytes_goes(
        mut argv in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..8),
        secret in proptest::collection::vec(1_u8.., 8..40).prop_filter("no reference", |secret| !is_harmless(secret)),
    ) {
        argv.push([b"--password=".as_slice(), &secret].concat());
        let mut redacted: Vec<Bytes> = argv.iter().map(Bytes::from).collect();
        Redactor::new(KEY).redact(&mut redacted);
        prop_assert_eq!(redacted.len(), argv.len());
        let last = redacted.last().unwrap();
        // Unless the argument before is an option that takes this one whole.
        prop_assert!(!last.0.windows(secret.len()).any(|window| window == secret));
    }

    #[test]
    fn shells_text_never_panics(text in "[-a-z =:@/'\"\\\\;|&{}]{0,60}") {
        redact(&["sh", "-c", &text]);
        redact(&["curl", &text, &text]);
        redact(&["mysql", "-p", &text]);
    }
}
