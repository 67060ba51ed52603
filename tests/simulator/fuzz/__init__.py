"""Command lines and files that nobody would write on purpose."""
