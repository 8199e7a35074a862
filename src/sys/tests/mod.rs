//! Properties of what is read from `/proc`. Single cases stand beside the code.

mod procfs;
