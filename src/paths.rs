//! Paths that another user controls, for the `procledger` command. Not for programs that embed the library.

pub use crate::os::{
    acting::{Account, Acting},
    path::controller,
};
