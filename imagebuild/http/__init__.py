"""How a request over HTTP is tried again."""
