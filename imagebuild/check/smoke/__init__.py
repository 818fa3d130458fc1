"""An image run as Kubernetes runs a notebook, and what it is asked there."""
