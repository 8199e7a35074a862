//! Determines which script an interpreter runs, from its arguments, as the interpreter itself
//! would.
//!
//! Only the script counts: text after `-c` or `-e`, a module after `-m`, and the value of an option
//! are not scripts. An option that is unknown here may take the next word as its value, so a script
//! after such an option is doubtful.

/// A script in a command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Script<'a> {
    pub(super) path: &'a [u8],
    /// Whether the option before it is unknown, so that the word may be the value of that option.
    pub(super) doubtful: bool,
}

/// How one family of interpreters reads its options. Short ones may be joined, as in `-ec` or
/// `-pe`.
#[derive(Debug)]
struct Interpreter {
    names: &'static [&'static str],
    /// Options without a value, digits included.
    plain: &'static [u8],
    /// Options after which there is no script: the next word is program text, a module, or an
    /// argument of a program read from the input.
    no_script: &'static [u8],
    /// Options whose value is the rest of the word or, if that is empty, the next word.
    value: &'static [u8],
    /// Options whose value is always the rest of the word.
    joined: &'static [u8],
    /// Options whose value is the script.
    script: &'static [u8],
    /// Long options after which there is no script.
    long_no_script: &'static [&'static str],
    /// Long options whose value is the next word.
    long_value: &'static [&'static str],
    /// Prefixes of long options without a value.
    long_plain: &'static [&'static str],
    /// Subcommands before the script.
    subcommands: &'static [&'static str],
}

const NONE: Interpreter = Interpreter {
    names: &[],
    plain: b"",
    no_script: b"",
    value: b"",
    joined: b"",
    script: b"",
    long_no_script: &[],
    long_value: &[],
    long_plain: &[],
    subcommands: &[],
};

/// From the manual pages sh(1), bash(1), zsh(1), python3(1), node(1), perlrun(1), ruby(1), php(1),
/// lua(1), tclsh(1), and the built-in help of `deno` and `bun`.
const INTERPRETERS: [Interpreter; 9] = [
    Interpreter {
        names: &["sh", "bash", "dash", "zsh", "ksh", "mksh", "ash", "rbash"],
        plain: b"abefhiklmnprtuvxBCDEHPT",
        no_script: b"cs",
        value: b"oO",
        long_no_script: &["--command"],
        long_value: &["--rcfile", "--init-file", "--emulate"],
        long_plain: &["--no", "--posix", "--login", "--interactive", "--restricted", "--verbose"],
        ..NONE
    },
    Interpreter {
        names: &["python", "pypy"],
        plain: b"bBdEhiIOPqRsSuvVx",
        no_script: b"cm",
        value: b"WXQ",
        long_value: &["--check-hash-based-pycs"],
        ..NONE
    },
    Interpreter {
        names: &["node", "nodejs"],
        plain: b"chiv",
        no_script: b"ep",
        value: b"rC",
        long_no_script: &["--eval", "--print", "--run", "--test"],
        long_value: &["--require", "--import", "--loader", "--conditions", "--env-file", "--title"],
        long_plain: &["--no-", "--trace-", "--enable-", "--expose", "--watch", "--check"],
        ..NONE
    },
    Interpreter {
        names: &["perl"],
        plain: b"acdfhlnpstuvwSTUWX",
        no_script: b"eE",
        value: b"I",
        joined: b"MmiFxVDC",
        ..NONE
    },
    Interpreter {
        names: &["ruby"],
        plain: b"acdhlnpsvwySU",
        no_script: b"e",
        value: b"IrCE",
        joined: b"xKFiWT",
        long_value: &["--encoding", "--external-encoding", "--internal-encoding"],
        long_plain: &["--disable-", "--enable-", "--jit", "--yjit", "--verbose"],
        ..NONE
    },
    Interpreter {
        names: &["php"],
        plain: b"aCehilmnqsvwH",
        no_script: b"rRBES",
        value: b"dczt",
        script: b"fF",
        long_no_script: &["--run", "--server"],
        long_value: &["--define", "--php-ini", "--docroot"],
        long_plain: &["--no-"],
        ..NONE
    },
    Interpreter { names: &["lua", "luajit"], plain: b"ivEW", value: b"el", ..NONE },
    Interpreter {
        names: &["deno", "bun"],
        plain: b"Aqb",
        no_script: b"e",
        long_no_script: &["--eval", "--print"],
        long_plain: &["--allow-", "--no-", "--watch", "--hot", "--smol", "--unstable"],
        subcommands: &["run"],
        ..NONE
    },
    Interpreter { names: &["tclsh"], ..NONE },
];

/// Shells and runtimes whose command lines are not read here.
const OTHER_RUNTIMES: [&str; 12] = [
    "csh", "tcsh", "fish", "nu", "pwsh", "xonsh", "elvish", "java", "dotnet", "mono", "beam.smp",
    "wine",
];

/// What one word of a command line means.
#[derive(Debug, PartialEq, Eq)]
enum Word {
    Plain,
    /// The next word is the value of this one.
    TakesNext,
    /// The next word is the script.
    NamesScript,
    /// There is no script.
    NoScript,
    /// The next word may be its value.
    Unknown,
}

/// Returns the words that may be the script of this command line; none if it runs no script.
/// `program` is the base name of `argv[0]` or of the executable.
pub(super) fn scripts<'a>(program: &[u8], argv: &'a [Vec<u8>]) -> Vec<Script<'a>> {
    let Some(interpreter) = find(program) else { return Vec::new() };
    let (mut doubtful, mut found) = (false, Vec::new());
    let mut words = argv.iter().skip(1).map(Vec::as_slice).peekable();
    if words.peek().is_some_and(|word| is_one_of(word, interpreter.subcommands)) {
        words.next();
    }
    while let Some(word) = words.next() {
        if word == b"--" {
            found.extend(words.next().map(|path| Script { path, doubtful }));
            return found;
        }
        if !interpreter.is_option(word) {
            found.push(Script { path: word, doubtful });
            // After an unknown option the first word may be its value, and the second the script.
            if !doubtful || found.len() == 2 {
                return found;
            }
            continue;
        }
        match interpreter.read(word) {
            Word::Plain => {}
            Word::TakesNext => drop(words.next()),
            Word::NamesScript => {
                found.extend(words.next().map(|path| Script { path, doubtful }));
                return found;
            }
            Word::NoScript => return found,
            Word::Unknown => doubtful = true,
        }
    }
    found
}

/// Reports whether a program of this name runs the programs of others: its name means no particular
/// one.
pub(super) fn is_generic(program: &[u8]) -> bool {
    find(program).is_some() || is_one_of(program, &OTHER_RUNTIMES)
}

/// Finds the interpreter, also by a name with a version (`python3.11`) or with the leading dash of
/// a login shell.
fn find(program: &[u8]) -> Option<&'static Interpreter> {
    let program = program.strip_prefix(b"-").unwrap_or(program);
    let is_version =
        |rest: &[u8]| rest.iter().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'-'));
    INTERPRETERS.iter().find(|interpreter| {
        let mut names = interpreter.names.iter();
        names.any(|name| program.strip_prefix(name.as_bytes()).is_some_and(is_version))
    })
}

fn is_one_of(word: &[u8], list: &[&str]) -> bool {
    list.iter().any(|known| word == known.as_bytes())
}

impl Interpreter {
    fn is_shell(&self) -> bool {
        self.names.contains(&"sh")
    }

    fn is_option(&self, word: &[u8]) -> bool {
        word.first().is_some_and(|&first| first == b'-' || (first == b'+' && self.is_shell()))
    }

    fn read(&self, word: &[u8]) -> Word {
        if word == b"-" {
            // In a shell `-` ends the options; for the others it is the standard input.
            return if self.is_shell() { Word::Plain } else { Word::NoScript };
        }
        if word.starts_with(b"--") { self.read_long(word) } else { self.read_short(&word[1..]) }
    }

    fn read_long(&self, word: &[u8]) -> Word {
        let name = word.split(|&byte| byte == b'=').next().unwrap_or(word);
        let is_plain = |start: &&str| word.starts_with(start.as_bytes());
        if is_one_of(name, self.long_no_script) {
            Word::NoScript
        } else if name.len() < word.len() {
            Word::Plain
        } else if is_one_of(word, self.long_value) {
            Word::TakesNext
        } else if self.long_plain.iter().any(is_plain) {
            Word::Plain
        } else {
            Word::Unknown
        }
    }

    fn read_short(&self, letters: &[u8]) -> Word {
        for (at, letter) in letters.iter().enumerate() {
            let is_last = at + 1 == letters.len();
            if self.no_script.contains(letter) {
                return Word::NoScript;
            }
            if self.script.contains(letter) && is_last {
                return Word::NamesScript;
            }
            if self.value.contains(letter) {
                // A shell's `-oe` also takes the next word; for the others the rest is the value.
                return if is_last || self.is_shell() { Word::TakesNext } else { Word::Plain };
            }
            if self.joined.contains(letter) {
                return Word::Plain;
            }
            if !letter.is_ascii_digit() && !self.plain.contains(letter) {
                return Word::Unknown;
            }
        }
        Word::Plain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Vec<(String, bool)> {
        let argv: Vec<Vec<u8>> = line.split(' ').map(|word| word.as_bytes().to_vec()).collect();
        let program = argv[0].clone();
        scripts(&program, &argv)
            .into_iter()
            .map(|script| (String::from_utf8(script.path.to_vec()).expect("text"), script.doubtful))
            .collect()
    }

    #[test]
    fn the_script_is_found_behind_options_and_their_values() {
        for line in [
            "sh NAME a b",
            "bash -eu NAME",
            "bash -o pipefail NAME",
            "bash -eo pipefail NAME",
            "bash +x NAME",
            "bash --rcfile other NAME",
            "bash --norc NAME",
            "bash -- NAME",
            "-sh NAME",
            "sh - NAME",
            "python3.11 -u NAME",
            "python3 -W ignore -X dev NAME",
            "python3 -Wignore NAME -c text",
            "node NAME --eval x",
            "node --require other NAME",
            "node -r other NAME",
            "node --max-old-space-size=100 NAME",
            "node --no-warnings NAME",
            "perl -I lib -w NAME",
            "perl -Mstrict -i.bak NAME",
            "ruby -r json -Ilib NAME",
            "php -d x=y -f NAME",
            "php NAME",
            "lua5.4 -l module NAME",
            "deno run --allow-net NAME",
            "bun NAME",
        ] {
            assert_eq!(read(line), [("NAME".to_owned(), false)], "{line}");
        }
    }

    #[test]
    fn text_modules_values_and_arguments_are_not_scripts() {
        for line in [
            "sh -c NAME",
            "bash -ec NAME",
            "bash -lc NAME NAME",
            "bash -ce NAME",
            "bash -s NAME",
            "bash --command NAME",
            "python3 -m NAME",
            "python3 -Im NAME",
            "python3 -c text NAME",
            "python3 - NAME",
            "node -e text NAME",
            "node -pe text NAME",
            "node --eval=x NAME",
            "perl -ne text NAME",
            "perl -lane text NAME",
            "ruby -e text NAME",
            "php -r text NAME",
            "sleep NAME",
            "basher NAME",
            "sh",
        ] {
            assert_eq!(read(line), [], "{line}");
        }
        for (line, script) in [
            ("node --require NAME other", "other"),
            ("bash --rcfile NAME other", "other"),
            ("bash -o NAME other", "other"),
            ("python3 -W NAME other", "other"),
            ("perl -I NAME other", "other"),
            ("bash other NAME", "other"),
            ("sh -- other NAME", "other"),
        ] {
            assert_eq!(read(line), [(script.to_owned(), false)], "{line}");
        }
    }

    #[test]
    fn a_word_after_an_unknown_option_is_doubtful() {
        let doubtful = |word: &str| (word.to_owned(), true);
        assert_eq!(
            read("node --unheard-of NAME other more"),
            [doubtful("NAME"), doubtful("other")]
        );
        assert_eq!(read("deno run -c NAME other"), [doubtful("NAME"), doubtful("other")]);
        assert_eq!(read("node --unheard-of=1 NAME"), [("NAME".to_owned(), false)]);
    }
}
