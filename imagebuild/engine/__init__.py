"""From a recipe to an image."""
