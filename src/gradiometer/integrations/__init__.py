"""One framework a file."""
