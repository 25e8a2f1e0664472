"""The command line: one module a noun; it parses, calls and prints."""
