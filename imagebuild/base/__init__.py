"""Base images: which ones the catalogue pins, what each contains, and its own Python, cut out to run here."""
