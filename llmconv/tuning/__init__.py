"""--tune: compile the candidates of a plan's graphs, and keep which of them take the fewest cycles."""
