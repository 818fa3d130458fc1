"""VS Code extensions: galleries, .vsix files, and what fits the base's VS Code."""
