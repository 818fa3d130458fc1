"""Stand-ins of every kind of base that a catalogue may name, made of Debian's parts, and the whole round on each: ``make bases``."""
