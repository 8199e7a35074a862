//! Finds the processes that carry the token of a root in their environment.
//!
//! A process that was forked before the root cannot have inherited its token, only copied it. A
//! process of another uid may have copied it as well, and is only a suspect.

use std::collections::HashMap;

use uuid::Uuid;

use crate::{
    identity::Pid,
    sys::snapshot::{Snapshot, Stat},
};

/// The root to which a token belongs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenOwner {
    pub(crate) uid: u32,
    pub(crate) start_tick: u64,
}

impl TokenOwner {
    /// Returns whether a process that started at this tick may have inherited the token.
    pub(crate) fn may_have_passed_on(self, start_tick: u64) -> bool {
        start_tick >= self.start_tick
    }
}

/// The processes that carry each token.
#[derive(Clone, Debug, Default)]
pub(crate) struct TokenHolders {
    /// Those with the root's uid.
    pub(crate) of_user: HashMap<Uuid, Vec<Pid>>,
    /// Those with another effective uid, each with that uid.
    pub(crate) of_others: HashMap<Uuid, Vec<(Pid, u32)>>,
}

/// What the search for tokens reads of a process.
pub(crate) trait TokenReader {
    type Error;

    /// Returns the tokens that a process carries; none if they cannot be read.
    fn tokens(&mut self, stat: &Stat) -> Result<Vec<Uuid>, Self::Error>;

    /// Returns the effective uid of a process; `None` if it is gone.
    fn uid(&mut self, pid: Pid) -> Result<Option<u32>, Self::Error>;
}

/// Finds the holders of the tokens in `owners`. `skips` reports which processes are known to belong
/// to a tree, and are not read.
pub(crate) fn token_holders<R: TokenReader>(
    snapshot: &Snapshot,
    owners: &HashMap<Uuid, TokenOwner>,
    skips: impl Fn(&Stat) -> bool,
    reader: &mut R,
) -> Result<TokenHolders, R::Error> {
    let mut found = TokenHolders::default();
    let Some(oldest) = owners.values().map(|owner| owner.start_tick).min() else {
        return Ok(found);
    };
    let young = snapshot.iter().filter(|stat| stat.start_tick >= oldest);
    for stat in young.filter(|stat| !stat.is_kernel_thread() && !skips(stat)) {
        for token in reader.tokens(stat)? {
            let Some(owner) = owners.get(&token) else { continue };
            if !owner.may_have_passed_on(stat.start_tick) {
                continue;
            }
            match reader.uid(stat.pid)? {
                Some(uid) if uid == owner.uid => {
                    found.of_user.entry(token).or_default().push(stat.pid);
                }
                Some(uid) => found.of_others.entry(token).or_default().push((stat.pid, uid)),
                None => {}
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::sys::snapshot::tests::{pid, stat};

    const OLD: Uuid = Uuid::from_u128(1);
    const YOUNG: Uuid = Uuid::from_u128(2);

    /// Every process carries both tokens; process 30 has another uid, and 40 is gone when its uid
    /// is read.
    struct Both;

    impl TokenReader for Both {
        type Error = Infallible;

        fn tokens(&mut self, _: &Stat) -> Result<Vec<Uuid>, Infallible> {
            Ok(vec![OLD, YOUNG])
        }

        fn uid(&mut self, of: Pid) -> Result<Option<u32>, Infallible> {
            Ok((of != pid(40)).then(|| if of == pid(30) { 7 } else { 5 }))
        }
    }

    #[test]
    fn only_processes_younger_than_the_root_and_of_its_user_hold_its_token() {
        let snapshot = Snapshot::new([5, 12, 20, 25, 30, 40].map(|number| stat(number, 1, number)));
        let owner = |start_tick| TokenOwner { uid: 5, start_tick };
        let owners = HashMap::from([(OLD, owner(10)), (YOUNG, owner(20))]);
        let skips = |stat: &Stat| stat.pid == pid(25);
        let found = token_holders(&snapshot, &owners, skips, &mut Both);
        let Ok(found) = found;
        assert_eq!(found.of_user[&OLD], [pid(12), pid(20)], "5 is older than any root");
        assert_eq!(found.of_user[&YOUNG], [pid(20)], "12 is older than this root");
        assert_eq!(found.of_others[&OLD], [(pid(30), 7)]);
        assert_eq!(found.of_others[&YOUNG], [(pid(30), 7)]);
    }
}
