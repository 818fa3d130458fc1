"""What the team wrote, read: requirements, source trees, and whether a lock still fits them."""
