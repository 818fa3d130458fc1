"""What travels with an image, and what it says: lock, recipe, SBOM, provenance; licences and known vulnerabilities."""
