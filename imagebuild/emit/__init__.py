"""What other systems take from the catalogue: node pre-warming, spawner forms."""
