//! `run` as a transparent prefix at a terminal: each scenario is played with the plain program and
//! with `run`, in bash, dash and zsh, and ends in the same way.

use std::process::Command;

use crate::{
    cli::{
        command::{PROCLEDGER, clean},
        pty::Pty,
    },
    support::{Guard, Place, eventually, is_alive, need, parent, state, stays, until},
};

/// An interactive shell on a terminal, and its user.
struct Person {
    place: Place,
    pty: Pty,
    shell: Guard,
    name: &'static str,
    /// What is typed before the program: nothing, or `run`.
    prefix: &'static str,
    prompts: usize,
}

const SHELLS: [&str; 3] = ["bash", "dash", "zsh"];
const PREFIXES: [&str; 2] = ["", "$P run --task t -- "];

impl Person {
    fn new(name: &'static str, prefix: &'static str) -> Self {
        let (place, pty) = (Place::new(), Pty::new());
        let mut command = Command::new(name);
        clean(&mut command, &place);
        match name {
            "bash" => command.args(["--norc", "--noprofile"]),
            // No files, no line editor, no marks of lines that do not end.
            "zsh" => command.args(["-f", "+Z", "-o", "no_prompt_sp", "-o", "no_prompt_cr"]),
            _ => &mut command,
        };
        command.arg("-i").env("PS1", "prompt> ").env("P", PROCLEDGER).env("HISTFILE", "");
        command.env("PROCLEDGER_DB", place.ledger()).env_remove("ENV");
        let shell = pty.spawn(command.current_dir(place.path()));
        let person = Self { place, pty, shell, name, prefix, prompts: 1 };
        person.pty.wait_for("prompt> ", 1);
        person
    }

    /// Types a command line, in which `@` stands for the prefix.
    fn types(&mut self, line: &str) {
        self.pty.type_in(&format!("{}\n", line.replace('@', self.prefix)));
    }

    fn keys(&mut self, keys: &str) {
        self.pty.type_in(keys);
    }

    fn sees(&self, text: &str) {
        self.pty.wait_for(text, 1);
    }

    /// The shell has the terminal again, and shows its prompt.
    fn gets_the_prompt(&mut self) {
        self.prompts += 1;
        self.pty.wait_for("prompt> ", self.prompts);
        until("the shell has the terminal", || self.pty.foreground() == self.shell.pid());
    }

    /// The pid that a script has written.
    fn program(&self) -> u32 {
        self.pid_in("pid")
    }

    fn pid_in(&self, file: &str) -> u32 {
        let path = self.place.path().join(file);
        eventually("its pid", || std::fs::read_to_string(&path).ok()?.trim().parse().ok())
    }

    /// What is typed before a second program.
    fn other(&self) -> String {
        self.prefix.replace("--task t", "--task other")
    }

    /// The shell answers.
    fn shell_is_well(&mut self) {
        self.types("echo well$((1+1))done");
        self.sees("well2done");
        self.gets_the_prompt();
        assert!(self.shell.is_running(), "{}", self.pty.seen());
    }
}

impl Drop for Person {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}, {:?}: {}", self.name, self.prefix, self.pty.seen());
        }
    }
}

/// Plays a scenario in each shell, first with the plain program.
fn play(scene: impl Fn(&mut Person)) {
    for shell in SHELLS {
        for prefix in PREFIXES {
            let mut person = Person::new(shell, prefix);
            scene(&mut person);
        }
    }
}

/// A program that says when it runs, and stays.
const SLEEPER: &str = "sh -c 'echo $$ > pid; echo it$((1+1))runs; exec sleep 3600'";

#[test]
fn a_program_that_ends_in_the_background_leaves_the_terminal_to_the_shell() {
    need!("bash", "dash", "zsh");
    play(|person| {
        let go = person.place.path().join("go");
        nix::unistd::mkfifo(&go, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
        // It waits without a child: a shell whose child is stopped between vfork and exec does not
        // stop itself.
        person.types("@sh -c 'echo $$ > pid; echo it$((1+1))runs; read line < go'");
        person.sees("it2runs");
        person.keys("\x1a");
        person.gets_the_prompt();
        let program = person.program();
        assert_eq!(state(program), Some('T'));
        person.types("bg");
        person.gets_the_prompt();
        until("it goes on", || state(program) != Some('T'));
        std::fs::write(&go, "\n").expect("it reads");
        until("it has ended", || !is_alive(program));
        stays("the shell has the terminal", || person.pty.foreground() == person.shell.pid());
        person.shell_is_well();
    });
}

#[test]
fn fg_after_bg_brings_the_program_back_to_the_terminal() {
    need!("bash", "dash", "zsh");
    play(|person| {
        person.types(&format!("@{SLEEPER}; echo code=$?"));
        person.sees("it2runs");
        person.keys("\x1a");
        person.gets_the_prompt();
        person.types("bg");
        person.gets_the_prompt();
        let program = person.program();
        until("it goes on", || state(program) != Some('T'));
        person.types("fg; echo code=$?");
        until("it has the terminal", || person.pty.foreground() != person.shell.pid());
        // Ctrl-Z and Ctrl-C work as before.
        std::thread::sleep(std::time::Duration::from_millis(100));
        person.keys("\x1a");
        person.gets_the_prompt();
        assert_eq!(state(program), Some('T'), "{}", person.pty.seen());
        person.types("fg");
        until("it goes on", || state(program) != Some('T'));
        until("it has the terminal", || person.pty.foreground() != person.shell.pid());
        std::thread::sleep(std::time::Duration::from_millis(100));
        person.keys("\x03");
        person.gets_the_prompt();
        until("it has ended", || !is_alive(program));
        person.shell_is_well();
    });
}

#[test]
fn a_program_in_the_background_is_stopped_when_it_reads_from_the_terminal() {
    need!("bash", "dash", "zsh");
    play(|person| {
        person.types("@sh -c 'echo $$ > pid; exec cat' &");
        person.gets_the_prompt();
        let program = person.program();
        until("it is stopped", || state(program) == Some('T'));
        // The line is the shell's.
        person.types("echo for$((1+1))me");
        person.sees("for2me");
        person.gets_the_prompt();
        person.types("fg");
        until("it goes on", || state(program) != Some('T'));
        person.types("to the cat");
        person.pty.wait_for("to the cat", 2);
        person.keys("\x04");
        person.gets_the_prompt();
        until("it has ended", || !is_alive(program));
        person.shell_is_well();
    });
}

#[test]
fn a_pipeline_is_stopped_continued_and_reads_from_the_terminal() {
    need!("bash", "dash", "zsh");
    play(|person| {
        person.types("@sh -c 'echo $$ > pid; exec cat' | cat");
        let program = person.program();
        person.types("first line");
        person.pty.wait_for("first line", 2);
        person.keys("\x1a");
        person.gets_the_prompt();
        assert_eq!(state(program), Some('T'));
        person.types("fg");
        until("it goes on", || state(program) != Some('T'));
        person.types("second line");
        person.pty.wait_for("second line", 2);
        person.keys("\x04");
        person.gets_the_prompt();
        person.shell_is_well();
    });
}

#[test]
fn ctrl_c_ends_a_pipeline() {
    need!("bash", "dash", "zsh");
    play(|person| {
        person.types(&format!("@{SLEEPER} | cat"));
        person.sees("it2runs");
        let program = person.program();
        person.keys("\x03");
        person.gets_the_prompt();
        until("it has ended", || !is_alive(program));
        person.shell_is_well();
    });
}

#[test]
fn a_pipeline_of_two_runs_was_stopped_again_by_fg() {
    need!("bash", "dash", "zsh");
    play(|person| {
        let other = person.other();
        person.types(&format!("@{SLEEPER} | {other}sh -c 'echo other$((1+1))runs >&2; exec cat'"));
        person.sees("it2runs");
        person.sees("other2runs");
        let program = person.program();
        for _ in 0..3 {
            person.stops_it(program);
            person.types("fg");
            person.has_left_the_terminal_to(program);
            stays("it goes on", || state(program) != Some('T'));
        }
        person.keys("\x03");
        person.gets_the_prompt();
        until("it has ended", || !is_alive(program));
        person.shell_is_well();
    });
}

/// A shell, or make(1), waits until its children have ended by the same key.
#[test]
fn keys_reached_only_the_first_process_of_a_program_in_a_pipeline() {
    need!("bash", "dash", "zsh");
    play(|person| {
        let script = "trap 'echo int$((1+1))errupted >&2' INT\n\
                      sh -c 'echo $$ > pid; echo it$((1+1))runs; exec sleep 3600'\necho after\n";
        let script = person.place.script("children", script);
        person.types(&format!("@sh {} | cat", script.display()));
        person.sees("it2runs");
        let child = person.program();
        person.stops_it(child);
        person.types("fg");
        person.has_left_the_terminal_to(child);
        person.keys("\x03");
        person.gets_the_prompt();
        person.sees("int2errupted");
        assert!(!is_alive(child));
        person.shell_is_well();
    });
}

/// A program that reads from the terminal once the [`SLEEPER`] runs, and says so on it.
const READER: &str = "sh -c 'echo $$ > reader; while [ ! -s pid ]; do sleep 0.01; done; \
                      exec cat /dev/tty >&2'";

#[test]
fn ctrl_z_stopped_only_the_program_of_a_pipeline_that_had_the_terminal() {
    need!("bash", "dash", "zsh");
    play(|person| {
        let other = person.other();
        person.types(&format!("@{SLEEPER} | {other}{READER}"));
        let (program, reader) = (person.program(), person.pid_in("reader"));
        for line in ["first line", "second line"] {
            person.types(line);
            person.pty.wait_for(line, 2);
            person.stops_it(program);
            assert_eq!(state(reader), Some('T'));
            person.types("fg");
            person.has_left_the_terminal_to(program);
            person.has_left_the_terminal_to(reader);
        }
        person.types("third line");
        person.pty.wait_for("third line", 2);
        person.keys("\x03");
        person.gets_the_prompt();
        until("both have ended", || !is_alive(program) && !is_alive(reader));
        person.shell_is_well();
    });
}

/// A shell, or make(1), waits until its children have ended by the same key.
#[test]
fn ctrl_c_reached_only_the_first_process_beside_a_program_that_had_the_terminal() {
    need!("bash", "dash", "zsh");
    play(|person| {
        let script = "sh -c 'echo $$ > pid; exec sleep 3600'\necho after >&2\n";
        let script = person.place.script("children", script);
        let other = person.other();
        person.types(&format!("@sh {} | {other}{READER}", script.display()));
        let (child, reader) = (person.program(), person.pid_in("reader"));
        person.types("a line");
        person.pty.wait_for("a line", 2);
        person.keys("\x03");
        person.gets_the_prompt();
        until("both have ended", || !is_alive(child) && !is_alive(reader));
        person.shell_is_well();
    });
}

#[test]
fn a_background_pipeline_ran_on_when_one_of_its_programs_read_from_the_terminal() {
    need!("bash", "dash", "zsh");
    play(|person| {
        let other = person.other();
        person.types(&format!("@{SLEEPER} | {other}{READER} &"));
        person.gets_the_prompt();
        let (program, reader) = (person.program(), person.pid_in("reader"));
        for stopped in [program, reader] {
            until("it is stopped", || state(stopped) == Some('T'));
        }
        person.waits_until_the_shell_has_seen_the_stop();
        person.types("fg");
        person.has_left_the_terminal_to(program);
        person.has_left_the_terminal_to(reader);
        person.types("a line");
        person.pty.wait_for("a line", 2);
        person.keys("\x03");
        person.gets_the_prompt();
        until("both have ended", || !is_alive(program) && !is_alive(reader));
        person.shell_is_well();
    });
}

/// As `ssh a | ssh b`, where both ask for a password.
#[test]
fn a_pipeline_of_two_programs_that_read_from_the_terminal_was_stopped() {
    need!("bash", "dash", "zsh");
    play(|person| {
        let asks = |file| {
            format!(
                "sh -c 'echo $$ > {file}; x=$(head -n 1 < /dev/tty); echo got$((1+1))$x >&2; sleep 1'"
            )
        };
        let (first, second, other) = (asks("pid"), asks("reader"), person.other());
        person.types(&format!("@{first} | {other}{second}"));
        let (first, second) = (person.program(), person.pid_in("reader"));
        stays("none is stopped for long", || {
            eventually("it goes on", || (state(first) != Some('T')).then_some(()));
            eventually("it goes on", || (state(second) != Some('T')).then_some(()));
            person.pty.foreground() != person.shell.pid()
        });
        for line in ["one", "two"] {
            person.types(line);
            person.sees(&format!("got2{line}"));
        }
        person.gets_the_prompt();
        person.shell_is_well();
    });
}

/// The program has a session of its own, without the terminal: the kernel does not stop it by
/// SIGTSTP, and the shell waited.
#[test]
fn ctrl_z_on_a_pipeline_with_a_program_in_another_session_gave_no_prompt() {
    need!("bash", "dash", "zsh");
    let keeper = "$P run --task t --containment keeper -- ";
    let piped = "@ < /dev/null 2> /dev/null | cat";
    for (prefix, place) in [("", piped), (PREFIXES[1], piped), (keeper, "@"), (keeper, "@ | cat")] {
        for shell in SHELLS {
            let mut person = Person::new(shell, prefix);
            person.types(&place.replace('@', &format!("@{SLEEPER}")));
            person.sees("it2runs");
            let program = person.program();
            person.stops_it(program);
            person.types("bg");
            person.gets_the_prompt();
            until("it goes on", || state(program) != Some('T'));
            person.types("fg");
            person.has_left_the_terminal_to(program);
            // The shell continues the job after it has left the terminal to it, which discards a
            // Ctrl-Z.
            stays("it goes on", || state(program) != Some('T'));
            person.stops_it(program);
            person.types("fg");
            person.has_left_the_terminal_to(program);
            person.keys("\x03");
            person.gets_the_prompt();
            until("it has ended", || !is_alive(program));
            person.shell_is_well();
        }
    }
}

/// A shell with job control signals all processes of a job.
#[test]
fn kill_of_a_job_reached_only_the_first_process_of_its_program() {
    need!("bash", "dash", "zsh");
    play(|person| {
        let script = "sh -c 'echo $$ > pid; echo it$((1+1))runs; exec sleep 3600'\necho after\n";
        let script = person.place.script("children", script);
        person.types(&format!("@sh {} &", script.display()));
        person.sees("it2runs");
        person.gets_the_prompt();
        let child = person.program();
        person.types("kill -TSTP %1");
        until("it is stopped", || state(child) == Some('T'));
        person.gets_the_prompt();
        person.knows_that_it_is_stopped(parent(child).expect("a parent"));
        person.types("kill -CONT %1");
        person.gets_the_prompt();
        until("it goes on", || state(child) != Some('T'));
        person.types("kill -INT %1; wait; echo all$((1+1))gone");
        person.sees("all2gone");
        assert!(!is_alive(child));
        person.gets_the_prompt();
        person.shell_is_well();
    });
}

/// `kill $!` signals one process, whose children have no handler.
#[test]
fn a_signal_for_the_program_alone_ended_its_children() {
    need!("bash", "dash", "zsh");
    play(|person| {
        let script = "trap 'echo us$((1+1))r' USR1\nsh -c 'echo $$ > pid; exec sleep 3600' &\n\
                      while [ ! -s pid ]; do sleep 0.01; done\necho it$((1+1))runs\nwait\nwait\n";
        let script = person.place.script("parent", script);
        person.types(&format!("@sh {} &", script.display()));
        person.sees("it2runs");
        person.gets_the_prompt();
        let child = person.program();
        person.types("kill -USR1 $!");
        person.sees("us2r");
        person.gets_the_prompt();
        stays("the child runs", || is_alive(child));
        person.types("kill -TERM %1; wait; echo all$((1+1))gone");
        person.sees("all2gone");
        until("the child has ended", || !is_alive(child));
        person.gets_the_prompt();
        person.shell_is_well();
    });
}

#[test]
fn a_program_with_redirected_input_finds_the_terminal() {
    need!("bash", "dash", "zsh");
    play(|person| {
        person.types("@sh -c 'echo on$((1+1))tty > /dev/tty' < /dev/null");
        person.sees("on2tty");
        person.gets_the_prompt();
        person.types("@sh -c 'echo by$((1+1))pipe > /dev/tty' | cat");
        person.sees("by2pipe");
        person.gets_the_prompt();
        // As ssh and sudo ask for a password.
        person
            .types("@sh -c 'echo ask$((1+1))s; read x < /dev/tty; echo got$((1+1))$x' < /dev/null");
        person.sees("ask2s");
        person.types("secret");
        person.sees("got2secret");
        person.gets_the_prompt();
        person.shell_is_well();
    });
}

/// Not a comparison: the plain program leaves the terminal raw, and so would `run`.
#[test]
fn terminal_modes_are_restored_after_a_program_was_killed() {
    need!("dash");
    let mut person = Person::new("dash", PREFIXES[1]);
    let before = person.pty.modes();
    person.types("@sh -c 'stty raw -echo; echo $$ > pid; kill -9 $$'; echo code=$?");
    person.sees("code=137");
    person.gets_the_prompt();
    assert_eq!(person.pty.modes(), before);
    // A program that ends by itself may change them, as stty(1) does.
    person.types("@stty -echo");
    person.gets_the_prompt();
    assert_ne!(person.pty.modes(), before);
}

#[test]
fn ctrl_c_ends_a_script_around_the_program() {
    need!("bash", "dash", "zsh");
    play(|person| {
        let loops = "for i in 1 2 3; do @sh -c 'echo $$ > pid; echo turn$((i+1)); exec sleep 3600'; done; echo not$((1+1))reached";
        let script = person.place.script("loops", &loops.replace('@', person.prefix));
        let shell = person.name;
        person.types(&format!("i=1 {shell} {}", script.display()));
        person.sees("turn");
        person.keys("\x03");
        person.gets_the_prompt();
        assert!(!person.pty.seen().contains("not2reached"), "{}", person.pty.seen());
        let program = person.program();
        until("it has ended", || !is_alive(program));
    });
}

#[test]
fn a_job_can_be_killed_by_its_number() {
    need!("bash", "dash", "zsh");
    play(|person| {
        person.types(&format!("@{SLEEPER} &"));
        person.sees("it2runs");
        person.gets_the_prompt();
        let program = person.program();
        person.types("kill %1; wait; echo all$((1+1))gone");
        person.sees("all2gone");
        person.gets_the_prompt();
        until("it has ended", || !is_alive(program));
        person.shell_is_well();
    });
}

#[test]
fn a_window_resize_reaches_the_program() {
    need!("bash", "dash", "zsh");
    let script = "trap 'echo size$((1+1))changed; exit 0' WINCH; echo it$((1+1))waits; \
                  while :; do sleep 0.05; done";
    play(|person| {
        for (turn, pipe) in ["", " | cat"].into_iter().enumerate() {
            person.types(&format!("@sh -c \"{}\"{pipe}", script.replace('$', "\\$")));
            person.pty.wait_for("it2waits", turn + 1);
            person.pty.resize(30 + u16::try_from(turn).expect("small"), 100);
            person.pty.wait_for("size2changed", turn + 1);
            person.gets_the_prompt();
        }
    });
}

/// Not a comparison: the plain program prints no messages of another process.
#[test]
fn run_was_stopped_by_its_own_message_at_a_terminal_with_tostop() {
    need!("dash");
    let mut person = Person::new("dash", "");
    person.types("stty tostop");
    person.gets_the_prompt();
    person.types("$P -vv run --task t -- true; echo code=$?");
    person.sees("code=0");
    person.gets_the_prompt();
    assert!(person.pty.seen().contains("task t is running"), "{}", person.pty.seen());
    // The program itself is stopped in the background as ever.
    person.types(&format!("$P run --task t -- {SLEEPER} &"));
    person.gets_the_prompt();
    let program = person.program();
    until("it is stopped", || state(program) == Some('T'));
    person.types("kill %1; fg");
    person.gets_the_prompt();
    until("it has ended", || !is_alive(program));
}

/// Where a program is run, and whether the shell waits for it.
const WHERE: [(&str, bool); 4] =
    [("@", true), ("@ &", false), ("@ | cat", true), ("@ < /dev/null", true)];

/// What is done to it.
#[derive(Clone, Copy, Debug)]
enum Act {
    CtrlC,
    CtrlZThenFg,
    CtrlZThenBg,
    KillByNumber,
}

impl Person {
    fn has_left_the_terminal_to(&self, program: u32) {
        until("it goes on", || state(program) != Some('T'));
        until("the shell does not have the terminal", || self.pty.foreground() != self.shell.pid());
    }

    fn stops_it(&mut self, program: u32) {
        self.keys("\x1a");
        self.gets_the_prompt();
        until("it is stopped", || state(program) == Some('T'));
    }

    /// A shell with a job that runs for all it knows does not continue it by `fg`.
    fn waits_until_the_shell_has_seen_the_stop(&mut self) {
        eventually("the shell has seen the stop", || {
            let before = self.pty.seen().len();
            self.types("jobs");
            self.gets_the_prompt();
            let shown = self.pty.seen()[before..].to_lowercase();
            let is_stopped = shown.contains("stopped") || shown.contains("suspended");
            (is_stopped && !shown.contains("running")).then_some(())
        });
    }

    /// `run` has stopped itself along with a program.
    fn knows_that_it_is_stopped(&self, program: u32) {
        let parent = parent(program).expect("a parent");
        until("it is stopped", || parent == self.shell.pid() || state(parent) == Some('T'));
    }

    fn kills_it(&mut self) {
        // Without the `bg` a dash leaves a stopped job stopped, with the signal pending.
        self.types("kill %1; bg 2> /dev/null; wait; echo all$((1+1))gone");
        self.sees("all2gone");
        self.gets_the_prompt();
    }

    fn does(&mut self, act: Act, (line, waits): (&str, bool)) {
        self.types(&line.replace('@', &format!("@{SLEEPER}")));
        self.sees("it2runs");
        let program = self.program();
        if !waits {
            self.gets_the_prompt();
        }
        match act {
            Act::CtrlC if waits => {
                self.keys("\x03");
                self.gets_the_prompt();
            }
            Act::CtrlC => {
                self.keys("\x03");
                if self.name == "zsh" {
                    // Without its line editor it shows its prompt after the next line, which it
                    // discards.
                    self.types("");
                }
                self.gets_the_prompt();
                stays("it runs on", || is_alive(program));
                self.kills_it();
            }
            Act::CtrlZThenFg => {
                if !waits {
                    self.types("fg");
                    self.has_left_the_terminal_to(program);
                }
                self.stops_it(program);
                self.types("fg");
                self.has_left_the_terminal_to(program);
                self.keys("\x03");
                self.gets_the_prompt();
            }
            Act::CtrlZThenBg => {
                if !waits {
                    self.types("fg");
                    self.has_left_the_terminal_to(program);
                }
                self.stops_it(program);
                self.types("bg");
                self.gets_the_prompt();
                until("it goes on", || state(program) != Some('T'));
                self.kills_it();
            }
            Act::KillByNumber => {
                if waits {
                    self.stops_it(program);
                }
                self.kills_it();
            }
        }
        until("it has ended", || !is_alive(program));
        self.shell_is_well();
    }
}

/// Each act on a program in each place, as on the plain program.
#[test]
fn each_job_control_action_has_the_same_effect_with_run_as_without() {
    need!("bash", "dash", "zsh");
    std::thread::scope(|scope| {
        for act in [Act::CtrlC, Act::CtrlZThenFg, Act::CtrlZThenBg, Act::KillByNumber] {
            scope.spawn(move || {
                for place in WHERE {
                    println!("{act:?} on {place:?}");
                    play(|person| person.does(act, place));
                }
            });
        }
    });
}
