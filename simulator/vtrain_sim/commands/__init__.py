"""The command lines. Each command parses, calls one function, and prints."""
