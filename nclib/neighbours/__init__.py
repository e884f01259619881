"""What the chapters beyond the paper compute: one file or two for each of them."""
