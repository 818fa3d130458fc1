"""R packages: a CRAN-like repository, the closure of what a team asks for, archives that fit the base's R."""
