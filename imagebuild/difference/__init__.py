"""What differs between two images or locks, and which inputs make a team's next image another one."""
