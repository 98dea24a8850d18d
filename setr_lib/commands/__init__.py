"""What each ``setr`` command does, one module per command; ``setr_lib.cli`` only reads the command line."""
