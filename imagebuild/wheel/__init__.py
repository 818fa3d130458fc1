"""What is known of wheels: their files, scripts, sizes, and what is left out of them."""
