"""Sixty requirement sets from public issues and documentation: locked, built, checked by pip and compared with what pip installs."""
