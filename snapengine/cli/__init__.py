"""The `snapengine` command: one module a command group. Nothing heavy is imported before a command runs."""
