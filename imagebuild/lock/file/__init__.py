"""The lock as a value and as a file, and what two of them differ in."""
