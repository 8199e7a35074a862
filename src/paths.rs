//! Paths that another user controls, for the `procledger` command. Not intended for programs that embed the library.

pub use crate::sys::{
    fs_user::{Account, Acting},
    trusted_path::controller,
};
