//! The programs, how each is started, and how to detect from outside that it is up.
//!
//! They leave their task in typical ways: `redis-server` and `nginx` fork away, take a session of
//! their own and overwrite their environment; `tmux` and `ssh-agent` keep it; Chromium has zygotes
//! that overwrite theirs and crash handlers that fork away; a server that `npx` started lives on
//! when `npx` is killed; and one daemon has forked twice, has no environment at all and has `/` as
//! its working directory. All of them listen on sockets in a folder of the test, none on a port.

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::support::{self, skipped};

/// A program of the task.
pub(super) struct Program {
    pub(super) name: &'static str,
    /// Part of the name or the arguments of one of its processes.
    pub(super) trace: &'static str,
    /// Starts quickly, and so is also started as an unrelated program.
    pub(super) is_small: bool,
    tools: &'static [&'static str],
    /// Shell, run in the task's folder, which is `$D`.
    script: &'static str,
    is_up: fn(&Path) -> bool,
}

pub(super) const PROGRAMS: [Program; 7] = [
    Program {
        name: "redis-server",
        trace: "redis-server",
        is_small: true,
        tools: &["redis-server"],
        script: r#"redis-server --daemonize yes --port 0 --unixsocket "$D/redis.sock" --dir "$D" --save '' --logfile "$D/redis.log""#,
        is_up: |folder| says(&folder.join("redis.sock"), "PING\r\n", "+PONG"),
    },
    Program {
        name: "nginx",
        trace: "nginx",
        is_small: true,
        tools: &["nginx"],
        script: r#"
mkdir "$D/nginx"; user=
# As root its workers become the user nobody, which does not exist in a namespace that maps one user.
grep -q 4294967295 /proc/self/uid_map || user='user root root;'
cat > "$D/nginx/conf" <<CONF
$user pid $D/nginx/pid; error_log $D/nginx/error.log; worker_processes 2;
events { worker_connections 16; }
http {
  access_log off; client_body_temp_path $D/nginx/body; proxy_temp_path $D/nginx/proxy;
  fastcgi_temp_path $D/nginx/fastcgi; uwsgi_temp_path $D/nginx/uwsgi; scgi_temp_path $D/nginx/scgi;
  server { listen unix:$D/nginx.sock; return 200 up; }
}
CONF
nginx -p "$D/nginx" -c "$D/nginx/conf""#,
        is_up: |folder| says(&folder.join("nginx.sock"), "GET / HTTP/1.0\r\n\r\n", "HTTP/1.1 200"),
    },
    Program {
        name: "tmux",
        trace: "tmux: server",
        is_small: true,
        tools: &["tmux"],
        script: r#"sleeper tmux-window
tmux -S "$D/tmux.sock" -f /dev/null new-session -d "exec $D/tmux-window $D""#,
        is_up: |folder| folder.join("tmux-window.up").exists(),
    },
    Program {
        name: "ssh-agent",
        trace: "ssh-agent",
        is_small: true,
        tools: &["ssh-agent"],
        script: r#"ssh-agent -a "$D/agent.sock""#,
        // A request for the list of keys, and the head of the answer that there are none.
        is_up: |folder| says(&folder.join("agent.sock"), "\0\0\0\u{1}\u{b}", "\0\0\0\u{5}\u{c}"),
    },
    Program {
        name: "chromium",
        trace: "chromium",
        is_small: false,
        tools: &["chromium"],
        script: r#"chromium --headless --no-sandbox --disable-gpu --disable-quic --no-first-run \
  --disable-background-networking --disable-component-update --disable-sync \
  --user-data-dir="$D/chromium" --remote-debugging-port=0 about:blank &"#,
        is_up: |folder| {
            let has = |kind: &str| !support::processes_with(kind).is_empty();
            folder.join("chromium/DevToolsActivePort").exists()
                && has("--type=zygote")
                && has("--type=renderer")
        },
    },
    Program {
        name: "npx",
        trace: "mcp-server-filesystem",
        is_small: false,
        tools: &["node", "npx"],
        script: r#"mkfifo "$D/node.in"; exec 3<> "$D/node.in"
(cd "$NPM" && exec npx --offline --no-install mcp-server-filesystem "$D") <&3 2> "$D/node.err" &
npx=$!
until grep -q 'running on stdio' "$D/node.err"; do sleep 0.05; done
kill -KILL "$npx"; wait "$npx"; : > "$D/node.up""#,
        is_up: |folder| folder.join("node.up").exists(),
    },
    Program {
        name: "hidden-daemon",
        trace: "hidden-daemon",
        is_small: true,
        tools: &[],
        script: r#"sleeper hidden-daemon
(cd / && setsid env -i "$D/hidden-daemon" "$D" < /dev/null > /dev/null 2>&1 &)"#,
        is_up: |folder| folder.join("hidden-daemon.up").exists(),
    },
];

/// `sleeper NAME` creates a program of that name that waits forever without a child, once it has
/// reported that it is up.
const HEAD: &str = r#"
D=$1 NPM=$2; cd "$D"; export HOME="$D" TMPDIR="$D"
sleeper() {
  mkfifo "$D/$1.in"
  printf '#!/bin/sh\nexec 3<> "$1/%s.in"; : > "$1/%s.up"; read never <&3\n' "$1" "$1" > "$D/$1"
  chmod 755 "$D/$1"
}
"#;

/// The root stays until something is written to `go`, then it exits with 0 and leaves them all.
const TAIL: &str = r#"
mkfifo "$D/go"; exec 4<> "$D/go"; : > "$D/ready"; read go <&4; exit 0
"#;

/// Returns those whose programs are installed; a missing one is reported, and fails under CI.
pub(super) fn present(cast: &'static [Program]) -> Vec<&'static Program> {
    let is_there = |program: &&Program| {
        let missing = program.tools.iter().find(|tool| !is_installed(tool));
        let missing = missing.copied().or_else(|| {
            let wants_package = program.name == "npx";
            (wants_package && !server().exists()).then_some("mcp-server-filesystem in target/npm")
        });
        if let Some(tool) = missing {
            skipped(&format!("no {tool}"));
        }
        missing.is_none()
    };
    cast.iter().filter(is_there).collect()
}

/// Daemons are often in folders that an ordinary user's PATH does not contain.
fn is_installed(tool: &str) -> bool {
    support::find(tool).is_some() || Path::new("/usr/sbin").join(tool).is_file()
}

/// Where `.ci/run` installs a server from the npm registry.
fn npm() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/npm")
}

fn server() -> PathBuf {
    npm().join("node_modules/.bin/mcp-server-filesystem")
}

/// Writes the script that starts these in the folder, and returns the command line that runs it.
pub(super) fn write_script(programs: &[&Program], folder: &Path) -> String {
    let path = folder.join("play");
    let scripts: Vec<&str> = programs.iter().map(|program| program.script).collect();
    let text = [HEAD, &scripts.join("\n"), TAIL].concat();
    fs::write(&path, text).expect("a script");
    let log = folder.join("log");
    format!(
        "PATH=$PATH:/usr/sbin:/sbin exec /bin/sh {} {} {} > {} 2>&1",
        path.display(),
        folder.display(),
        npm().display(),
        log.display()
    )
}

/// Waits until each of them serves, and the root stands still.
pub(super) fn wait_until_up(programs: &[&Program], folder: &Path) {
    for program in programs {
        support::until(program.name, || (program.is_up)(folder));
    }
    support::until("all are started", || folder.join("ready").exists());
}

/// Whether a server on that socket gives this answer.
fn says(socket: &Path, question: &str, answer: &str) -> bool {
    let ask = || {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(question.as_bytes())?;
        let mut head = vec![0; answer.len()];
        stream.read_exact(&mut head)?;
        std::io::Result::Ok(head)
    };
    ask().is_ok_and(|head| head == answer.as_bytes())
}
