"""How much of the machine a run may use, and how it is shared between teams that are built side by side."""
