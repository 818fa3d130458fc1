"""Everything a resolver sees, and running one."""
