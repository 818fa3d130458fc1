"""OCI images as values, and the two places they are kept: a registry and an image layout folder."""
