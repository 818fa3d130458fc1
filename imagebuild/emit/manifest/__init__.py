"""YAML documents of Kubernetes: names, comments, and merging into files of somebody else."""
