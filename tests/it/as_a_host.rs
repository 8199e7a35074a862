//! Not a scenario: what a host process does that `support::Host` has started. Run by itself it does nothing.
//!
//! Options, by spaces: `no-monitor`, `no-reap`, `survive`, `keep-strays`, `export=PATH`, `name=NAME`, `min-age=MS`,
//! `program=NAME`, `interval=MS`, `grace=MS`. Commands, a line each: `spawn TASK SCRIPT`, `register TASK PID`,
//! `unregister TASK`, `terminate TASK`, `health`, `reap`, `running`, `quit`. End of input is an orderly end.

use std::{
    io::{BufRead, Write, stdin, stdout},
    time::Duration,
};

use procledger::{Builder, Job, Stdio, Tracker};

#[test]
fn as_a_host() {
    let Some(ledger) = std::env::var_os("PROCLEDGER_IT_HOST") else { return };
    let options = std::env::var("PROCLEDGER_IT_OPTIONS").unwrap_or_default();
    let tracker = match build(Tracker::builder(ledger), &options).open() {
        Ok(tracker) => tracker,
        Err(error) => return say(&format!("error {error}")),
    };
    say(&format!("open {}", tracker.startup_report().endings.len()));
    for line in stdin().lock().lines().map_while(Result::ok) {
        if line == "quit" {
            break;
        }
        say(&obey(&tracker, &options, &line).unwrap_or_else(|error| format!("error {error}")));
    }
    tracker.shutdown().expect("an orderly end");
}

fn say(line: &str) {
    let mut out = stdout().lock();
    writeln!(out, "host> {line}").expect("somebody listens");
    out.flush().expect("somebody listens");
}

fn build(mut builder: Builder, options: &str) -> Builder {
    for option in options.split_whitespace() {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        let millis = || Duration::from_millis(value.parse().expect("milliseconds"));
        builder = match name {
            "no-monitor" => builder.monitor(false),
            "no-reap" => builder.reap_on_open(false),
            "export" => builder.export(value),
            "name" => builder.orphan_name(value),
            "min-age" => builder.min_age(millis()),
            "program" => builder.program(value),
            "interval" => builder.health_interval(millis()),
            "grace" => builder.grace(millis()),
            "survive" | "keep-strays" => builder,
            other => panic!("no option {other}"),
        };
    }
    builder
}

fn obey(tracker: &Tracker, options: &str, line: &str) -> procledger::Result<String> {
    let mut words = line.splitn(3, ' ');
    let (verb, task, rest) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    Ok(match verb {
        "spawn" => {
            let marker = std::env::var("PROCLEDGER_IT_MARKER").unwrap_or_default();
            let job = Job::new(task, "/bin/sh")
                .args(["-c", rest, &marker])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .survive(options.contains("survive"))
                .keep_strays(options.contains("keep-strays"));
            format!("pid {}", tracker.spawn(job)?.pid())
        }
        "register" => {
            tracker.register(task, rest.parse::<i64>().expect("a pid"))?;
            "done".into()
        }
        "unregister" => format!("{}", tracker.unregister(task)?),
        "terminate" => format!("{}", tracker.terminate(task)?.ended()),
        "health" => format!("{}", tracker.health_pass()?.endings.len()),
        "reap" => format!("{}", tracker.reap_orphans()?.endings.len()),
        "running" => format!("{}", tracker.running()?.len()),
        other => format!("error no command {other}"),
    })
}
