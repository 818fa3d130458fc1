"""From what a team asks for to one exact wheel per package: index policy, resolver, lock file."""
