"""What a CI run needs to know: which teams a change is about, and what to say of it."""
