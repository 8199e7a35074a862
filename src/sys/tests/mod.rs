//! Properties of what is read from `/proc`. Single cases are beside the code.

mod procfs;
