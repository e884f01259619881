"""What the chapters about neighbouring work call: one module for each."""
