//! `/proc/PID/environ`: the tokens that a process carries, and whether systemd itself started it.

use uuid::Uuid;

use super::{
    BUFFER, ENVIRON_LIMIT, Proc, STAT_LIMIT, number,
    scan::unless_busy,
    split_nul,
    stat::{Stat, parse_stat},
};
use crate::{error::Result, identity::Pid};

/// The environment variable that links a tree to its row.
pub(crate) const TOKEN_VARIABLE: &str = "PROCLEDGER_TOKEN";
/// The variable in which systemd, since version 248, passes its own pid to each process that it
/// starts (systemd.exec(5)). Descendants inherit the variable, but have another pid.
const SYSTEMD_EXEC_PID: &[u8] = b"SYSTEMD_EXEC_PID=";

/// Field 51 of `/proc/PID/stat`, counted from the blank before field 3.
const ENV_END: usize = 51 - 2;

impl Proc {
    /// Returns the tokens that the process carries; `None` if it is gone or its environment may not
    /// be read.
    pub(crate) fn tokens(&self, pid: Pid) -> Option<Vec<Uuid>> {
        BUFFER.with_borrow_mut(|buffer| {
            self.read_of_memory(pid, "environ", buffer, ENVIRON_LIMIT).ok()?.then(|| tokens(buffer))
        })
    }

    /// Returns the tokens that a process carries; `None` if it is gone, may not be read, or shows
    /// no environment. While it calls exec it has none for a moment, which proves nothing.
    pub(crate) fn tokens_shown(&self, pid: Pid) -> Result<Option<Vec<Uuid>>> {
        BUFFER.with_borrow_mut(|buffer| {
            let read = self.read_of_memory(pid, "environ", buffer, ENVIRON_LIMIT).map(Some);
            let read = unless_busy(read)? == Some(true);
            Ok((read && !buffer.is_empty()).then(|| tokens(buffer)))
        })
    }

    /// Reports whether the process exists and its environment may not be read: it belongs to
    /// another user, or is not dumpable (prctl(2), `PR_SET_DUMPABLE`; `proc_pid_environ(5)`).
    pub(crate) fn is_closed(&self, pid: Pid) -> bool {
        BUFFER.with_borrow_mut(|buffer| {
            let read = self.read_of_memory(pid, "environ", buffer, ENVIRON_LIMIT);
            read.is_err_and(|error| error.is_denied())
        })
    }

    /// Reports whether a process is between its old and its new program: it has left the memory
    /// with its old environment, and the new one is not laid out yet (`exec_mmap` and
    /// `create_elf_tables` in the kernel). On a busy machine that lasts for tens of milliseconds.
    /// Even an empty environment has an address.
    pub(crate) fn is_in_exec(&self, pid: Pid) -> bool {
        BUFFER.with_borrow_mut(|buffer| {
            self.read_of_memory(pid, "environ", buffer, ENVIRON_LIMIT).is_ok_and(|there| there)
                && buffer.is_empty()
                && self.read(pid, "stat", buffer, STAT_LIMIT).is_ok_and(|there| there)
                && shows_exec(buffer)
        })
    }

    /// Returns the value of a variable in its environment; `None` if the variable is not set or the
    /// environment may not be read.
    pub(crate) fn variable(&self, pid: Pid, name: &str) -> Option<Vec<u8>> {
        BUFFER.with_borrow_mut(|buffer| {
            let there = self.read_of_memory(pid, "environ", buffer, ENVIRON_LIMIT).ok()?;
            let value = |entry: &'_ [u8]| {
                Some(entry.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?.to_vec())
            };
            split_nul(buffer).filter(|_| there).find_map(value)
        })
    }

    /// Reports whether systemd started this very process, as the main process of a service; `false`
    /// if that may not be read.
    pub(crate) fn is_started_by_systemd(&self, pid: Pid) -> bool {
        BUFFER.with_borrow_mut(|buffer| {
            self.read_of_memory(pid, "environ", buffer, ENVIRON_LIMIT).is_ok_and(|there| there)
                && has_its_own_pid(buffer, pid)
        })
    }
}

/// Returns the tokens in an environment: whole elements of the colon-separated list in
/// `PROCLEDGER_TOKEN`.
pub(crate) fn tokens(environ: &[u8]) -> Vec<Uuid> {
    split_nul(environ)
        .filter_map(|entry| entry.strip_prefix(TOKEN_VARIABLE.as_bytes())?.strip_prefix(b"="))
        .flat_map(|list| list.split(|&byte| byte == b':'))
        .filter_map(|element| Uuid::try_parse_ascii(element).ok())
        .collect()
}

/// Reports whether a process is in exec, from field 51 of its `/proc/PID/stat`: the end of the
/// environment, if we may see it (`proc_pid_stat(5)`).
fn shows_exec(text: &[u8]) -> bool {
    let end = || {
        let name_ends = text.iter().rposition(|&byte| byte == b')')?;
        let mut rest = text[name_ends + 1..].split(u8::is_ascii_whitespace);
        number::<u64>(rest.nth(ENV_END)?)
    };
    // As shown, since the leading thread is the one that continues after an exec.
    let lives = |stat: Stat| !stat.is_zombie() && !stat.is_kernel_thread();
    parse_stat(text).is_some_and(lives) && end() == Some(0)
}

fn has_its_own_pid(environ: &[u8], pid: Pid) -> bool {
    split_nul(environ)
        .filter_map(|entry| entry.strip_prefix(SYSTEMD_EXEC_PID))
        .any(|value| number(value) == Some(pid.get()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Captured from a daemon between setsid(1) and sleep(1), from the same daemon a moment later,
    /// and from a zombie.
    #[test]
    fn a_process_in_exec_has_no_address_of_an_environment_yet() {
        let line = |name: &str, state: &str, places: &str| {
            let start = "1 3105 3105 0 -1 4194304 23 0 0 0 0 0 0 0 20 0 1 0 3752639 372736 0";
            format!("3106 ({name}) {state} {start} {places}\n")
        };
        let limit = "18446744073709551615";
        let between = format!(
            "{limit} 0 0 140736113719924 0 0 0 0 6 0 0 0 0 17 1 0 0 0 0 0 0 0 0 140736113719924 0 0 0 0"
        );
        let after = format!(
            "{limit} 94010579853312 94010579871241 140724760534224 0 0 0 0 6 0 1 0 0 17 1 0 0 0 0 0 94010579885328 \
             94010579886592 94010715951104 140724760541820 140724760541832 140724760541832 140724760541832 0"
        );
        let none = format!("{limit} 0 0 0 0 0 0 0 6 0 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0");
        assert!(shows_exec(line("setsid", "R", &between).as_bytes()));
        assert!(shows_exec(line("a) S 1 (b", "R", &between).as_bytes()));
        // Its environment is empty, but has an address.
        assert!(!shows_exec(line("sleep", "S", &after).as_bytes()));
        assert!(!shows_exec(line("sh", "Z", &none).as_bytes()));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a child of a test, which waits for it")]
    fn a_program_without_an_environment_is_not_taken_for_one_in_exec() {
        let proc = Proc::open().expect("/proc");
        let mut child =
            std::process::Command::new("sleep").arg("60").env_clear().spawn().expect("it runs");
        let pid = Pid::new(i64::from(child.id())).expect("a pid");
        // Once it sleeps, the exec is over.
        let sleeps =
            || proc.stat(pid).is_ok_and(|stat| stat.is_some_and(|stat| stat.comm == b"sleep"));
        while !sleeps() {
            std::thread::yield_now();
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
        let (shown, in_exec) = (proc.tokens_shown(pid).expect("readable"), proc.is_in_exec(pid));
        child.kill().expect("killed");
        child.wait().expect("ended");
        assert_eq!((shown, in_exec), (None, false));
    }

    #[test]
    fn only_the_process_that_systemd_started_gets_its_own_pid() {
        let pid = Pid::new(42).expect("a pid");
        assert!(has_its_own_pid(b"A=1\0SYSTEMD_EXEC_PID=42\0", pid));
        assert!(!has_its_own_pid(b"SYSTEMD_EXEC_PID=421\0XSYSTEMD_EXEC_PID=42\0", pid));
        assert!(!has_its_own_pid(b"", pid));
    }

    #[test]
    fn a_token_counts_only_as_a_whole_element() {
        let token = Uuid::from_u128(0xabc);
        let text = token.simple().to_string();
        let other = Uuid::from_u128(5).simple().to_string();
        let carried = |environ: String| tokens(environ.as_bytes()).contains(&token);
        assert!(carried(format!("A=1\0PROCLEDGER_TOKEN={text}\0B=2\0")));
        assert!(carried(format!("PROCLEDGER_TOKEN={other}:{text}")));
        assert!(!carried(format!("PROCLEDGER_TOKEN={text}0\0")));
        assert!(!carried(format!("XPROCLEDGER_TOKEN={text}\0")));
        assert!(!carried(format!("A=PROCLEDGER_TOKEN={text}\0")));
        assert!(!carried(String::new()));
    }
}
