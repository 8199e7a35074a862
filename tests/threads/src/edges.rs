// Reports to the sanitizer how the standard library orders threads.
//
// It comes compiled, without the sanitizer's marks. So the sanitizer sees a lock that was free
// being taken, but not one that was waited for; not what a condition variable does with its mutex;
// not that a `Once` is complete. The linker (`--wrap`, ld(1)) puts these functions in front of the
// few that do that. Each does what the real one does, and reports the edge to the sanitizer:
// nothing is hidden, and an edge is reported only where the standard library documents one.
//
// The names are inserted by build.rs. Signatures are those of `library/std/src/sys/sync` in Rust
// 1.95.

use std::time::Duration;

unsafe extern "C" {
    // compiler-rt's `sanitizer/tsan_interface.h`.
    safe fn __tsan_acquire(address: *const ());
    safe fn __tsan_release(address: *const ());
    #[link_name = "__real___tsan_atomic64_fetch_sub"]
    fn real_fetch_sub(address: *mut u64, value: u64, order: i32) -> u64;
}

type Body<'a> = &'a mut dyn FnMut(*const ());

unsafe extern "Rust" {
    #[link_name = "__real_MUTEX_LOCK"]
    fn real_lock(mutex: *const ());
    #[link_name = "__real_RWLOCK_READ"]
    fn real_read(lock: *const ());
    #[link_name = "__real_RWLOCK_WRITE"]
    fn real_write(lock: *const ());
    #[link_name = "__real_CONDVAR_WAIT"]
    fn real_wait(condvar: *const (), mutex: *const ());
    #[link_name = "__real_CONDVAR_WAIT_TIMEOUT"]
    fn real_wait_timeout(condvar: *const (), mutex: *const (), timeout: Duration) -> bool;
    #[link_name = "__real_ONCE_CALL"]
    fn real_call(once: *const (), ignore_poisoning: bool, body: Body<'_>);
}

#[unsafe(export_name = "__wrap_MUTEX_LOCK")]
unsafe fn lock(mutex: *const ()) {
    // SAFETY: the arguments are passed on unchanged; so below.
    unsafe { real_lock(mutex) };
    __tsan_acquire(mutex);
}

#[unsafe(export_name = "__wrap_RWLOCK_READ")]
unsafe fn read(lock: *const ()) {
    // SAFETY: as above.
    unsafe { real_read(lock) };
    __tsan_acquire(lock);
}

#[unsafe(export_name = "__wrap_RWLOCK_WRITE")]
unsafe fn write(lock: *const ()) {
    // SAFETY: as above.
    unsafe { real_write(lock) };
    __tsan_acquire(lock);
}

#[unsafe(export_name = "__wrap_CONDVAR_WAIT")]
unsafe fn wait(condvar: *const (), mutex: *const ()) {
    __tsan_release(mutex);
    // SAFETY: as above.
    unsafe { real_wait(condvar, mutex) };
    __tsan_acquire(mutex);
}

#[unsafe(export_name = "__wrap_CONDVAR_WAIT_TIMEOUT")]
unsafe fn wait_timeout(condvar: *const (), mutex: *const (), timeout: Duration) -> bool {
    __tsan_release(mutex);
    // SAFETY: as above.
    let woken = unsafe { real_wait_timeout(condvar, mutex, timeout) };
    __tsan_acquire(mutex);
    woken
}

#[unsafe(export_name = "__wrap_ONCE_CALL")]
unsafe fn call(once: *const (), ignore_poisoning: bool, body: Body<'_>) {
    let mut reported = |state: *const ()| {
        body(state);
        // Before the real one reports that it is complete.
        __tsan_release(once);
    };
    // SAFETY: as above.
    unsafe { real_call(once, ignore_poisoning, &mut reported) };
    __tsan_acquire(once);
}

/// The last owner of an `Arc` orders itself after the others by a fence behind its decrement, and
/// the sanitizer does not support fences: a decrement that releases acquires as well.
#[unsafe(export_name = "__wrap___tsan_atomic64_fetch_sub")]
unsafe extern "C" fn fetch_sub(address: *mut u64, value: u64, order: i32) -> u64 {
    const RELEASE: i32 = 3;
    const ACQUIRE_RELEASE: i32 = 4;
    let order = if order == RELEASE { ACQUIRE_RELEASE } else { order };
    // SAFETY: as above.
    unsafe { real_fetch_sub(address, value, order) }
}
