"""One module a command or group of commands; the table in imagebuild.cli says which, and loads only the one that is asked for."""
