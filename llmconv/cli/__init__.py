"""The command line: argv to one call."""
