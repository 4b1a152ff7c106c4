//! What a plan has that its user may not expect: a message each, at the start.

/// Something about the plan that the user may not expect.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Advice {
    /// A `.env` file lies beside the Procfile, and is not that of the current folder.
    UnreadEnv {
        /// The file.
        file: String,
    },
}
