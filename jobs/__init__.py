"""Effects: storage, clock, arguments, exit codes."""
