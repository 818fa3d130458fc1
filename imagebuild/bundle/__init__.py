"""One team's build for a site without a network: everything it takes, in one folder, each file under its hash."""
