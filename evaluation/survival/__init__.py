"""Which poison survives what victims do to their training images."""
