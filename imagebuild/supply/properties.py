"""Names of the properties that a component of an image's SBOM has, beside what CycloneDX has fields for."""

REPAIRED = "dev.imagebuild:record-repaired"  # how many rows of the wheel's RECORD were wrong
ORIGIN = "dev.imagebuild:origin"  # base | added
ADDON = "dev.imagebuild:addon"  # r | vscode: what kind of add-on it is
INDEX = "dev.imagebuild:index"  # the package index, by name
WHEEL = "dev.imagebuild:wheel"  # the wheel's file name
DIRECT = "dev.imagebuild:direct"  # true: somebody asked for it by name
LOCATION = "dev.imagebuild:location"  # where a base's distribution, or an add-on, lies
INSTALLER = "dev.imagebuild:installer"
