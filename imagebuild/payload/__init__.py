"""Files that run inside a container, where nothing of imagebuild is installed."""
