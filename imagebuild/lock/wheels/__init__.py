"""Where the locked wheels come from: indexes, URLs, builds from source."""
