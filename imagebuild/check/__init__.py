"""What an image must pass before it is pushed."""
