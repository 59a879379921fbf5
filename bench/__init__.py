"""What must stay fast, as ratios in one run: `make bench`."""
