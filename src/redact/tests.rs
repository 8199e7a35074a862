use proptest::prelude::*;
use rustix::time::{ClockId, clock_gettime};

use super::*;

fn masked(line: &[&str]) -> Vec<String> {
    mask_command(&line.iter().map(|&word| word.to_owned()).collect::<Vec<_>>())
}

#[track_caller]
fn becomes(line: &[&str], expected: &[&str]) {
    assert_eq!(masked(line), expected, "{line:?}");
}

#[track_caller]
fn stays(line: &[&str]) {
    becomes(line, line);
}

#[test]
fn options_and_variables_by_name() {
    becomes(&["x", "--token", "hunter2", "-v"], &["x", "--token", "***", "-v"]);
    becomes(&["x", "-password", "hunter2"], &["x", "-password", "***"]);
    becomes(&["x", "--password=hunter2"], &["x", "--password=***"]);
    becomes(&["x", "--password=correct horse battery"], &["x", "--password=***"]);
    becomes(&["x", "--api-key", "-abc"], &["x", "--api-key", "***"]);
    becomes(
        &["env", "API_KEY=abc", "KEY=abc", "A=b", "srv"],
        &["env", "API_KEY=***", "KEY=***", "A=b", "srv"],
    );
    becomes(
        &["docker", "run", "-e", "DB_PASSWORD=x", "img"],
        &["docker", "run", "-e", "DB_PASSWORD=***", "img"],
    );
    becomes(
        &["java", "-Djavax.net.ssl.keyStorePassword=x"],
        &["java", "-Djavax.net.ssl.keyStorePassword=***"],
    );
    becomes(&["x", "--env=GITHUB_TOKEN=x"], &["x", "--env=GITHUB_TOKEN=***"]);
    becomes(&["helm", "--set", "db.password=a,b"], &["helm", "--set", "db.password=***"]);
    becomes(&["keytool", "-storepass", "changeit"], &["keytool", "-storepass", "***"]);
    becomes(
        &["npm", "config", "set", "//r.example/:_authToken=x"],
        &["npm", "config", "set", "//r.example/:_authToken=***"],
    );
    becomes(&["x", "--token", "a\nb"], &["x", "--token", "***"]);
}

#[test]
fn a_value_that_is_only_named_like_a_secret_stays() {
    for line in [
        &["x", "--token-count", "5"][..],
        &["x", "--no-password", "file"],
        &["x", "--password-file", "/etc/pw"],
        &["gh", "auth", "login", "--with-token"],
        &["x", "--password", "--verbose"],
        &["x", "--max-tokens", "4096", "--max_new_tokens=12"],
        &["ssh", "-i", "/home/a/.ssh/id", "git@github.com:org/repo.git"],
        &["ansible", "--private-key", "/etc/key.pem"],
        &["sort", "--key", "2", "--key=2,3n"],
        &[
            "docker",
            "run",
            "-p",
            "80:80",
            "-u",
            "1000:1000",
            "image:tag@sha256:0123456789abcdef0123456789abcdef",
        ],
        &["git", "commit", "-m", "Reset the token for users; bearer token too"],
        &["curl", "https://host:8080/a?page=2&sort=key#top", "-H", "Accept: text/html"],
        &["grep", "password", "src/main.rs"],
        &["redis-server", "*:6379"],
        &["x", "token-service:8080", "auth:3000"],
        &["mysql", "-p", "db"],
        &["sh", "-c", "echo \"$PASSWORD\"; exec sleep 3600"],
        &["x", "--password=${DB_PASSWORD}", "--password=prompt", "--use-tokens=true"],
        &["claude", "-p", "Write a tokenizer: it's for \"passwords\" & keys"],
        &["npm", "i", "@scope/pkg@1.2.3", "https://registry.npmjs.org:443/@scope/pkg"],
        &["PWD=/srv", "OLDPWD=/", "x"],
        &["ps", "-o", "pid,ppid"],
        &["sk-learn-contrib-modules-and-more"],
    ] {
        stays(line);
    }
}

#[test]
fn headers() {
    becomes(
        &["curl", "-H", "Authorization: Bearer abc.def"],
        &["curl", "-H", "Authorization: Bearer ***"],
    );
    becomes(&["curl", "-HAuthorization: Basic dTpw"], &["curl", "-HAuthorization: Basic ***"]);
    becomes(&["curl", "--header=X-Api-Key: abc"], &["curl", "--header=X-Api-Key: ***"]);
    becomes(&["http", "x.example", "X-Api-Key:abc"], &["http", "x.example", "X-Api-Key:***"]);
    becomes(&["curl", "-H", "Cookie: a=b; c=d"], &["curl", "-H", "Cookie: ***"]);
    becomes(&["curl", "-H", "authorization: abc"], &["curl", "-H", "authorization: ***"]);
    becomes(&["x", "Authorization:", "Bearer", "abc"], &["x", "Authorization:", "Bearer", "***"]);
}

#[test]
fn urls_and_names_of_data_sources() {
    for (text, expected) in [
        ("https://u:p@h/x", "https://u:***@h/x"),
        ("redis://:p@h:6379/0", "redis://:***@h:6379/0"),
        ("postgres://u:p%40q@h/db?sslmode=require", "postgres://u:***@h/db?sslmode=require"),
        ("postgres://u:a/b@h/db", "postgres://u:***@h/db"),
        ("postgres://u:a@b@h/db", "postgres://u:***@h/db"),
        ("DATABASE_URL=mysql://u:p@h/db", "DATABASE_URL=mysql://u:***@h/db"),
        ("https://0123456789abcdef0123@h/x", "https://***@h/x"),
        ("u:p@tcp(h:3306)/db", "u:***@tcp(h:3306)/db"),
        ("https://h/x?access_token=abc&page=2", "https://h/x?access_token=***&page=2"),
        (
            "https://h/x?a=1&X-Amz-Signature=0123456789abcdef0123",
            "https://h/x?a=1&X-Amz-Signature=***",
        ),
    ] {
        becomes(&["x", text], &["x", expected]);
    }
    stays(&["x", "ssh://git@h/x", "https://user@h/x"]);
}

#[test]
fn tokens_by_their_form() {
    for (text, expected) in [
        ("ghp_0123456789abcdefghijABCDEFGHIJ012345", "ghp_***"),
        ("x:sk-proj-0123456789abcdefghij", "x:sk-***"),
        ("AKIAIOSFODNN7EXAMPLE", "AKIA***"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc_def", "***"),
        ("(glpat-0123456789abcdefghij)", "(glpat-***)"),
        (
            "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----",
            "-----BEGIN RSA PRIVATE KEY-----***-----END RSA PRIVATE KEY-----",
        ),
        ("123456789:AAabcdefghijklmnopqrstuvwxyz012345", "123456789:***"),
    ] {
        becomes(&["x", text], &["x", expected]);
    }
    becomes(&["x", "token", "0123456789abcdef0123456789abcdef"], &["x", "token", "***"]);
    becomes(
        &[
            "aws",
            "configure",
            "set",
            "aws_secret_access_key",
            "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        ],
        &["aws", "configure", "set", "aws_secret_access_key", "***"],
    );
}

#[test]
fn programs_with_options_of_their_own() {
    becomes(
        &["curl", "-u", "bob:x", "-ubob:x", "--user", "bob:x"],
        &["curl", "-u", "bob:***", "-ubob:***", "--user", "bob:***"],
    );
    becomes(&["mysql", "-uroot", "-pX", "db"], &["mysql", "-uroot", "-p***", "db"]);
    becomes(
        &["sudo", "-u", "db", "/usr/bin/mysqldump", "-pX"],
        &["sudo", "-u", "db", "/usr/bin/mysqldump", "-p***"],
    );
    becomes(&["docker", "exec", "db", "mysql", "-pX"], &["docker", "exec", "db", "mysql", "-p***"]);
    becomes(
        &["docker", "login", "-u", "bob", "-p", "x"],
        &["docker", "login", "-u", "bob", "-p", "***"],
    );
    becomes(&["sshpass", "-p", "x", "ssh", "h"], &["sshpass", "-p", "***", "ssh", "h"]);
    becomes(&["sshpass", "-px", "ssh", "h"], &["sshpass", "-p***", "ssh", "h"]);
    becomes(&["redis-cli", "-a", "x", "ping"], &["redis-cli", "-a", "***", "ping"]);
    becomes(&["openssl", "enc", "-pass", "pass:x"], &["openssl", "enc", "-pass", "pass:***"]);
    stays(&["openssl", "enc", "-pass", "env:X", "-in", "file"]);
    becomes(&["ngrok", "authtoken", "x"], &["ngrok", "authtoken", "***"]);
    becomes(&["smbclient", "//h/s", "-U", "bob%x"], &["smbclient", "//h/s", "-U", "bob%***"]);
    becomes(&["xfreerdp", "/u:bob", "/p:x"], &["xfreerdp", "/u:bob", "/p:***"]);
}

#[test]
fn a_command_line_in_an_argument_is_parsed_as_one() {
    for (script, expected) in [
        (
            "exec curl -H 'Authorization: Bearer abc' https://h",
            "exec curl -H 'Authorization: Bearer ***' https://h",
        ),
        ("TOKEN=abc exec srv --port 80", "TOKEN=*** exec srv --port 80"),
        ("srv --password 'a b' --port 80", "srv --password '***' --port 80"),
        ("srv --password=\"a b\" --port 80", "srv --password=*** --port 80"),
        ("mysql -uroot -pX db; echo done", "mysql -uroot -p*** db; echo done"),
        ("export A=1 SECRET_KEY=x\nsrv", "export A=1 SECRET_KEY=***\nsrv"),
        ("curl -H Authorization:\\ Bearer\\ abc1", "curl -H Authorization:***"),
        ("sh -c \"curl -u bob:x h\"", "sh -c \"curl -u bob:*** h\""),
        (
            "curl -d '{\"password\": \"x\", \"user\": \"bob\"}' h",
            "curl -d '{\"password\": \"***\", \"user\": \"bob\"}' h",
        ),
    ] {
        becomes(&["sh", "-c", script], &["sh", "-c", expected]);
    }
    becomes(&["ssh", "h", "env TOKEN=x srv"], &["ssh", "h", "env TOKEN=*** srv"]);
    becomes(
        &["python3", "-c", "connect(password='x y', user='bob')"],
        &["python3", "-c", "connect(password=*** user='bob')"],
    );
}

#[test]
fn fields_of_json() {
    for (text, expected) in [
        (r#"{"password":"x","user":"bob"}"#, r#"{"password":"***","user":"bob"}"#),
        (r#"{"api_key" : "x\"y", "n": 1}"#, r#"{"api_key" : "***", "n": 1}"#),
        (r#"{\"token\":\"x\"}"#, r#"{\"token\":\"***\"}"#),
        (r#"["--token", "x", "y"]"#, r#"["--token", "***", "y"]"#),
        (
            r#"{"pin": 1, "password": 12345, "token": null}"#,
            r#"{"pin": 1, "password": ***, "token": null}"#,
        ),
    ] {
        becomes(&["x", text], &["x", expected]);
    }
    stays(&["x", r#"{"required": ["password", "name"], "tokens": 5}"#]);
}

#[test]
fn errors_that_quote_a_command() {
    assert_eq!(mask_text("failed to run `srv --token abc`"), "failed to run `srv --token ***`");
    let plain = "failed to read `/proc/7/stat`: No such file or directory (os error 2)";
    assert_eq!(mask_text(plain), plain);
}

/// Places in which a secret may be.
const PLACES: &[&[&str]] = &[
    &["x", "--token", "§"],
    &["x", "--password=§"],
    &["API_KEY=§", "x"],
    &["curl", "-H", "Authorization: Bearer §", "h"],
    &["curl", "-u", "bob:§", "h"],
    &["mysql", "-p§"],
    &["x", "https://bob:§@h/p"],
    &["x", "https://h/p?access_token=§&page=2"],
    &["x", r#"{"secret":"§","n":1}"#],
    &["sh", "-c", "srv --api-key § --port 80"],
    &["sh", "-c", "exec curl -H 'X-Api-Key: §' h"],
    &["sh", "-c", "TOKEN=§ srv"],
    &["x", "ghp_§"],
    &["x", "token", "§"],
    &["docker", "run", "-e", "SECRET=§", "img"],
];

proptest! {
    #[test]
    fn neither_a_secret_nor_its_length_is_revealed(
        place in 0..PLACES.len(),
        secret in "[A-Za-z0-9]{20,60}",
        other in "[A-Za-z0-9]{20,60}",
    ) {
        let with = |secret: &str| {
            // A bare value must look like a secret.
            let secret = format!("{secret}a7B");
            mask_command(&PLACES[place].iter().map(|word| word.replace('§', &secret)).collect::<Vec<_>>())
        };
        let masked = with(&secret);
        prop_assert!(!masked.concat().contains(&secret), "{masked:?}");
        prop_assert_eq!(masked, with(&other));
    }

    #[test]
    fn any_bytes_are_accepted_and_masking_twice_changes_nothing(line in prop::collection::vec(any::<String>(), 0..6)) {
        let once = mask_command(&line);
        prop_assert_eq!(once.len(), line.len());
        prop_assert_eq!(mask_command(&once), once);
    }

    #[test]
    fn masking_twice_changes_nothing_of_what_is_nearly_a_secret(line in prop::collection::vec(
        "(--token|password|-p|curl|mysql|Authorization:|Bearer|key|TOKEN|a1b2c3d4e5f6a7b8c9d0e1f2|://|u:p@h|[ '\"=:;&\\\\{},*?-]|[a-z0-9é]){0,8}",
        0..5,
    )) {
        let once = mask_command(&line);
        prop_assert_eq!(once.len(), line.len());
        prop_assert_eq!(mask_command(&once), once);
    }

    #[test]
    fn a_line_without_secrets_is_unchanged(line in prop::collection::vec(
        "(-[a-z]|--(port|host|name|file|max-tokens|password-file|token-count)|/usr/bin/[a-z]{1,8}|[a-z]{1,8}(=[a-z0-9]{1,8})?|[0-9]{1,5}|[a-z]{1,6}\\.(rs|txt|log)|https://[a-z]{1,8}\\.example/[a-z]{0,5})",
        1..8,
    )) {
        let names_one = |word: &String| ["pass", "pwd", "token", "key", "auth", "jwt", "otp", "pat", "cred", "cookie", "secret", "curl", "http", "zip", "net", "rar", "sig", "sas", "hmac", "bcp", "login", "xh", "mongo"]
            .iter().any(|name| word.contains(name) && !word.starts_with("--"));
        prop_assume!(!line.iter().any(names_one));
        prop_assert_eq!(mask_command(&line), line);
    }
}

/// Arguments may be as long as the kernel allows, 128 KiB each, and any user may choose them.
#[test]
fn long_arguments_cost_in_proportion_to_their_length() {
    let cost = |piece: &str, length: usize| {
        let line = ["x".to_owned(), piece.repeat(length / piece.len())];
        // CPU time of this thread alone, so that other load does not count.
        let now = || clock_gettime(ClockId::ThreadCPUTime);
        let start = now();
        mask_command(&line);
        let (end, nanos) = (now(), 1_000_000_000);
        (end.tv_sec - start.tv_sec) * nanos + end.tv_nsec - start.tv_nsec
    };
    for piece in [
        "://a:b/",
        "\"token",
        "'",
        "\\\"",
        "a:b",
        "-----BEGIN ",
        "?a=",
        "--token=",
        "eyJ",
        "sk-",
        "x ",
        "key ",
        "\"a\" ",
        "?sig=",
        "a=",
        "(\"",
        "token: ",
        "u:p@",
        "\"token\":",
    ] {
        // For eight times the length, a proportional cost is eight times as high; a quadratic one
        // would be 64 times as high.
        let is_fair = |_| cost(piece, 32 << 10) < cost(piece, 4 << 10) * 30 + 5_000_000;
        assert!((0..3).any(is_fair), "{piece:?} takes time quadratic in its length");
    }
}
