//! Determines which users have the write permission of a group.
//!
//! The members of a group from a directory service (LDAP, SSSD) cannot be listed in general. So a
//! group counts as a user's own only if it has the user's name, by the convention of user-private
//! groups (useradd(8), `USERGROUPS_ENAB`), lists no member, and is not the primary group of another
//! account in passwd(5). Root's group never counts: container platforms give it to any user,
//! without an entry in a file.

use std::{
    fs,
    os::fd::{AsFd, AsRawFd},
};

use nix::unistd::{Gid, Group, Uid, User};
use rustix::{
    io::Errno,
    process::{getegid, getgroups},
};

/// Reports whether write permission of the group `gid` on a folder grants it to `uid` alone.
pub(super) fn is_private(folder: &impl AsFd, gid: u32, uid: u32) -> bool {
    gid != 0 && !has_access_list(folder) && has_no_other_member(gid, uid)
}

/// Reports whether this process is in the group.
pub(super) fn is_ours(gid: u32) -> bool {
    getegid().as_raw() == gid
        || getgroups().is_ok_and(|groups| groups.iter().any(|group| group.as_raw() == gid))
}

fn has_no_other_member(gid: u32, uid: u32) -> bool {
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    let group = Group::from_gid(Gid::from_raw(gid)).ok().flatten();
    let (Some(user), Some(group)) = (user, group) else { return false };
    user.gid.as_raw() == gid
        && user.name == group.name
        && group.mem.iter().all(|member| *member == user.name)
        && fs::read_to_string("/etc/passwd")
            .is_ok_and(|passwd| !others_have_as_primary(&passwd, gid, &user.name))
}

/// Reports whether a line of passwd(5), `name:password:uid:gid:...`, gives another user this
/// primary group.
fn others_have_as_primary(passwd: &str, gid: u32, name: &str) -> bool {
    passwd.lines().any(|line| {
        let mut fields = line.split(':');
        let (other, group) = (fields.next(), fields.nth(2));
        other != Some(name) && group.and_then(|group| group.parse().ok()) == Some(gid)
    })
}

/// Reports whether an access control list may grant others the permissions that the mode shows as
/// the group's (acl(5)). A list that cannot be read is assumed to do so.
fn has_access_list(folder: &impl AsFd) -> bool {
    let path = format!("/proc/self/fd/{}", folder.as_fd().as_raw_fd());
    let mut room = [0_u8; 1024];
    !matches!(
        rustix::fs::getxattr(path, c"system.posix_acl_access", &mut room[..]),
        Err(Errno::NODATA | Errno::OPNOTSUPP)
    )
}

/// Reports whether this is the uid with which a user namespace shows every owner that it does not
/// map (`user_namespaces(7)`).
///
/// A sandbox that maps one user shows root's `/` and `/tmp` in this way, and refusing them would
/// leave no place for a ledger. An unrelated user's folder looks the same there. That risk is
/// small, since the file in it must still be ours.
pub(super) fn is_unmapped(uid: u32) -> bool {
    let overflow = fs::read_to_string("/proc/sys/kernel/overflowuid");
    let is_overflow = overflow.is_ok_and(|number| number.trim().parse() == Ok(uid));
    is_overflow && fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| !maps(&map, uid))
}

/// Reports whether a line of `/proc/PID/uid_map` (first uid inside, first uid outside, count)
/// contains this uid inside.
fn maps(map: &str, uid: u32) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u64>);
        let (first, _, count) = (numbers.next(), numbers.next(), numbers.next());
        let (Some(Ok(first)), Some(Ok(count))) = (first, count) else { return false };
        (first..first.saturating_add(count)).contains(&u64::from(uid))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uid_map_shows_which_users_a_namespace_maps() {
        let whole = "         0          0 4294967295\n";
        assert!(maps(whole, 0) && maps(whole, 65_534));
        let one = "      1000       1000          1\n";
        assert!(maps(one, 1000) && !maps(one, 0) && !maps(one, 1001) && !maps(one, 65_534));
        let container = "0 1000 1\n1 100000 65536\n";
        assert!(maps(container, 65_534) && maps(container, 65_536) && !maps(container, 65_537));
        assert!(!maps("", 0) && !maps("nonsense\n", 0));
    }

    #[test]
    fn a_primary_group_of_two_accounts_is_not_private() {
        let passwd =
            "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/:/bin/sh\nbob:x:1001:1001::/:/bin/sh\n";
        assert!(!others_have_as_primary(passwd, 1000, "ann"));
        assert!(others_have_as_primary(passwd, 1001, "ann"));
        let shared = format!("{passwd}eve:x:1002:1000::/:/bin/sh\n");
        assert!(others_have_as_primary(&shared, 1000, "ann"));
        assert!(!others_have_as_primary("nonsense\n\n::\n", 1000, "ann"));
    }
}
