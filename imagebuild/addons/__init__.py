"""Add-ons: R packages and VS Code extensions that are locked for a team and become members of its layer."""
