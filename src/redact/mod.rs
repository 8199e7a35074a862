//! Masks secrets in arguments before they are stored or shown.
//!
//! While a process lives, its arguments are visible to every user of the machine (`ps`). A ledger
//! keeps them for months, and is copied, mailed and viewed in a browser. So everything that looks
//! like a secret is replaced by [`MASK`], whose length reveals nothing, before a command is stored,
//! reported or logged. Programs run with their real arguments, and names are matched against those.
//!
//! No rule can recognize every secret: a program may take one as its third argument, say. For such
//! programs there is `record_arguments(false)`. In doubt a value is masked, unless its name or its
//! form shows that it need not be:
//!
//! | what | becomes | but not |
//! | --- | --- | --- |
//! | `--token X`, `-password X` | `--token ***` | `--no-password X`, `--with-token` (switches), `--password --next` |
//! | `--password=X`, `API_KEY=X`, `-Ddb.password=X` | `--password=***` | `--password-file P`, `--token-count 5`, `--max-tokens
//! 9` |
//! | `--private-key X`, `SSH_KEY=X` | `***` | a path |
//! | `--key X`, `key=X`, `sig=X`, `authtoken X` | `***` where X looks random: 20 or more of hex or base64 | `--key name`,
//! `--primary-key id` |
//! | `Authorization: Bearer X`, `X-Api-Key: X`, `Cookie: X` | `Authorization: Bearer ***` | |
//! | `https://user:X@host`, `user:X@tcp(host)` | `https://user:***@host` | `git@host:path`, `image:tag@sha256:…` |
//! | `?access_token=X&page=2`, `{"password": "X"}` | the value alone | |
//! | `ghp_…`, `sk-…`, `AKIA…`, `eyJ….….…`, a private key | `ghp_***` | |
//! | `curl -u user:X`, `mysql -pX`, `sshpass -p X`, and more | `-u user:***` | `docker run -p 80:80`, `docker run -u 0:0` |
//!
//! An argument that contains a command line (`sh -c '…'`, `ssh host '…'`) is parsed as one. Values
//! such as `true`, `prompt` or `${VARIABLE}` are not secrets. Masking twice changes nothing.

mod argv;
mod known_programs;
mod names;
mod patterns;
mod shell_words;
#[cfg(test)]
mod tests;
mod values;

pub(crate) use argv::{mask_command, mask_text};

/// Replaces a secret.
pub(crate) const MASK: &str = "***";
