//! Several hosts that write to one ledger at the same time.

use std::{
    io::{BufRead, BufReader, Read, Write},
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use procledger::{ContainmentMode, Tracker};

use super::{
    fixture::job,
    samples::{Samples, timed},
    score::{Board, Line, Unit},
};

const TRUE: &str = "/bin/true";

pub(crate) fn measure(board: &mut Board) {
    let sizes: &[usize] = board.scale().pick(&[1, 4, 16, 64], &[1, 2, 4, 8, 16, 32, 64]);
    let spawns = board.scale().pick(512, 2048);
    let mut each = Vec::new();
    for &size in sizes {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ledger.db");
        let (took, times) = all(&path, size, spawns / size);
        let spawned = (spawns / size * size) as f64;
        board.point("spawn and wait, of all", "hosts", size, took.as_nanos() as f64 / spawned);
        board.point("one spawn", "hosts", size, times.median());
        each.push((size, took.as_nanos() as f64 / spawned, times));
    }
    if let [(_, alone, alone_times), .., (most, together, times)] = each.as_slice() {
        board.add(
            Line::new(format!("one spawn, {most} hosts on one ledger"), times)
                .beside("the same with one host", alone_times.median()),
        );
        board.add(
            Line::of(
                format!("time for each spawn and wait, {most} hosts at once"),
                *together,
                Unit::Nanoseconds,
            )
            .beside("the same with one host", *alone),
        );
    }
}

/// Starts the hosts, then lets all of them spawn at once.
fn all(path: &Path, hosts: usize, spawns: usize) -> (Duration, Samples) {
    let mut hosts: Vec<Child> = (0..hosts).map(|host| start(path, host, spawns)).collect();
    let mut outputs: Vec<_> =
        hosts.iter_mut().map(|host| BufReader::new(host.stdout.take().expect("a pipe"))).collect();
    let mut line = String::new();
    for output in &mut outputs {
        output.read_line(&mut line).expect("it is ready");
    }
    let (took, texts) = timed(|| {
        for host in &mut hosts {
            host.stdin.as_mut().expect("a pipe").write_all(b"\n").expect("it reads");
        }
        outputs
            .into_iter()
            .map(|mut output| {
                let mut text = String::new();
                output.read_to_string(&mut text).expect("times");
                text
            })
            .collect::<Vec<_>>()
    });
    let mut times = Samples::default();
    for time in texts.iter().flat_map(|text| text.lines()) {
        times.add(Duration::from_nanos(time.parse().expect("a number")));
    }
    for host in &mut hosts {
        assert!(host.wait().expect("it ends").success());
    }
    (took, times)
}

fn start(path: &Path, number: usize, spawns: usize) -> Child {
    Command::new(std::env::current_exe().expect("an executable"))
        .arg("host")
        .arg(path)
        .args([number.to_string(), spawns.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs")
}

/// One host: opens the ledger, waits for a line, spawns, and prints how long each spawn took.
pub(crate) fn serve(path: &str, number: &str, spawns: &str) -> ExitCode {
    let tracker = Tracker::builder(path)
        .monitor(false)
        .containment(ContainmentMode::Session)
        .open()
        .expect("a ledger");
    println!("ready");
    std::io::stdin().read_line(&mut String::new()).expect("a line");
    let mut times = Vec::new();
    for round in 0..spawns.parse().expect("a number") {
        let start = Instant::now();
        let task = format!("host-{number}-{round}");
        let mut process =
            tracker.spawn(job(&task, &[TRUE]).stdin(procledger::Stdio::null())).expect("it runs");
        times.push(start.elapsed());
        process.wait().expect("it ends");
    }
    for time in times {
        println!("{}", time.as_nanos());
    }
    std::mem::forget(tracker);
    ExitCode::SUCCESS
}
