"""The `rnnfast` command: one module a subcommand."""
