"""zstd:chunked: a layer in which each file can be fetched alone, as containers/storage (podman, CRI-O) does with partial pulls."""
