"""Several conversions as one graph: job files, and the parts that llmconv.doit shares."""
