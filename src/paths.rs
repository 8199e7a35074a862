//! Paths that another user controls, and the ledger's own files, for the `procledger` command. Not
//! intended for programs that embed the library.

pub use crate::sys::{
    fs_user::{Account, Acting},
    reserved_paths::refuse_as_output,
    trusted_path::controller,
};
