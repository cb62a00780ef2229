"""The `rnnfast` command: one module per subcommand."""
