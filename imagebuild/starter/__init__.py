"""The starter base: a slim JupyterLab image made from Debian packages and one locked layer, with no registry in reach."""
