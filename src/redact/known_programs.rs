//! Programs with options whose names do not show that they take a secret.

use super::names::Value;

/// The options by which some programs take their secrets.
#[derive(Debug)]
pub(super) struct SecretOptions {
    programs: &'static [&'static str],
    /// Options whose value is the next argument, or is attached to a short option.
    options: &'static [(&'static str, Value)],
    /// Options whose value is always attached: `mysql -p db` prompts for the password, and `db` is
    /// the database.
    attached: &'static [(&'static str, Value)],
}

use Value::{Cookie, Credentials, PassSource, Secret};

const KNOWN: &[SecretOptions] = &[
    SecretOptions {
        programs: &["curl"],
        options: &[
            ("-u", Credentials),
            ("--user", Credentials),
            ("-U", Credentials),
            ("--proxy-user", Credentials),
            ("-b", Cookie),
            ("-E", Credentials),
            ("--cert", Credentials),
        ],
        attached: &[],
    },
    SecretOptions {
        programs: &["http", "https", "xh"],
        options: &[("-a", Credentials)],
        attached: &[],
    },
    SecretOptions { programs: &["lftp"], options: &[("-u", Credentials)], attached: &[] },
    SecretOptions {
        programs: &["smbclient", "rpcclient", "smbget", "net"],
        options: &[("-U", Credentials), ("--user", Credentials)],
        attached: &[],
    },
    SecretOptions {
        programs: &[
            "mysql",
            "mysqldump",
            "mysqladmin",
            "mysqlimport",
            "mysqlshow",
            "mysqlcheck",
            "mysqlpump",
            "mysqlbinlog",
            "mariadb",
            "mariadb-dump",
            "mariadb-admin",
            "mariadb-import",
            "mycli",
            "7z",
            "7za",
            "7zr",
            "7zz",
            "rar",
            "unrar",
        ],
        options: &[],
        attached: &[("-p", Secret)],
    },
    SecretOptions {
        programs: &[
            "sshpass",
            "mongo",
            "mongosh",
            "mongodump",
            "mongorestore",
            "mongoexport",
            "mongoimport",
            "rdesktop",
            "pkcs11-tool",
            "login",
        ],
        options: &[("-p", Secret), ("--pin", Secret), ("--so-pin", Secret)],
        attached: &[],
    },
    SecretOptions {
        programs: &["redis-cli", "valkey-cli", "keydb-cli"],
        options: &[("-a", Secret)],
        attached: &[],
    },
    SecretOptions {
        programs: &[
            "ldapsearch",
            "ldapadd",
            "ldapmodify",
            "ldapdelete",
            "ldapwhoami",
            "ldappasswd",
            "ldapcompare",
        ],
        options: &[("-w", Secret)],
        attached: &[],
    },
    SecretOptions {
        programs: &["zip", "unzip", "sqlcmd", "bcp", "ipmitool", "mosquitto_pub", "mosquitto_sub"],
        options: &[("-P", Secret)],
        attached: &[],
    },
    SecretOptions {
        programs: &["snmpget", "snmpwalk", "snmpset", "snmpbulkwalk", "snmptrap"],
        options: &[("-A", Secret), ("-X", Secret)],
        attached: &[],
    },
    SecretOptions {
        programs: &["openssl"],
        options: &[
            ("-passin", PassSource),
            ("-passout", PassSource),
            ("-pass", PassSource),
            ("-k", Secret),
            ("-K", Secret),
        ],
        attached: &[],
    },
    SecretOptions {
        programs: &["xfreerdp", "xfreerdp3", "wlfreerdp"],
        options: &[],
        attached: &[("/p:", Secret)],
    },
];

/// Programs whose `login` takes `-p PASSWORD`, while `-p` has another meaning in their other
/// subcommands.
const WITH_LOGIN: &[&str] = &["docker", "podman", "nerdctl", "buildah", "skopeo", "az", "oc", "cf"];
/// Words that are followed by a secret, whatever it looks like.
const ANNOUNCE: &[(&str, &str)] = &[
    ("ngrok", "authtoken"),
    ("ngrok", "add-authtoken"),
    ("vault", "login"),
    ("nmcli", "password"),
];
const SHELLS: &[&str] = &["sh", "bash", "dash", "zsh", "ksh", "ash", "fish"];

/// The program whose options come next: mysql, both in `sudo mysql -pX` and in `docker exec db
/// mysql -pX`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Program<'a> {
    name: &'a str,
    known: Option<&'static SecretOptions>,
}

impl<'a> Program<'a> {
    /// Processes the next word that is not an option.
    pub(super) fn pass(&mut self, word: &'a str) {
        let base = word.rsplit('/').next().unwrap_or(word);
        let known = KNOWN.iter().find(|known| known.programs.contains(&base));
        if base == "login" {
            self.known = known.filter(|_| WITH_LOGIN.contains(&self.name)).or(self.known);
        } else if known.is_some() {
            *self = Self { name: base, known };
        } else if WITH_LOGIN.contains(&base)
            || SHELLS.contains(&base)
            || ANNOUNCE.iter().any(|(name, _)| *name == base)
        {
            *self = Self { name: base, known: None };
        }
    }

    /// Reports whether the next argument is a script: `sh -c`, `bash -lc`.
    pub(super) fn runs_text_after(&self, option: &str) -> bool {
        SHELLS.contains(&self.name) && !option.starts_with("--") && option.ends_with('c')
    }

    /// Reports whether this word announces a secret.
    pub(super) fn announces(&self, word: &str) -> bool {
        ANNOUNCE.contains(&(self.name, word))
    }

    /// Returns how the argument after the option is treated.
    pub(super) fn option(&self, option: &str) -> Option<Value> {
        let options = self.known.map_or(&[][..], |known| known.options);
        options.iter().find(|(name, _)| *name == option).map(|(_, class)| *class)
    }

    /// Parses an option with its value attached, such as `-pX` or `-uuser:X`. Returns the length of
    /// the option, and how the value is treated.
    pub(super) fn attached(&self, word: &str) -> Option<(usize, Value)> {
        let known = self.known?;
        let short = known.options.iter().filter(|(name, _)| name.len() == 2);
        let mut all = known.attached.iter().chain(short);
        let (name, class) =
            all.find(|(name, _)| word.len() > name.len() && word.starts_with(name))?;
        Some((name.len(), *class))
    }
}
