"""From notebooks to a book: execute chapters, render the site, print it, compare runs, sweep over many."""
