"""What the tests stand on: one home for each kind of helper."""
