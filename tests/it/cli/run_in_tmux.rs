//! `run` in a window of tmux: each scenario is played with the plain program and with `run`.

use std::process::Command;

use crate::{
    cli::command::{PROCLEDGER, clean},
    support::{Place, is_alive, need, state, until},
};

/// A server of its own, with one window and a shell in it.
struct Tmux {
    place: Place,
    prefix: &'static str,
    prompts: usize,
}

impl Tmux {
    fn new(prefix: &'static str) -> Self {
        let mut tmux = Self { place: Place::new(), prefix, prompts: 0 };
        let mut start = tmux.command();
        clean(&mut start, &tmux.place);
        start.env_remove("TMUX").env_remove("ENV").env("PS1", "prompt> ").env("HISTFILE", "");
        start.env("P", PROCLEDGER).env("PROCLEDGER_DB", tmux.place.ledger()).env("TERM", "xterm");
        start.args(["-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "200", "-c"]);
        start.arg(tmux.place.path()).args(["bash", "--norc", "--noprofile", "-i"]);
        let started = start.output().expect("tmux");
        assert!(started.status.success(), "{started:?}");
        tmux.gets_the_prompt();
        tmux
    }

    /// A command to its server.
    fn command(&self) -> Command {
        let mut command = Command::new("tmux");
        command.args(["-L", self.place.marker()]);
        command
    }

    fn server(&self, args: &[&str]) -> String {
        let output = self.command().args(args).output().expect("tmux");
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Types a command line, in which `@` stands for the prefix.
    fn types(&self, line: &str) {
        self.server(&["send-keys", "-l", &line.replace('@', self.prefix)]);
        self.server(&["send-keys", "Enter"]);
    }

    #[track_caller]
    fn sees(&self, text: &str, times: usize) {
        let seen = || self.server(&["capture-pane", "-p", "-J"]).matches(text).count();
        until(&format!("tmux shows {text:?}"), || seen() >= times);
    }

    #[track_caller]
    fn gets_the_prompt(&mut self) {
        self.prompts += 1;
        self.sees("prompt>", self.prompts);
    }

    /// The window is there, and its shell answers.
    fn is_well(&mut self) {
        self.types("echo well$((1+1))done");
        self.sees("well2done", 1);
        self.gets_the_prompt();
        assert_eq!(self.server(&["list-windows"]).lines().count(), 1);
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let seen = self.command().args(["capture-pane", "-p"]).output();
            println!("{:?}: {seen:?}", self.prefix);
        }
        let socket = self.command().args(["display-message", "-p", "#{socket_path}"]).output();
        let _ = self.command().arg("kill-server").output();
        if let Ok(socket) = socket {
            let _ = std::fs::remove_file(String::from_utf8_lossy(&socket.stdout).trim());
        }
    }
}

fn play(scene: impl Fn(&mut Tmux)) {
    for prefix in ["", "$P run --task t -- "] {
        scene(&mut Tmux::new(prefix));
    }
}

#[test]
fn a_window_outlives_a_program_that_ends_in_the_background() {
    need!("bash", "tmux");
    play(|tmux| {
        let go = tmux.place.path().join("go");
        nix::unistd::mkfifo(&go, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
        tmux.types("@sh -c 'echo $$ > pid; echo it$((1+1))runs; read line < go'");
        tmux.sees("it2runs", 1);
        let program = tmux.place.watch("pid");
        tmux.server(&["send-keys", "C-z"]);
        tmux.gets_the_prompt();
        assert_eq!(state(program.pid()), Some('T'));
        tmux.types("bg");
        tmux.gets_the_prompt();
        until("it goes on", || state(program.pid()) != Some('T'));
        std::fs::write(&go, "\n").expect("it reads");
        until("it has ended", || !is_alive(program.pid()));
        tmux.is_well();
    });
}

#[test]
fn fg_ctrl_c_and_window_resizes_reach_the_program() {
    need!("bash", "tmux");
    // It starts nothing later: a shell whose child is stopped between vfork and exec does not stop
    // itself.
    let script = "sleep 3600 & trap 'echo size$((1+1))changed' WINCH; \
                  trap 'kill $!; echo got$((1+1))int; exit 1' INT; \
                  echo $$ > pid; echo it$((1+1))waits; while :; do wait; done";
    play(|tmux| {
        std::fs::write(tmux.place.path().join("script"), script).expect("a script");
        tmux.types("@sh script");
        tmux.sees("it2waits", 1);
        let program = tmux.place.watch("pid");
        tmux.server(&["send-keys", "C-z"]);
        tmux.gets_the_prompt();
        assert_eq!(state(program.pid()), Some('T'));
        tmux.types("fg");
        until("it goes on", || state(program.pid()) != Some('T'));
        tmux.server(&["resize-window", "-x", "100", "-y", "190"]);
        tmux.sees("size2changed", 1);
        tmux.server(&["send-keys", "C-c"]);
        tmux.sees("got2int", 1);
        tmux.gets_the_prompt();
        tmux.is_well();
    });
}
