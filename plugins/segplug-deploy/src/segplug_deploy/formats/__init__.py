"""One module for each file format: its exporter, and the runtime that loads the file back."""
