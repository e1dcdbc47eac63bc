"""One study a file, on the public surface alone."""
