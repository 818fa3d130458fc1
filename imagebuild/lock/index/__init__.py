"""What a package index says, and how it is asked: tables, routes, credentials, pages, wheels by ranges."""
