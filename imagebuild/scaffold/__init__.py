"""What `imagebuild init` makes: a new team's folder, or a whole repository of one's own."""
