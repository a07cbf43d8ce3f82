"""What the commands print: the log, the results, the progress bar and the summaries."""
