"""Checks of a built image: ``verify`` of a pushed one against base, lock and rules, ``smoke`` of a running one."""
