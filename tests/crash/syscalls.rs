//! Names of system calls, for display.

macro_rules! names {
    ($number:expr, $($call:ident)+) => {{
        const TABLE: &[(i64, &str)] = &[$((libc::$call, stringify!($call))),+];
        TABLE.iter().find(|(number, _)| *number == $number).map(|(_, name)| &name["SYS_".len()..])
    }};
}

/// The name as in the manual, or the number for a call that a tracker is not known to make.
pub(crate) fn name(number: u64) -> String {
    let number = i64::try_from(number).unwrap_or(-1);
    let found = names!(number,
        SYS_read SYS_write SYS_close SYS_fstat SYS_lseek SYS_mmap SYS_mprotect SYS_munmap SYS_brk SYS_rt_sigaction
        SYS_rt_sigprocmask SYS_ioctl SYS_pread64 SYS_pwrite64 SYS_readv SYS_writev SYS_sched_yield SYS_madvise SYS_dup
        SYS_nanosleep SYS_getpid SYS_sendmsg SYS_recvmsg SYS_sendto SYS_recvfrom SYS_socket SYS_bind SYS_connect
        SYS_socketpair SYS_clone SYS_clone3 SYS_exit SYS_wait4 SYS_kill SYS_fcntl SYS_flock SYS_fsync SYS_fdatasync
        SYS_ftruncate SYS_getcwd SYS_fchmod SYS_fchown SYS_umask SYS_prctl SYS_sigaltstack SYS_gettid SYS_futex
        SYS_sched_getaffinity SYS_getdents64 SYS_set_tid_address SYS_fadvise64 SYS_clock_gettime SYS_clock_nanosleep
        SYS_exit_group SYS_epoll_ctl SYS_tgkill SYS_waitid SYS_openat SYS_mkdirat SYS_newfstatat SYS_unlinkat
        SYS_renameat SYS_renameat2 SYS_linkat SYS_readlinkat SYS_fchmodat SYS_faccessat SYS_faccessat2 SYS_ppoll
        SYS_set_robust_list SYS_utimensat SYS_epoll_pwait SYS_timerfd_create SYS_timerfd_settime SYS_eventfd2
        SYS_epoll_create1 SYS_dup3 SYS_pipe2 SYS_prlimit64 SYS_getrandom SYS_statx SYS_rseq SYS_pidfd_send_signal
        SYS_pidfd_open SYS_openat2 SYS_close_range SYS_geteuid SYS_getuid SYS_getegid SYS_getgid SYS_gettimeofday
        SYS_uname SYS_sysinfo SYS_fallocate SYS_restart_syscall SYS_statfs SYS_fstatfs SYS_mremap SYS_setsockopt
        SYS_getsockopt SYS_getsockname SYS_rt_sigtimedwait SYS_rt_sigreturn SYS_chdir SYS_fchdir SYS_setsid
        SYS_getpgid SYS_getsid SYS_name_to_handle_at SYS_memfd_create SYS_pidfd_getfd SYS_membarrier SYS_shutdown
        SYS_accept4 SYS_listen SYS_splice SYS_copy_file_range SYS_getrusage SYS_times SYS_sync_file_range);
    #[cfg(target_arch = "x86_64")]
    let found = found.or_else(|| {
        names!(number,
            SYS_open SYS_stat SYS_lstat SYS_poll SYS_access SYS_pipe SYS_unlink SYS_rename SYS_mkdir SYS_rmdir
            SYS_readlink SYS_chmod SYS_epoll_wait SYS_arch_prctl SYS_getppid SYS_dup2 SYS_vfork SYS_fork)
    });
    found.map_or_else(|| format!("#{number}"), str::to_owned)
}
